"""Long work in a thread of its own, watched from the page."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

from pruner import Cancelled, PrunerError
from pruner.run import Progress, Result


@dataclass(frozen=True)
class Status:
    """How far a job is; `state` is running, done, failed or cancelled."""

    state: str
    fraction: float = 0.0
    what: str = "Starting"
    error: str = ""
    result: Result | None = None


class Job:
    """Runs `work(progress)` in a thread that makes no Streamlit call; `status` may be read from any other."""

    def __init__(self, work: Callable[[Progress], Result]) -> None:
        self._work = work
        self._lock = threading.Lock()
        self._status = Status("running")
        self._cancelled = threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    @property
    def status(self) -> Status:
        with self._lock:
            return self._status

    def cancel(self) -> None:
        """Ask the work to stop at its next step."""
        self._cancelled.set()

    def _progress(self, fraction: float, what: str) -> None:
        if self._cancelled.is_set():
            raise Cancelled
        with self._lock:
            self._status = replace(self._status, fraction=fraction, what=what)

    def _run(self) -> None:
        try:
            finished = Status("done", 1.0, "Done", result=self._work(self._progress))
        except Cancelled:
            finished = Status("cancelled")
        except PrunerError as error:
            finished = Status("failed", error=str(error))
        except (RuntimeError, MemoryError) as error:  # out of memory, on the CPU or on a CUDA device
            finished = Status("failed", error=f"expected room to run the model, found: {error}; try a smaller model")
        with self._lock:
            self._status = finished
