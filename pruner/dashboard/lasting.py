"""How long shrinking takes, told before it begins and while it goes on."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pruner.search.candidates import Candidate, Target
from pruner.search.smallest import BRIEFLY, FIRST, ROUNDS

IN_A_ROUND = 2  # candidates: on either side of the size that was reckoned, or one of each way to reach a given size
ASIDE = 10.0  # seconds: to run the inputs, and beside each healing to fold and to judge, of the Python-docs example


@dataclass(frozen=True)
class Lasting:
    """A range of seconds."""

    least: float
    most: float

    def __str__(self) -> str:
        least, most = _in_words(self.least), _in_words(self.most)
        if least == most:
            return f"about {most}"
        return f"about {_before(least, most)} to {most}" if self.least > 0 else f"up to about {most}"


@dataclass(frozen=True)
class Search:
    """A search that heals so many candidates `at_once`, each for a `budget` of seconds, and what it takes: at least what
    healing takes if the first guess holds, at most all rounds with what is done beside healing."""

    target: Target
    budget: float
    at_once: int

    @property
    def lasts(self) -> Lasting:
        """From beginning to end."""
        left = self._left(0, 0)
        return Lasting(left.least, left.most + ASIDE)

    def after(self, seconds: float, tried: Sequence[Candidate]) -> str:
        """What has passed, and what is to come after so many seconds, with these candidates tried."""
        passed = f"{seconds // 60:.0f} min {seconds % 60:.0f} s" if seconds >= 60 else f"{seconds:.0f} s"
        lasts, left = self.lasts, self._after_this_turn(tried)
        to_come = Lasting(max(lasts.least - seconds, left.least), max(lasts.most - seconds, left.most))
        if to_come.most <= 0:
            return f"{passed} so far, longer than expected: the model is large, or other work shares the cores."
        return f"{passed} so far, {to_come} to go."

    def _after_this_turn(self, tried: Sequence[Candidate]) -> Lasting:
        """What is left when all that is healing now has healed."""
        brief = sum(each.recipe.budget < self.budget for each in tried)
        if self.target.what is None and brief < len(FIRST):
            return self._left(brief + self.at_once, 0)
        return self._left(len(FIRST), len(tried) - brief + self.at_once)

    def _left(self, brief: int, whole: int) -> Lasting:
        """What is left when so many have healed briefly, and so many for the whole budget."""
        first, rounds = (0, 1) if self.target.what else (_turns(len(FIRST) - brief, self.at_once), ROUNDS)
        side_by_side = min(self.at_once, IN_A_ROUND)
        least, most = (_turns(count * IN_A_ROUND - whole, side_by_side) for count in (1, rounds))
        briefly = first * BRIEFLY * self.budget
        return Lasting(briefly + least * self.budget, briefly + most * self.budget + (first + most) * ASIDE)


def _turns(count: int, at_once: int) -> int:
    return math.ceil(max(0, count) / at_once)


def _in_words(seconds: float) -> str:
    if seconds < 50:
        return f"{10 * max(1, round(seconds / 10))} s"
    if seconds >= 600:
        return f"{round(seconds / 60)} min"
    whole, half = divmod(round(seconds / 30), 2)
    return f"{whole}{'½' if half else ''} min"


def _before(least: str, most: str) -> str:
    """The lower end of a range, without the unit that the upper one says."""
    unit = most.rpartition(" ")[2]
    return least.removesuffix(f" {unit}")
