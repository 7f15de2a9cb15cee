"""Calls that run side by side through joblib, here or on whatever machines its backend reaches, and that can be stopped."""

import inspect
import os
import queue
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import joblib
from joblib.externals.loky import BrokenProcessPool, process_executor

from pruner.errors import PrunerError
from pruner.files import orphans
from pruner.files.staging import temporary
from pruner.progress import Cancelled

PATIENCE = 0.2  # seconds between two looks at whether to stop
_WORKERS = threading.Lock()  # joblib has one set of workers a process: who stops early stops them for all


@dataclass(frozen=True)
class Stop:
    """Whether nobody waits for a call any more, told by a file, which workers of this machine see; those of others go on to
    the end of their calls. To be called as one reports progress; raises Cancelled."""

    path: Path

    def __call__(self, *_: object) -> None:
        if self.path.exists():
            raise Cancelled


def as_they_come(
    function: Callable[..., Any], calls: Sequence[Sequence[Any]], look: Callable[[bool], None]
) -> Iterator[tuple[int, Any]]:
    """(which call, what `function(*call, stop)` returned), in whatever order they end; all of it must pickle.

    Callers in several threads wait for each other. `look(whether for others)` is called several times a second and may
    raise to stop. Raises whatever a call raises, PrunerError if a worker is killed, which ends these calls alone, and
    Cancelled when this process ends.
    """
    arrived: queue.Queue[Any] = queue.Queue()
    # Made in this thread, whose backend it takes: all CPUs of this machine, or all that a cluster has.
    begin: tuple[str, dict[str, Any]] = (_begin(os.getpid()), {})
    parallel = joblib.Parallel(n_jobs=-1, return_as="generator_unordered", initializer=exec, initargs=begin)
    while not _WORKERS.acquire(timeout=PATIENCE):
        look(True)
    try:
        staging = temporary()
    except OSError as error:
        _WORKERS.release()
        raise PrunerError(f"expected room for a temporary file, found {error}; make room or set TMPDIR") from error
    stop = Stop(staging.files / "stop")

    def collect() -> None:
        if hasattr(signal, "pthread_sigmask"):  # what workers inherit, which are hit while they still start, too
            resource_tracker.ensure_running()  # as the first worker would have it, which would let signals in again
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        # joblib replaces a worker that has grown, as one that heals does, and tells so on stderr.
        warnings.filterwarnings("ignore", "A worker stopped while some jobs", UserWarning)
        try:
            # joblib wants its generator made, read and closed by one thread.
            results = parallel(
                joblib.delayed(_indexed)(index, function, *call, stop) for index, call in enumerate(calls)
            )
            try:
                for result in results:
                    arrived.put(result)
                arrived.put(None)
            finally:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", UserWarning)  # that calls were cancelled, which was asked for
                    results.close()
        except BaseException as error:  # handed over to the thread that waits
            arrived.put(error)
        finally:
            staging.close()
            _WORKERS.release()

    collector = threading.Thread(target=collect, daemon=True)
    collector.start()
    try:
        while True:
            look(False)
            if process_executor._global_shutdown:
                raise Cancelled  # joblib lets this process end only when its workers have nothing to do
            try:
                result = arrived.get(timeout=PATIENCE)
            except queue.Empty:
                continue
            if result is None:
                return
            if isinstance(result, BrokenProcessPool):
                raise PrunerError(
                    "expected all workers to compute to their end, found one killed, as happens where memory runs out; try "
                    "again, or with a smaller model"
                ) from result
            if isinstance(result, BaseException):
                raise result
            yield result
    finally:
        with suppress(FileNotFoundError):  # all has ended
            stop.path.touch()
        collector.join(timeout=0.7)  # most end by then; what takes longer ends unheard


def _begin(parent: int) -> str:
    """What a worker does first, as text, so that it need not import for it what takes long."""
    # Ctrl-C reaches every process of a terminal; whoever waits for the workers decides what it means.
    deaf = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"
    return f"{inspect.getsource(orphans)}\n{deaf}\nend_with({parent})\n"


def _indexed(index: int, function: Callable[..., Any], *arguments: Any) -> tuple[int, Any]:
    return index, function(*arguments)
