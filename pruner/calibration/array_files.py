"""A file's bytes -> the arrays of numbers they hold, without running anything that the file says."""

import csv
import io
import math
import warnings
import zipfile
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from pruner.errors import PrunerError, shown
from pruner.files import formats
from pruner.files.checkpoint import check_tensors

MAX_BYTES = 2**31  # of all arrays of a file, unpacked, at the 8 bytes a number that the widest of them takes
SEQUENCE = "sequence"  # the CSV column that says which lines belong together

_NPY = b"\x93NUMPY"
_ZIP = b"PK"
_NPY_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_SAVE_ARRAYS = "save the inputs with numpy.save, numpy.savez, torch.save or safetensors, or as .csv"


def is_csv(data: bytes, name: str) -> bool:
    """Whether to read a file line by line: text has no mark of its own, so its suffix says so."""
    return name.lower().endswith(".csv") and not data.startswith((_NPY, _ZIP))


def read_arrays(data: bytes, name: str) -> dict[str, Tensor]:
    """{name in the file: tensor of integers or floats, as stored} of `.npy`, `.npz`, `.safetensors`, `.pt` or `.pth`.

    The one array of a `.npy` file, or of a tensor saved alone, is called "". The format is told from the bytes. Raises
    PrunerError for everything that is not a safe and complete file of at most `MAX_BYTES`.
    """
    if data.startswith(_NPY):
        arrays = {"": _parse_npy(data, name)}
    elif data.startswith(_ZIP) and b"/data.pkl" not in data:  # which torch.save writes into every archive
        arrays = _read_npz(data, name)
    else:
        arrays = _read_tensors(data, name)
    if not arrays:
        raise PrunerError(f"expected arrays of inputs, found none: {name}; {_SAVE_ARRAYS}")
    for key, array in arrays.items():
        if array.dtype == torch.bool or array.is_complex():
            raise PrunerError(
                f"expected integers or floats, found {_called(key)} of {array.dtype}: {name}; convert it before saving"
            )
    _check_size(sum(8 * array.numel() for array in arrays.values()), name)
    return arrays


def read_csv(data: bytes, name: str) -> list[Tensor]:
    """The sequences of a CSV file, in the order in which they begin, each float64 (1, T, C): a line a step.

    A first line without a number is the header. The lines of one value in a column called `sequence` form a sequence;
    without that column all lines do. Raises PrunerError for lines that are no numbers or not equally long.
    """
    try:
        lines = data.decode("utf-8-sig").strip().splitlines()
        first = [field.strip() for field in next(csv.reader(lines[:1]), [])]
        has_header = SEQUENCE in first or not any(map(_is_number, first))
        grouped = first.index(SEQUENCE) if SEQUENCE in first else None
        known: dict[str, int] = {}
        rows = lines[1:] if has_header else lines
        if not rows:
            raise ValueError("none")
        table = np.loadtxt(
            rows,
            delimiter=",",
            comments=None,
            quotechar='"',
            ndmin=2,
            converters=None if grouped is None else {grouped: lambda text: known.setdefault(text.strip(), len(known))},
        )
    except (ValueError, IndexError, csv.Error) as error:
        found = str(error).partition("; use")[0]  # numpy's own advice is for those who call it
        raise PrunerError(
            f"expected lines of comma-separated numbers, all of one length, found {shown(found, 120)}: {name}; "
            "write one line a step, one column an input, a point in decimals"
        ) from error
    if has_header and table.shape[1] != len(first):
        raise PrunerError(
            f"expected {len(first)} numbers a line, as the header says, found {table.shape[1]}: {name}; "
            "give every column a name"
        )
    if grouped is None:
        return [torch.from_numpy(table)[None]]
    number = table[:, grouped].astype(np.int64)
    order = np.argsort(number, kind="stable")
    sequences = np.split(np.delete(table, grouped, 1)[order], np.cumsum(np.bincount(number))[:-1])
    return [torch.from_numpy(sequence)[None] for sequence in sequences]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _parse_npy(data: bytes, name: str) -> Tensor:
    """The array of a `.npy` file, whose header must promise exactly the bytes that follow it."""
    file = io.BytesIO(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about headers that Python 2 wrote
            shape, fortran_order, dtype = _NPY_HEADERS[np.lib.format.read_magic(file)](file)
    except Exception as error:  # a hostile header can raise anything from inside the parser
        raise PrunerError(
            f"expected a complete .npy array of numbers, found a damaged header: {name}; save or download it again"
        ) from error
    if dtype.kind not in "fiu":
        raise PrunerError(
            f"expected an array of integers or floats, found {shown(str(dtype))}: {name}; convert it with .astype first"
        )
    claimed, held = math.prod(shape) * dtype.itemsize, len(data) - file.tell()
    if claimed != held or min(shape, default=0) < 0:
        raise PrunerError(
            f"expected {shown(claimed)} bytes, as the header says of shape {shown(shape)}, found {held}: {name}; "
            "save or download it again"
        )
    if len(shape) > 3:
        raise PrunerError(
            f"expected at most 3 dimensions, found shape {shown(shape)}: {name}; reshape it before saving"
        )
    array = np.frombuffer(data, dtype, offset=file.tell()).reshape(shape, order="F" if fortran_order else "C")
    native = np.dtype(np.float64) if dtype.itemsize > 8 else dtype.newbyteorder("=")  # torch has no longer floats
    return torch.from_numpy(array.astype(native, order="C"))


def _read_npz(data: bytes, name: str) -> dict[str, Tensor]:
    """The arrays of a `.npz` file, unpacked only as far as its directory promises."""
    arrays = {}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            _check_size(sum(entry.file_size for entry in entries), name)
            for entry in entries:
                key = entry.filename.removesuffix(".npy")
                if key in arrays:
                    raise PrunerError(f"expected each array once, found two called {shown(key)}: {name}; rename one")
                # numpy writes these two; the others unpack without a limit.
                if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise zipfile.BadZipFile
                with archive.open(entry) as file:
                    arrays[key] = _parse_npy(file.read(entry.file_size), f"{shown(key)} in {name}")
    except PrunerError:
        raise
    except Exception as error:  # a damaged archive can raise anything
        raise PrunerError(
            f"expected a complete .npz archive, found a truncated or damaged one: {name}; save or download it again"
        ) from error
    return arrays


def _read_tensors(data: bytes, name: str) -> dict[str, Tensor]:
    if not data:
        raise PrunerError(f"expected arrays of inputs, found an empty file: {name}; save or download it again")
    try:
        container = formats.read(data, name).container
    except PrunerError as error:  # which speaks to someone who opens a model
        raise PrunerError(str(error).replace(formats.SAVE_WEIGHTS, _SAVE_ARRAYS)) from error
    named = container if isinstance(container, Mapping) else {"": container}
    for key, value in named.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise PrunerError(
                f"expected a tensor, or a dictionary of tensors by names, found a {type(value).__name__} under "
                f"{shown(key)}: {name}; {_SAVE_ARRAYS}"
            )
    tensors = {key: Tensor.detach(value) for key, value in named.items()}
    check_tensors(tensors, len(data), name)
    return tensors


def _check_size(claimed: int, name: str) -> None:
    if claimed > MAX_BYTES:
        raise PrunerError(
            f"expected at most {MAX_BYTES:,} bytes of arrays, found {claimed:,}: {name}; keep fewer sequences"
        )


def _called(key: str) -> str:
    return shown(key) if key else "an array"
