"""How long shrinking takes, told before it begins and while it goes on."""

import math
from dataclasses import dataclass

from pruner.search.candidates import Target
from pruner.search.smallest import BRIEFLY, FIRST, ROUNDS

IN_A_ROUND = 2  # candidates: on either side of the size that was reckoned, or one of each way to reach a given size
ASIDE = 10.0  # seconds: to run the inputs, and beside each healing to fold and to judge, of the Python-docs example


@dataclass(frozen=True)
class Lasting:
    """Seconds that shrinking takes: the `least` if the first guess holds, healing alone; the `most` with all beside it."""

    least: float
    most: float

    def __str__(self) -> str:
        least, most = _in_words(self.least), _in_words(self.most)
        return f"about {most}" if least == most else f"about {_before(least, most)} to {most}"

    def after(self, seconds: float) -> str:
        """What has passed, and what is to come."""
        passed = f"{seconds // 60:.0f} min {seconds % 60:.0f} s" if seconds >= 60 else f"{seconds:.0f} s"
        if seconds >= self.most:
            return f"{passed} so far, longer than expected: the model is large, or other work shares the cores."
        if seconds >= self.least:
            return f"{passed} so far, at most about {_in_words(self.most - seconds)} to go."
        return f"{passed} so far, {Lasting(self.least - seconds, self.most - seconds)} to go."


def lasting(target: Target, budget: float, at_once: int) -> Lasting:
    """How long a search lasts that heals so many candidates at once, each for a budget of seconds."""
    first, rounds = (0, 1) if target.what else (math.ceil(len(FIRST) / at_once), ROUNDS)
    a_round = math.ceil(IN_A_ROUND / at_once)
    brief, turns = first * BRIEFLY * budget, rounds * a_round
    return Lasting(brief + a_round * budget, brief + turns * budget + (1 + first + turns) * ASIDE)


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
