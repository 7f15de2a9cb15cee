"""A file's bytes, mapped and not copied, with their hash."""

import hashlib
import mmap
import os
import stat
from functools import cached_property
from pathlib import Path
from typing import Any

from pruner.errors import PrunerError

_HASHED_AT_ONCE = 2**24


class Source:
    """The bytes of a file. Tensors are views of `data`, which is private: writing there would not change the file."""

    def __init__(self, data: mmap.mmap | bytearray) -> None:
        self._whole = data
        self.data = memoryview(data)
        self.size = len(data)

    @cached_property
    def sha256(self) -> str:
        """Hashed when it is first asked for, and without keeping in memory what was only read for that."""
        digest = hashlib.sha256()
        for start in range(0, self.size, _HASHED_AT_ONCE):
            part = self.data[start : start + _HASHED_AT_ONCE]
            digest.update(part)
            if isinstance(self._whole, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
                self._whole.madvise(mmap.MADV_DONTNEED, start, len(part))
        return digest.hexdigest()

    def __getstate__(self) -> dict[str, Any]:
        """Another process gets the facts, not the bytes."""
        return {"sha256": self.sha256, "size": self.size}


def open_source(source: str | os.PathLike[str] | bytes) -> Source:
    """Map the file at a path, or hold bytes as they are. Raises PrunerError for anything but a regular file."""
    if isinstance(source, bytes):
        return Source(bytearray(source))
    path = Path(source)
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            return map_file(file.fileno(), path)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        found = "a folder" if isinstance(error, IsADirectoryError) else "no file"
        raise PrunerError(f"expected a checkpoint file, found {found}: {path}; check the path") from error
    except (OSError, ValueError) as error:
        raise PrunerError(f"expected a readable file, found {error}: {path}; check its path and permissions") from error


def map_file(descriptor: int, path: Path) -> Source:
    """Map an open file. Raises PrunerError if it is none that can be read again: a folder, a pipe, a device."""
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        found = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe or a device"
        raise PrunerError(f"expected a regular file, found {found}: {path}; check the path")
    return Source(mmap.mmap(descriptor, 0, access=mmap.ACCESS_COPY) if status.st_size else bytearray())


def _open_at_once(path: str, flags: int) -> int:
    """A pipe without a writer would keep us waiting."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
