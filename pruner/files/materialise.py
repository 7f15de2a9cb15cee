"""Described tensors -> torch tensors, which are views of the file's bytes wherever they can be."""

import sys
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pruner.errors import PrunerError
from pruner.files.contents import Quantizer, Storage, Stored

MAX_DEPTH = 200  # nested containers; checkpoints need about ten


class Materialiser:
    """Makes each storage and tensor once, so that what is tied in a file is tied in memory. `name` is the file's."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._made: dict[int, Any] = {}
        self._kept: list[Any] = []  # what the keys of `_made` belong to, which must not be freed meanwhile
        self._bytes: dict[tuple[int, int], Tensor] = {}
        self.computed = 0  # bytes of arrays that do not lie in the file as they are

    def container(self, value: Any, depth: int = 0) -> Any:
        """The value with tensors in place of their descriptions; its own lists and dictionaries are filled anew."""
        if not isinstance(value, (dict, list, tuple, Stored, np.ndarray)):
            return value
        if id(value) in self._made:
            return self._made[id(value)]
        if depth > MAX_DEPTH:
            raise PrunerError(
                f"expected a dictionary of tensors, found containers nested more than {MAX_DEPTH} deep: {self._name}; "
                "save the weights alone"
            )
        self._kept.append(value)
        self._made[id(value)] = value
        if isinstance(value, (Stored, np.ndarray)):
            self._made[id(value)] = self.tensor(value)
        elif isinstance(value, tuple):
            made = tuple(self.container(item, depth + 1) for item in value)
            if any(new is not old for new, old in zip(made, value, strict=True)):
                self._made[id(value)] = made
        elif isinstance(value, dict):
            for key, item in list(value.items()):
                value[key] = self.container(item, depth + 1)
        else:
            value[:] = [self.container(item, depth + 1) for item in value]
        return self._made[id(value)]

    def tensor(self, stored: Stored | np.ndarray) -> Tensor:
        """The tensor of a description. Raises PrunerError for one that reaches out of its storage."""
        if isinstance(stored, np.ndarray):
            self.computed += stored.nbytes
            return torch.from_numpy(np.ascontiguousarray(stored))
        dtype = getattr(torch, stored.dtype)
        flat = self._storage(stored.storage, dtype)
        last = stored.offset + sum((size - 1) * step for size, step in zip(stored.shape, stored.stride, strict=True))
        smallest = min(stored.offset, *stored.shape, *stored.stride, 0)
        if smallest < 0 or (0 not in stored.shape and last >= len(flat)):
            raise PrunerError(
                f"expected a tensor within its {len(flat):,} stored numbers, found one of shape {stored.shape}: "
                f"{self._name} is damaged; save or download it again"
            )
        tensor = flat.as_strided(stored.shape, stored.stride, stored.offset)
        if stored.quantizer:
            tensor = _dequantized(tensor, stored.quantizer)
        differentiable = stored.requires_grad and (tensor.is_floating_point() or tensor.is_complex())
        return nn.Parameter(tensor, differentiable) if stored.parameter else tensor.requires_grad_(differentiable)

    def _storage(self, storage: Storage, dtype: torch.dtype) -> Tensor:
        """All numbers of a storage, in place if they can be used as they lie there."""
        turned = storage.big_endian != (sys.byteorder == "big")
        width = dtype.itemsize // (2 if dtype.is_complex else 1) if turned else 1
        key = id(storage), width
        if key not in self._bytes:
            self._kept.append(storage)
            data = storage.data.cast("B")
            if data.readonly or width > 1:  # torch has no tensors that cannot be written to
                data = memoryview(bytearray(data))
            raw = torch.frombuffer(data, dtype=torch.uint8) if len(data) else torch.empty(0, dtype=torch.uint8)
            if width > 1:
                whole = raw.numpy()[: len(raw) // width * width].view(f"u{width}")
                whole.byteswap(inplace=True)
            self._bytes[key] = raw
        raw = self._bytes[key]
        if raw.data_ptr() % dtype.itemsize:
            raw = self._bytes[key] = raw.clone()
        return raw[: len(raw) // dtype.itemsize * dtype.itemsize].view(dtype)


def _dequantized(integers: Tensor, quantizer: Quantizer) -> Tensor:
    scales, zero_points = torch.tensor(quantizer.scales), torch.tensor(quantizer.zero_points)
    if quantizer.axis is not None:
        shape = [-1 if axis == quantizer.axis else 1 for axis in range(integers.dim())]
        scales, zero_points = scales.reshape(shape), zero_points.reshape(shape)
    return (integers.float() - zero_points) * scales
