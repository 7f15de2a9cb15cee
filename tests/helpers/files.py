"""Files made on the spot: as bytes, and as checkpoints in a folder."""

import hashlib
import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from pruner.files import formats
from pruner.files.checkpoint import Checkpoint
from pruner.files.opening import open_checkpoint


def saved(container: Any, legacy: bool = False) -> bytes:
    """The bytes that torch.save writes, in the zip format or in that of PyTorch before 1.6."""
    file = io.BytesIO()
    torch.save(container, file, _use_new_zipfile_serialization=not legacy)
    return file.getvalue()


def saved_legacy(container: Any) -> bytes:
    """The bytes that torch.save wrote before PyTorch 1.6."""
    return saved(container, legacy=True)


def npy(array: Any) -> bytes:
    """A `.npy` file of an array."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def npz(arrays: dict[str, Any], compress: bool = False) -> bytes:
    """A `.npz` archive of arrays by their names."""
    file = io.BytesIO()
    (np.savez_compressed if compress else np.savez)(file, **arrays)
    return file.getvalue()


SAVERS: dict[str, Callable[[Any], bytes]] = {
    formats.TORCH_ZIP: saved,
    formats.TORCH_LEGACY: saved_legacy,
    formats.SAFETENSORS: safetensors.torch.save,
}


def zipped(*entries: tuple[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """A zip archive of these entries, in this order, even where two have one name."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return file.getvalue()


def saved_in(folder: Path, container: Any, suffix: str = "pt") -> Checkpoint:
    """The checkpoint `model.pt`, or `model.safetensors`, saved in a folder and opened."""
    path = folder / f"model.{suffix}"
    (safetensors.torch.save_file if suffix == "safetensors" else torch.save)(container, path)
    return open_checkpoint(path)


class Payload:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (self.command,)


def hashes_of(folder: Path) -> dict[str, str]:
    """What lies in a folder at any depth: the SHA-256 of each file by its path, `folder` for a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in folder.rglob("*")
    }


def entries_of(data: bytes) -> dict[str, bytes]:
    """{name: bytes} of a zip archive."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}
