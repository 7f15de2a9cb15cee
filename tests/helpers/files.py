"""Files made on the spot: as bytes, and as checkpoints in a folder."""

import io
import zipfile
from collections.abc import Callable
from typing import Any

import safetensors.torch
import torch

from pruner.files import formats


def saved(container: Any, legacy: bool = False) -> bytes:
    """The bytes that torch.save writes, in the zip format or in that of PyTorch before 1.6."""
    file = io.BytesIO()
    torch.save(container, file, _use_new_zipfile_serialization=not legacy)
    return file.getvalue()


def saved_legacy(container: Any) -> bytes:
    """The bytes that torch.save wrote before PyTorch 1.6."""
    return saved(container, legacy=True)


SAVERS: dict[str, Callable[[Any], bytes]] = {
    formats.TORCH_ZIP: saved,
    formats.TORCH_LEGACY: saved_legacy,
    formats.SAFETENSORS: safetensors.torch.save,
}


def zipped(entries: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """A zip archive of these entries."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return file.getvalue()
