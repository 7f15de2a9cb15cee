"""Read an export folder back and check that it is what its manifest says."""

import json
import os
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor

from pruner import load_pruned
from pruner.checkpoint import Checkpoint, open_checkpoint
from pruner.errors import PrunerError
from pruner.export import LOADER, MANIFEST, MASKS, certify, file_facts, model_file
from pruner.lstm import LSTM
from pruner.masks import drop_rows
from pruner.recipe import Recipe
from pruner.run import choose_masks

EXPORT_FILES = {MANIFEST, MASKS, LOADER, "pruned.pt", "pruned.safetensors"}
MAX_UNPACKED_RATIO = 50


def verify(folder: str | os.PathLike[str], source: Checkpoint | None = None) -> list[str]:
    """Check an export, a folder or the zip of one, and return what was found to hold, a sentence a check.

    Without the source: complete, unaltered files, masks that fit, rows that are zero where the masks say. With it: every
    other value is the source's own, and the recipe gives the same masks again. Raises PrunerError at the first check
    that fails. Nothing in the folder is executed.
    """
    with unpacked(Path(folder)) as files:
        return list(_checks(files, source))


@contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """The export's folder; for a zip, a temporary one that holds its files. Raises PrunerError for anything else."""
    if path.is_dir():
        yield path
        return
    try:
        with zipfile.ZipFile(path) as archive, tempfile.TemporaryDirectory() as temporary:
            names = set(archive.namelist())
            if not names <= EXPORT_FILES:
                raise PrunerError(
                    f"expected the zip of an export, found {min(names - EXPORT_FILES)!r} in {path}; give the folder or the "
                    "zip that was exported"
                )
            if sum(entry.file_size for entry in archive.infolist()) > MAX_UNPACKED_RATIO * path.stat().st_size:
                raise PrunerError(f"expected the zip of an export, found one that unpacks to far more: {path}")
            archive.extractall(temporary)
            yield Path(temporary)
    except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError) as error:
        raise PrunerError(f"expected an export folder or its zip, found {error}: {path}; check the path") from error


def _checks(folder: Path, source: Checkpoint | None) -> Iterator[str]:
    manifest = _read_manifest(folder)
    model = model_file(manifest["source"]["format"])
    expected = {model, MASKS, LOADER}
    if set(manifest["files"]) != expected:
        raise _failed(folder, f"the files {', '.join(sorted(expected))}", f"{', '.join(manifest['files'])}")
    for name, facts in manifest["files"].items():
        if not (folder / name).is_file():
            raise _failed(folder, name, "no such file")
        if file_facts(folder / name) != facts:
            raise _failed(folder, f"{name} as it was written", "another size or sha256")
    yield f"{len(expected)} files are complete and unaltered"
    if (folder / LOADER).read_bytes() != Path(load_pruned.__file__).read_bytes():
        yield f"{LOADER} differs from that of this version of the pruner, and was not run"
    pruned = open_checkpoint(folder / model)
    lstms = pruned.select([lstm["name"] for lstm in manifest["lstms"]])
    for lstm, facts in zip(lstms, manifest["lstms"], strict=True):
        if {key: facts.get(key) for key in lstm.describe()} != lstm.describe():
            raise _failed(folder, f"{lstm.title} of the shape in the manifest", str(lstm.describe()))
    yield f"{model} holds {len(lstms)} LSTM{'s' if len(lstms) > 1 else ''} of the shapes in the manifest"
    masks = _read_masks(folder, lstms)
    dropped = 0
    for name, mask in masks.items():
        if pruned.tensors[name][~mask].count_nonzero():
            raise _failed(folder, f"zeros in every masked row of {name}", "other values")
        dropped += int((~mask).sum())
    yield f"{dropped:,} masked rows are zero"
    if source is None:
        certificate = certify(lstms, pruned.tensors, pruned.tensors)
    else:
        yield from _compare_with_source(folder, manifest, pruned, masks, source)
        written = {name: drop_rows(source.tensors[name], mask) for name, mask in masks.items()}
        certificate = certify(lstms, {**source.tensors, **written}, pruned.tensors)
    if not certificate["holds"] or not _same_certificate(certificate, manifest["certificate"]):
        raise _failed(folder, f"the certificate {manifest['certificate']}", str(certificate))
    yield f"the certificate holds: largest difference {certificate['max_abs_difference']:g}"


def _compare_with_source(
    folder: Path, manifest: Mapping[str, Any], pruned: Checkpoint, masks: Mapping[str, Tensor], source: Checkpoint
) -> Iterator[str]:
    if source.sha256 != manifest["source"]["sha256"]:
        raise _failed(folder, f"a source with sha256 {manifest['source']['sha256']}", source.sha256)
    if source.locations != pruned.locations:
        raise _failed(folder, "the tensor names of the source", "other names")
    for name, tensor in source.tensors.items():
        found = pruned.tensors[name]
        if found.shape != tensor.shape or found.dtype != tensor.dtype:
            raise _failed(folder, f"{name} {tuple(tensor.shape)} {tensor.dtype}", f"{tuple(found.shape)} {found.dtype}")
        kept = drop_rows(tensor, masks[name]) if name in masks else tensor
        if not _same_bits(found, kept):
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
        manifest["source"]["format"], manifest["source"]["sha256"], manifest["recipe"], manifest["certificate"]
        [lstm["name"] for lstm in manifest["lstms"]]
        dict(manifest["files"])
        return manifest
    except OSError as error:
        raise PrunerError(
            f"expected an export folder with a {MANIFEST}, found none in {folder}; check the path"
        ) from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise PrunerError(
            f"expected the manifest of an export, found something else in {path}; export again"
        ) from error


def _read_masks(folder: Path, lstms: list[LSTM]) -> dict[str, Tensor]:
    try:
        masks = load_safetensors((folder / MASKS).read_bytes())
    except (SafetensorError, OSError, ValueError) as error:
        raise _failed(folder, f"a readable {MASKS}", str(error)) from error
    sizes = {name: 4 * lstm.hidden_size for lstm in lstms for name in lstm.weight_names().values()}
    if masks.keys() != sizes.keys():
        raise _failed(folder, f"masks of {', '.join(sizes)}", ", ".join(masks) or "none")
    for name, mask in masks.items():
        if mask.dtype != torch.uint8 or mask.shape != (sizes[name],) or int(mask.max()) > 1:
            raise _failed(
                folder, f"a uint8 mask of {sizes[name]} zeros and ones for {name}", f"{tuple(mask.shape)} {mask.dtype}"
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
    close = isinstance(stated[scale], int | float) and abs(found[scale] - stated[scale]) <= 1e-3 * abs(found[scale])
    return close and all(found[key] == stated[key] for key in found if key != scale)


def _failed(folder: Path, expected: str, found: str) -> PrunerError:
    return PrunerError(f"expected {expected}, found {found}: {folder} is not the export it claims to be; export again")
