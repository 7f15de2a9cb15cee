"""Described tensors -> torch tensors, which are views of the file's bytes wherever they can be."""

import sys
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pruner.errors import PrunerError, shown
from pruner.files.contents import WIDTHS, Name, Quantizer, StandIn, Storage, Stored, check_view
from pruner.files.source import let_go


class Materialiser:
    """Makes each storage and tensor once, so that what is tied in a file is tied in memory. `name` is the file's."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._made: dict[int, Any] = {}
        self._kept: list[Any] = []  # what the keys of `_made` belong to, which must not be freed meanwhile
        self._bytes: dict[tuple[int, int], Tensor] = {}

    @property
    def held(self) -> int:
        """Bytes of all storages, those of the file and those that a reader computed."""
        return sum(raw.numel() for raw in self._bytes.values())

    def container(self, value: Any) -> Any:
        """A plain container of limited depth with tensors in place of their descriptions; it is filled anew itself."""
        if not isinstance(value, (dict, list, tuple, Stored, Name, StandIn, memoryview)):
            return value
        if id(value) in self._made:
            return self._made[id(value)]
        self._kept.append(value)
        self._made[id(value)] = value
        if isinstance(value, tuple):
            made = tuple(map(self.container, value))
            if any(new is not old for new, old in zip(made, value, strict=True)):
                self._made[id(value)] = made
        elif isinstance(value, dict):
            for attributes in (value, vars(value)) if isinstance(value, OrderedDict) else (value,):
                for key, item in attributes.items():
                    attributes[key] = self.container(item)
        elif isinstance(value, list):
            value[:] = map(self.container, value)
        else:
            self._made[id(value)] = self.tensor(value) if isinstance(value, Stored) else self._value(value)
        return self._made[id(value)]

    def _value(self, value: Name | StandIn | memoryview) -> Any:
        """The value of torch, or the bytes, that a description stands for."""
        if isinstance(value, memoryview):
            return bytes(value)
        try:
            if isinstance(value, Name):
                return getattr(torch, value.name) if value.module == "torch" and value.name in WIDTHS else value
            return {"Size": torch.Size, "device": torch.device}[value.of.name](*value.arguments)
        except (RuntimeError, TypeError, ValueError, KeyError, OverflowError) as error:
            raise self._damaged(f"a value that is none ({shown(str(error))})") from error

    def tensor(self, stored: Stored) -> Tensor:
        """The tensor of a description. Raises PrunerError for one that reaches out of its storage."""
        dtype = getattr(torch, stored.dtype)
        flat = self._storage(stored.storage, dtype)
        try:
            check_view(stored, len(flat))
        except ValueError as error:
            raise self._damaged(str(error)) from error
        tensor = flat.as_strided(stored.shape, stored.stride, stored.offset)
        if stored.quantizer:
            tensor = self._dequantized(tensor, stored.quantizer)
        differentiable = stored.requires_grad and (tensor.is_floating_point() or tensor.is_complex())
        return nn.Parameter(tensor, differentiable) if stored.parameter else tensor.requires_grad_(differentiable)

    def _storage(self, storage: Storage, dtype: torch.dtype) -> Tensor:
        """All numbers of a storage, in place if they can be used as they lie there."""
        turned = storage.big_endian != (sys.byteorder == "big")
        width = dtype.itemsize // (2 if dtype.is_complex else 1) if turned else 1
        key = id(storage), width
        if key not in self._bytes:
            self._kept.append(storage)
            data = storage.data
            if data.readonly or width > 1:  # torch has no tensors that cannot be written to
                data = memoryview(bytearray(data))
            raw = torch.frombuffer(data, dtype=torch.uint8) if len(data) else torch.empty(0, dtype=torch.uint8)
            if width > 1:
                whole = raw.numpy()[: len(raw) // width * width].view(f"u{width}")
                whole.byteswap(inplace=True)
            self._bytes[key] = raw
        if self._bytes[key].data_ptr() % dtype.itemsize:  # the legacy format does not align its numbers
            self._bytes[key] = self._bytes[key].clone()
            let_go(storage.data)
        raw = self._bytes[key]
        return raw[: len(raw) // dtype.itemsize * dtype.itemsize].view(dtype)

    def _dequantized(self, integers: Tensor, quantizer: Quantizer) -> Tensor:
        if integers.numel() > integers.untyped_storage().nbytes():
            raise self._damaged("a quantized tensor that repeats its numbers")
        scales, zero_points = torch.tensor(quantizer.scales), torch.tensor(quantizer.zero_points)
        if quantizer.axis is not None:
            shape = [-1 if axis == quantizer.axis else 1 for axis in range(integers.dim())]
            scales, zero_points = scales.reshape(shape), zero_points.reshape(shape)
        return integers.float().sub_(zero_points).mul_(scales)

    def _damaged(self, found: str) -> PrunerError:
        return PrunerError(
            f"expected a complete checkpoint, found {found}: {self._name} is damaged; save or download it again"
        )


View = tuple[int, int | torch.SymInt, torch.Size, tuple[int, ...], torch.dtype]


def view_of(tensor: Tensor) -> View:
    """What tensors have in common that are the same view of the same storage."""
    storage = tensor.untyped_storage().data_ptr()
    return storage, tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype


def check_tensors(tensors: Mapping[str, Tensor], size: int, name: str) -> None:
    """Refuse tensors that claim more than the file holds: expanded views, resized storages, sparse encodings."""
    total, views = 0, set[View]()
    for key, tensor in tensors.items():
        if not _is_dense(tensor):
            raise PrunerError(
                f"expected dense tensors, found {shown(key)} ({_encoding(tensor)}): {name}; save it with .dequantize() or "
                ".to_dense()"
            )
        claimed = tensor.numel() * tensor.element_size()
        total += 0 if view_of(tensor) in views else claimed
        views.add(view_of(tensor))
        if claimed > size or total > 4 * size:
            raise PrunerError(
                f"expected tensors that fit into the file's {size:,} bytes, found {shown(key)} of shape "
                f"{tuple(tensor.shape)} ({claimed:,} bytes): {name}; save it again with .contiguous() tensors"
            )


def _is_dense(tensor: Tensor) -> bool:
    plain = tensor.layout == torch.strided and tensor.device.type == "cpu"
    return plain and not tensor.is_quantized and not tensor.is_nested


def _encoding(tensor: Tensor) -> str:
    if tensor.is_quantized:
        return "quantized"
    if tensor.is_nested:
        return "nested"
    return tensor.device.type if tensor.device.type != "cpu" else str(tensor.layout).removeprefix("torch.")
