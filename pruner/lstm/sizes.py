"""The one place that counts: parameters, multiply-accumulates and bytes of tensors.

Only shapes and dtypes are looked at, so tensors on the device "meta", which hold no values, are counted like any others.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Size:
    """Parameters of a whole file, multiply-accumulates of its LSTMs for one time step, and bytes of its tensors."""

    parameters: int
    macs_per_step: int
    tensor_bytes: int


def size(tensors: Mapping[str, Tensor], lstms: Iterable[Iterable[str]]) -> Size:
    """The size of a file: all its tensors by name, and for each LSTM in it the names of its tensors."""
    return Size(
        parameters=parameters(tensors.values()),
        macs_per_step=macs_per_step(tuple(tensors[name].shape) for names in lstms for name in names),
        tensor_bytes=sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()),
    )


def parameters(tensors: Iterable[Tensor]) -> int:
    """How many numbers there are to train: those of floating point. Integers are positions, counters and indices."""
    return sum(tensor.numel() for tensor in tensors if tensor.is_floating_point() or tensor.is_complex())


def parameters_in(shapes: Iterable[Shape]) -> int:
    """The same of tensors of floating point that are known by their shapes only."""
    return sum(map(math.prod, shapes))


def macs_per_step(shapes: Iterable[Shape]) -> int:
    """Multiply-accumulates of the matrix products of one time step, batch 1, from the shapes of an LSTM's tensors.

    One for every weight of every matrix, as each is multiplied once, zeros like any other number; none for biases and
    indices, which have one dimension.
    """
    return sum(math.prod(shape) for shape in shapes if len(shape) == 2)
