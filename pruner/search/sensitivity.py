"""What each layer and each gate block bears when it is pruned alone."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from pruner.calibration.calibration import Calibration
from pruner.calibration.observations import Statistics
from pruner.files.checkpoint import Checkpoint
from pruner.lstm.gates import ALL_BLOCKS, BLOCKS, split_gates
from pruner.lstm.measure import Rate
from pruner.pipeline import choose_masks, gather_statistics
from pruner.progress import Progress, silent, split
from pruner.recipe import Recipe
from pruner.search.parts import UNITS, Sensitivity
from pruner.search.sweep import rate_all, runnable
from pruner.search.worth import dense_value


def measure_sensitivity(
    checkpoint: Checkpoint,
    recipe: Recipe,
    sparsities: Sequence[float],
    calibration: Calibration | None = None,
    statistics: Mapping[str, Statistics] | None = None,
    quality: Rate | None = None,
    higher_is_better: bool = False,
    progress: Progress = silent,
) -> Sensitivity:
    """Prune each layer alone (granularity units), or each of its eight gate blocks alone (rows), at several sparsities.

    By the recipe's criterion and compensation; layer k of all its LSTMs, in both directions, is one part. Raises PrunerError
    and calls `progress` as `rate_all` does.
    """
    base = replace(recipe, layer_sparsity={}, gate_sparsity={}, allocation="uniform")
    if statistics is None and calibration is not None and base.needs_data:
        gathering, progress = split(progress, 1, 4)
        statistics = gather_statistics(checkpoint, base, calibration, progress=gathering)
    layers = range(max(lstm.num_layers for lstm in checkpoint.select(recipe.lstms)))
    names = [UNITS] if recipe.granularity == "units" else list(ALL_BLOCKS)
    parts = [(layer, name) for layer in layers for name in names]
    recipes, masks = [], []
    for sparsity in sparsities:
        here = replace(base, sparsity=sparsity)
        everything = choose_masks(checkpoint, here, statistics=statistics)
        recipes += [runnable(here, uneven=True)] * len(parts)
        masks += [only(checkpoint, here, everything, part) for part in parts]
    rated = rate_all(checkpoint, recipes, calibration, statistics, quality, progress, masks)
    values = [each.value for each in rated]
    return Sensitivity(
        tuple(sparsities),
        dense_value(checkpoint, quality),
        higher_is_better,
        {part: tuple(values[index :: len(parts)]) for index, part in enumerate(parts)},
    )


def only(
    checkpoint: Checkpoint, recipe: Recipe, masks: Mapping[str, Tensor], part: tuple[int, str]
) -> dict[str, Tensor]:
    """The masks with everything kept but one layer, or one block of it."""
    layer, name = part
    found = {key: torch.ones_like(mask) for key, mask in masks.items()}
    for lstm in checkpoint.select(recipe.lstms):
        for direction in range(lstm.directions if layer < lstm.num_layers else 0):
            if name == UNITS:
                found |= {key: masks[key] for key in lstm.packed_names(layer, direction)}
                continue
            side = next(side for side, blocks in BLOCKS.items() if name in blocks)
            key, gate = lstm.weight_names()[layer, direction, side], BLOCKS[side].index(name)
            split_gates(found[key])[gate] = split_gates(masks[key])[gate]
    return found
