"""NumPy arrays -> described tensors, and back from the bytes of a file."""

import math

import numpy as np

from pruner.files.contents import Storage, Stored

BFLOAT16 = np.dtype("V2")  # NumPy has no such numbers; they are moved about, never computed with

DTYPES = {
    "bool": np.dtype(np.bool_),
    "uint8": np.dtype(np.uint8),
    "int8": np.dtype(np.int8),
    "int16": np.dtype(np.int16),
    "int32": np.dtype(np.int32),
    "int64": np.dtype(np.int64),
    "float16": np.dtype(np.float16),
    "bfloat16": BFLOAT16,
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
}
FLOATS = ("float16", "bfloat16", "float32", "float64")

_MAX_RANK = 16


def stored(array: np.ndarray) -> Stored:
    """An array as a described tensor of its own. It is copied only where its numbers do not lie in order."""
    array = np.ascontiguousarray(array, array.dtype.newbyteorder("="))
    name = next(name for name, dtype in DTYPES.items() if dtype == array.dtype)
    data = array.reshape(-1).view(np.uint8).data
    stride = tuple(math.prod(array.shape[axis + 1 :]) for axis in range(array.ndim))
    return Stored(Storage(data), name, array.shape, stride)


def dtype_name(dtype: np.dtype) -> str | None:
    """What torch calls numbers of this type; None for what it has no name for."""
    return next((name for name, known in DTYPES.items() if known == dtype.newbyteorder("=")), None)


def view(data: memoryview, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """The array that some bytes are, without a copy. Raises ValueError if they are not exactly as many as it needs."""
    if len(shape) > _MAX_RANK or min(shape, default=0) < 0 or max(shape, default=0) >= 2**48:
        raise ValueError(f"no array has the shape {shape}")
    if math.prod(shape) * dtype.itemsize != len(data):
        raise ValueError(f"{len(data):,} bytes are not an array of shape {shape}")
    return np.frombuffer(data, dtype).reshape(shape)
