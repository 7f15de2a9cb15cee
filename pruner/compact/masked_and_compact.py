"""The forms that a pruned checkpoint can take: masked, of full size with zeros, and compact, without what was dropped."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pruner.compact import load_pruned
from pruner.compact.layout import (
    Layout,
    chained,
    compact_layout,
    masked_layout,
    stored_indices,
    stored_tensors,
)
from pruner.errors import PrunerError
from pruner.files.checkpoint import Checkpoint
from pruner.files.computed_weights import mask_beside
from pruner.files.consumer_choice import consumers_of
from pruner.files.contents import Learned
from pruner.files.on_demand import Made, OnDemand, described, without_numbers
from pruner.importance.masks import drop_rows
from pruner.lstm.kept import Part, last_units
from pruner.lstm.lstm import LSTM
from pruner.lstm.module import build
from pruner.lstm.rebuilt import Reconstruction, maps_in, rebuilt_of
from pruner.recipe import Recipe

FORMS = ("masked", "compact")
DEFAULT_FORM = {"rows": "masked", "units": "compact"}


@dataclass(frozen=True)
class Compensation:
    """What compensation changes in a checkpoint: new values of full size by the names in the file, for each LSTM with
    unknown consumers the weight (R, K) and bias (R,) that reconstruct the removed units of each direction of its last
    layer, and what was done, for the manifest."""

    tensors: dict[str, Tensor]
    reconstructions: dict[str, Reconstruction]
    facts: dict[str, Any]


NO_COMPENSATION = Compensation({}, {}, {})


@dataclass(frozen=True)
class Form:
    """What a form changes in the source's file: new values by name, None for what is no longer there. What masks do to the
    weights is done anew whenever one is asked for."""

    name: str
    changed: OnDemand[Tensor | None]
    layouts: list[Layout]

    def tensors(self, checkpoint: Checkpoint) -> OnDemand[Tensor]:
        """All tensors of the file in this form."""
        tensors = {**checkpoint.tensors, **self.changed.unmade()}
        return OnDemand({name: tensor for name, tensor in tensors.items() if tensor is not None})

    def modules(self, checkpoint: Checkpoint, device: str = "cpu") -> dict[str, nn.Module]:
        """{LSTM name: runnable module of full output width}, the LSTMs that were left as they are included."""
        tensors = self.tensors(checkpoint)
        pruned = {layout.lstm.name: layout.module(tensors).to(device) for layout in self.layouts}
        for name, module in pruned.items():
            load_pruned.settle(module, checkpoint.learned.get(name, Learned()).handed_states)
        return {
            lstm.name: pruned[lstm.name] if lstm.name in pruned else build(lstm, tensors, device)
            for lstm in checkpoint.lstms
        }


def masked_form(
    checkpoint: Checkpoint,
    lstms: list[LSTM],
    masks: Mapping[str, Tensor],
    granularity: str,
    compensation: Compensation = NO_COMPENSATION,
) -> Form:
    """The source's own tensors, compensated or not, with zeros in every dropped row. Raises PrunerError if the file already
    holds a tensor of a name that a reconstruction needs."""
    tensors = {**checkpoint.tensors, **compensation.tensors}
    changed: dict[str, Tensor | Made | None] = {**compensation.tensors}
    for name, mask in masks.items():
        changed[name] = Made(without_numbers(tensors[name]), partial(drop_rows, tensors[name], mask), True)
    layouts = []
    for lstm in lstms:
        told_by = _told_by(checkpoint, lstm, masks, granularity, compensation)
        layout = masked_layout(lstm, masks, told_by)
        if told_by is not None:
            _check_names(layout, checkpoint, set(lstm.tensors.values()))
            values = stored_indices(layout, masks) | _maps(checkpoint, layout, told_by, compensation)
            changed |= {layout.tensors[name]: value for name, value in values.items()}
        layouts.append(layout)
    changed |= leftover_masks(compensation.tensors, checkpoint.tensors)
    return Form("masked", OnDemand(changed), layouts)


def compact_form(
    checkpoint: Checkpoint,
    lstms: list[LSTM],
    masks: Mapping[str, Tensor],
    granularity: str,
    consumers: Mapping[str, list[str]],
    compensation: Compensation = NO_COMPENSATION,
    from_data: bool = False,
) -> Form:
    """The source's tensors, compensated or not, without what the masks dropped.

    Raises PrunerError as `layout.compact_layout` does, or if the file already holds a tensor of a name that is needed.
    """
    tensors: dict[str, Tensor | Made] = {**checkpoint.tensors, **compensation.tensors}
    told_by = {lstm.name: _told_by(checkpoint, lstm, masks, granularity, compensation) for lstm in lstms}
    layouts = chained(
        [
            compact_layout(lstm, masks, granularity, consumers.get(lstm.name, []), told_by[lstm.name], from_data)
            for lstm in lstms
        ],
        from_data,
    )
    trimmed = {name: _trimmed(layout, OnDemand(tensors)[name]) for layout in layouts for name in layout.consumers}
    tensors |= trimmed  # before the LSTMs, which may be consumers themselves
    changed: dict[str, Tensor | Made | None] = {**compensation.tensors, **trimmed}
    touched = [*compensation.tensors, *trimmed]
    for layout in layouts:
        lstm = layout.lstm
        if layout.stored_as != "LSTM":
            _check_names(layout, checkpoint, set(lstm.tensors.values()) if layout.told_by else set())
            changed |= dict.fromkeys([*lstm.tensors.values(), *maps_in(lstm, checkpoint.tensors)])
        state = _compacted(layout, tensors, masks)
        if (units := told_by[lstm.name]) is not None:
            state |= _maps(checkpoint, layout, units, compensation)
        changed |= {stored: state[name] for name, stored in layout.tensors.items()}
        touched += lstm.tensors.values()
    now = described(OnDemand(changed))
    changed |= leftover_masks({name: now[name] for name in touched}, checkpoint.tensors)
    return Form("compact", OnDemand(changed), layouts)


def told_by_what(
    checkpoint: Checkpoint, lstm: LSTM, masks: Mapping[str, Tensor], granularity: str, told: bool
) -> list[Tensor] | None:
    """The (K,) units in each direction of the last layer that tell the others in the output: of those that are `told` now,
    or were in the file, where no unit goes with rows. None where nothing comes back."""
    earlier = rebuilt_of(lstm, checkpoint.tensors)
    if granularity == "rows":
        return None if earlier is None else earlier.kept
    return last_units(lstm, masks) if told or earlier is not None else None


def _told_by(
    checkpoint: Checkpoint, lstm: LSTM, masks: Mapping[str, Tensor], granularity: str, compensation: Compensation
) -> list[Tensor] | None:
    return told_by_what(checkpoint, lstm, masks, granularity, lstm.name in compensation.reconstructions)


def _maps(
    checkpoint: Checkpoint, layout: Layout, told_by: list[Tensor], compensation: Compensation
) -> dict[str, Tensor]:
    """What gives the removed units of an LSTM from those that stay, in its type, by the names in the state dict of its
    module: what compensation found, after what the file has."""
    lstm, dtype, state = layout.lstm, getattr(torch, layout.lstm.dtype), dict[str, Tensor]()
    told, earlier = compensation.reconstructions.get(lstm.name), rebuilt_of(lstm, checkpoint.tensors)
    maps = told if earlier is None else earlier.after(told_by, told)
    assert maps is not None  # noqa: S101 - nothing is told by units without
    for direction, (weight, bias) in enumerate(maps):
        prefix = f"reconstruction.{direction}."
        if layout.stored_as == "CompactLSTM":
            prefix = f"layers.{len(lstm.places) - lstm.directions + direction}.reconstruction."
        state |= {f"{prefix}weight": weight.to("cpu", dtype), f"{prefix}bias": bias.to("cpu", dtype)}
    return state


def _trimmed(layout: Layout, consumer: Tensor) -> Made:
    part = layout.trimmed
    return Made(part.shrink(without_numbers(consumer)), partial(_shrunk, consumer, part, None), True)


def _compacted(
    layout: Layout,
    tensors: Mapping[str, Tensor | Made],
    masks: Mapping[str, Tensor],
) -> dict[str, Tensor | Made]:
    """What a compact layout stores, by the names in its module's state dict."""
    lstm, like = layout.lstm, stored_tensors(layout, masks)
    state: dict[str, Tensor | Made] = {**stored_indices(layout, masks)}
    for standard, name, part in layout.parts(masks):
        source = lstm.tensors[standard]
        given = tensors[source], part, masks.get(source)
        state[name] = Made(like[name], partial(_shrunk, *given), isinstance(given[0], Tensor))
    return state


