"""Read an export folder back and check that it is what its manifest says."""

import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pruner.compact import load_pruned
from pruner.compact.masked_and_compact import (
    FORMS,
    Form,
    Layout,
    last_unit_masks,
    layout,
    masked_twin,
    read_columns,
    reconstructs,
    stored_indices,
    stored_shapes,
)
from pruner.compensation.chain import Compensation
from pruner.errors import PrunerError, shown
from pruner.exports.export import (
    LOADER,
    MANIFEST,
    MASKS,
    TOLERANCE,
    certify,
    describe,
    file_facts,
    masked_lstms,
    model_file,
)
from pruner.files import formats
from pruner.files.checkpoint import Checkpoint, open_checkpoint
from pruner.files.consumers import bias_beside, consumers_of
from pruner.files.export_files import read_tensors, unpack
from pruner.files.source import read_small
from pruner.importance.weights import DATA_CRITERIA
from pruner.lstm.find import DTYPES, LSTM, build
from pruner.lstm.gates import SIDES, split_gates
from pruner.lstm.measure import Cost, cost, cost_of_file
from pruner.recipe import Recipe
from pruner.result import choose_masks, forms_of

EXPORT_FILES = {MANIFEST, MASKS, LOADER, "pruned.pt", "pruned.safetensors"}
MANIFEST_KEYS = {"source", "recipe", "form", "lstms", "totals", "certificate", "files", "versions"}
MAX_UNPACKED_RATIO = 50
MAX_MANIFEST = 2**23  # bytes
# What a manifest may claim before anything is built.
MAX_SIZE, MAX_INPUT, MAX_LAYERS, MAX_ELEMENTS = 2**24, 2**18, 1000, 2**28

# The types of the facts of an LSTM, as JSON has them.
LSTM_TYPES = {field.name: type_ for field in fields(LSTM) for type_ in (str, int, bool) if field.type is type_}


def verify(folder: str | os.PathLike[str], source: Checkpoint | None = None, *, isolated: bool = False) -> list[str]:
    """Check an export, a folder or the zip of one, and return what was found to hold, a sentence a check.

    Without the source: complete, unaltered files, masks that fit, rows that are zero where the masks say. With it: every
    other value is the source's own, the recipe gives the same masks again, and so does the certificate. Raises PrunerError
    at the first check that fails. Nothing in the folder is executed; `isolated` reads the model's file in a process of its
    own, with limits.
    """
    with unpacked(Path(folder)) as files:
        return list(_checks(files, source, isolated))


@dataclass(frozen=True)
class Export:
    """A verified export: what its file costs, its runnable LSTMs, and the masked checkpoint of full size it stands for."""

    cost: Cost
    modules: dict[str, nn.Module]
    masked: Checkpoint


def read_export(folder: Path, *, isolated: bool = False) -> Export:
    """Verify an export folder, then open it, as `verify` does. Raises PrunerError if it does not hold."""
    verify(folder, isolated=isolated)
    manifest = _read_manifest(folder)
    pruned = open_checkpoint(next(folder.glob("pruned.*")), isolated=isolated)
    layouts = read_layouts(folder, manifest, pruned, _read_masks(folder / MASKS, folder))
    tensors, lstms = dict(pruned.tensors), []
    modules: dict[str, nn.Module] = {}
    for lstm in pruned.lstms:
        if not any(set(lstm.tensors.values()) & set(found.tensors.values()) for found in layouts):
            lstms.append(lstm)
            modules[lstm.name] = build(lstm, pruned.tensors)
    for found in layouts:
        for name in found.tensors.values():
            del tensors[name]
    for found in layouts:
        lstms.append(found.lstm)
        modules[found.lstm.name] = found.module(pruned.tensors)
        wide = masked_twin(found, pruned.tensors).state_dict()
        tensors |= {
            name: wide[standard if "_l" in standard else f"{standard}_l0"]
            for standard, name in found.lstm.tensors.items()
        }
        for name in found.consumers:
            folded = pruned.tensors[name]
            width = found.lstm.directions * found.lstm.hidden_size
            tensors[name] = folded.new_zeros(folded.shape[0], width, *folded.shape[2:])
            tensors[name][:, read_columns(found)] = folded
    return Export(cost_of_export(pruned, layouts), modules, replace(pruned, tensors=tensors, lstms=lstms))


@contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """The export's folder; for a zip, a temporary one that holds its files. Raises PrunerError for anything else."""
    if os.path.isdir(path):  # noqa: PTH112 - False, and not an error, for paths that cannot be
        yield path
        return
    with tempfile.TemporaryDirectory() as temporary:
        try:
            unpack(path, Path(temporary), EXPORT_FILES, MAX_UNPACKED_RATIO)
        except OSError as error:
            raise PrunerError(f"expected room to unpack {path}, found {error}; free some and try again") from error
        yield Path(temporary)


