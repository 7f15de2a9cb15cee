"""What a checkpoint costs: as it is, in one of its forms, and before any form is made."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pruner.compact.layout import Layout, chained, compact_layout, stored_tensors
from pruner.compact.masked_and_compact import Form, leftover_masks, told_by_what
from pruner.files.checkpoint import Checkpoint
from pruner.files.consumer_choice import consumers_of
from pruner.files.on_demand import Made, OnDemand, described, pieces
from pruner.files.writing import size_when_written
from pruner.lstm.lstm import LSTM
from pruner.lstm.rebuilt import maps_in
from pruner.lstm.sizes import Size, size
from pruner.recipe import Recipe


@dataclass(frozen=True)
class Cost:
    """Size and work of a checkpoint: all its parameters, the zeros among those of its LSTMs, the size of its file in
    bytes, and the multiply-accumulates of its LSTMs for one time step."""

    parameters: int
    zeros: int
    bytes: int
    macs_per_step: int


def cost_of_file(checkpoint: Checkpoint, layouts: Sequence[Layout] = ()) -> Cost:
    """The cost of a checkpoint as it lies in its file, in which LSTMs can lie as `layouts` say."""
    return _cost(checkpoint, checkpoint.tensors, _stored(checkpoint, layouts), checkpoint.size)


def cost_of_form(checkpoint: Checkpoint, form: Form) -> Cost:
    """The cost of what a checkpoint becomes in one of its forms."""
    bytes_written = size_when_written(checkpoint, form.changed)
    return _cost(checkpoint, form.tensors(checkpoint), _stored(checkpoint, form.layouts), bytes_written)


def size_of_file(checkpoint: Checkpoint) -> Size:
    """The size of a checkpoint as it is."""
    return size(checkpoint.tensors, _stored(checkpoint, ()))


def size_of_form(checkpoint: Checkpoint, form: Form) -> Size:
    """The size of what a checkpoint becomes in one of its forms."""
    return size(described(form.tensors(checkpoint)), _stored(checkpoint, form.layouts))


def size_when_compact(checkpoint: Checkpoint, recipe: Recipe, masks: Mapping[str, Tensor]) -> Size:
    """The size of the compact form under masks, (4H,) by the names in the file, from shapes alone.

    Raises PrunerError where the form cannot be made, as `masked_and_compact.compact_form` does.
    """
    consumers, layouts = consumers_of(checkpoint, recipe), []
    for lstm in checkpoint.select(recipe.lstms):
        named = consumers.get(lstm.name, [])
        rebuilt = recipe.compensation != "none" and recipe.granularity == "units" and not named and not lstm.proj_size
        told_by = told_by_what(checkpoint, lstm, masks, recipe.granularity, rebuilt)
        layouts.append(compact_layout(lstm, masks, recipe.granularity, named, told_by, recipe.needs_data))
    layouts = chained(layouts, recipe.needs_data)
    changed: dict[str, Tensor | Made | None] = {}
    for layout in layouts:
        for name in layout.consumers:
            first, _, *rest = checkpoint.tensors[name].shape
            shape = (first, sum(map(len, layout.last_units)), *rest)
            changed[name] = torch.empty(shape, dtype=checkpoint.tensors[name].dtype, device="meta")
    for layout in layouts:
        changed |= dict.fromkeys(_names(checkpoint, layout.lstm))
        changed |= {layout.tensors[name]: tensor for name, tensor in stored_tensors(layout, masks).items()}
    changed |= leftover_masks(described(OnDemand(changed)), checkpoint.tensors)
    tensors = described(OnDemand({**checkpoint.tensors, **changed}))
    left = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    return size(left, _stored(checkpoint, layouts))


def _stored(checkpoint: Checkpoint, layouts: Sequence[Layout]) -> list[Iterable[str]]:
    """The names of each LSTM's tensors in a file, in which some lie as `layouts` say."""
    pruned = [list(layout.tensors.values()) for layout in layouts]
    taken = {name for names in pruned for name in names}
    sources = {layout.lstm.name for layout in layouts}
    whole = [
        _names(checkpoint, lstm)
        for lstm in checkpoint.lstms
        if lstm.name not in sources and not taken & set(lstm.tensors.values())
    ]
    return [*whole, *pruned]


def _names(checkpoint: Checkpoint, lstm: LSTM) -> list[str]:
    """The tensors of an LSTM as it is in the checkpoint, with those that rebuild units in its output."""
    return [*lstm.tensors.values(), *maps_in(lstm, checkpoint.tensors)]


def _cost(
    checkpoint: Checkpoint, tensors: Mapping[str, Tensor], lstms: list[Iterable[str]], bytes_written: int
) -> Cost:
    likes = described(tensors)
    counted, zeros = size(likes, lstms), 0
    for name in (name for names in lstms for name in names if likes[name].dtype.is_floating_point):
        zeros += sum(piece.numel() - int(piece.count_nonzero()) for piece in pieces(tensors, name))
        checkpoint.source.let_go()
    return Cost(counted.parameters, zeros, bytes_written, counted.macs_per_step)
