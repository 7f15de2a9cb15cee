"""A file's bytes, mapped and not copied, with their hash."""

import hashlib
import io
import mmap
import os
import shutil
import stat
import tempfile
import weakref
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import IO, Any, TypeVar

from pruner.errors import PrunerError

_AT_ONCE = 2**24

Item = TypeVar("Item")


class Source:
    """The bytes of a file. Tensors are views of `data`, which is private: writing there would not change the file.

    `file` stays open until the source is closed; the bytes stay. `isolated` says whether they are read in a process of
    their own.
    """

    isolated = False
    opened: tuple[Path, os.stat_result] | None = None  # what was opened, where that was a file, and what it was then
    data = memoryview(b"")  # in another process, which gets the facts alone

    descriptor: int | None = (
        None  # of the mapped file, open as long as the source is there: another process may map it, too
    )

    def __init__(self, data: mmap.mmap | bytearray, file: IO[bytes] | None = None) -> None:
        self.file = file
        self.data = memoryview(data)
        self.size = len(data)
        if file is not None and isinstance(data, mmap.mmap):
            self.descriptor = os.dup(file.fileno())
            weakref.finalize(self, os.close, self.descriptor)

    @cached_property
    def sha256(self) -> str:
        """Hashed when it is first asked for, and without keeping in memory what was only read for that."""
        digest = hashlib.sha256()
        for start in range(0, self.size, _AT_ONCE):
            digest.update(self.data[start : start + _AT_ONCE])
            let_go(self.data)
        return digest.hexdigest()

    def check_unchanged(self) -> None:
        """Raise PrunerError if the file was written to, or another took its place, since it was opened; one that is gone is
        still held as it was."""
        if self.opened is not None and _is_as(*self.opened) is False:
            raise PrunerError(
                f"expected {self.opened[0].name} as it was when it was opened, found that it has changed since; open it "
                "again"
            )

    def let_go(self) -> None:
        """Give back the memory of what was read, at the end of whatever has read much; it is read again when needed."""
        let_go(self.data)

    def in_turn(self, made: Iterator[Item]) -> Iterator[Item]:
        """What is made of the bytes, one after the other; these are let go each time, and nothing is kept for the next."""
        while (item := next(made, None)) is not None:
            self.let_go()
            yield item
            del item
            self.let_go()

    def close(self) -> None:
        if self.file is not None:
            self.file.close()
            self.file = None

    def __getstate__(self) -> dict[str, Any]:
        """Another process gets the facts, not the bytes."""
        return {"sha256": self.sha256, "size": self.size}


def open_source(
    source: str | os.PathLike[str] | bytes, as_file: bool = False, wanted: str = "a checkpoint file", own: bool = False
) -> Source:
    """Map the file at a path, or (`own`) a nameless copy; or hold bytes as they are, or (`as_file`) in a nameless file.

    Raises PrunerError for anything but a regular file, which says what was `wanted`, and without room for a copy.
    """
    if isinstance(source, bytes):
        return _from_bytes(source) if as_file else Source(bytearray(source))
    path = Path(source)
    try:
        file = open(path, "rb", opener=_open_at_once)  # noqa: SIM115 - the source closes it
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        found = "a folder" if isinstance(error, IsADirectoryError) else "no file"
        raise PrunerError(f"expected {wanted}, found {found}: {path}; check the path") from error
    except (OSError, ValueError) as error:
        raise PrunerError(f"expected {wanted}, found {error}: {path}; check its path and permissions") from error
    facts = os.fstat(file.fileno())
    if not stat.S_ISREG(facts.st_mode):
        file.close()
        raise PrunerError(f"expected {wanted}, found a pipe or a device: {path}; check the path")
    mapped = _mapped(_nameless(file) if own else file)
    if not own:
        mapped.opened = path.absolute(), facts
    return mapped


def mapped_again(descriptor: int) -> Source:
    """The same file by an open descriptor that another process sent, which is closed here."""
    source = _mapped(os.fdopen(descriptor, "rb"))
    source.close()
    return source


def _is_as(path: Path, before: os.stat_result) -> bool | None:
    """Whether there still is at a path what was opened there; None where there is nothing."""
    try:
        now = path.stat()
    except OSError:
        return None
    return all(getattr(now, each) == getattr(before, each) for each in ("st_ino", "st_size", "st_mtime_ns"))


def let_go(data: memoryview) -> None:
    """Give back the memory that parts of a mapped file take, which are read again when they are needed again."""
    if isinstance(data.obj, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        data.obj.madvise(mmap.MADV_DONTNEED)


def read_small(path: Path, most: int, wanted: str) -> bytes:
    """The bytes of a file that holds settings and no weights. Raises PrunerError for one of more than `most`."""
    source = open_source(path, wanted=wanted)
    source.close()
    if source.size > most:
        raise PrunerError(f"expected {wanted} of at most {most:,} bytes, found {source.size:,}: {path}; check the path")
    return bytes(source.data)


def _from_bytes(data: bytes) -> Source:
    return _mapped(_nameless(io.BytesIO(data)))


def _nameless(original: IO[bytes]) -> IO[bytes]:
    """A copy that no other process can truncate: whoever touches mapped bytes that are gone is killed (SIGBUS)."""
    file = tempfile.TemporaryFile()  # noqa: SIM115 - the source closes it
    try:
        with original:
            shutil.copyfileobj(original, file, _AT_ONCE)
        file.flush()
    except OSError as error:
        file.close()
        raise PrunerError(f"expected room for a temporary file, found {error}; free some and try again") from error
    return file


def _mapped(file: IO[bytes]) -> Source:
    size = os.fstat(file.fileno()).st_size
    try:
        return Source(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) if size else bytearray(), file)
    except (OSError, ValueError, OverflowError) as error:
        file.close()
        raise PrunerError(
            f"expected a file that this machine can map into memory, found one of {size:,} bytes ({error}); open a part of "
            "the model, or use a larger machine"
        ) from error


def _open_at_once(path: str, flags: int) -> int:
    """A pipe without a writer would keep us waiting."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
