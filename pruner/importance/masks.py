"""Scores + recipe -> keep-masks. True means kept."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pruner.calibration.observations import Statistics
from pruner.errors import PrunerError
from pruner.importance.data import ROW_SCORES, UNIT_SCORES, random_score
from pruner.importance.weights import (
    COST_CRITERIA,
    DATA_CRITERIA,
    WEIGHT_CRITERIA,
    outgoing_norms,
    score,
    score_units,
)
from pruner.lstm.gates import BLOCKS, GATES, SIDES, split_gates
from pruner.lstm.lstm import LSTM
from pruner.recipe import Recipe


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


def unit_mask(saliencies: list[Tensor], sparsity: float) -> Tensor:
    """Keep-mask (H,) of whole units from the (4H,) row saliencies of a layer's packed weights.

    A unit's score is the sum over its rows; the `int(H * sparsity)` lowest fall.
    """
    scores = torch.stack([split_gates(saliency).sum(0) for saliency in saliencies]).sum(0)
    mask = torch.ones(len(scores), dtype=torch.bool, device=scores.device)
    mask[scores.argsort(stable=True)[: dropped_rows(len(scores), sparsity)]] = False
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


def make_unit_masks(lstm: LSTM, units: Mapping[tuple[int, int], Tensor], recipe: Recipe) -> dict[str, Tensor]:
    """{name in the file: (4H,) bool mask} for every packed weight and bias: the same units fall in all eight blocks.

    `units` holds the `score_units` of each layer and direction. The lowest fall; equal scores keep the order of the units.
    """
    masks = {}
    for (layer, direction), kept in _kept_counts(lstm, units, recipe).items():
        scores = units[layer, direction]
        mask = torch.ones(len(scores), dtype=torch.bool)
        mask[scores.argsort(stable=True)[: len(scores) - kept]] = False
        for kind in ("weight", "bias"):
            for side in SIDES:
                name = lstm.tensors.get(f"{kind}_{side}{lstm.suffix(layer, direction)}")
                if name is not None:
                    masks[name] = mask.repeat(len(GATES))
    return masks


def _kept_counts(lstm: LSTM, units: Mapping[tuple[int, int], Tensor], recipe: Recipe) -> dict[tuple[int, int], int]:
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


def _dropped_globally(
    lstm: LSTM, units: Mapping[tuple[int, int], Tensor], recipe: Recipe
) -> dict[tuple[int, int], int]:
    """How many units fall in each layer and direction when all are ranked together, the best of each spared.

    Layers read inputs of different widths, so what is ranked is the mean over a unit's weights: mean absolute value for
    `l1`, root mean square for the Euclidean norms. Other scores compare as they are.
    """
    comparable = []
    for (layer, _), scores in units.items():
        weights = len(GATES) * (lstm.layer_input_size(layer) + lstm.output_size)
        fair = scores / {"l1": weights, "l2": math.sqrt(weights), "group": math.sqrt(weights)}.get(recipe.criterion, 1)
        fair[fair.argmax()] = math.inf
        comparable.append(fair)
    ranked = torch.cat(comparable).argsort(stable=True)
    most = len(ranked) - len(comparable)
    fallen = ranked[: min(most, dropped_rows(len(ranked), recipe.sparsity))] // lstm.hidden_size
    counts = torch.bincount(fallen, minlength=len(comparable)).tolist()
    return dict(zip(units, counts, strict=True))


def _dropped_by_cost(lstm: LSTM, units: Mapping[tuple[int, int], Tensor], recipe: Recipe) -> dict[tuple[int, int], int]:
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
    budget = _macs(lstm, dict.fromkeys(units, lstm.hidden_size - dropped_rows(lstm.hidden_size, recipe.sparsity)))
    while (now := _macs(lstm, kept)) > budget:
        prices = {
            place: costs[place][lstm.hidden_size - count] / (now - _macs(lstm, {**kept, place: count - 1}))
            for place, count in kept.items()
            if count > 1
        }
        if not prices:
            break
        kept[min(prices, key=prices.__getitem__)] -= 1
    return {place: lstm.hidden_size - count for place, count in kept.items()}


def _macs(lstm: LSTM, kept: Mapping[tuple[int, int], int]) -> int:
    """Multiply-accumulates of one time step with so many units left in each layer and direction."""
    total = 0
    for (layer, _direction), count in kept.items():
        below = lstm.input_size
        if layer:
            below = lstm.directions * lstm.proj_size or sum(kept[layer - 1, side] for side in range(lstm.directions))
        total += len(GATES) * count * (below + (lstm.proj_size or count)) + lstm.proj_size * count
    return total


def make_masks_by_cost(lstm: LSTM, saliency: Mapping[str, Tensor], recipe: Recipe) -> dict[str, Tensor]:
    """{name in the file: (4H,) bool mask}: rows of all gates, layers and both packed weights ranked together by cost per
    multiply-accumulate, until the share `sparsity` of these is gone.

    Gates bear very different shares, and not the same gate in every model; here the costs decide.
    """
    names = lstm.weight_names()
    widths = [lstm.layer_input_size(layer) if side == "ih" else lstm.output_size for layer, _, side in names]
    price = torch.cat([saliency[name] / width for name, width in zip(names.values(), widths, strict=True)])
    macs = torch.tensor(widths).repeat_interleave(len(GATES) * lstm.hidden_size)
    order = price.argsort(stable=True)
    keep = torch.ones(len(price), dtype=torch.bool)
    keep[order[macs[order].cumsum(0) <= recipe.sparsity * int(macs.sum())]] = False
    return dict(zip(names.values(), keep.chunk(len(names)), strict=True))


@dataclass(frozen=True)
class Scores:
    """All that the masks of one LSTM are chosen from, at whatever sparsity."""

    saliency: dict[str, Tensor]  # (4H,) of every packed weight, by its name in the file
    ranks: dict[str, Tensor]  # (4, H) likewise
    units: dict[tuple[int, int], Tensor]  # (H,) by layer and direction

    def masks(self, lstm: LSTM, recipe: Recipe) -> dict[str, Tensor]:
        """{name in the file: (4H,) bool mask} by the recipe's granularity."""
        if recipe.granularity == "units":
            return make_unit_masks(lstm, self.units, recipe)
        if recipe.allocation == "global":
            return make_masks_by_cost(lstm, self.saliency, recipe)
        return make_masks(lstm, self.ranks, recipe)


