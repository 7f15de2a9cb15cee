"""A result -> a folder of files that load in anyone's own code."""

import hashlib
import io
import json
import os
import platform
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor

from pruner import formats, load_pruned
from pruner.checkpoint import Checkpoint, open_checkpoint, write, write_safetensors
from pruner.errors import PrunerError
from pruner.gates import BLOCKS, SIDES, split_gates
from pruner.lstm import LSTM, build
from pruner.measure import BATCH_SIZE, SEQUENCE_LENGTH, Cost, difference, outputs, random_input
from pruner.recipe import Recipe

MASKS, MANIFEST, LOADER = "masks.safetensors", "manifest.json", "load_pruned.py"


def model_file(source_format: str) -> str:
    """The name of the pruned model's file: its container is that of the source."""
    return "pruned.safetensors" if source_format == formats.SAFETENSORS else "pruned.pt"


def save(
    folder: str | os.PathLike[str],
    checkpoint: Checkpoint,
    recipe: Recipe,
    masks: Mapping[str, Tensor],
    changed: Mapping[str, Tensor],
    totals: tuple[Cost, Cost],
) -> Path:
    """Write the masked form of a checkpoint as an export folder and return its path.

    The folder is written under a temporary name beside its place, read back, and renamed only when it is whole. Raises
    PrunerError if the folder is in use, cannot be written, or does not compute what the masks say when read back.
    """
    folder = Path(os.path.abspath(folder))  # noqa: PTH100 - "." and ".." have no name to write under
    check_free(folder)
    try:
        staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            _write_files(staging, checkpoint, recipe, masks, changed, totals)
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
    changed: Mapping[str, Tensor],
    totals: tuple[Cost, Cost],
) -> None:
    model = staging / model_file(checkpoint.format)
    write(checkpoint, changed, model)
    write_masks(masks, staging / MASKS)
    shutil.copyfile(load_pruned.__file__, staging / LOADER)
    lstms = [lstm for lstm in checkpoint.lstms if set(lstm.weight_names().values()) <= masks.keys()]
    certificate = certify(lstms, {**checkpoint.tensors, **changed}, open_checkpoint(model).tensors)
    if not certificate["holds"]:
        raise PrunerError(
            f"expected the written model to compute what the masks say, found a difference of "
            f"{certificate['max_abs_difference']:.3g}; nothing was exported, please report this with the checkpoint"
        )
    manifest = {
        "source": {"name": checkpoint.name, "sha256": checkpoint.sha256, "format": checkpoint.format},
        "recipe": recipe.to_dict(),
        "form": "masked",
        "lstms": [describe(lstm, checkpoint, masks) for lstm in lstms],
        "totals": {key: {"before": value, "after": asdict(totals[1])[key]} for key, value in asdict(totals[0]).items()},
        "certificate": certificate,
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
    data = path.read_bytes()
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def certify(lstms: list[LSTM], expected: Mapping[str, Tensor], written: Mapping[str, Tensor]) -> dict[str, Any]:
    """Run the LSTMs as previewed and as written side by side: random input, zero state, all three outputs.

    Both are keyed by the names in the file. The masked form must agree exactly: the difference is 0.
    """
    drifts = []
    for lstm in lstms:
        inputs = random_input(lstm)
        drifts.append(difference(outputs(build(lstm, expected), inputs), outputs(build(lstm, written), inputs)))
    largest = max((drift.max_abs_difference for drift in drifts), default=0.0)
    return {
        "max_abs_difference": largest,
        "max_abs_output": max((drift.max_abs_output for drift in drifts), default=0.0),
        "sequence_length": SEQUENCE_LENGTH,
        "batch_size": BATCH_SIZE,
        "dtype": ", ".join(sorted({lstm.dtype for lstm in lstms})),
        "holds": largest == 0.0,
    }


def describe(lstm: LSTM, checkpoint: Checkpoint, masks: Mapping[str, Tensor]) -> dict[str, Any]:
    """One LSTM's entry in the manifest: how to build it, where its tensors lie, and what each layer keeps."""
    facts = asdict(lstm)
    facts["tensors"] = {standard: list(checkpoint.locations[name]) for standard, name in lstm.tensors.items()}
    names = lstm.weight_names()
    facts["layers"] = [
        {
            "layer": layer,
            "direction": "reverse" if direction else "forward",
            "hidden_size": {"before": lstm.hidden_size, "after": lstm.hidden_size},
            "kept_units": list(range(lstm.hidden_size)),
            "kept_rows": {
                block: int(kept)
                for side in SIDES
                for block, kept in zip(
                    BLOCKS[side], split_gates(masks[names[layer, direction, side]]).sum(1), strict=True
                )
            },
        }
        for layer in range(lstm.num_layers)
        for direction in range(lstm.directions)
    ]
    return facts
