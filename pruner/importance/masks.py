"""Scores + recipe -> keep-masks. True means kept."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pruner.errors import PrunerError
from pruner.lstm.gates import BLOCKS, GATES, SIDES, split_gates
from pruner.lstm.lstm import LSTM, Place
from pruner.recipe import COST_CRITERIA, Recipe


def row_ranks(saliency: Tensor) -> Tensor:
    """Each row's place among the rows of its own gate, 0 for the lowest saliency: (4H,) -> (4, H) int64.

    Equal saliencies keep the order of their units. One sort serves every sparsity: a row falls when its rank is below
    the number of rows to drop.
    """
    order = split_gates(saliency).argsort(dim=1, stable=True)
    places = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places)


def dropped_rows(hidden_size: int, sparsity: float) -> int:
    """`int(H * sparsity)`, as in torch.ao.pruning."""
    return int(hidden_size * sparsity)


def keep_mask(ranks: Tensor, sparsities: tuple[float, ...]) -> Tensor:
    """(4, H) ranks and one sparsity for each of the four gates -> (4H,) bool mask."""
    hidden_size = ranks.shape[1]
    dropped = torch.tensor([[dropped_rows(hidden_size, sparsity)] for sparsity in sparsities], device=ranks.device)
    return (ranks >= dropped).flatten()


def keep_highest(scores: Tensor, dropped: int) -> Tensor:
    """Keep-mask (H,) of whole units without the `dropped` lowest scores (H,); equal scores keep the order of the units."""
    mask = torch.ones(len(scores), dtype=torch.bool, device=scores.device)
    mask[scores.argsort(stable=True)[:dropped]] = False
    return mask


def block_sparsities(recipe: Recipe, layer: int, side: str) -> tuple[float, ...]:
    """The sparsities of the four blocks of one packed weight, in the order of `GATES`."""
    return tuple(recipe.block_sparsity(layer, block) for block in BLOCKS[side])


def make_masks(lstm: LSTM, ranks: Mapping[str, Tensor], recipe: Recipe) -> dict[str, Tensor]:
    """{name in the file: (4H,) bool mask} for every packed weight of an LSTM; each gate block loses its own lowest rows.

    `ranks` holds `row_ranks` of each weight, by its name in the file.
    """
    return {
        name: keep_mask(ranks[name], block_sparsities(recipe, layer, side))
        for (layer, _, side), name in lstm.weight_names().items()
    }


def make_unit_masks(lstm: LSTM, units: Mapping[Place, Tensor], recipe: Recipe) -> dict[str, Tensor]:
    """{name in the file: (4H,) bool mask} for every packed weight and bias: the same units fall in all eight blocks.

    `units` holds the `score_units` of each layer and direction. The lowest fall; equal scores keep the order of the units.
    """
    masks: dict[str, Tensor] = {}
    for (layer, direction), kept in _kept_counts(lstm, units, recipe).items():
        mask = keep_highest(units[layer, direction], lstm.hidden_size - kept).repeat(len(GATES))
        masks |= {name: mask.clone() for name in lstm.packed_names(layer, direction)}
    return masks


def _kept_counts(lstm: LSTM, units: Mapping[Place, Tensor], recipe: Recipe) -> dict[Place, int]:
    """How many units each layer and direction keeps, rounded up to a multiple of the recipe's `round_to`."""
    if recipe.allocation == "uniform":
        dropped = {
            place: dropped_rows(lstm.hidden_size, recipe.layer_sparsity.get(place[0], recipe.sparsity))
            for place in units
        }
    elif recipe.criterion in COST_CRITERIA:
        dropped = _dropped_by_cost(lstm, units, recipe)
    else:
        dropped = _dropped_globally(lstm, units, recipe)
    return {place: rounded_up(lstm.hidden_size, fallen, recipe.round_to) for place, fallen in dropped.items()}


def rounded_up(hidden_size: int, dropped: int, round_to: int) -> int:
    """How many of H units are kept when `dropped` may fall and the kept count is rounded up to a multiple of `round_to`."""
    return min(hidden_size, math.ceil((hidden_size - dropped) / round_to) * round_to)


def _dropped_globally(lstm: LSTM, units: Mapping[Place, Tensor], recipe: Recipe) -> dict[Place, int]:
    """How many units fall in each layer and direction when all are ranked together."""
    weights = [len(GATES) * sum(lstm.columns(layer, side) for side in SIDES) for layer, _ in units]
    return dict(zip(units, dropped_together(list(units.values()), weights, recipe), strict=True))


