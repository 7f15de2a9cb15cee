"""What a recipe would do, before any run: what falls at every whole percent of sparsity, and the size of what is left."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pruner.compact.masked_and_compact import layout, read_columns, stored_indices, stored_shapes
from pruner.files.checkpoint import Checkpoint
from pruner.files.consumers import consumers_of
from pruner.importance.masks import Scores, dropped_rows, rounded_up
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


@dataclass(frozen=True)
class Size:
    """Parameters of a whole file, multiply-accumulates of its LSTMs for one time step, and bytes of its tensors."""

    parameters: int
    macs_per_step: int
    bytes: int


def dense_size(checkpoint: Checkpoint) -> Size:
    """The size of a checkpoint as it is."""
    own = [checkpoint.tensors[name].shape for lstm in checkpoint.lstms for name in lstm.tensors.values()]
    macs = sum(shape.numel() for shape in own if len(shape) == 2)
    tensors = checkpoint.tensors.values()
    parameters = sum(tensor.numel() for tensor in tensors if tensor.dtype.is_floating_point)
    return Size(parameters, macs, sum(tensor.numel() * tensor.element_size() for tensor in tensors))


def compact_size(checkpoint: Checkpoint, recipe: Recipe, masks: Mapping[str, Tensor]) -> Size:
    """The size of the compact form under masks, from shapes alone.

    Raises PrunerError where the form cannot be made, as `forms.compact_form` does.
    """
    now = dense_size(checkpoint)
    parameters, macs, size = now.parameters, now.macs_per_step, now.bytes
    consumers = consumers_of(checkpoint, recipe)
    compensated = recipe.compensation != "none"
    for lstm in checkpoint.select(recipe.lstms):
        read = consumers.get(lstm.name, [])
        rebuilt = compensated and recipe.granularity == "units" and not read and not lstm.proj_size
        here = layout(lstm, masks, "compact", recipe.granularity, read, rebuilt, recipe.needs_data)
        indices = stored_indices(here, masks)
        before = [checkpoint.tensors[name] for name in [*lstm.tensors.values(), *here.consumers]]
        width = before[0].element_size()
        kept = [shape for name, shape in stored_shapes(here, masks).items() if name not in indices]
        macs += _matrices(kept) - _matrices([checkpoint.tensors[name].shape for name in lstm.tensors.values()])
        columns = len(read_columns(here)) if here.consumers else 0
        for name in here.consumers:
            shape = checkpoint.tensors[name].shape
            kept.append(torch.Size([shape[0], columns, *shape[2:]]))
        change = sum(shape.numel() for shape in kept) - sum(tensor.numel() for tensor in before)
        parameters += change
        size += change * width + sum(index.numel() * index.element_size() for index in indices.values())
    return Size(parameters, macs, size)


def _matrices(shapes: Iterable[torch.Size]) -> int:
    """Multiply-accumulates of one step: every weight once, no bias."""
    return sum(shape.numel() for shape in shapes if len(shape) == 2)
