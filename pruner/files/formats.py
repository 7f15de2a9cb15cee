"""A file's bytes -> the Python container of tensors they hold, without running anything that the file says.

The format is told from the bytes, never from the suffix. Sizes and structure are checked before loading, and pickles are
only ever read by `torch.load(weights_only=True)`, whose unpickler builds tensors and plain containers and calls nothing
else (https://docs.pytorch.org/docs/stable/notes/serialization.html#weights-only).
"""

import io
import json
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors

from pruner.errors import PrunerError
from pruner.files.contents import Contents
from pruner.files.pickle_scan import MAX_DEPTH, MalformedPickle, scan
from pruner.files.zip_archive import Archive

ALL = SAFETENSORS, TORCH_ZIP, TORCH_LEGACY = "safetensors", "torch zip", "torch legacy"
SAVE_WEIGHTS = "save the weights alone with torch.save(model.state_dict(), path) and open that file"

_LEGACY_MAGIC = bytes.fromhex("8a0a6cfc9c46f9206aa85019")  # pickled torch.serialization.MAGIC_NUMBER
_LEGACY_PICKLES = 5  # magic number, protocol, system, the object, the keys of its storages
_MAX_SAFETENSORS_HEADER = 100_000_000  # the limit of the safetensors format itself
_FOREIGN_FORMATS = (
    (b"\x89HDF", "an HDF5 file (Keras, perhaps)", "export the model from its own framework to a PyTorch state dict"),
    (b"\x1f\x8b", "a gzip archive", "unpack it and open the checkpoint inside"),
    (b"BZh", "a bzip2 archive", "unpack it and open the checkpoint inside"),
    (b"\xfd7zXZ", "an xz archive", "unpack it and open the checkpoint inside"),
    (b"\x93NUMPY", "a NumPy array", "open the checkpoint of the model instead"),
    (b"GGUF", "a GGUF file", "open the PyTorch or safetensors checkpoint it was made from"),
    (b"version https://git-lfs", "a Git LFS pointer", "fetch the file itself with 'git lfs pull'"),
    (b"<", "a web page or XML", "download the file itself, not the page that shows it"),
)


@dataclass(frozen=True)
class Format:
    """How to tell a format from the bytes of a file, and how to read it: (the bytes, the file's name) -> its contents."""

    matches: Callable[[memoryview], bool]
    read: Callable[[memoryview, str], Contents]


# To add a format, write a module beside this one whose `read` returns Contents or raises PrunerError, and one line here; the
# first that matches is taken. For a kind of zip archive, add a line to `ZIPPED` instead: the end of an entry's name that
# only this kind has, and a reader of the open archive. Readers import neither torch nor anything that imports it, and
# libraries of their own when they are called. What they build must not take more than a few times the bytes that they read.
FORMATS = (
    Format(lambda data: data[:2] == b"PK", lambda data, name: _read_zip(data, name)),
    Format(lambda data: _LEGACY_MAGIC in bytes(data[:16]), lambda data, name: _read_legacy(data, name)),
    Format(lambda data: data[8:9] == b"{", lambda data, name: _read_safetensors(data, name)),
)
ZIPPED: dict[str, Callable[[Archive, str], Contents]] = {}


def read(data: bytes | memoryview, name: str) -> Contents:
    """Read the bytes of a checkpoint. Raises PrunerError for everything that is not a safe and complete one."""
    data = memoryview(data)
    if not data:
        raise PrunerError(f"expected a checkpoint, found an empty file: {name}; save or download it again")
    found = next((format_ for format_ in FORMATS if format_.matches(data)), None)
    if found is None:
        raise PrunerError(
            f"expected a PyTorch or safetensors checkpoint, found {_what_else(bytes(data[:512]))}: {name}"
        )
    return found.read(data, name)


def _read_zip(data: memoryview, name: str) -> Contents:
    archive = Archive(data, name)
    for end, reader in ZIPPED.items():
        if archive.ending_with(end):
            return reader(archive, name)
    whole = bytes(data)
    _check_zip(whole, name)
    return Contents(TORCH_ZIP, _load_torch(whole, name, _zip_pickle(whole), 1))


def _read_legacy(data: memoryview, name: str) -> Contents:
    whole = bytes(data)
    return Contents(TORCH_LEGACY, _load_torch(whole, name, whole, _LEGACY_PICKLES))