def score_lstm(
    lstm: LSTM,
    tensors: Mapping[str, Tensor],
    criterion: str,
    consumers: Iterable[str] = (),
    statistics: Statistics | None = None,
    seed: int = 0,
) -> Scores:
    """The scores of one LSTM by a criterion; those from data are taken from its `statistics`, random ones from `seed`.

    Criteria that score whole units leave single rows with a norm. Raises PrunerError if a weight or bias of the LSTM is not
    finite, or if statistics are needed and there are none.
    """
    rows = score(lstm, tensors, criterion)
    if criterion in DATA_CRITERIA:
        if statistics is None:
            raise PrunerError(
                f"expected calibration inputs for the criterion {criterion!r}, found none; give some, or choose a criterion "
                f"among {', '.join(WEIGHT_CRITERIA)}"
            )
        units = _score_units_from_data(lstm, tensors, criterion, consumers, statistics)
    elif criterion == "random":
        places = [(layer, direction) for layer in range(lstm.num_layers) for direction in range(lstm.directions)]
        drawn = random_score(len(places) * lstm.hidden_size, seed).chunk(len(places))
        units = dict(zip(places, drawn, strict=True))
    else:
        units = score_units(lstm, rows, criterion, tensors, consumers)
    if criterion in ROW_SCORES and statistics is not None:
        rows = {
            name: ROW_SCORES[criterion](statistics.layers[layer, direction], side)
            for (layer, direction, side), name in lstm.weight_names().items()
        }
    elif criterion == "random":
        drawn = random_score(sum(map(len, rows.values())), seed).chunk(len(rows))
        rows = dict(zip(rows, drawn, strict=True))
    return Scores(rows, {name: row_ranks(saliency) for name, saliency in rows.items()}, units)


def _score_units_from_data(
    lstm: LSTM, tensors: Mapping[str, Tensor], criterion: str, consumers: Iterable[str], statistics: Statistics
) -> dict[tuple[int, int], Tensor]:
    if criterion != "outgoing":
        return {place: UNIT_SCORES[criterion](own) for place, own in statistics.layers.items()}
    return {
        place: own.activation * outgoing_norms(lstm, tensors, *place, consumers)
        for place, own in statistics.layers.items()
    }


def check_layers(recipe: Recipe, lstms: list[LSTM]) -> None:
    """Raise PrunerError if the recipe names a layer that none of the LSTMs has."""
    deepest = max(lstm.num_layers for lstm in lstms)
    for layer in recipe.layer_sparsity:
        if layer >= deepest:
            raise PrunerError(f"expected a layer from 0 to {deepest - 1} in layer_sparsity, found {layer}")


def drop_rows(weight: Tensor, mask: Tensor) -> Tensor:
    """A copy of a packed weight or bias (4H, ...) with the rows that its (4H,) mask drops set to zero."""
    pruned = weight.detach().clone(memory_format=torch.contiguous_format)
    pruned[~mask] = 0
    return pruned


def unit_agreement(masks: list[Tensor]) -> Tensor:
    """How many of a layer's blocks keep each unit: a list of (4H,) masks -> (H,) counts."""
    return torch.stack([mask.view(len(GATES), -1).sum(0) for mask in masks]).sum(0)


@dataclass(frozen=True)
class Summary:
    """What a set of masks leaves and takes, over one or more LSTMs."""

    rows: int
    dropped_rows: int
    weights: int  # in the rows
    dropped_weights: int
    saliency_kept: float  # share of the summed saliency of all rows, 0 to 1
    units: int  # hidden units of every layer and direction
    dropped_units: int  # of these, units that all eight blocks drop


def summarize(lstms: Iterable[LSTM], masks: Mapping[str, Tensor], saliency: Mapping[str, Tensor]) -> Summary:
    """Count what the masks of some LSTMs drop; `masks` and `saliency` are (4H,) by the names in the file."""
    rows = dropped = weights = dropped_weights = units = dropped_units = 0
    total = kept = 0.0
    for lstm in lstms:
        names = lstm.weight_names()
        for (layer, _, side), name in names.items():
            mask = masks[name].cpu()
            fallen = len(mask) - int(mask.sum())
            columns = lstm.layer_input_size(layer) if side == "ih" else lstm.output_size
            rows, dropped = rows + len(mask), dropped + fallen
            weights, dropped_weights = weights + len(mask) * columns, dropped_weights + fallen * columns
            total, kept = total + float(saliency[name].sum()), kept + float(saliency[name].cpu()[mask].sum())
        for layer in range(lstm.num_layers):
            for direction in range(lstm.directions):
                agreement = unit_agreement([masks[names[layer, direction, side]] for side in SIDES])
                units, dropped_units = units + len(agreement), dropped_units + int((agreement == 0).sum())
    return Summary(rows, dropped, weights, dropped_weights, kept / total if total else 1.0, units, dropped_units)
