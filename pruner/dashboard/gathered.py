"""Calibration inputs with what was gathered from them, and for which recipes that holds."""

from collections.abc import Mapping
from dataclasses import dataclass

from pruner.calibration.calibration import Calibration
from pruner.calibration.observations import Statistics
from pruner.recipe import Recipe


@dataclass(frozen=True)
class Gathered:
    """Calibration inputs, and what the LSTMs of a recipe do on them."""

    calibration: Calibration
    statistics: Mapping[str, Statistics]
    recipe: Recipe

    @property
    def key(self) -> str:
        """What scores from it can be cached on."""
        return f"{self.calibration.sha256} {self.calibration.embedding} {_depends_on(self.recipe)}"

    def holds_for(self, recipe: Recipe) -> bool:
        """Whether a recipe has the LSTMs, what reads them, and the task that these were gathered for."""
        return _depends_on(self.recipe) == _depends_on(recipe)


def _depends_on(recipe: Recipe) -> tuple[tuple[str, ...] | None, tuple[str, ...], str | None]:
    return recipe.lstms, recipe.consumers, recipe.task
