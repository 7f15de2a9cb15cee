"""A file's bytes -> the arrays of inputs they hold, by name, without running anything that the file says."""

import csv
from typing import Any

import numpy as np

from pruner.errors import PrunerError, shown
from pruner.files import arrays, formats
from pruner.files.contents import Contents, Stored
from pruner.files.naming import check_dense, check_depth, tensor_in
from pruner.files.numpy_files import NPY_MAGIC, NPZ, read_arrays, read_npy
from pruner.files.zip_archive import Archive

MAX_BYTES = 2**31  # of all arrays of a file, unpacked, at the 8 bytes a number that the widest of them takes
SEQUENCE = "sequence"  # the CSV column that says which lines belong together
SAVE_ARRAYS = "save the inputs with numpy.save, numpy.savez, torch.save or safetensors, or as .csv"

_ZIP = b"PK"


def is_csv(data: memoryview, name: str) -> bool:
    """Whether to read a file line by line: text has no mark of its own, so its suffix says so."""
    return name.lower().endswith(".csv") and not bytes(data[:6]).startswith((NPY_MAGIC, _ZIP))


def read(data: memoryview, name: str) -> Contents:
    """{name in the file: its one array, or the sequences of a CSV file} of `.npy`, `.npz`, `.csv`, `.safetensors` or `.pt`.

    The arrays of a `.npy` or CSV file, or of a tensor saved alone, are called "". The format is told from the bytes. Raises
    PrunerError for everything that is not a safe and complete file of at most `MAX_BYTES`.
    """
    if not data and not is_csv(data, name):
        raise PrunerError(f"expected arrays of inputs, found an empty file: {name}; save or download it again")
    if is_csv(data, name):
        return Contents("CSV", {"": [arrays.stored(sequence) for sequence in _read_csv(data, name)]})
    if bytes(data[:6]) == NPY_MAGIC:
        found = Contents("NumPy", {"": read_npy(data, name)})
    elif bytes(data[:2]) == _ZIP and not (archive := Archive(data, name)).ending_with("/data.pkl"):
        found = Contents(NPZ, read_arrays(archive, name, MAX_BYTES))
    else:
        found = _read_tensors(data, name)
    if not found.container:
        raise PrunerError(f"expected arrays of inputs, found none: {name}; {SAVE_ARRAYS}")
    return Contents(found.format, {key: [tensor] for key, tensor in found.container.items()})


def _read_tensors(data: memoryview, name: str) -> Contents:
    try:
        found = formats.read(data, name)
        check_depth(found.container, name)
    except PrunerError as error:  # which speaks to someone who opens a model
        raise PrunerError(_to_owners_of_inputs(str(error))) from error
    named = found.container if isinstance(found.container, dict) else {"": found.container}
    tensors: dict[str, Stored] = {}
    for key, value in named.items():
        tensor = tensor_in(value)
        if not isinstance(key, str) or tensor is None:
            raise PrunerError(
                f"expected a tensor, or a dictionary of tensors by names, found {_kind(value)} under {shown(key)}: "
                f"{name}; {SAVE_ARRAYS}"
            )
        check_dense(tensor, key, name)
        tensors[key] = tensor
    return Contents(found.format, tensors)


def _to_owners_of_inputs(message: str) -> str:
    message = message.replace("expected a checkpoint in", "expected inputs in")
    return message.replace(formats.SAVE_WEIGHTS, SAVE_ARRAYS).replace(formats.OPENED, SAVE_ARRAYS)


def _kind(value: Any) -> str:
    return "a Tensor" if isinstance(value, Stored) else f"a {type(value).__name__}"


def _read_csv(data: memoryview, name: str) -> list[np.ndarray]:
    """The sequences of a CSV file, in the order in which they begin, each float64 (1, T, C): a line a step.

    A first line without a number is the header. The lines of one value in a column called `sequence` form a sequence;
    without that column all lines do. Raises PrunerError for lines that are no numbers or not equally long.
    """
    try:
        lines = str(data, "utf-8-sig").strip().splitlines()
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
        return [table[None]]
    number = table[:, grouped].astype(np.int64)
    order = np.argsort(number, kind="stable")
    sequences = np.split(np.delete(table, grouped, 1)[order], np.cumsum(np.bincount(number))[:-1])
    return [sequence[None] for sequence in sequences]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