def _checks(folder: Path, source: Checkpoint | None, isolated: bool) -> Iterator[str]:
    """Say again, from the files alone, all that the manifest says of them, and compare."""
    manifest = _read_manifest(folder)
    made_from = manifest["source"] if isinstance(manifest["source"], dict) else {}
    if source is not None:
        if made_from.get("sha256") != source.sha256:
            raise _failed(folder, f"a source with sha256 {str(made_from.get('sha256'))[:64]}", source.sha256)
        _same(folder, made_from, "format", source.format)
    files = {file.name: file for file in folder.iterdir() if file.is_file() and file.name != MANIFEST}
    models = sorted(files.keys() - {MASKS, LOADER})
    if files.keys() != {MASKS, LOADER, *models} or models not in (["pruned.pt"], ["pruned.safetensors"]):
        raise _failed(folder, f"one pruned model, {MASKS} and {LOADER}", ", ".join(sorted(files)) or "none of them")
    if folders := sorted(path.name for path in folder.iterdir() if path.is_dir()):
        yield f"not looked into: {', '.join(folders)}"
    stated = manifest["files"] if isinstance(manifest["files"], dict) else {}
    if stated.keys() != files.keys():
        raise _failed(folder, f"the files {', '.join(sorted(files))} in the manifest", shown(sorted(stated)))
    for name, file in files.items():
        _same(folder, stated, name, file_facts(file))
    yield f"{len(files)} files are complete and unaltered"
    own = Path(load_pruned.__file__).read_bytes()
    if files[LOADER].stat().st_size != len(own) or files[LOADER].read_bytes() != own:
        yield f"{LOADER} differs from that of this version of the pruner; it was not run"
    if made_from.get("format") not in formats.ALL or model_file(made_from["format"]) != models[0]:
        raise _failed(folder, f"a source format that is written as {models[0]}", shown(made_from.get("format")))
    pruned = open_checkpoint(files[models[0]], isolated=isolated)
    masks = _read_masks(files[MASKS], folder)
    layouts = read_layouts(folder, manifest, pruned, masks)
    _same(folder, manifest, "lstms", [describe(layout, pruned) for layout in layouts])
    yield f"{models[0]} holds {len(layouts)} LSTM{'s' if len(layouts) > 1 else ''} of the shapes in the manifest"
    dropped = f"{sum(int((~mask).sum()) for mask in masks.values()):,} masked rows are"
    yield f"{dropped} {'zero' if manifest['form'] == 'masked' else 'not stored, or read by nothing'}"
    totals = manifest["totals"] if isinstance(manifest["totals"], dict) else {}
    for key, after in asdict(cost_of_export(pruned, layouts)).items():
        before = asdict(cost_of_file(source))[key] if source else _before(totals.get(key))
        _same(folder, totals, key, {"before": before, "after": after})
    reference: Sequence[nn.Module] = [masked_twin(layout, pruned.tensors) for layout in layouts]
    if source is not None:
        forms = _expected_forms(source, manifest, masks, layouts)
        yield from _compare_with_source(folder, manifest, pruned, masks, layouts, source, forms[manifest["form"]])
        if "compensation" not in manifest:
            reference = masked_lstms(source, forms["masked"])
    certificate = certify(reference, layouts, pruned.tensors)
    if not certificate["holds"] or not _same_certificate(certificate, manifest["certificate"]):
        raise _failed(folder, f"the certificate {shown(manifest['certificate'])}", str(certificate))
    if source is None:
        yield "the LSTMs run and compute what their masked form of full size does, at the scale that the certificate says"
    else:
        yield f"the certificate holds: largest difference {certificate['max_abs_difference']:g}"


