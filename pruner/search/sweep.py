"""Many recipes rated side by side, in parallel: by the quality of what they leave, else by how far its answers are from the
dense model's on held-back inputs, else by how far its output drifts on random ones."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd
from torch import Tensor, nn

from pruner.calibration.calibration import Calibration
from pruner.calibration.drift import held_back_loss, measure_drift
from pruner.calibration.observations import Statistics
from pruner.compact.costs import size_of_form
from pruner.files.checkpoint import Checkpoint
from pruner.lstm.measure import Rate, one_thread
from pruner.lstm.module import build
from pruner.pipeline import gather_statistics, prune
from pruner.progress import Progress, silent, split
from pruner.recipe import COST_CRITERIA, Recipe
from pruner.search.workers import as_they_come

SEEDS = 3  # of the random band, which every other score should beat


@dataclass(frozen=True)
class Rated:
    """A recipe with what it leaves: `value` as `value_of` gives it; parameters of the whole file and multiply-accumulates a
    step of its LSTMs are those of the compact form."""

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


def value_of(
    checkpoint: Checkpoint,
    recipe: Recipe,
    calibration: Calibration | None,
    quality: Rate | None,
    tensors: Mapping[str, Tensor],
    modules: Mapping[str, nn.Module],
) -> float:
    """What a model is worth whose tensors, at full size, and LSTMs these are: its quality; where that is unknown, how much
    worse its answers are on the held-back part of `calibration` (`drift.held_back_loss`); without real inputs the relative
    drift of the output on random ones, the largest of all pruned LSTMs."""
    if quality is not None:
        return quality(tensors, modules)
    dense = {lstm.name: build(lstm, checkpoint.tensors) for lstm in checkpoint.select(recipe.lstms)}
    if calibration is not None and calibration.source != "gaussian":
        return held_back_loss(checkpoint, recipe, calibration, dense, modules, tensors)
    moved = measure_drift(checkpoint, recipe, None, dense, modules)
    return max(drift.relative for drift in moved.values())


def dense_value(checkpoint: Checkpoint, quality: Rate | None) -> float:
    """The quality of the dense model; its distance from itself, 0, where there is none."""
    if quality is None:
        return 0.0
    return quality(checkpoint.tensors, {lstm.name: build(lstm, checkpoint.tensors) for lstm in checkpoint.lstms})


def rate_all(
    checkpoint: Checkpoint,
    recipes: Sequence[Recipe],
    calibration: Calibration | None = None,
    statistics: Mapping[str, Statistics] | None = None,
    quality: Rate | None = None,
    progress: Progress = silent,
    masks: Sequence[Mapping[str, Tensor] | None] | None = None,
) -> list[Rated]:
    """Rate recipes in parallel, through joblib: as many at once as there are CPUs, or wherever its backend runs them.

    Within `joblib.parallel_config("dask")` and the like a cluster does the work, with the same numbers. Statistics
    are gathered once if they are needed and not given; they depend on LSTMs, consumers and task, in which all recipes
    must agree. `progress(fraction, what)` is called several times a second; raise in it to stop, whatever still runs.
    Calls from several threads wait for each other. Raises PrunerError as `rate` does.
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
    progress(1.0, "Done")
    return [found[index] for index in range(len(calls))]


def as_table(rated: Iterable[Rated]) -> pd.DataFrame:
    """One line a recipe."""
    return pd.DataFrame(
        [
            {
                "sparsity": each.recipe.sparsity,
                "criterion": each.recipe.criterion,
                "compensation": each.recipe.compensation,
                "seed": each.recipe.seed,
                "value": each.value,
                "parameters": each.parameters,
                "macs_per_step": each.macs_per_step,
            }
            for each in rated
        ]
    )
