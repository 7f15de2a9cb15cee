"""Many recipes of the open model: the work of the pages Sweep and Sensitivity, bound to values for a thread of its own."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pruner.dashboard.gathered import Gathered
from pruner.examples import Example
from pruner.files.checkpoint import Checkpoint
from pruner.lstm.measure import Quality
from pruner.progress import Progress
from pruner.recipe import Recipe
from pruner.search.parts import Sensitivity
from pruner.search.sensitivity import measure_sensitivity
from pruner.search.sweep import Rated, dense_value, rate_all, sweep_recipes

LEAST, MOST = 0.1, 0.9  # sparsities that are tried


@dataclass(frozen=True)
class Judged:
    """How models are compared: by the quality of an example, or by how far their output drifts."""

    name: str
    higher_is_better: bool
    quality: Quality | None


@dataclass(frozen=True)
class Sweep:
    """Recipes side by side, and what the dense model reaches."""

    rated: list[Rated]
    dense: float
    judged: Judged


@dataclass(frozen=True)
class Measured:
    """What each part bears under a recipe."""

    recipe: Recipe
    sensitivity: Sensitivity
    judged: Judged


def judged_by(example: Example | None) -> Judged:
    if example is None:
        return Judged("output drift", False, None)
    return Judged(example.quality_name, example.higher_is_better, example.quality)


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
    progress(0.0, "Rating the model as it is")
    dense = dense_value(checkpoint, judged.quality)
    calibration, statistics = (gathered.calibration, gathered.statistics) if gathered else (None, None)
    rated = rate_all(checkpoint, recipes, calibration, statistics, judged.quality, progress)
    return Sweep(rated, dense, judged)


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
    return replace(recipe, sparsity=0.5, layer_sparsity={}, gate_sparsity={}, allocation="uniform", round_to=1)