def _what_else(data: bytes) -> str:
    for start, what, remedy in _FOREIGN_FORMATS:
        if data.startswith(start):
            return f"{what}; {remedy}"
    if data[257:262] == b"ustar":
        return "a tar archive; unpack it and open the checkpoint inside"
    if data[:1] == b"\x80":
        return f"a raw pickle, which can run any code when it is loaded; {SAVE_WEIGHTS}"
    return f"bytes of no known format (they begin with {data[:8].hex(' ')}); {SAVE_WEIGHTS}"


def _read_safetensors(view: memoryview, name: str) -> Contents:
    data = bytes(view)
    length = int.from_bytes(data[:8], "little")
    if length > min(_MAX_SAFETENSORS_HEADER, len(data) - 8):
        raise PrunerError(
            f"expected a safetensors header of {length:,} bytes, found {len(data) - 8:,} bytes left in the file: {name} "
            "is truncated or not a safetensors file; save or download it again"
        )
    try:
        container = load_safetensors(data)
        metadata = json.loads(data[8 : 8 + length]).get("__metadata__", {})
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise PrunerError(
            f"expected a complete safetensors file, found a damaged one: {name} ({_first_line(error)}); "
            "save or download it again"
        ) from error
    return Contents(SAFETENSORS, container, metadata)


def _check_zip(data: bytes, name: str) -> None:
    """Refuse archives that are not plain checkpoints: damaged, TorchScript, or larger unpacked than packed."""
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError) as error:
        raise _damaged(name) from error
    if not _directory_offsets(data) <= {archive.start_dir, 0xFFFFFFFF}:
        raise _damaged(name)  # the directory that torch reads is another than the one checked here
    entries = archive.infolist()
    files = [entry.filename for entry in entries]
    if any(file.endswith("/constants.pkl") for file in files):
        raise PrunerError(
            f"expected a state dict, found a TorchScript archive: {name}; a script can run any code, so it is not opened. "
            "Save its weights with torch.save(torch.jit.load(path).state_dict(), new_path) and open that file"
        )
    if sum(file.endswith("/data.pkl") for file in files) != 1:
        shown = ", ".join(files[:3]) or "nothing"
        raise PrunerError(
            f"expected a PyTorch checkpoint, found a zip archive of other things ({shown}): {name}; {SAVE_WEIGHTS}"
        )
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > len(data):
        raise PrunerError(
            f"expected stored entries as torch.save writes them, found {len(data):,} bytes that unpack to {unpacked:,}: "
            f"{name}; save it again with torch.save"
        )


def _directory_offsets(data: bytes) -> set[int]:
    """Where the end records of a zip say that its directory starts, which is where torch reads it.

    Python's zipfile takes the directory that lies before the records, wherever they point. The layout is that of
    torch.save: an end record of 22 bytes without a comment, and before it the locator and record of zip64, if any.
    """
    offsets = {int.from_bytes(data[-6:-2], "little")} if data[-22:-18] == b"PK\5\6" else {-1}
    if data[-42:-38] == b"PK\6\7":
        record = int.from_bytes(data[-34:-26], "little")
        offsets.add(int.from_bytes(data[record + 48 : record + 56], "little"))
    return offsets


def _zip_pickle(data: bytes) -> bytes:
    """The pickle inside a checkpoint; nothing where it cannot be read."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return archive.read(next(file for file in archive.namelist() if file.endswith("/data.pkl")))
    except Exception:  # a damaged archive can raise anything
        return b""


def _load_torch(data: bytes, name: str, pickled: bytes, pickles: int) -> Any:
    try:
        found = scan(pickled, pickles)
    except MalformedPickle as error:
        raise _damaged(name) from error
    if found.strangers:
        listed = ", ".join(f"{name[:60]}…" if len(name) > 60 else name for name in found.strangers[:3])
        listed += ", …" if len(found.strangers) > 3 else ""
        raise PrunerError(
            f"expected a dictionary of tensors, found pickled Python objects ({listed}): {name}; loading those could run "
            f"any code. In a place where you trust the file, {SAVE_WEIGHTS}"
        )
    if found.depth > MAX_DEPTH:
        raise PrunerError(
            f"expected a dictionary of tensors, found containers nested {found.depth:,} deep: {name}; {SAVE_WEIGHTS}"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about deprecated storage types in old files
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    # A hostile pickle can raise anything from inside the unpickler, and all of it means the same to the reader.
    except Exception as error:
        raise _damaged(name) from error


def _damaged(name: str) -> PrunerError:
    return PrunerError(
        f"expected a complete PyTorch checkpoint, found a truncated or damaged one: {name}; save or download it again"
    )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:160]
