"""What an export's files hold, checked against what its manifest claims, before anything is built from either."""

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pruner.compact.layout import (
    Layout,
    chained,
    compact_layout,
    masked_layout,
    reconstructs,
    stored_indices,
    stored_tensors,
    wide_tensors,
)
from pruner.compact.load_pruned import STANDS_FOR
from pruner.errors import PrunerError, shown
from pruner.exports.manifest import MASKS, Manifest, not_the_export
from pruner.files.checkpoint import Checkpoint
from pruner.files.export_files import read_tensors
from pruner.lstm.gates import GATES
from pruner.lstm.kept import last_units, unit_masks
from pruner.lstm.lstm import DTYPES, LSTM
from pruner.lstm.module import build
from pruner.lstm.rebuilt import rebuilt_of
from pruner.lstm.sizes import parameters_in
from pruner.recipe import Recipe

# What a manifest may claim before anything is built.
MAX_SIZE, MAX_INPUT, MAX_LAYERS, MAX_ELEMENTS = 2**24, 2**18, 1000, 2**28

# The types of the facts of an LSTM, as JSON has them.
LSTM_TYPES = {
    "dense_hidden_size" if field.name == "hidden_size" else field.name: field.type
    for field in fields(LSTM)
    if field.type in (str, int, bool)
}


def read_masks(file: Path, folder: Path) -> dict[str, Tensor]:
    try:
        masks = read_tensors(file)
    except PrunerError as error:
        raise not_the_export(folder, f"a readable {MASKS}", "a damaged one") from error
    for name, mask in masks.items():
        if mask.dtype != torch.uint8 or mask.dim() != 1 or mask.numel() == 0 or int(mask.max()) > 1:
            raise not_the_export(
                folder, f"zeros and ones of type uint8 for {shown(name)}", f"{tuple(mask.shape)} {mask.dtype}"
            )
    return {name: mask.bool() for name, mask in masks.items()}


def read_layouts(folder: Path, manifest: Manifest, pruned: Checkpoint, masks: Mapping[str, Tensor]) -> list[Layout]:
    """How the LSTMs lie in the file, from the manifest's facts and the masks, checked against every stored tensor.

    Raises PrunerError unless each tensor has exactly the shape and type that these demand: nothing else reaches a forward
    pass, where an LSTM whose layers do not fit together can abort the process.
    """
    recipe = Recipe.from_dict(manifest.recipe)
    layouts = []
    sizes: dict[str, int] = {}
    for entry in manifest.lstms:
        lstm = _read_lstm(folder, entry)
        rows = len(GATES) * lstm.hidden_size
        names = set(lstm.weight_names().values())
        if recipe.granularity == "units":
            names = {name for place in lstm.places for name in lstm.packed_names(*place)}
        sizes |= dict.fromkeys(names, rows)
        if not names <= masks.keys() or any(len(masks[name]) != rows for name in names):
            raise not_the_export(folder, f"masks of {rows} rows for {shown(lstm.title)}", "others")
        if recipe.granularity == "units":
            _check_whole_units(folder, lstm, masks)
        layouts.append(_read_layout(folder, entry, lstm, manifest.form, recipe, masks, pruned))
    layouts = chained(layouts)
    for layout in layouts:
        _check_stored(folder, layout, pruned, masks, manifest.form)
    stored = [name for layout in layouts for name in layout.tensors.values()]
    if len(stored) != len(set(stored)):
        raise not_the_export(folder, "every tensor in one LSTM", "some in several")
    if not layouts or masks.keys() != sizes.keys():
        raise not_the_export(folder, "a mask of 4H rows for every packed weight of its LSTMs", shown(sorted(masks)))
    _check_consumers(folder, manifest.form, recipe, layouts, pruned)
    return layouts


