"""What a recipe would do, before any run: which rows fall, at every whole percent of sparsity."""

from dataclasses import replace

import torch
from torch import Tensor

from pruner.importance.masks import dropped_rows, rounded_up
from pruner.importance.scores import Scores
from pruner.lstm.gates import ALL_BLOCKS, SIDES, split_gates
from pruner.lstm.lstm import LSTM
from pruner.recipe import Recipe

PERCENTS = range(101)


def block_scores(lstm: LSTM, scores: Scores, layer: int, direction: int) -> Tensor:
    """(8, H): the row saliency of the eight blocks of one layer and direction, in the order of `ALL_BLOCKS`."""
    names = lstm.weight_names()
    return torch.cat([split_gates(scores.saliency[names[layer, direction, side]]) for side in SIDES])


def block_ranks(lstm: LSTM, scores: Scores, recipe: Recipe, layer: int, direction: int) -> Tensor:
    """(8, H) int64: the turn in which each row of the eight blocks falls, 0 first; the same in all blocks of whole units."""
    if recipe.granularity == "units":
        order = scores.units[layer, direction].argsort(stable=True)
        ranks = torch.empty_like(order).scatter_(0, order, torch.arange(len(order)))
        return ranks.expand(len(ALL_BLOCKS), -1)
    names = lstm.weight_names()
    return torch.cat([scores.ranks[names[layer, direction, side]] for side in SIDES])


def dropped_at_every_percent(lstm: LSTM, scores: Scores, recipe: Recipe, layer: int, direction: int) -> Tensor:
    """(101, 8) int64: how many rows each of the eight blocks loses when the sparsity that governs it is 0, 1, … 100 %.

    A block drops the rows whose `block_ranks` are below that count. Where layers or gates are ranked together, it is the
    recipe's overall sparsity that moves; else each block depends on its own alone.
    """
    hidden_size = lstm.hidden_size
    if recipe.allocation == "uniform":
        counts = [dropped_rows(hidden_size, percent / 100) for percent in PERCENTS]
        if recipe.granularity == "units":
            counts = [hidden_size - rounded_up(hidden_size, count, recipe.round_to) for count in counts]
        return torch.tensor(counts)[:, None].expand(-1, len(ALL_BLOCKS))
    names = lstm.weight_names()
    rows = []
    for percent in PERCENTS:
        masks = scores.masks(lstm, replace(recipe, sparsity=percent / 100))
        rows.append(torch.cat([(~split_gates(masks[names[layer, direction, side]])).sum(1) for side in SIDES]))
    return torch.stack(rows)
