"""Who may compute now: so many at once, and visitors who wait in turns, not all of one before all of another."""

import threading
from collections import deque
from collections.abc import Callable


class Turns:
    """As many turns at once as there are workers. Visitors who wait stand in a line; who gets a turn goes to its end."""

    def __init__(self, workers: int) -> None:
        self._free = workers
        self._lock = threading.Lock()
        self._line: dict[str, deque[Turn]] = {}  # what each visitor waits for, the first visitor first

    def ask(self, visitor: str, begin: Callable[[], None] = lambda: None) -> "Turn":
        """Wait for a turn; `begin` is called as it comes, in some thread, and must not take long."""
        turn = Turn(self, visitor, begin)
        with self._lock:
            self._line.setdefault(visitor, deque()).append(turn)
        self._hand_out()
        return turn

    def _end(self, turn: "Turn") -> None:
        with self._lock:
            if turn.ended:
                return
            turn.ended = True
            if turn.began.is_set():
                self._free += 1
            else:
                self._line[turn.visitor].remove(turn)
                if not self._line[turn.visitor]:
                    del self._line[turn.visitor]
        self._hand_out()

    def _place(self, turn: "Turn") -> int:
        with self._lock:
            if turn.ended or turn.began.is_set():
                return 0
            own, before = self._line[turn.visitor].index(turn), True
            place = 1
            for visitor, waiting in self._line.items():
                before = before and visitor != turn.visitor
                place += own if visitor == turn.visitor else min(len(waiting), own + before)
            return place

    def _hand_out(self) -> None:
        while begins := self._next():
            begins.begin()

    def _next(self) -> "Turn | None":
        with self._lock:
            if not self._free or not self._line:
                return None
            visitor, waiting = next(iter(self._line.items()))
            turn = waiting.popleft()
            del self._line[visitor]
            if waiting:
                self._line[visitor] = waiting
            self._free -= 1
            turn.began.set()
            return turn


class Turn:
    """What somebody waits for, and then has until it ends."""

    def __init__(self, turns: Turns, visitor: str, begin: Callable[[], None]) -> None:
        self._turns, self.visitor, self.begin = turns, visitor, begin
        self.began, self.ended = threading.Event(), False

    @property
    def place(self) -> int:
        """The place in the line: 1 is next, 0 waits no longer."""
        return self._turns._place(self)

    def end(self) -> None:
        """Give it back, or wait no longer."""
        self._turns._end(self)
