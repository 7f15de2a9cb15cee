"""The Keras file of an export, checked: it holds what the plain state dict holds, and else what its source does."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from pruner.compact.layout import Layout
from pruner.compact.masked_and_compact import Pruned
from pruner.errors import PrunerError, shown
from pruner.exports.keras.facts import KERAS_FILES
from pruner.exports.keras.plan import (
    Held,
    Unwritable,
    as_one_bias,
    bias_of,
    file_of,
    held_units,
    plan_of,
    read_whole,
    rebuilt_by_readers,
    resized,
)
from pruner.exports.manifest import Manifest, not_the_export
from pruner.files.checkpoint import Checkpoint
from pruner.files.contents import Learned
from pruner.files.keras_whole import Whole
from pruner.files.opening import open_checkpoint
from pruner.lstm.kept import packed_rows, unit_masks, units_to_hold, whole
from pruner.lstm.lstm import LSTM
from pruner.lstm.rebuilt import without

_TOLERANCE = 1e-5  # of the largest number in a tensor: what readers compute of removed units is rounded


def check_keras_file(
    folder: Path,
    manifest: Manifest,
    pruned: Checkpoint,
    layouts: Sequence[Layout],
    masks: Mapping[str, Tensor],
    expected: Pruned | None,
    isolated: bool,
) -> Iterator[str]:
    """Read the Keras file of an export, if it has one, and say what holds; `pruned` is the plain state dict beside it, and
    `expected` what its source should have become, where that is at hand. Raises PrunerError where something differs."""
    for name in set(KERAS_FILES) & manifest.files.keys():
        try:
            found = open_checkpoint(folder / name, isolated=isolated)
            as_it_is = read_whole(found.source, name)
        except PrunerError as error:
            raise not_the_export(folder, f"{name} as it was exported", f"another ({error})") from error
        if file_of(as_it_is) != name:
            raise not_the_export(folder, f"a file that is called {name}", f"one that should be {file_of(as_it_is)}")
        _check_tensors(folder, found, pruned, layouts, masks, manifest.recipe.get("granularity") == "units")
        yield f"{name} holds the same LSTMs and the same tensors around them, in Keras' layout"
        if expected is not None:
            _check_rest(folder, name, as_it_is, expected, manifest.form)
            yield f"everything else in {name} is the source's own"


def _check_tensors(
    folder: Path,
    found: Checkpoint,
    pruned: Checkpoint,
    layouts: Sequence[Layout],
    masks: Mapping[str, Tensor],
    units: bool,
) -> None:
    """Compare every number that a unit which is kept reads or gives; rows of others must be zero."""
    small = {lstm.name: lstm for lstm in found.lstms}
    lstms = [layout.lstm for layout in layouts]
    if missing := [lstm.title for lstm in lstms if lstm.name not in small]:
        raise not_the_export(folder, f"{missing[0]} in the Keras file", "none")
    held = {lstm.name: _held(folder, lstm, small[lstm.name], masks, units) for lstm in lstms}
    kept = {
        lstm.name: {place: units_to_hold(mask, 0) for place, mask in unit_masks(lstm, masks).items()}
        if units
        else whole(lstm)
        for lstm in lstms
    }
    # Columns that read removed units are compared by nobody where only one of the files has them.
    readers = {
        layout.lstm.name: sorted(
            {*layout.consumers, *_read_by(found, layout.lstm, small[layout.lstm.name].hidden_size)}
        )
        for layout in layouts
    }
    try:
        wanted = _full_size(folder, found, pruned, layouts, masks)
    except (IndexError, RuntimeError, KeyError) as error:
        raise not_the_export(folder, "tensors that fit together in the Keras file", "others") from error
    if wanted.keys() != found.tensors.keys():
        raise not_the_export(folder, "the same tensors in the Keras file", "others")
    own = dict(found.tensors)
    for lstm in lstms:
        if units:
            _check_zeros(folder, own, lstm, held[lstm.name], kept[lstm.name])
        wanted, own = as_one_bias(wanted, lstm), as_one_bias(own, lstm)
    inside = {
        lstm.name: {place: torch.searchsorted(held[lstm.name][place], own) for place, own in kept[lstm.name].items()}
        for lstm in lstms
    }
    try:
        own = resized(own, [small[lstm.name] for lstm in lstms], inside, readers)
        wanted = resized(wanted, lstms, kept, readers)
    except (IndexError, RuntimeError, KeyError) as error:
        raise not_the_export(folder, "tensors that fit together in the Keras file", "others") from error
    for name, tensor in wanted.items():
        if not _close(own[name], tensor):
            raise not_the_export(folder, f"the values of the state dict in {shown(name)} of the Keras file", "others")


def _held(folder: Path, lstm: LSTM, found: LSTM, masks: Mapping[str, Tensor], units: bool) -> Held:
    """The units of the file's own LSTM, by their numbers in the source."""
    held = held_units(lstm, masks) if units and found.hidden_size < lstm.hidden_size else whole(lstm)
    if found.hidden_size != len(next(iter(held.values()))) or found.tensors != lstm.tensors:
        raise not_the_export(folder, f"as many units of {lstm.title} in the Keras file as the masks keep", "others")
    return held


