"""Models that were tried, each with what it is worth and what is left of the dense one, whatever work tried them."""

from collections.abc import Iterable, MutableMapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from hashlib import sha256

from pruner.exports.verdict import Verdict
from pruner.recipe import Recipe
from pruner.search.front import front, lost, smallest_within


@dataclass(frozen=True, eq=False)
class Experiment:
    """A model that was tried, by a recipe, or by none if it is only there to be compared with.

    `measure` is what the verdict's figures are called, `inputs` the hash of those that answers were compared on, or nothing.
    `macs` and `parameters` are the shares that are left, of the
    multiply-accumulates of the LSTMs and of the parameters of the file. `by` names the work.
    """

    recipe: Recipe | None
    verdict: Verdict
    measure: str
    inputs: str
    macs: float
    parameters: float
    by: str
    when: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def judged_by(self) -> str:
        """What experiments that can stand side by side have in common."""
        return f"{self.measure} ({self.inputs[:8]})" if self.inputs else self.measure

    @property
    def value(self) -> float:
        return self.verdict.after if self.verdict.after is not None else float("nan")

    @property
    def dense(self) -> float:
        return self.verdict.before or 0.0

    @property
    def loss(self) -> float:
        """By what share of the dense model's its value is worse, see `front.lost`."""
        return lost(self.value, self.dense, self.verdict.higher_is_better)

    @cached_property
    def key(self) -> str:
        """The same for what is tried again and turns out the same."""
        how = self.recipe.to_json() if self.recipe else f"{self.macs:.6f}"
        return sha256(f"{how} {self.judged_by} {self.value:.4g}".encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Compared:
    """Experiments that can stand side by side, one at least."""

    tried: tuple[Experiment, ...]

    @property
    def measure(self) -> str:
        return self.tried[0].measure

    @property
    def dense(self) -> float:
        return self.tried[0].dense

    @cached_property
    def best_first(self) -> list[Experiment]:
        return sorted(self.tried, key=lambda each: (each.loss, each.macs))

    @cached_property
    def front(self) -> set[Experiment]:
        """Those of recipes that no other beats in both size and value."""
        return set(front(self._of_recipes(), _size_and_loss))

    def smallest_within(self, loss: float) -> Experiment | None:
        """That of the smallest model of a recipe which loses at most this share."""
        return smallest_within(self._of_recipes(), _size_and_loss, loss)

    def _of_recipes(self) -> list[Experiment]:
        return [each for each in self.best_first if each.recipe]


def _size_and_loss(experiment: Experiment) -> tuple[float, float]:
    return experiment.macs, experiment.loss


History = MutableMapping[str, Experiment]  # by their keys, the oldest first; threads add to it


def verdict_of(experiments: Iterable[Experiment], recipe: Recipe) -> Verdict | None:
    """What was found last of a recipe, if anything was that tells how much worse it is."""
    found = (each for each in reversed(list(experiments)) if each.recipe == recipe and each.verdict.loss is not None)
    return next((each.verdict for each in found), None)
