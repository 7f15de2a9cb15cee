"""A result -> a folder of files that load in anyone's own code."""

import copy
import io
import json
import os
import platform
import shutil
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor, nn

from pruner.compact import load_pruned
from pruner.compact.masked_and_compact import Form, Layout
from pruner.errors import PrunerError
from pruner.files import formats, stale
from pruner.files.checkpoint import Checkpoint, open_checkpoint
from pruner.files.source import open_source
from pruner.files.writing import write, write_safetensors
from pruner.lstm.measure import BATCH_SIZE, SEQUENCE_LENGTH, Cost, Drift, difference, outputs, random_input
from pruner.recipe import Recipe

MASKS, MANIFEST, LOADER = "masks.safetensors", "manifest.json", "load_pruned.py"
TOLERANCE = 1e-9


def model_file(source_format: str) -> str:
    """The name of the pruned model's file: its container is that of the source."""
    return "pruned.safetensors" if source_format == formats.SAFETENSORS else "pruned.pt"


def save(
    folder: str | os.PathLike[str],
    checkpoint: Checkpoint,
    recipe: Recipe,
    masks: Mapping[str, Tensor],
    forms: Mapping[str, Form],
    name: str,
    totals: tuple[Cost, Cost],
    compensation: Mapping[str, Any],
) -> Path:
    """Write the form `name` of a checkpoint as an export folder and return its path.

    `forms` holds the masked one, too, which every other is certified against; `compensation` are the facts for the manifest.

    It is written under a temporary name, beside its place or within an empty folder that is there already, read back, and
    put in its place only when it is whole. Raises PrunerError if the folder is in use, cannot be written, or does not
    compute what the masks say when read back.
    """
    folder = Path(os.path.abspath(folder))  # noqa: PTH100 - "." and ".." have no name to write under
    check_free(folder)
    try:
        there = folder.exists()  # perhaps where somebody stands, or a volume: it is filled, not replaced
        staging = Path(tempfile.mkdtemp(prefix=".export-", dir=folder if there else folder.parent))
        try:
            _write_files(staging, checkpoint, recipe, masks, forms, name, totals, compensation)
            if there:
                for file in list(staging.iterdir()):
                    file.replace(folder / file.name)
            else:
                staging.chmod(0o755)
                staging.replace(folder)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        raise PrunerError(f"expected a place to write the export, found {error}; choose another folder") from error
    return folder


def pack(folder: Path) -> bytes:
    """The files of an export folder as one zip; weights hardly compress, so they are stored as they are."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for file in sorted(file for file in folder.iterdir() if file.is_file()):
            archive.write(file, file.name)
    return packed.getvalue()


def check_free(folder: Path) -> None:
    """Raise PrunerError unless an export can take this place: nothing there yet, or an empty folder."""
    try:
        in_use = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
        if in_use:
            raise PrunerError(f"expected a new or empty folder for the export, found {folder} in use; choose another")
        if not folder.parent.is_dir():
            raise PrunerError(f"expected a place to write the export, found no folder {folder.parent}; make it first")
    except (OSError, ValueError) as error:
        raise PrunerError(f"expected a place to write the export, found {error}; choose another folder") from error


def _write_files(
    staging: Path,
    checkpoint: Checkpoint,
    recipe: Recipe,
    masks: Mapping[str, Tensor],
    forms: Mapping[str, Form],
    name: str,
    totals: tuple[Cost, Cost],
    compensation: Mapping[str, Any],
) -> None:
    form = forms[name]
    model = staging / model_file(checkpoint.format)
    write(checkpoint, form.changed, model)
    write_masks(masks, staging / MASKS)
    shutil.copyfile(load_pruned.__file__, staging / LOADER)
    certificate = certify(masked_lstms(checkpoint, forms["masked"]), form.layouts, open_checkpoint(model).tensors)
    if not certificate["holds"]:
        raise PrunerError(
            f"expected the written model to compute what the masks say, found a difference of "
            f"{certificate['max_abs_difference']:.3g}; nothing was exported, please report this with the checkpoint"
        )
    manifest = {
        "source": {"name": checkpoint.name, "sha256": checkpoint.sha256, "format": checkpoint.format},
        "recipe": recipe.to_dict(),
        "form": form.name,
        "lstms": [describe(layout, checkpoint) for layout in form.layouts],
        "totals": {key: {"before": value, "after": asdict(totals[1])[key]} for key, value in asdict(totals[0]).items()},
        "certificate": certificate,
        **({"compensation": compensation} if compensation else {}),
        **({"notes": told} if (told := stale.notes(checkpoint, form.changed)) else {}),
        "files": {file.name: file_facts(file) for file in sorted(staging.iterdir())},
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "safetensors": safetensors.__version__,
        },
    }
    (staging / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    for file in staging.iterdir():
        file.chmod(0o644)  # safetensors writes files that only their owner can read


def write_masks(masks: Mapping[str, Tensor], path: str | os.PathLike[str]) -> None:
    """Masks as uint8 (4H,) tensors, 1 = kept, under the names of the tensors that they belong to."""
    write_safetensors({name: mask.to("cpu", torch.uint8) for name, mask in masks.items()}, Path(path))


def file_facts(path: Path) -> dict[str, Any]:
    source = open_source(path)
    source.close()
    return {"sha256": source.sha256, "bytes": source.size}


def masked_lstms(checkpoint: Checkpoint, masked: Form) -> list[nn.Module]:
    """What was previewed: LSTMs of full size with zeros in dropped rows."""
    tensors = masked.tensors(checkpoint)
    return [layout.module(tensors) for layout in masked.layouts]


def certify(masked: Sequence[nn.Module], layouts: list[Layout], written: Mapping[str, Tensor]) -> dict[str, Any]:
    """Run LSTMs as previewed and as written side by side: random input, zero state, all three outputs.

    `written` holds the tensors of the file. In float64 the two may differ by `TOLERANCE` of the largest output (what is
    added in another order is rounded otherwise); what they differ by in the model's own type is stated beside it.
    """
    found: dict[torch.dtype | None, list[Drift]] = {torch.float64: [], None: []}
    for reference, layout in zip(masked, layouts, strict=True):
        module, inputs = layout.module(written), random_input(layout.lstm)
        for dtype, drifts in found.items():
            sides = [
                copy.deepcopy(side) if dtype is None else copy.deepcopy(side).to(dtype) for side in (reference, module)
            ]
            drifts.append(difference(outputs(sides[0], inputs), outputs(sides[1], inputs)))

    def largest(drifts: list[Drift]) -> dict[str, float]:
        return {
            "max_abs_difference": max((drift.max_abs_difference for drift in drifts), default=0.0),
            "max_abs_output": max((drift.max_abs_output for drift in drifts), default=0.0),
        }

    exact = largest(found[torch.float64])
    own = {"dtype": ", ".join(sorted({layout.lstm.dtype for layout in layouts})), **largest(found[None])}
    return {
        **exact,
        "sequence_length": SEQUENCE_LENGTH,
        "batch_size": BATCH_SIZE,
        "dtype": "float64",
        "holds": exact["max_abs_difference"] <= TOLERANCE * exact["max_abs_output"],
        "in_own_dtype": own,
    }


def describe(layout: Layout, checkpoint: Checkpoint) -> dict[str, Any]:
    """One LSTM's entry in the manifest: how to build it, where its tensors lie, and what each layer keeps."""
    facts = layout.describe()
    facts["tensors"] = {name: list(checkpoint.location(stored)) for name, stored in layout.tensors.items()}
    return facts