def _shrunk(wide: Tensor | Made, part: Part, mask: Tensor | None, rows: slice | None = None) -> Tensor:
    """What stays of a tensor, or some rows of that; zero in dropped units that stay because PyTorch needs some."""
    source = (wide.make() if isinstance(wide, Made) else wide).detach()
    kept = part.rows
    if rows is not None:
        kept = torch.arange(len(source))[rows] if kept is None else kept[rows]
    small = Part(kept, part.columns).shrink(source)
    if mask is not None:
        small[~(mask if kept is None else mask[kept])] = 0
    return small


def _check_names(layout: Layout, checkpoint: Checkpoint, own: set[str]) -> None:
    own = own | set(maps_in(layout.lstm, checkpoint.tensors))
    taken = next((name for name in layout.tensors.values() if name in checkpoint.tensors and name not in own), None)
    if taken is not None:
        raise PrunerError(
            f"expected no tensor {taken!r}, which the pruned form of {layout.lstm.title} needs; rename it"
        )


def leftover_masks(
    changed: Mapping[str, Tensor | None], stored: Mapping[str, Tensor]
) -> dict[str, Tensor | Made | None]:
    """What becomes of the masks that pruning tools left beside changed tensors: they are multiplied in, and shrink along."""
    found: dict[str, Tensor | Made | None] = {}
    for name, tensor in changed.items():
        mask = mask_beside(name, stored)
        if mask is None:
            continue
        if tensor is None:
            found[mask] = None
        else:
            shape = tensor.shape[:1] if stored[mask].dim() == 1 else tensor.shape
            ones = partial(torch.ones, shape, dtype=stored[mask].dtype)
            found[mask] = Made(ones(device="meta"), ones)
    return found


