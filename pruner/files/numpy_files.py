"""NumPy's own files: `.npy` holds one array, `.npz` is a zip archive of them."""

import math
import re

from pruner.errors import PrunerError, shown
from pruner.files.contents import WIDTHS, Contents, Storage, Stored, check_sizes, contiguous
from pruner.files.known_names import NUMPY_TYPES
from pruner.files.zip_archive import Archive

NPZ = "NumPy archive"
NPY_MAGIC = b"\x93NUMPY"

_MAX_HEADER = 10_000
_LENGTHS = {b"\1\0": 2, b"\2\0": 4, b"\3\0": 4}  # bytes of the header's length, by the version of the format
_HEADER = re.compile(
    r"\{'descr': '([<>|=]?)(\w{2,3})', 'fortran_order': (True|False), 'shape': \(([\d, L]{0,2000})\),? ?\}\s*"
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
    return {
        entry.removesuffix(".npy"): read_npy(archive.unpacked(entry, most), f"{shown(entry)} in {name}")
        for entry in archive.entries
    }


def read_npy(data: memoryview, name: str) -> Stored:
    """The array of a `.npy` file, in place. Raises PrunerError unless its header promises exactly the bytes that follow."""
    width = _LENGTHS.get(bytes(data[6:8]), 0)
    start = 8 + width
    length = int.from_bytes(data[8:start], "little")
    header = bytes(data[start : start + length]) if width and length <= _MAX_HEADER else b""
    found = _HEADER.fullmatch(header.decode("latin-1"))
    if bytes(data[:6]) != NPY_MAGIC or len(header) != length or not header:
        raise PrunerError(
            f"expected a complete .npy array of numbers, found a damaged header: {name}; save or download it again"
        )
    known = NUMPY_TYPES.get(found[2]) if found else None
    if found is None or known is None:
        kind = re.search(r"'descr': ([^,]*)", header.decode("latin-1"))
        raise PrunerError(
            f"expected an array of integers or floats, found {shown(kind[1] if kind else 'another')}: {name}; convert it "
            "with .astype first"
        )
    held = data[start + length :]
    try:
        shape = check_sizes(tuple(int(size) for size in re.findall(r"\d{1,20}", found[4])))
        claimed = math.prod(shape) * WIDTHS[known[0]]
    except ValueError:
        shape, claimed = (), -1
    if claimed != len(held):
        raise PrunerError(
            f"expected the bytes that the header says of shape ({shown(found[4])}), found {len(held):,}: {name}; "
            "save or download it again"
        )
    stride = contiguous(shape[::-1])[::-1] if found[3] == "True" else contiguous(shape)
    return Stored(Storage(held, found[1] == ">"), known[0], shape, stride)
