"""Tensors by name that are made when they are asked for, so that nobody holds a second model of full size."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

Value = TypeVar("Value", bound=Tensor | None)


@dataclass(frozen=True)
class Made:
    """A tensor that `make()` makes anew whenever it is asked for. `like` has its shape and type, but no numbers: it lies on
    the device "meta"."""

    like: Tensor
    make: Callable[[], Tensor]


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


def without_numbers(tensor: Tensor) -> Tensor:
    """The shape and type of a tensor alone, on the device "meta"."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
