"""Which recipes a sweep tries."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from pruner.recipe import Recipe
from pruner.search.sweep import sweep_recipes

LEAST, MOST = 0.1, 0.9  # sparsities that are tried


def spread(count: int) -> list[float]:
    """So many sparsities, evenly from few to many."""
    return [round(float(sparsity), 2) for sparsity in np.linspace(LEAST, MOST, count)]


def best_known(granularity: str, has_inputs: bool) -> tuple[str, str]:
    """The criterion and the compensation to try where none is chosen: what measured best of all that needs no training."""
    if has_inputs:
        return "obs" if granularity == "units" else "fisher", "fold"
    return "l1", "none"


def grid(
    recipe: Recipe,
    to_gather: Recipe,
    granularity: str,
    sparsities: Sequence[float],
    criteria: Iterable[str],
    compensations: Iterable[str],
) -> list[Recipe]:
    """All recipes of a sweep, of the LSTMs and with the rounding and the time to heal of a recipe; those that have a use for
    the consumers and the task that inputs are gathered for name them."""
    found: list[Recipe] = []
    for compensation in compensations:
        named = granularity == "units" or compensation != "none"
        base = replace(
            recipe,
            granularity=granularity,
            criterion="l1",
            allocation="uniform",
            round_to=recipe.round_to if granularity == "units" else 1,
            layer_sparsity={},
            gate_sparsity={},
            compensation=compensation,
            consumers=to_gather.consumers if named else (),
            task=to_gather.task if compensation != "none" else None,
        )
        found += sweep_recipes(base, sparsities, list(criteria), [compensation])
    return [
        replace(each, consumers=to_gather.consumers, task=to_gather.task) if each.needs_data else each for each in found
    ]


def without_sparsities(recipe: Recipe) -> Recipe:
    """The recipe but for how much falls where: two that differ in nothing else have the same sensitivity."""
    return replace(recipe, sparsity=0.5, layer_sparsity={}, gate_sparsity={}, allocation="uniform")