@dataclass(frozen=True)
class Pruned:
    """A checkpoint under masks, (4H,) bool by the names in the file, True = kept, and both forms of it: masked, compact."""

    checkpoint: Checkpoint
    recipe: Recipe
    masks: dict[str, Tensor]
    compensation: Compensation
    forms: dict[str, Form]

    def tensors(self) -> OnDemand[Tensor]:
        """All tensors of the file at full size. Compact modules return their full width, so the rest of the model is that of
        the masked form in either."""
        return self.forms["masked"].tensors(self.checkpoint)

    def modules(self, form: str, device: str = "cpu") -> dict[str, nn.Module]:
        """{LSTM name: runnable module of full output width} in a form."""
        return self.forms[form].modules(self.checkpoint, device)


def pruned_by(
    checkpoint: Checkpoint,
    recipe: Recipe,
    masks: Mapping[str, Tensor],
    compensation: Compensation = NO_COMPENSATION,
) -> Pruned:
    """A checkpoint in both forms under masks and a compensation that are there already. Raises PrunerError for consumers
    that do not fit."""
    lstms = checkpoint.select(recipe.lstms)
    consumers = consumers_of(checkpoint, recipe)
    small = compact_form(checkpoint, lstms, masks, recipe.granularity, consumers, compensation, recipe.needs_data)
    forms = {"masked": masked_form(checkpoint, lstms, masks, recipe.granularity, compensation), "compact": small}
    return Pruned(checkpoint, recipe, dict(masks), compensation, forms)
