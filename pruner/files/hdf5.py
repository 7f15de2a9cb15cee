"""The groups and arrays of an HDF5 file, with bounds on what a file can make its reader do.

The structure is read by pyfive, which follows whatever a file points to: it is given a file that ends after a number of
bytes, however often they are asked for. Arrays are not read by it at all: they are views of the bytes that lie in one piece.
"""

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pruner.errors import PrunerError, shown
from pruner.files import arrays

MAGIC = b"\x89HDF\r\n\x1a\n"
MAX_OBJECTS = 20_000  # groups and arrays
MAX_DEPTH = 30
MAX_STRUCTURE = 16 * 2**20  # bytes read of everything but arrays

Attribute = str | list[str] | np.ndarray  # an array of numbers

_CONTIGUOUS = 1
_NEVER_WRITTEN = 2**64 - 1


@dataclass(eq=False)
class Group:
    """A group: its groups and arrays by name, its attributes and those of its arrays, and what of it is not read."""

    groups: dict[str, "Group"] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    attributes: dict[str, Attribute] = field(default_factory=dict)
    array_attributes: dict[str, dict[str, Attribute]] = field(default_factory=dict)
    unread: list[str] = field(default_factory=list)  # names of arrays, and of attributes behind a @

    def text(self, name: str) -> str | None:
        value = self.attributes.get(name)
        return value if isinstance(value, str) else None

    def all_arrays(self, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], np.ndarray]]:
        """Every array in this group and those inside of it, with the names that lead to it."""
        for name, array in self.arrays.items():
            yield (*path, name), array
        for name, group in self.groups.items():
            yield from group.all_arrays((*path, name))


def read(data: memoryview, name: str) -> Group:
    """The root group of a file. Raises PrunerError for a damaged file, or one with arrays in pieces or compressed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about types of attributes that nobody asks for
            return _Reader(data, name).read()
    except PrunerError:
        raise
    except (
        Exception
    ) as error:  # a hostile file can raise anything from inside the library, and all of it means the same
        raise PrunerError(
            f"expected a complete HDF5 file, found a damaged one: {name} "
            f"({shown(str(error) or type(error).__name__, 160)}); save or download it again"
        ) from error


class _BoundedFile:
    """The bytes of a file as a file that is open for reading, until a number of them has been read."""

    def __init__(self, data: memoryview) -> None:
        self._data, self._place = data, 0
        self._left = min(2 * len(data) + 2**16, MAX_STRUCTURE)

    def read(self, size: int = -1) -> bytes:
        end = len(self._data) if size < 0 else min(self._place + size, len(self._data))
        found = bytes(self._data[self._place : max(self._place, min(end, self._place + self._left))])
        self._place += len(found)
        self._left -= max(len(found), 8)  # reading nothing without end is no better
        if self._left < 0:
            raise ValueError("more structure than the file has bytes")
        return found

    def seek(self, offset: int, whence: int = 0) -> int:
        self._place = offset + (0, self._place, len(self._data))[whence]
        return self._place

    def tell(self) -> int:
        return self._place


class _Reader:
    def __init__(self, data: memoryview, name: str) -> None:
        self._data, self._name, self._count = data, name, 0
        self._bytes_left = 2 * len(data)  # of arrays, which links can name any number of times

    def read(self) -> Group:
        import pyfive

        self._library = pyfive
        file = pyfive.File(_BoundedFile(self._data))
        self._base = int(file.userblock_size)
        return self._group(file, 0)

    def _group(self, group: Any, depth: int) -> Group:
        if depth > MAX_DEPTH:
            raise ValueError(f"groups nested more than {MAX_DEPTH} deep")
        found = Group()
        found.attributes = _attributes(group.attrs, "", found.unread)
        for name in group:
            self._count += 1
            if self._count > MAX_OBJECTS:
                raise ValueError(f"more than {MAX_OBJECTS:,} groups and arrays")
            item = group.get_lazy_view(name)
            if isinstance(item, self._library.Group):
                found.groups[name] = self._group(item, depth + 1)
            elif isinstance(item, self._library.Dataset) and (array := self._array(name, item)) is not None:
                found.arrays[name] = array
                found.array_attributes[name] = _attributes(item.attrs, name, found.unread)
            else:
                found.unread.append(name)
        return found

    def _array(self, name: str, dataset: Any) -> np.ndarray | None:
        """The numbers of a dataset, where they lie; None for what holds no numbers, or was never written."""
        identity, dtype = dataset.id, dataset.dtype
        if identity.shape is None or not isinstance(dtype, np.dtype) or not _is_of_numbers(dtype):
            return None
        shape = tuple(int(size) for size in identity.shape)
        if identity.layout_class != _CONTIGUOUS:
            # A counter of steps, say, may lie within the structure; what torch has no numbers for is nobody's weights.
            if math.prod(shape) <= 1 or arrays.dtype_name(dtype) is None:
                return None
            raise PrunerError(
                f"expected arrays in one piece, as Keras writes them, found {shown(name)} in chunks or compressed: "
                f"{self._name}; write it again with 'h5repack -l CONTI old.h5 new.h5'"
            )
        if identity.data_offset == _NEVER_WRITTEN:
            return None
        start = self._base + int(identity.data_offset)
        size = math.prod(shape) * dtype.itemsize
        self._bytes_left -= size
        if self._bytes_left < 0:
            raise ValueError("more arrays than the file has bytes")
        if size and start + size > len(self._data):
            raise ValueError(f"{name} ends after the file")
        return arrays.view(self._data[start : start + size], dtype, shape)


def _is_of_numbers(dtype: np.dtype) -> bool:
    return dtype.kind in "biufc" or dtype == arrays.BFLOAT16


def _attributes(attributes: Any, owner: str, unread: list[str]) -> dict[str, Attribute]:
    """Attributes that are text, lists of texts, or numbers; the names of others go to `unread`."""
    found: dict[str, Attribute] = {}
    for name, value in attributes.items():
        try:
            found[name] = _attribute(value)
        except TypeError:
            unread.append(f"{owner}@{name}")
    return found


def _attribute(value: object) -> Attribute:
    if isinstance(value, np.ndarray) and value.dtype.kind in "SOU":
        return [_text(item) for item in value.reshape(-1)]
    if isinstance(value, (np.ndarray, np.number, np.bool_)) and value.dtype.kind in "biuf":
        return np.asarray(value)
    return _text(value)


def _text(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if not isinstance(value, str):
        raise TypeError(f"expected a text, found a {type(value).__name__}")
    return value
