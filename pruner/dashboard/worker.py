"""What a worker does: one piece of work that comes over a socket, and back goes how far it is and what came of it.

Work that runs calls through joblib gives its turn back meanwhile; each call asks for a turn of its own, and computes in a
worker of its own.
"""

import os
import pickle
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from queue import SimpleQueue
from typing import Any, NoReturn

import joblib
import torch
from joblib.parallel import ParallelBackendBase

from pruner.dashboard.crossing import Channel
from pruner.dashboard.limits import CORES, limits
from pruner.errors import PrunerError
from pruner.progress import Cancelled, Progress

OFTEN = 0.1  # seconds between two messages on how far it is

Seen = Callable[[Any], object]
Work = Callable[[Seen, Progress], Any]  # what comes, pickled


def serve(stream: socket.socket) -> NoReturn:
    """Do what comes over the socket, and end; at once, whatever is being done, when nobody is there any more."""
    torch.set_num_threads(max(1, CORES // limits().workers))
    channel = Channel(stream)
    try:
        work = channel.receive()
        asker = Asker(channel)
        threading.Thread(target=asker.listen, daemon=True).start()
        channel.send(_answer(work, asker))
    except (EOFError, OSError):
        pass
    except BaseException as error:
        channel.send(("failed", _crossable(error)))  # what was made does not pickle
    finally:
        sys.stderr.flush()
        os._exit(0)


def answer(channel: Channel) -> Any:
    """What came of work that was sent. Raises what the work raised, and PrunerError where its worker has died."""
    try:
        kind, told = channel.receive()
    except EOFError as error:
        raise died() from error
    if kind == "failed":
        raise told
    return told


def died() -> PrunerError:
    return PrunerError(
        "expected the process that computes this to go on, found that it ended: there was no memory left, or somebody ended "
        "it; try again, or try a smaller model"
    )


class Asker:
    """The worker as its work sees it, and its wishes as the server hears them."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self._cancelled, self._enough, self._turn = threading.Event(), threading.Event(), threading.Event()
        self._helpers: SimpleQueue[socket.socket] = SimpleQueue()
        self._told, self._said = "", 0.0

    def listen(self) -> None:
        try:
            while True:
                kind = self.channel.receive()
                if kind == "helper":
                    self._helpers.put(socket.socket(fileno=self.channel.receive_descriptor()))
                else:
                    {"cancel": self._cancelled, "enough": self._enough, "turn": self._turn}[kind].set()
        finally:
            os._exit(1)

    def progress(self, fraction: float, what: str) -> bool:
        if self._cancelled.is_set():
            raise Cancelled
        now = time.monotonic()
        if what != self._told or now - self._said > OFTEN:
            self._told, self._said = what, now
            self.channel.send(("progress", (fraction, what)))
        return self._enough.is_set()

    def seen(self, found: object) -> None:
        self.channel.send(("seen", found))

    def rest(self) -> None:
        """Give the turn back, and wait for others."""
        self._turn.clear()
        self.channel.send(("rest", None))

    def resume(self) -> None:
        """Go on when the next turn comes."""
        self.channel.send(("resume", None))
        self._turn.wait()

    def helper(self) -> Channel:
        """Another worker, when a turn for it comes; to be let go."""
        self.channel.send(("help", None))
        return Channel(self._helpers.get())

    def let_go(self, helper: Channel) -> None:
        helper.close()
        self.channel.send(("helped", None))


class Helpers(ParallelBackendBase):
    """joblib's calls, each in a worker of its own when a turn for it comes."""

    supports_retrieve_callback = True

    def __init__(self, asker: Asker) -> None:
        super().__init__(nesting_level=0)
        self._asker, self._round = asker, _Round()

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        return limits().workers

    def start_call(self) -> None:
        self._round = _Round()
        self._asker.rest()

    def stop_call(self) -> None:
        self._asker.resume()

    def submit(self, func: Callable[[], Any], callback: Callable[[Future[Any]], object] | None = None) -> Future[Any]:
        future: Future[Any] = Future()
        if callback is not None:
            future.add_done_callback(callback)
        threading.Thread(target=self._call, args=(func, future, self._round), daemon=True).start()
        return future

    def retrieve_result_callback(self, future: Future[Any]) -> Any:
        return future.result()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        self._round.stop()

    def _call(self, function: Callable[[], Any], future: Future[Any], within: "_Round") -> None:
        helper = self._asker.helper()
        try:
            within.join(helper)
            helper.send(partial(_unwatched, function))
            found = answer(helper)
        except BaseException as error:  # handed over to whoever waits
            future.set_exception(error)
        else:
            future.set_result(found)
        finally:
            self._asker.let_go(helper)


class _Round:
    """The helpers of one call of joblib, which stop together."""

    def __init__(self) -> None:
        self._lock, self._stopped, self._helpers = threading.Lock(), False, list[Channel]()

    def join(self, helper: Channel) -> None:
        with self._lock:
            if self._stopped:
                raise Cancelled
            self._helpers.append(helper)

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
            for helper in self._helpers:
                helper.hang_up()


def _answer(work: Work, asker: Asker) -> tuple[str, Any]:
    try:
        with joblib.parallel_config(backend=Helpers(asker)):
            return "done", work(asker.seen, asker.progress)
    except BaseException as error:
        return "failed", _crossable(error)


def _crossable(error: BaseException) -> BaseException:
    """What pickles of an error; the server's log then tells where it came from."""
    if not isinstance(error, PrunerError | Cancelled):
        error.add_note("".join(traceback.format_exception(error)))
    try:
        return pickle.loads(pickle.dumps(error))  # noqa: S301 - our own, of this moment
    except Exception:
        return RuntimeError("".join(traceback.format_exception(error)))


def _unwatched(function: Callable[[], Any], seen: Seen, progress: Progress) -> Any:
    return function()