def dropped_together(scores: Sequence[Tensor], weights: Sequence[int], recipe: Recipe) -> list[int]:
    """How many units fall in each of several layers when the share `sparsity` of all falls, the best of each layer spared.

    `scores` holds (H,) of each layer, `weights` how many weights a unit has there. Layers read inputs of different
    widths, so what is ranked is the mean over a unit's weights: mean absolute value for `l1`, root mean square for the
    Euclidean norms. Other scores compare as they are.
    """
    comparable = []
    for own, count in zip(scores, weights, strict=True):
        fair = own / {"l1": count, "l2": math.sqrt(count), "group": math.sqrt(count)}.get(recipe.criterion, 1)
        fair[fair.argmax()] = math.inf
        comparable.append(fair)
    ranked = torch.cat(comparable).argsort(stable=True)
    most = len(ranked) - len(comparable)
    sizes = torch.tensor([len(own) for own in comparable], device=ranked.device)
    layer = torch.arange(len(comparable), device=ranked.device).repeat_interleave(sizes)
    fallen = layer[ranked[: min(most, dropped_rows(len(ranked), recipe.sparsity))]]
    return torch.bincount(fallen, minlength=len(comparable)).cpu().tolist()


def _dropped_by_cost(lstm: LSTM, units: Mapping[Place, Tensor], recipe: Recipe) -> dict[Place, int]:
    """How many units fall in each layer and direction when the next to go is always the one of least cost per
    multiply-accumulate that its removal saves now, until no more are left than when every layer loses the share
    `sparsity`."""
    lost = {place: scores.sort().values for place, scores in units.items()}
    # The brain surgeon's score is what has been lost so far; the other costs stand for themselves.
    costs = {
        place: (values.diff(prepend=values.new_zeros(1)) if recipe.criterion == "obs" else values).tolist()
        for place, values in lost.items()
    }
    kept = dict.fromkeys(units, lstm.hidden_size)
    left = lstm.hidden_size - dropped_rows(lstm.hidden_size, recipe.sparsity)
    budget = lstm.macs_with_units(dict.fromkeys(units, left))
    while (now := lstm.macs_with_units(kept)) > budget:
        prices = {
            place: costs[place][lstm.hidden_size - count] / (now - lstm.macs_with_units({**kept, place: count - 1}))
            for place, count in kept.items()
            if count > 1
        }
        if not prices:
            break
        kept[min(prices, key=prices.__getitem__)] -= 1
    return {place: lstm.hidden_size - count for place, count in kept.items()}


def make_masks_by_cost(lstm: LSTM, saliency: Mapping[str, Tensor], recipe: Recipe) -> dict[str, Tensor]:
    """{name in the file: (4H,) bool mask}: rows of all gates, layers and both packed weights ranked together by cost per
    multiply-accumulate, until the share `sparsity` of these is gone.

    Gates bear very different shares, and not the same gate in every model; here the costs decide.
    """
    names = lstm.weight_names()
    widths = [lstm.columns(layer, side) for layer, _, side in names]
    price = torch.cat([saliency[name] / width for name, width in zip(names.values(), widths, strict=True)])
    macs = torch.tensor(widths).repeat_interleave(len(GATES) * lstm.hidden_size)
    order = price.argsort(stable=True)
    keep = torch.ones(len(price), dtype=torch.bool)
    keep[order[macs[order].cumsum(0) <= recipe.sparsity * int(macs.sum())]] = False
    return dict(zip(names.values(), keep.chunk(len(names)), strict=True))


def check_layers(recipe: Recipe, lstms: list[LSTM]) -> None:
    """Raise PrunerError if the recipe names a layer that none of the LSTMs has."""
    deepest = max(lstm.num_layers for lstm in lstms)
    for layer in recipe.layer_sparsity:
        if layer >= deepest:
            raise PrunerError(f"expected a layer from 0 to {deepest - 1} in layer_sparsity, found {layer}")


def drop_rows(weight: Tensor, mask: Tensor, rows: slice = slice(None)) -> Tensor:
    """A copy of a packed weight or bias (4H, ...), or of some of its rows, with zeros in those that its (4H,) mask drops."""
    pruned = weight[rows].detach().clone(memory_format=torch.contiguous_format)
    pruned[~mask[rows]] = 0
    return pruned


def unit_agreement(masks: list[Tensor]) -> Tensor:
    """How many of a layer's blocks keep each unit: a list of (4H,) masks -> (H,) counts."""
    return torch.stack([mask.view(len(GATES), -1).sum(0) for mask in masks]).sum(0)