def _read_layout(
    folder: Path,
    entry: Mapping[str, Any],
    lstm: LSTM,
    form: str,
    recipe: Recipe,
    masks: Mapping[str, Tensor],
    pruned: Checkpoint,
) -> Layout:
    """How an LSTM lies in the file, from the masks and what its entry says of its consumers."""
    named, stated = entry["consumers"], entry.get("tensors")
    known = {name for text in recipe.consumers for name in (text, text.partition("=")[2])}  # of LSTM=TENSOR
    if not all(isinstance(name, str) for name in named) or not set(named) <= known:
        raise not_the_export(folder, "consumers that the recipe names", shown(named))
    reconstructed = isinstance(stated, dict) and reconstructs(stated)
    told_by = _told_by(folder, lstm, recipe, masks, pruned) if reconstructed else None
    if form == "masked":
        return masked_layout(lstm, masks, told_by)
    found = compact_layout(lstm, masks, recipe.granularity, named, told_by, recipe.needs_data)
    # Older exports do not say in the model's file what its compact LSTMs stand for.
    if isinstance(stated, dict) and STANDS_FOR in found.tensors and STANDS_FOR not in stated:
        return replace(found, tensors={name: own for name, own in found.tensors.items() if name != STANDS_FOR})
    return found


def _told_by(folder: Path, lstm: LSTM, recipe: Recipe, masks: Mapping[str, Tensor], pruned: Checkpoint) -> list[Tensor]:
    """The units that tell those which come back in an LSTM's output: where rows were dropped, the file alone says them."""
    if recipe.granularity == "units":
        return last_units(lstm, masks)
    rebuilt = rebuilt_of(lstm, pruned.tensors)
    if rebuilt is None:
        raise not_the_export(folder, f"what rebuilds units of {shown(lstm.title)}", "nothing that does")
    return rebuilt.kept


def _check_consumers(folder: Path, form: str, recipe: Recipe, layouts: list[Layout], pruned: Checkpoint) -> None:
    """A consumer that no entry names has its full width still, and reads an LSTM whose consumers cannot be trimmed, or is
    one itself."""
    named = [name for layout in layouts for name in layout.consumers]
    if len(named) != len(set(named)):
        raise not_the_export(folder, "every consumer in one LSTM", shown(named))
    trims = form == "compact" and recipe.granularity == "units"
    apart = [each.lstm for each in layouts if not (trims and each.stored_as == "LSTM")]
    untrimmed = {(width,) for lstm in apart for width in (lstm.output_width, lstm.input_size)}
    inputs = {name for lstm in apart for name in lstm.input_weights}
    for text in recipe.consumers:
        name = text if text in pruned.tensors else text.partition("=")[2] or text
        width = tuple(pruned.tensors[name].shape[1:2]) if name in pruned.tensors else ()
        if name not in named and name not in inputs and width not in untrimmed:
            raise not_the_export(folder, f"the consumer {shown(name)} in the entry of the LSTM it reads", "it in none")


def _read_lstm(folder: Path, entry: Any) -> LSTM:
    """The source's LSTM as the manifest states it; what it states is checked against the files afterwards."""
    types = {**LSTM_TYPES, "source_tensors": dict, "consumers": list}
    if not isinstance(entry, dict) or not types.keys() <= entry.keys():
        raise not_the_export(folder, f"LSTMs described by {', '.join(types)}", shown(entry))
    for name, wanted in types.items():
        size = wanted is int and name != "parameters"  # those are counted below
        if type(entry[name]) is not wanted or (size and not 0 <= entry[name] <= MAX_SIZE):
            raise not_the_export(folder, f"{name} of an LSTM as {wanted.__name__}", shown(entry[name]))
    if not all(isinstance(name, str) for pair in entry["source_tensors"].items() for name in pair):
        raise not_the_export(folder, "names in source_tensors", shown(entry["source_tensors"]))
    facts = {name: entry[name] for name in LSTM_TYPES if name != "dense_hidden_size"}
    found = LSTM(**facts, hidden_size=entry["dense_hidden_size"], tensors=entry["source_tensors"])
    cell = found.kind == "LSTMCell"
    fits = found.kind in ("LSTM", "LSTMCell") and getattr(torch, found.dtype, None) in DTYPES
    fits = fits and found.hidden_size > found.proj_size and found.input_size > 0 and 0 < found.num_layers <= MAX_LAYERS
    fits = fits and not (cell and (found.num_layers > 1 or found.bidirectional or found.proj_size))
    shapes = found.shapes() if fits else {}
    if not fits or found.tensors.keys() != shapes.keys() or found.parameters != parameters_in(shapes.values()):
        raise not_the_export(folder, "the facts of an LSTM", shown(found))
    for standard, name in found.tensors.items():
        if name not in _possible_names(found.name, standard):
            raise not_the_export(folder, f"{standard} of {shown(found.title)} under its own name", shown(name))
    return found