def read_layouts(
    folder: Path, manifest: Mapping[str, Any], pruned: Checkpoint, masks: Mapping[str, Tensor]
) -> list[Layout]:
    """How the LSTMs lie in the file, from the manifest's facts and the masks, checked against every stored tensor.

    Raises PrunerError unless each tensor has exactly the shape and type that these demand: nothing else reaches a forward
    pass, where an LSTM whose layers do not fit together can abort the process.
    """
    recipe = Recipe.from_dict(manifest["recipe"])
    if manifest["form"] not in FORMS:
        raise _failed(folder, f"a form among {', '.join(FORMS)}", shown(manifest["form"]))
    entries = manifest["lstms"] if isinstance(manifest["lstms"], list) else []
    layouts = []
    sizes: dict[str, int] = {}
    for entry in entries:
        lstm = _read_lstm(folder, entry)
        names = set(lstm.weight_names().values())
        if recipe.granularity == "units":
            names |= {name for standard, name in lstm.tensors.items() if standard.startswith("bias")}
        sizes |= dict.fromkeys(names, 4 * lstm.hidden_size)
        if not names <= masks.keys() or any(len(masks[name]) != 4 * lstm.hidden_size for name in names):
            raise _failed(folder, f"masks of {4 * lstm.hidden_size} rows for {shown(lstm.title)}", "others")
        consumers = entry["consumers"]
        if not all(isinstance(name, str) for name in consumers) or not set(consumers) <= set(recipe.consumers):
            raise _failed(folder, "consumers that the recipe names", shown(consumers))
        if recipe.granularity == "units":
            _check_whole_units(folder, lstm, masks)
        stated = entry.get("tensors")
        found = layout(
            lstm,
            masks,
            manifest["form"],
            recipe.granularity,
            consumers,
            isinstance(stated, dict) and reconstructs(stated),
            recipe.needs_data,
        )
        _check_stored(folder, found, pruned, masks, manifest["form"])
        layouts.append(found)
    stored = [name for found in layouts for name in found.tensors.values()]
    if len(stored) != len(set(stored)):
        raise _failed(folder, "every tensor in one LSTM", "some in several")
    if not layouts or masks.keys() != sizes.keys():
        raise _failed(folder, "a mask of 4H rows for every packed weight of its LSTMs", shown(sorted(masks)))
    return layouts


def _read_lstm(folder: Path, entry: Any) -> LSTM:
    """The source's LSTM as the manifest states it; what it states is checked against the files afterwards."""
    types = {**LSTM_TYPES, "source_tensors": dict, "consumers": list}
    if not isinstance(entry, dict) or not types.keys() <= entry.keys():
        raise _failed(folder, f"LSTMs described by {', '.join(types)}", shown(entry))
    for name, wanted in types.items():
        size = wanted is int and name != "parameters"  # those are counted below
        if type(entry[name]) is not wanted or (size and not 0 <= entry[name] <= MAX_SIZE):
            raise _failed(folder, f"{name} of an LSTM as {wanted.__name__}", shown(entry[name]))
    if not all(isinstance(name, str) for pair in entry["source_tensors"].items() for name in pair):
        raise _failed(folder, "names in source_tensors", shown(entry["source_tensors"]))
    found = LSTM(**{name: entry[name] for name in LSTM_TYPES}, tensors=entry["source_tensors"])
    cell = found.kind == "LSTMCell"
    fits = found.kind in ("LSTM", "LSTMCell") and getattr(torch, found.dtype, None) in DTYPES
    fits = fits and found.hidden_size > found.proj_size and found.input_size > 0 and 0 < found.num_layers <= MAX_LAYERS
    fits = fits and not (cell and (found.num_layers > 1 or found.bidirectional or found.proj_size))
    shapes = _standard_shapes(found) if fits else {}
    if not fits or found.tensors.keys() != shapes.keys() or found.parameters != sum(map(math.prod, shapes.values())):
        raise _failed(folder, "the facts of an LSTM", shown(found))
    for standard, name in found.tensors.items():
        if name not in _possible_names(found.name, standard):
            raise _failed(folder, f"{standard} of {shown(found.title)} under its own name", shown(name))
    return found


def _possible_names(lstm: str, standard: str) -> list[str]:
    """How a file can call a tensor of an LSTM: plainly, or as pruning and parametrization tools leave it."""
    prefixes = [f"{lstm}."] if lstm else ["", "."]
    spellings = (standard, f"{standard}_orig", f"parametrizations.{standard}.original")
    wrapper, dot, _ = lstm.rpartition(".")
    raw = [f"{prefix}{standard}_raw" for prefix in (*prefixes, f"{wrapper}{dot}")]  # of weight drop
    return [prefix + spelling for prefix in prefixes for spelling in spellings] + raw


def _standard_shapes(lstm: LSTM) -> dict[str, torch.Size]:
    """The shapes of PyTorch's own tensors of a whole LSTM."""
    settings: dict[str, Any] = {"bias": lstm.bias, "device": "meta"}
    if lstm.kind == "LSTMCell":
        module: nn.Module = nn.LSTMCell(lstm.input_size, lstm.hidden_size, **settings)
    else:
        settings |= {"bidirectional": lstm.bidirectional, "proj_size": lstm.proj_size}
        module = nn.LSTM(lstm.input_size, lstm.hidden_size, lstm.num_layers, **settings)
    return {name: tensor.shape for name, tensor in module.state_dict().items()}


