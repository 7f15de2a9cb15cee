"""Tensors by name that are made when they are asked for, so that nobody holds a second model of full size."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

# Numbers. A piece of a megabyte stays in the cache and is written in a tenth of the time that one of eight takes.
_PIECE = 2**18

Value = TypeVar("Value", bound=Tensor | None)


@dataclass(frozen=True)
class Made:
    """A tensor that `make()` makes anew whenever it is asked for, `make(rows)` only some rows of it where it is made row by
    row. `like` has its shape and type, but no numbers: it lies on the device "meta"."""

    like: Tensor
    make: Callable[..., Tensor]
    by_rows: bool = False


class OnDemand(Mapping[str, Value]):
    """{name: tensor}, in which values can be `Made`: each access makes such a one, and nobody keeps it. None stands for what
    is no longer there."""

    def __init__(self, values: Mapping[str, Value | Made]) -> None:
        self._values = dict(values)

    def __getitem__(self, name: str) -> Value:
        value = self._values[name]
        return value.make() if isinstance(value, Made) else value  # type: ignore[return-value]

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def unmade(self) -> dict[str, Value | Made]:
        """The same as they are held here."""
        return dict(self._values)


def unmade(tensors: Mapping[str, Value]) -> dict[str, Value | Made]:
    """Any tensors by name, those that are made on demand still to be made."""
    return tensors.unmade() if isinstance(tensors, OnDemand) else dict(tensors)


def described(tensors: Mapping[str, Value]) -> dict[str, Value]:
    """The same with what has shape and type alone in place of those that are made on demand."""
    values = unmade(tensors).items()
    return {name: value.like if isinstance(value, Made) else value for name, value in values}  # type: ignore[misc]


def pieces(tensors: Mapping[str, Value], name: str) -> Iterator[Tensor]:
    """A tensor as blocks of rows one after the other, so small that memory is used again and again."""
    value = tensors.unmade()[name] if isinstance(tensors, OnDemand) else tensors[name]
    return iter(()) if value is None else pieces_of(value)


def pieces_of(value: Tensor | Made) -> Iterator[Tensor]:
    """The same of a tensor that is there or will be made."""
    if not isinstance(value, Made):
        make: Callable[..., Tensor] = value.__getitem__
    elif value.by_rows:
        make = value.make
    else:
        value = value.make()
        make = value.__getitem__
    like = value.like if isinstance(value, Made) else value
    if like.dim() == 0 or like.numel() <= _PIECE:
        yield value.make() if isinstance(value, Made) else value
        return
    step = max(1, _PIECE // math.prod(like.shape[1:]))
    for start in range(0, len(like), step):
        yield make(slice(start, start + step))


def without_numbers(tensor: Tensor) -> Tensor:
    """The shape and type of a tensor alone, on the device "meta"."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
