"""Long work in a thread of its own, which a page can watch."""

import atexit
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from pruner.errors import PrunerError
from pruner.progress import Cancelled, Progress

Made = TypeVar("Made")
PATIENCE = 3.0  # seconds that the end of the server waits for each job


@dataclass(frozen=True)
class Status(Generic[Made]):
    """How far a job is; `state` is running, done, failed or cancelled."""

    state: str
    fraction: float = 0.0
    what: str = "Starting"
    error: str = ""
    result: Made | None = None


class Job(Generic[Made]):
    """Runs `work(progress)` in a thread that makes no Streamlit call; `status` may be read from any other."""

    def __init__(self, work: Callable[[Progress], Made]) -> None:
        self._work = work
        self._lock = threading.Lock()
        self._status: Status[Made] = Status("running")
        self._cancelled, self._enough = threading.Event(), threading.Event()
        self._began = time.monotonic()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        _started.add(self)

    @property
    def status(self) -> Status[Made]:
        with self._lock:
            return self._status

    @property
    def seconds(self) -> float:
        """Since it was started."""
        return time.monotonic() - self._began

    def cancel(self) -> None:
        """Ask the work to stop at its next step."""
        self._cancelled.set()

    def enough(self) -> None:
        """Ask what can end early to end, and to go on with what it has reached."""
        self._enough.set()

    def _progress(self, fraction: float, what: str) -> bool:
        if self._cancelled.is_set():
            raise Cancelled
        with self._lock:
            self._status = replace(self._status, fraction=min(max(fraction, 0.0), 1.0), what=what)
        return self._enough.is_set()

    def _run(self) -> None:
        # What nobody foresaw goes on to the log of the server; the page must not wait for it for ever.
        finished: Status[Made] = Status(
            "failed", error="expected this to work, found a fault; the server's log tells it"
        )
        try:
            finished = Status("done", 1.0, "Done", result=self._work(self._progress))
        except Cancelled:
            finished = Status("cancelled")
        except PrunerError as error:
            finished = Status("failed", error=str(error))
        except (RuntimeError, MemoryError) as error:  # out of memory, on the CPU or on a CUDA device
            finished = Status("failed", error=f"expected room to run the model, found: {error}; try a smaller model")
        finally:
            with self._lock:
                self._status = finished


_started: weakref.WeakSet[Job[Any]] = weakref.WeakSet()


@atexit.register
def _end() -> None:
    """Let jobs stop before the interpreter does: one that it stops in the middle of a computation takes the process down."""
    jobs = list(_started)
    for job in jobs:
        job.cancel()
    for job in jobs:
        job._thread.join(PATIENCE)