def _check_whole_units(folder: Path, lstm: LSTM, masks: Mapping[str, Tensor]) -> None:
    for layer in range(lstm.num_layers):
        for direction in range(lstm.directions):
            suffix = lstm.suffix(layer, direction)
            names = [lstm.tensors.get(f"{kind}_{side}{suffix}") for kind in ("weight", "bias") for side in SIDES]
            own = [masks[name] for name in names if name is not None]
            if not all(torch.equal(mask, split_gates(own[0])[0].repeat(4)) for mask in own):
                raise _failed(folder, f"the same units masked in all gates of {shown(lstm.title)}", "others")


def _check_stored(folder: Path, found: Layout, pruned: Checkpoint, masks: Mapping[str, Tensor], form: str) -> None:
    """Every stored tensor of an LSTM has the shape, type and, for indices and masked rows, the values that it must have."""
    lstm = found.lstm
    # A compact form may hold next to nothing of the LSTM that it stands for, which the checks below build at full size.
    if lstm.parameters > max(MAX_ELEMENTS, pruned.size) or lstm.input_size > MAX_INPUT:
        raise _failed(folder, f"an LSTM of at most {MAX_ELEMENTS:,} weights and {MAX_INPUT:,} inputs", shown(lstm))
    expected, indices = stored_shapes(found, masks), stored_indices(found, masks)
    for name, stored in found.tensors.items():
        tensor = pruned.tensors.get(stored)
        dtype = torch.int64 if name in indices else getattr(torch, lstm.dtype)
        if tensor is None or tensor.shape != expected[name] or tensor.dtype != dtype:
            told = "none" if tensor is None else f"{tuple(tensor.shape)} {tensor.dtype}"
            raise _failed(folder, f"{shown(stored)} {tuple(expected[name])} {dtype}", told)
    for name, rows in indices.items():
        if not torch.equal(pruned.tensors[found.tensors[name]], rows):
            raise _failed(folder, f"the indices in {shown(found.tensors[name])} that the masks give", "others")
    if form == "masked":
        for stored in lstm.tensors.values():
            if stored in masks and pruned.tensors[stored][~masks[stored]].count_nonzero():
                raise _failed(folder, f"zeros in every masked row of {stored}", "other values")
    for name in found.consumers:
        tensor = pruned.tensors.get(name)
        width = len(read_columns(found))
        if tensor is None or tensor.dim() < 2 or tensor.shape[1] != width:
            raise _failed(folder, f"{width} columns in {shown(name)}", "others")


def cost_of_export(pruned: Checkpoint, layouts: list[Layout]) -> Cost:
    """The cost of an exported file, in which an LSTM can lie in the tensors of a compact module."""
    stored = {name for found in layouts for name in found.tensors.values()}
    whole = [lstm.tensors.values() for lstm in pruned.lstms if not stored & set(lstm.tensors.values())]
    return cost(pruned.tensors, [*whole, *(found.tensors.values() for found in layouts)], pruned.size)


def _before(stated: Any) -> Any:
    return stated.get("before") if isinstance(stated, dict) else None


def _compare_with_source(
    folder: Path,
    manifest: Mapping[str, Any],
    pruned: Checkpoint,
    masks: Mapping[str, Tensor],
    layouts: list[Layout],
    source: Checkpoint,
    form: Form,
) -> Iterator[str]:
    if any(found.lstm not in source.lstms for found in layouts):
        raise _failed(folder, "the LSTMs of the source", "others")
    recipe = Recipe.from_dict(manifest["recipe"])
    expected = form.tensors(source)
    refitted = form.changed.keys() if "compensation" in manifest else set()
    if {name: source.location(name) for name in expected} != pruned.locations:
        raise _failed(folder, "the tensor names that pruning the source gives", "other names")
    for name, tensor in expected.items():
        found = pruned.tensors[name]
        if found.shape != tensor.shape or found.dtype != tensor.dtype:
            raise _failed(folder, f"{name} {tuple(tensor.shape)} {tensor.dtype}", f"{tuple(found.shape)} {found.dtype}")
        if name not in refitted and not _same_bits(found, tensor):
            raise _failed(folder, f"the source's own values in {name}", "others")
    yield (
        f"{len(expected)} tensors have the names, shapes and dtypes that pruning the source gives, and all but those that "
        "compensation may change its values"
        if refitted
        else f"{len(expected)} tensors have the names, shapes, dtypes and values that pruning the source gives"
    )
    if recipe.criterion in DATA_CRITERIA:
        yield f"the masks were chosen from calibration data ({recipe.criterion}), which an export does not carry"
        return
    again = choose_masks(source, recipe)
    if again.keys() != masks.keys() or not all(torch.equal(again[name], masks[name]) for name in masks):
        raise _failed(folder, "the masks that the recipe gives on the source", "others")
    yield "the recipe gives the same masks again"


