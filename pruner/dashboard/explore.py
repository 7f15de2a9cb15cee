"""Many recipes of the open model: the work of the pages Sweep and Sensitivity, bound to values for a thread of its own."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pruner.dashboard.gathered import Gathered
from pruner.examples import Example
from pruner.files.checkpoint import Checkpoint
from pruner.lstm.measure import Quality
from pruner.progress import Progress, split
from pruner.recipe import Recipe
from pruner.search.front import lost
from pruner.search.parts import Sensitivity
from pruner.search.references import Reference, references
from pruner.search.sensitivity import measure_sensitivity
from pruner.search.sweep import Rated, rate_all, sweep_recipes

LEAST, MOST = 0.1, 0.9  # sparsities that are tried


@dataclass(frozen=True)
class Judged:
    """How models are compared: by the quality of an example, else by their answers on inputs that were held back, else by
    how far their output drifts on random ones."""

    name: str
    higher_is_better: bool
    quality: Quality | None


@dataclass(frozen=True)
class Sweep:
    """Recipes side by side, the best first, and what they are to be compared with, the dense model before all."""

    rated: list[Rated]
    references: list[Reference]
    judged: Judged

    @property
    def dense(self) -> float:
        return self.references[0].value


@dataclass(frozen=True)
class Measured:
    """What each part bears under a recipe."""

    recipe: Recipe
    sensitivity: Sensitivity
    judged: Judged


def judged_by(example: Example | None, gathered: Gathered | None) -> Judged:
    if example is not None:
        return Judged(example.quality_name, example.higher_is_better, example.quality)
    if gathered is not None and gathered.calibration.source != "gaussian":
        return Judged("difference of the answers on held-back inputs", False, None)
    return Judged("output drift on random inputs", False, None)


def spread(count: int) -> list[float]:
    """So many sparsities, evenly from few to many."""
    return [round(float(sparsity), 2) for sparsity in np.linspace(LEAST, MOST, count)]


def grid(
    recipe: Recipe,
    to_gather: Recipe,
    sparsities: Sequence[float],
    criteria: Sequence[str],
    compensations: Sequence[str],
) -> list[Recipe]:
    """All recipes of a sweep, the one it starts from included; those that have a use for the consumers and the task that
    inputs are gathered for name them."""
    found: list[Recipe] = []
    for compensation in compensations:
        named = recipe.granularity == "units" or compensation != "none"
        base = replace(
            recipe,
            criterion="l1",
            allocation="uniform",
            layer_sparsity={},
            gate_sparsity={},
            compensation=compensation,
            consumers=to_gather.consumers if named else (),
            task=to_gather.task if compensation != "none" else None,
        )
        found += sweep_recipes(base, sparsities, criteria, [compensation])
    found = [_with(each, to_gather) if each.needs_data else each for each in found]
    return [*found, *([] if recipe in found else [recipe])]


def _with(recipe: Recipe, to_gather: Recipe) -> Recipe:
    return replace(recipe, consumers=to_gather.consumers, task=to_gather.task)


def sweep(
    checkpoint: Checkpoint, recipes: Sequence[Recipe], gathered: Gathered | None, judged: Judged, progress: Progress
) -> Sweep:
    """Rate all recipes. Raises PrunerError as `rate_all` does."""
    calibration, statistics = (gathered.calibration, gathered.statistics) if gathered else (None, None)
    rating, comparing = split(progress, 9, 1)
    rated = rate_all(checkpoint, recipes, calibration, statistics, judged.quality, rating)
    comparing(0.0, "Rating what they are compared with")
    sizes = {each.recipe.sparsity: each.macs_per_step for each in reversed(rated)}  # of its first recipe
    compared = references(checkpoint, recipes[0], sizes.values(), calibration, judged.quality)
    best_first = sorted(rated, key=lambda each: lost(each.value, compared[0].value, judged.higher_is_better))
    return Sweep(best_first, compared, judged)


def measure(
    checkpoint: Checkpoint,
    recipe: Recipe,
    sparsities: Sequence[float],
    gathered: Gathered | None,
    judged: Judged,
    progress: Progress,
) -> Measured:
    """Prune each part alone. Raises PrunerError as `measure_sensitivity` does."""
    calibration, statistics = (gathered.calibration, gathered.statistics) if gathered else (None, None)
    found = measure_sensitivity(
        checkpoint,
        recipe,
        sparsities,
        calibration,
        statistics,
        judged.quality,
        judged.higher_is_better,
        progress,
    )
    return Measured(recipe, found, judged)


def without_sparsities(recipe: Recipe) -> Recipe:
    """The recipe but for how much falls where: two that differ in nothing else have the same sensitivity."""
    return replace(recipe, sparsity=0.5, layer_sparsity={}, gate_sparsity={}, allocation="uniform")
