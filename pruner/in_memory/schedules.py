"""How sparsity grows while a model is trained."""

from dataclasses import asdict, dataclass
from typing import Any

from pruner.errors import PrunerError
from pruner.recipe import check_choice, check_sparsity, check_whole

SHAPES = ("constant", "linear", "cubic")
MOST = 10**9  # steps


@dataclass(frozen=True)
class Schedule:
    """The sparsity at each step of a training run, from `initial` to a final one.

    `cubic` is that of Zhu & Gupta 2017, "To prune, or not to prune": with t steps taken, `final + (initial - final) * (1
    - (t - begin) / steps) ** 3`, fast at first and slower the less is left. `linear` grows evenly, `constant` is final
    from `begin` on. Masks follow every `every` steps. Raises PrunerError for settings that make no sense.

    >>> [round(Schedule("cubic", steps=4).level(taken, final=0.8), 2) for taken in range(6)]
    [0.0, 0.46, 0.7, 0.79, 0.8, 0.8]
    """

    shape: str
    steps: int = 1
    begin: int = 0
    every: int = 1
    initial: float = 0.0

    def __post_init__(self) -> None:
        check_choice("schedule", self.shape, SHAPES)
        check_whole("the steps of a schedule", self.steps, 1, MOST)
        check_whole("the first step of a schedule", self.begin, 0, MOST)
        check_whole("steps between two masks", self.every, 1, MOST)
        check_sparsity("the initial sparsity", self.initial)

    def level(self, taken: int, final: float) -> float:
        """The sparsity after so many steps."""
        left = 1 - min(1.0, max(0, taken - self.begin) / self.steps)
        if self.shape == "constant":
            return final if taken >= self.begin else self.initial
        return final + (self.initial - final) * left ** (3 if self.shape == "cubic" else 1)

    def is_due(self, taken: int) -> bool:
        """Whether masks follow after so many steps: at the last one in any case."""
        since = taken - self.begin
        return since >= 0 and (since % self.every == 0 or since == self.steps)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, from which `Schedule(**values)` is made again."""
        return asdict(self)


def checked(values: Any) -> Schedule:
    """The schedule of `to_dict`. Raises PrunerError for anything else."""
    try:
        return Schedule(**values)
    except TypeError as error:
        raise PrunerError(f"expected a schedule as state_dict() gives it, found another ({error})") from error
