"""NumPy's own files: `.npy` holds one array, `.npz` is a zip archive of them."""

import math
import re

import numpy as np

from pruner.errors import PrunerError, shown
from pruner.files.contents import WIDTHS, Contents, Storage, Stored, check_sizes, contiguous
from pruner.files.known_names import NUMPY_TYPES
from pruner.files.zip_archive import Archive

NPZ = "NumPy archive"
NPY_MAGIC = b"\x93NUMPY"

_MAX_HEADER = 10_000
_LONG_DOUBLES = ("<f16", "<f12")
_LENGTHS = {b"\1\0": 2, b"\2\0": 4, b"\3\0": 4}  # bytes of the header's length, by the version of the format
_HEADER = re.compile(
    r"\{'descr': ('[^']{0,20}'|\[[^\]]{0,10000}\]), 'fortran_order': (True|False), 'shape': \(([-\d, L]{0,10000})\),? ?\}\s*"
)


def read_npz(archive: Archive, name: str) -> Contents:
    """The arrays of an archive by their names in it."""
    return Contents(NPZ, read_arrays(archive, name, 2 * archive.size + 2**27))


def read_arrays(archive: Archive, name: str, most: int) -> dict[str, Stored]:
    """{name: array} of an archive. Raises PrunerError for one that unpacks to more than `most` bytes, or holds others."""
    unpacked = sum(entry.unpacked for entry in archive.entries.values())
    if unpacked > most:
        raise PrunerError(
            f"expected at most {most:,} bytes of arrays, found {unpacked:,}: {name}; keep fewer, or save them uncompressed"
        )
    found: dict[str, Stored] = {}
    for entry in archive.entries:
        key = entry.removesuffix(".npy")
        if key in found:
            raise PrunerError(f"expected each array once, found two called {shown(key)}: {name}; rename one")
        found[key] = read_npy(archive.unpacked(entry, most), f"{shown(key)} in {name}")
    return found


def read_npy(data: memoryview, name: str) -> Stored:
    """The array of a `.npy` file, in place. Raises PrunerError unless its header promises exactly the bytes that follow."""
    width = _LENGTHS.get(bytes(data[6:8]), 0)
    start = 8 + width
    length = int.from_bytes(data[8:start], "little")
    header = bytes(data[start : start + length]) if length <= _MAX_HEADER else b""
    found = _HEADER.fullmatch(header.decode("latin-1"))
    if bytes(data[:6]) != NPY_MAGIC or not width or len(header) != length or found is None:
        raise PrunerError(
            f"expected a complete .npy array of numbers, found a damaged header: {name}; save or download it again"
        )
    kind, fortran, sizes = found.groups()
    held = data[start + length :]
    code = kind.strip("'")
    known = NUMPY_TYPES.get(code.lstrip("<>|="))
    if code in _LONG_DOUBLES:
        known, held = NUMPY_TYPES["f8"], _shortened(held, code)
    if known is None:
        raise PrunerError(
            f"expected an array of integers or floats, found {kind[:60]}: {name}; convert it with .astype first"
        )
    shape = tuple(map(int, re.findall(r"-?\d{1,20}", sizes)[:100]))
    if min(shape, default=0) >= 0 and math.prod(shape) * WIDTHS[known[0]] == len(held) and not _is_shape(shape):
        raise PrunerError(
            f"expected an array that fits in memory, found one of shape {shown(shape)}: {name}; reshape it"
        )
    if not _is_shape(shape) or math.prod(shape) * WIDTHS[known[0]] != len(held):
        raise PrunerError(
            f"expected {shown(math.prod(shape) * WIDTHS[known[0]])} bytes, as the header says of shape {shown(shape)}, "
            f"found {len(held)}: {name}; save or download it again"
        )
    stride = contiguous(shape[::-1])[::-1] if fortran == "True" else contiguous(shape)
    return Stored(Storage(held, code[:1] == ">"), known[0], shape, stride)


def _shortened(data: memoryview, code: str) -> memoryview:
    """Long doubles as float64: torch has no longer numbers."""
    whole = len(data) // np.dtype(code).itemsize * np.dtype(code).itemsize
    return memoryview(np.frombuffer(data[:whole], code).astype(np.float64).tobytes())


def _is_shape(sizes: tuple[int, ...]) -> bool:
    try:
        return bool(check_sizes(sizes)) or not sizes
    except ValueError:
        return False
