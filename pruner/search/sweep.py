"""Many recipes rated side by side, in parallel, and beside what they are to be compared with."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
from torch import Tensor

from pruner.calibration.calibration import Calibration
from pruner.calibration.observations import Statistics
from pruner.compact.costs import size_of_form
from pruner.files.checkpoint import Checkpoint
from pruner.lstm.measure import Rate, one_thread
from pruner.pipeline import gather_statistics, prune
from pruner.progress import Progress, silent, split
from pruner.recipe import COST_CRITERIA, Recipe
from pruner.search.front import front, lost
from pruner.search.references import Reference, dense_model, factored_models
from pruner.search.workers import as_they_come
from pruner.search.worth import Measure, value_of

SEEDS = 3  # of the random band, which every other score should beat


@dataclass(frozen=True)
class Rated:
    """A recipe with what it leaves: its value, as `worth.value_of` gives it; parameters of the whole file and
    multiply-accumulates a step of its LSTMs are those of the compact form."""

    recipe: Recipe
    value: float
    parameters: int
    macs_per_step: int


def sweep_recipes(
    recipe: Recipe,
    sparsities: Sequence[float],
    criteria: Sequence[str],
    compensations: Sequence[str],
    seeds: int = SEEDS,
) -> list[Recipe]:
    """The grid from a base recipe: every sparsity by criterion and compensation, and `random` with so many seeds.

    A layer's or a gate's own sparsity is left out, since the grid sets them all. An allocation that a criterion does
    not know becomes uniform, and consumers are named where that can run.
    """
    base = replace(recipe, layer_sparsity={}, gate_sparsity={}, allocation="uniform", seed=0, criterion="l1")
    by_units = recipe.granularity == "units"
    drawn = [("random", seed) for seed in range(seeds)]
    found = []
    for compensation in compensations:
        for criterion, seed in [*((name, 0) for name in criteria if name != "random"), *drawn]:
            allocation = recipe.allocation if by_units or criterion in COST_CRITERIA else "uniform"
            line = replace(base, criterion=criterion, compensation=compensation, allocation=allocation, seed=seed)
            found += [replace(runnable(line, allocation == "global"), sparsity=sparsity) for sparsity in sparsities]
    return found


def runnable(recipe: Recipe, uneven: bool) -> Recipe:
    """The recipe without the consumers that it cannot run with: weights alone name them only to be trimmed, which needs as
    many units of every layer."""
    return replace(recipe, consumers=(), task=None) if uneven and not recipe.needs_data else recipe


def rate(
    checkpoint: Checkpoint,
    recipe: Recipe,
    calibration: Calibration | None = None,
    statistics: Mapping[str, Statistics] | None = None,
    quality: Rate | None = None,
    masks: Mapping[str, Tensor] | None = None,
    progress: Progress = silent,
) -> Rated:
    """Rate one recipe on the CPU with one thread, so that the number is the same whoever computes it.

    `masks` go before those that the recipe would choose. `progress` as in `pipeline.prune`. Raises PrunerError as that does.
    """
    with one_thread():
        pruning, rating = split(progress, 3, 1)
        pruned = prune(checkpoint, recipe, calibration, statistics, masks, progress=pruning)
        rating(0.0, "Rating")
        compact = pruned.modules("compact")
        value = value_of(checkpoint, recipe, calibration, quality, pruned.tensors(), compact)
        left = size_of_form(checkpoint, pruned.forms["compact"])
        return Rated(recipe, value, left.parameters, left.macs_per_step)


def rate_all(
    checkpoint: Checkpoint,
    recipes: Sequence[Recipe],
    calibration: Calibration | None = None,
    statistics: Mapping[str, Statistics] | None = None,
    quality: Rate | None = None,
    progress: Progress = silent,
    masks: Sequence[Mapping[str, Tensor] | None] | None = None,
    seen: Callable[[Rated], object] = lambda rated: None,
) -> list[Rated]:
    """Rate recipes in parallel, through joblib: as many at once as there are CPUs, or wherever its backend runs them.

    Within `joblib.parallel_config("dask")` and the like a cluster does the work, with the same numbers. Statistics
    are gathered once if they are needed and not given; they depend on LSTMs, consumers and task, in which all recipes
    must agree. `progress(fraction, what)` is called several times a second; raise in it to stop, whatever still runs.
    `seen` is called with each as it comes. Calls from several threads wait for each other. Raises PrunerError as `rate`
    does.
    """
    if statistics is None and calibration is not None and any(recipe.needs_data for recipe in recipes):
        wanted = next(recipe for recipe in recipes if recipe.needs_data)
        gathering, progress = split(progress, 1, 4)
        statistics = gather_statistics(checkpoint, wanted, calibration, progress=gathering)
    light = replace(checkpoint, container={})  # workers need its tensors, not the file's own objects
    calls = [
        (light, recipe, calibration, statistics, quality, mask)
        for recipe, mask in zip(recipes, masks or [None] * len(recipes), strict=True)
    ]
    found: dict[int, Rated] = {}

    def look(waiting: bool) -> None:
        rated = f"{len(found)} of {len(calls)} recipes rated"
        what = "Waiting until other recipes are rated" if waiting else rated
        progress(len(found) / len(calls), what)

    for index, rated in as_they_come(rate, calls, look):
        found[index] = rated
        seen(rated)
    progress(1.0, "Done")
    return [found[index] for index in range(len(calls))]


@dataclass(frozen=True)
class Sweep:
    """Recipes side by side, and what they are to be compared with, the dense model before all."""

    rated: list[Rated]
    references: list[Reference]
    measure: Measure

    def table(self) -> pd.DataFrame:
        """One line a recipe or reference, the best first; `front` where no other recipe beats one in size and value."""
        best = front(self.rated, lambda each: (each.macs_per_step, self._lost(each)))
        found: list[Rated | Reference] = [*self.references, *self.rated]
        found.sort(key=lambda each: (self._lost(each), each.macs_per_step))
        return as_table(found).assign(front=[each in best for each in found])

    def _lost(self, each: Rated | Reference) -> float:
        return lost(each.value, self.references[0].value, self.measure.higher_is_better)


def sweep(
    checkpoint: Checkpoint,
    recipes: Sequence[Recipe],
    measure: Measure,
    statistics: Mapping[str, Statistics] | None = None,
    progress: Progress = silent,
    seen: Callable[[Rated | Reference, Reference], object] = lambda each, dense: None,
) -> Sweep:
    """Rate recipes, and references of their sizes. `seen` is called with each as it comes, and with the dense model. Raises
    PrunerError and calls `progress` as `rate_all` does."""
    rating, comparing = split(progress, 9, 1)
    calibration, quality = measure.calibration, measure.quality
    dense = dense_model(checkpoint, quality)
    rated = rate_all(checkpoint, recipes, calibration, statistics, quality, rating, seen=lambda each: seen(each, dense))
    sizes = {each.recipe.sparsity: each.macs_per_step for each in reversed(rated)}  # of its first recipe
    factored = factored_models(checkpoint, recipes[0], sizes.values(), calibration, quality, comparing)
    for each in factored:
        seen(each, dense)
    return Sweep(rated, [dense, *factored], measure)


def as_table(found: Iterable[Rated | Reference]) -> pd.DataFrame:
    """One line a recipe or reference; the name of a reference stands where the criterion of a recipe does."""
    return pd.DataFrame(
        [
            {
                **_settings(each),
                "value": each.value,
                "parameters": each.parameters,
                "macs_per_step": each.macs_per_step,
            }
            for each in found
        ]
    ).astype({"seed": "Int64"})


def _settings(each: Rated | Reference) -> dict[str, Any]:
    if isinstance(each, Reference):
        return {"sparsity": None, "criterion": each.name, "compensation": None, "seed": None}
    return {
        "sparsity": each.recipe.sparsity,
        "criterion": each.recipe.criterion,
        "compensation": each.recipe.compensation,
        "seed": each.recipe.seed,
    }