def _expected_forms(
    source: Checkpoint, manifest: Mapping[str, Any], masks: Mapping[str, Tensor], layouts: list[Layout]
) -> dict[str, Form]:
    """What the export must look like: what pruning the source gives, except for the values that compensation changed."""
    recipe = Recipe.from_dict(manifest["recipe"])
    if "compensation" not in manifest:
        return forms_of(source, recipe, masks)
    consumers = [name for names in consumers_of(source, recipe).values() for name in names]
    names = [name for found in layouts for name in found.lstm.tensors.values()]
    names += consumers + [bias for name in consumers if (bias := bias_beside(source.tensors, name))]
    filled = {
        found.lstm.name: [
            (torch.zeros(int((~own).sum()), int(own.sum())), torch.zeros(int((~own).sum())))
            for own in last_unit_masks(found.lstm, masks)
        ]
        for found in layouts
        if reconstructs(found.tensors)
    }
    return forms_of(source, recipe, masks, Compensation({name: source.tensors[name] for name in names}, filled, {}))


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        manifest = json.loads(read_small(path, MAX_MANIFEST, "a manifest"))
    except PrunerError as error:
        raise PrunerError(
            f"expected an export folder with a {MANIFEST}, found none in {folder}; check the path"
        ) from error
    except (ValueError, RecursionError) as error:
        raise PrunerError(f"expected the manifest of an export, found no JSON in {path}; export again") from error
    if not isinstance(manifest, dict) or not manifest.keys() >= MANIFEST_KEYS:
        keys = ", ".join(sorted(MANIFEST_KEYS))
        raise PrunerError(
            f"expected the manifest of an export ({keys}), found {shown(manifest)} in {path}; export again"
        )
    return manifest


def _same(folder: Path, stated: Mapping[str, Any], key: str, found: Any) -> None:
    if key not in stated or json.dumps(stated[key]) != json.dumps(found):
        raise _failed(folder, f"{key} as the manifest says, {shown(stated.get(key))}", shown(found))


def _read_masks(file: Path, folder: Path) -> dict[str, Tensor]:
    try:
        masks = read_tensors(file)
    except PrunerError as error:
        raise _failed(folder, f"a readable {MASKS}", "a damaged one") from error
    for name, mask in masks.items():
        if mask.dtype != torch.uint8 or mask.dim() != 1 or mask.numel() == 0 or int(mask.max()) > 1:
            raise _failed(
                folder, f"zeros and ones of type uint8 for {shown(name)}", f"{tuple(mask.shape)} {mask.dtype}"
            )
    return {name: mask.bool() for name, mask in masks.items()}


def _same_bits(a: Tensor, b: Tensor) -> bool:
    """Equal to the bit, NaN and types without arithmetic included."""
    return torch.equal(a.contiguous().flatten().view(torch.uint8), b.contiguous().flatten().view(torch.uint8))


def _same_certificate(found: Mapping[str, Any], stated: Any) -> bool:
    """Outputs differ by rounding between machines, so their scale is compared, and of the differences that both hold."""
    if not isinstance(stated, dict) or found.keys() != stated.keys():
        return False
    scale, difference, own = "max_abs_output", "max_abs_difference", "in_own_dtype"
    numbers = all(isinstance(stated[key], float) for key in (scale, difference))
    close = numbers and abs(found[scale] - stated[scale]) <= 1e-3 * abs(found[scale])
    close = close and 0 <= stated[difference] <= TOLERANCE * stated[scale]
    exact = all(found[key] == stated[key] for key in found if key not in (scale, difference, own))
    return close and exact and _same_in_own_dtype(found[own], stated[own])


def _same_in_own_dtype(found: Mapping[str, Any], stated: Any) -> bool:
    if not isinstance(stated, dict) or found.keys() != stated.keys() or found["dtype"] != stated["dtype"]:
        return False
    numbers = [key for key in found if key != "dtype"]
    largest = abs(found["max_abs_output"])
    return all(
        isinstance(stated[key], float)
        # An overflow in a narrow type makes infinities and NaN, here as there.
        and (repr(stated[key]) == repr(found[key]) or abs(found[key] - stated[key]) <= 1e-3 * largest)
        for key in numbers
    )


def _failed(folder: Path, expected: str, found: str) -> PrunerError:
    return PrunerError(f"expected {expected}, found {found}: {folder} is not the export it claims to be; export again")
