"""Read an export folder back and check that it is what its manifest says."""

import json
import os
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor

from pruner import formats, load_pruned
from pruner.checkpoint import Checkpoint, open_checkpoint
from pruner.errors import PrunerError, shown
from pruner.export import LOADER, MANIFEST, MASKS, certify, describe, file_facts, model_file
from pruner.masks import drop_rows
from pruner.measure import cost
from pruner.recipe import Recipe
from pruner.run import choose_masks

EXPORT_FILES = {MANIFEST, MASKS, LOADER, "pruned.pt", "pruned.safetensors"}
MANIFEST_KEYS = {"source", "recipe", "form", "lstms", "totals", "certificate", "files", "versions"}
MAX_UNPACKED_RATIO = 50


def verify(folder: str | os.PathLike[str], source: Checkpoint | None = None) -> list[str]:
    """Check an export, a folder or the zip of one, and return what was found to hold, a sentence a check.

    Without the source: complete, unaltered files, masks that fit, rows that are zero where the masks say. With it: every
    other value is the source's own, the recipe gives the same masks again, and so does the certificate. Raises PrunerError
    at the first check that fails. Nothing in the folder is executed.
    """
    with unpacked(Path(folder)) as files:
        return list(_checks(files, source))


@contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """The export's folder; for a zip, a temporary one that holds its files. Raises PrunerError for anything else."""
    if os.path.isdir(path):  # noqa: PTH112 - False, and not an error, for paths that cannot be
        yield path
        return
    with tempfile.TemporaryDirectory() as temporary:
        try:
            with zipfile.ZipFile(path) as archive:
                names = set(archive.namelist())
                if not names <= EXPORT_FILES:
                    raise PrunerError(
                        f"expected the zip of an export, found {min(names - EXPORT_FILES)!r} in {path}; give the folder or "
                        "the zip that was exported"
                    )
                if sum(entry.file_size for entry in archive.infolist()) > MAX_UNPACKED_RATIO * path.stat().st_size:
                    raise PrunerError(f"expected the zip of an export, found one that unpacks to far more: {path}")
                archive.extractall(temporary)
        except PrunerError:
            raise
        except Exception as error:  # a damaged zip can raise anything
            raise PrunerError(f"expected an export folder or its zip, found neither: {path}; check the path") from error
        yield Path(temporary)


def _checks(folder: Path, source: Checkpoint | None) -> Iterator[str]:
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
    if files[LOADER].read_bytes() != Path(load_pruned.__file__).read_bytes():
        yield f"{LOADER} differs from that of this version of the pruner; it was not run"
    if made_from.get("format") not in formats.ALL or model_file(made_from["format"]) != models[0]:
        raise _failed(folder, f"a source format that is written as {models[0]}", shown(made_from.get("format")))
    pruned = open_checkpoint(files[models[0]])
    masks = _read_masks(files[MASKS], folder)
    lstms = [lstm for lstm in pruned.lstms if set(lstm.weight_names().values()) <= masks.keys()]
    sizes = {name: 4 * lstm.hidden_size for lstm in lstms for name in lstm.weight_names().values()}
    if not lstms or {name: len(mask) for name, mask in masks.items()} != sizes:
        found = {name: len(mask) for name, mask in masks.items()}
        raise _failed(folder, "a mask of 4H rows for every packed weight of its LSTMs", shown(found))
    for name, mask in masks.items():
        if pruned.tensors[name][~mask].count_nonzero():
            raise _failed(folder, f"zeros in every masked row of {name}", "other values")
    _same(folder, manifest, "lstms", [describe(lstm, pruned, masks) for lstm in lstms])
    yield f"{models[0]} holds {len(lstms)} LSTM{'s' if len(lstms) > 1 else ''} of the shapes in the manifest"
    yield f"{sum(int((~mask).sum()) for mask in masks.values()):,} masked rows are zero"
    totals = manifest["totals"] if isinstance(manifest["totals"], dict) else {}
    for key, after in asdict(cost(pruned)).items():
        before = asdict(cost(source))[key] if source else _before(totals.get(key))
        _same(folder, totals, key, {"before": before, "after": after})
    written = pruned.tensors
    if source is not None:
        yield from _compare_with_source(folder, manifest, pruned, masks, source)
        written = source.tensors | {name: drop_rows(source.tensors[name], mask) for name, mask in masks.items()}
    certificate = certify(lstms, written, pruned.tensors)
    if not certificate["holds"] or not _same_certificate(certificate, manifest["certificate"]):
        raise _failed(folder, f"the certificate {shown(manifest['certificate'])}", str(certificate))
    if source is None:
        yield "the LSTMs run, and the scale of their outputs is that of the certificate"
    else:
        yield f"the certificate holds: largest difference {certificate['max_abs_difference']:g}"


def _before(stated: Any) -> Any:
    return stated.get("before") if isinstance(stated, dict) else None


def _compare_with_source(
    folder: Path, manifest: Mapping[str, Any], pruned: Checkpoint, masks: Mapping[str, Tensor], source: Checkpoint
) -> Iterator[str]:
    if source.locations != pruned.locations:
        raise _failed(folder, "the tensor names of the source", "other names")
    for name, tensor in source.tensors.items():
        found = pruned.tensors[name]
        if found.shape != tensor.shape or found.dtype != tensor.dtype:
            raise _failed(folder, f"{name} {tuple(tensor.shape)} {tensor.dtype}", f"{tuple(found.shape)} {found.dtype}")
        if not _same_bits(found, drop_rows(tensor, masks[name]) if name in masks else tensor):
            raise _failed(folder, f"the source's own values in {name}", "others")
    yield f"{len(source.tensors)} tensors have the source's names, shapes, dtypes and, outside masked rows, values"
    again = choose_masks(source, Recipe.from_dict(manifest["recipe"]))
    if again.keys() != masks.keys() or not all(torch.equal(again[name], masks[name]) for name in masks):
        raise _failed(folder, "the masks that the recipe gives on the source", "others")
    yield "the recipe gives the same masks again"


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
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
        masks = load_safetensors(file.read_bytes())
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
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
    """Outputs differ by rounding between machines, so their scale is compared and not their bits."""
    if not isinstance(stated, dict) or found.keys() != stated.keys():
        return False
    scale = "max_abs_output"
    close = isinstance(stated[scale], float) and abs(found[scale] - stated[scale]) <= 1e-3 * abs(found[scale])
    return close and all(found[key] == stated[key] for key in found if key != scale)


def _failed(folder: Path, expected: str, found: str) -> PrunerError:
    return PrunerError(f"expected {expected}, found {found}: {folder} is not the export it claims to be; export again")