def _possible_names(lstm: str, standard: str) -> list[str]:
    """How a file can call a tensor of an LSTM: plainly, or as pruning and parametrization tools leave it."""
    prefixes = [f"{lstm}."] if lstm else ["", "."]
    spellings = (standard, f"{standard}_orig", f"parametrizations.{standard}.original")
    wrapper, dot, _ = lstm.rpartition(".")
    raw = [f"{prefix}{standard}_raw" for prefix in (*prefixes, f"{wrapper}{dot}")]  # of weight drop
    return [prefix + spelling for prefix in prefixes for spelling in spellings] + raw


def _check_whole_units(folder: Path, lstm: LSTM, masks: Mapping[str, Tensor]) -> None:
    for place, units in unit_masks(lstm, masks).items():
        if not all(torch.equal(masks[name], units.repeat(len(GATES))) for name in lstm.packed_names(*place)):
            raise not_the_export(folder, f"the same units masked in all gates of {shown(lstm.title)}", "others")


def _check_stored(folder: Path, found: Layout, pruned: Checkpoint, masks: Mapping[str, Tensor], form: str) -> None:
    """Every stored tensor of an LSTM has the shape, type and, for indices and masked rows, the values that it must have."""
    lstm = found.lstm
    # A compact form may hold next to nothing of the LSTM that it stands for, which the checks below build at full size.
    if lstm.parameters > max(MAX_ELEMENTS, pruned.size) or lstm.input_size > MAX_INPUT:
        raise not_the_export(
            folder, f"an LSTM of at most {MAX_ELEMENTS:,} weights and {MAX_INPUT:,} inputs", shown(lstm)
        )
    expected, indices = stored_tensors(found, masks), stored_indices(found, masks)
    for name, stored in found.tensors.items():
        tensor = pruned.tensors.get(stored)
        wanted = expected[name]
        if tensor is None or tensor.shape != wanted.shape or tensor.dtype != wanted.dtype:
            told = "none" if tensor is None else f"{tuple(tensor.shape)} {tensor.dtype}"
            raise not_the_export(folder, f"{shown(stored)} {tuple(wanted.shape)} {wanted.dtype}", told)
    for name in indices.keys() & found.tensors.keys():
        if not torch.equal(pruned.tensors[found.tensors[name]], indices[name]):
            raise not_the_export(folder, f"the indices in {shown(found.tensors[name])} that the masks give", "others")
    if form == "masked":
        for stored in lstm.tensors.values():
            if stored in masks and pruned.tensors[stored][~masks[stored]].count_nonzero():
                raise not_the_export(folder, f"zeros in every masked row of {stored}", "other values")
            pruned.source.let_go()
    for name in found.consumers:
        tensor = pruned.tensors.get(name)
        width = sum(map(len, found.last_units))
        if tensor is None or tensor.dim() < 2 or tensor.shape[1] != width:
            raise not_the_export(folder, f"{width} columns in {shown(name)}", "others")


def widened(pruned: Checkpoint, layouts: list[Layout]) -> tuple[Checkpoint, dict[str, nn.Module]]:
    """The masked checkpoint of full size that a file stands for, in which LSTMs lie as `layouts` say, and all LSTMs by name,
    ready to run."""
    lstms = [layout.lstm for layout in layouts]
    modules = {layout.lstm.name: layout.module(pruned.tensors) for layout in layouts}
    own = {name for layout in layouts for name in layout.tensors.values()}
    for lstm in pruned.lstms:
        if not own & set(lstm.tensors.values()):
            lstms.append(lstm)
            modules[lstm.name] = build(lstm, pruned.tensors)
    return replace(pruned, tensors=wide_tensors(layouts, pruned.tensors), lstms=lstms), modules