def _read_by(found: Checkpoint, lstm: LSTM, size: int) -> tuple[str, ...]:
    """The tensors that lost what they read of removed units."""
    return found.learned.get(lstm.name, Learned()).consumers if size < lstm.hidden_size else ()


def _full_size(
    folder: Path,
    found: Checkpoint,
    pruned: Checkpoint,
    layouts: Sequence[Layout],
    masks: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """The masked model that the state dict stands for, whose readers make up for units that are reconstructed."""
    tensors = dict(pruned.tensors)
    for layout in layouts:
        for name in layout.tensors.values():
            del tensors[name]
    rebuilt = []
    for layout in layouts:
        wide = layout.masked_twin(pruned.tensors).state_dict()
        tensors |= {name: wide[standard] for standard, name in layout.lstm.tensors.items()}
        for name in set(layout.consumers) & tensors.keys():
            first, _, *rest = pruned.tensors[name].shape
            tensors[name] = layout.trimmed.widen(pruned.tensors[name], (first, layout.lstm.output_width, *rest))
        if "reconstruction.0.weight" in wide:
            both = range(layout.lstm.directions)
            filled = [(wide[f"reconstruction.{each}.weight"], wide[f"reconstruction.{each}.bias"]) for each in both]
            rebuilt.append((layout.lstm, filled))
    for lstm, filled in rebuilt:
        readers = found.learned.get(lstm.name, Learned()).consumers
        if not readers or not {each for name in readers for each in (name, bias_of(name))} <= tensors.keys():
            raise not_the_export(folder, f"what reads {lstm.title} in the Keras file", "nothing")
        tensors |= rebuilt_by_readers(tensors, lstm, masks, filled, readers)
    return tensors


def _check_zeros(folder: Path, own: Mapping[str, Tensor], lstm: LSTM, held: Held, kept: Held) -> None:
    """Removed units that are held are zero."""
    for place, units in held.items():
        lost = without(torch.searchsorted(units, kept[place]), len(units))
        rows = packed_rows(lost, len(units))
        if any(own[name][rows].count_nonzero() for name in lstm.packed_names(*place)):
            raise not_the_export(folder, f"zeros for every removed unit of {lstm.title} in the Keras file", "others")


def _check_rest(folder: Path, name: str, found: Whole, expected: Pruned, form: str) -> None:
    """Everything but the values that were compared is the source's own, in its place."""
    source = read_whole(expected.checkpoint.source, expected.checkpoint.name)
    try:
        plan = plan_of(source, expected, form)
        values = {path: found.array(path) for path in plan.changed}
    except (Unwritable, KeyError) as error:
        raise not_the_export(folder, f"{name} of such a source", "another") from error
    if any(values[path].dtype != source.array(path).dtype for path in values):
        raise not_the_export(folder, f"numbers of the source's types in {name}", "others")
    if different := source.changed(values, plan.config, plan.optimizer).difference(found):
        raise not_the_export(folder, f"{different} in {name} as in the source", "another")


def _close(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if not one.is_floating_point() or not one.numel():
        return torch.equal(one, other)
    one, other = one.double(), other.double()
    return torch.allclose(one, other, rtol=0, atol=_TOLERANCE * float(other.abs().nan_to_num().max()), equal_nan=True)
