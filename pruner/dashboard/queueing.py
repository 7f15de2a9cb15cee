"""The one queue of heavy work of a server: who computes, in which worker, and how pages hear of it."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache, partial
from threading import Lock
from typing import Any

from pruner.dashboard.crossing import Channel
from pruner.dashboard.forks import CAN_FORK, Forks
from pruner.dashboard.limits import Limits, limits
from pruner.dashboard.turns import Turn, Turns
from pruner.dashboard.worker import Seen, Work, died
from pruner.errors import PrunerError
from pruner.progress import Cancelled, Progress

PATIENCE = 0.2  # seconds between two looks at whether to stop
GRACE = 0.6  # seconds that cancelled work has to clean up


class Queue:
    """Work of all visitors, so much at once as there are workers, each in a process of its own."""

    def __init__(self, given: Limits) -> None:
        self.turns, self.forks = Turns(given.workers), Forks()
        self._most, self._lock, self._jobs = given.jobs_a_visitor, Lock(), Counter[str]()

    def compute(self, visitor: str, work: Work, seen: Seen, progress: Progress) -> Any:
        """What `work(seen, progress)` returns, which runs in a worker when the visitor's turn comes; all of it must pickle.

        `progress(fraction, what)` is called here, several times a second, also while it waits; what it raises ends all of
        it. Raises what the work raises, and PrunerError where a visitor has too much of it or the worker dies.
        """
        with self._counted(visitor):
            task = _Task(self, visitor, seen, progress)
            try:
                return task.run(work)
            finally:
                task.end()

    @contextmanager
    def _counted(self, visitor: str) -> Iterator[None]:
        with self._lock:
            if self._jobs[visitor] >= self._most:
                raise PrunerError(
                    f"expected at most {self._most} pieces of work of one visitor at once, found one more; wait for one to "
                    "end, or cancel it"
                )
            self._jobs[visitor] += 1
        try:
            yield
        finally:
            with self._lock:
                self._jobs[visitor] -= 1
                self._jobs += Counter()  # forgets who has none


class _Task:
    """One piece of work on its way: its turn, its worker, and the turns of those that help."""

    def __init__(self, queue: Queue, visitor: str, seen: Seen, progress: Progress) -> None:
        self._queue, self._visitor, self._seen, self._progress = queue, visitor, seen, progress
        self._turn = queue.turns.ask(visitor)
        self._helpers: list[Turn] = []
        self._channel: Channel | None = None
        self._told, self._enough = (0.0, "Starting"), False

    def run(self, work: Work) -> Any:
        while not self._turn.began.wait(PATIENCE):
            self._progress(0.0, f"{ordinal(self._turn.place)} in line: begins when its turn comes")
        if not CAN_FORK:
            return work(self._seen, self._progress)
        self._channel = channel = Channel(self._queue.forks.worker())
        try:
            channel.send(work)
            while True:
                self._look(channel)
                if channel.waits(PATIENCE):
                    kind, told = channel.receive()
                    if kind == "done":
                        return told
                    self._hear(channel, kind, told)
        except (EOFError, OSError) as error:
            raise died() from error

    def end(self) -> None:
        """Give back all turns; whoever computes for it ends."""
        if self._channel is not None:
            self._channel.close()
        for turn in (self._turn, *self._helpers):
            turn.end()

    def _look(self, channel: Channel) -> None:
        try:
            if self._progress(*self._told) and not self._enough:
                self._enough = True
                _tell(channel, "enough")
        except Cancelled:
            _tell(channel, "cancel")
            _wait_for_the_end(channel)
            raise

    def _hear(self, channel: Channel, kind: str, told: Any) -> None:
        if kind == "failed":
            raise told
        if kind == "progress":
            self._told = told
        if kind == "seen":
            self._seen(told)
        if kind == "rest":
            self._turn.end()
        if kind == "resume":
            self._turn = self._queue.turns.ask(self._visitor, partial(_tell, channel, "turn"))
        if kind == "help":
            self._helpers.append(self._queue.turns.ask(self._visitor, partial(self._lend, channel)))
        if kind == "helped":
            done = next(turn for turn in self._helpers if turn.began.is_set())
            self._helpers.remove(done)
            done.end()

    def _lend(self, channel: Channel) -> None:
        try:
            with self._queue.forks.worker() as stream:
                channel.send("helper", stream.fileno())
        except OSError:  # no worker can be made any more, or who wanted it has just ended
            channel.hang_up()


def _tell(channel: Channel, kind: str) -> None:
    with suppress(OSError):  # it has just ended; what came of it may still wait to be received
        channel.send(kind)


def _wait_for_the_end(channel: Channel) -> None:
    until = time.monotonic() + GRACE
    with suppress(EOFError):
        while (left := until - time.monotonic()) > 0 and channel.waits(left):
            channel.receive()


def ordinal(number: int) -> str:
    ending = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th") if number % 100 not in (11, 12, 13) else "th"
    return f"{number}{ending}"


@cache
def queue() -> Queue:
    """That of this server."""
    return Queue(limits())
