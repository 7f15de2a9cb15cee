"""A file's bytes -> its named tensors."""

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pruner.errors import PrunerError, shown
from pruner.files import formats
from pruner.files.computed_weights import resolve_leftovers
from pruner.files.contents import Learned
from pruner.files.materialise import Materialiser
from pruner.lstm.find import LSTM, Skipped, find_lstms

NESTING = 2  # state dicts are looked for this many dictionaries deep
MIN_TENSOR_BYTES = 16  # a stored tensor takes more; fewer mean dictionaries that repeat each other without end


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory. Nothing here is ever modified: `write` makes a changed copy.

    `tensors` are the values that the model computes with, by their names in the file. Where the file still carries a
    pruning mask beside a tensor (`weight_orig` and `weight_mask`), the value is their product.
    """

    name: str
    sha256: str
    format: str
    size: int  # bytes
    container: Any
    metadata: dict[str, str]
    locations: dict[str, tuple[str, ...]]  # name of a tensor -> keys that lead to it in the container
    tensors: dict[str, Tensor]
    lstms: list[LSTM]
    skipped: list[Skipped]
    learned: Mapping[str, Learned] = field(default_factory=dict)  # by the names of LSTMs
    notes: tuple[str, ...] = ()  # sentences for people about the file as a whole

    def select(self, names: Iterable[str] | None = None) -> list[LSTM]:
        """The LSTMs of these names (None: all of them). Raises PrunerError where there is none to work with."""
        if not self.lstms:
            raise PrunerError(f"expected an LSTM in {self.name}, found none; it holds {self.contents()}")
        if names is None:
            return self.lstms
        by_name = {lstm.name: lstm for lstm in self.lstms}
        unknown = [name for name in names if name not in by_name]
        if unknown:
            raise PrunerError(
                f"expected the name of an LSTM in {self.name} ({_listed(map(repr, by_name))}), found {unknown[0]!r}"
            )
        return [by_name[name] for name in dict.fromkeys(names)]

    def location(self, name: str) -> tuple[str, ...]:
        """The keys that lead to a tensor in the container; for a new name, to its place beside those of its module."""
        if name in self.locations:
            return self.locations[name]
        paths = {keys[:-1] for keys in self.locations.values()}
        if len(paths) == 1:  # one dictionary, whose names stand as they are
            return (*paths.pop(), name)
        prefixes = {"".join(f"{key}." for key in path): path for path in sorted(paths)}
        prefix = max((prefix for prefix in prefixes if name.startswith(prefix)), key=len)
        return (*prefixes[prefix], name.removeprefix(prefix))

    def contents(self) -> str:
        """One sentence on what the file holds, for those who look for an LSTM in vain."""
        if self.skipped:
            return _listed(f"{skipped.name or '(root)'} ({skipped.reason})" for skipped in self.skipped)
        if self.tensors:
            return f"{len(self.tensors)} tensors: {_listed(self.tensors)}"
        keys = _listed(key if isinstance(key, str) else shown(key) for key in self.container)
        return f"no named tensors, but a {type(self.container).__name__} of {keys}"


def open_checkpoint(source: str | os.PathLike[str] | bytes, name: str | None = None) -> Checkpoint:
    """Open a checkpoint: a path, or the bytes of one together with the name to call it by.

    Reads `.pt .pth .bin .ckpt .th .tar` files of torch.save (zip and legacy format) and `.safetensors`; the format is
    told from the bytes. Raises PrunerError for a file that cannot be read safely and completely.
    """
    if isinstance(source, bytes):
        data, name = source, name or "checkpoint"
    else:
        path = Path(source)
        data, name = _read_file(path), name or path.name
    contents = formats.read(data, name)
    materialiser = Materialiser(name)
    container = materialiser.container(contents.container)
    if not isinstance(container, Mapping):
        raise PrunerError(
            f"expected a dictionary of tensors, found a {type(container).__name__}: {name}; {formats.SAVE_WEIGHTS}"
        )
    size = len(data) + materialiser.computed
    locations, stored = _named_tensors(container, size, name)
    check_tensors(stored, size, name)
    aliases, tensors, unresolved = resolve_leftovers(stored)
    found, skipped = find_lstms({alias: tensors[original] for alias, original in aliases.items()})
    lstms = [
        replace(lstm, tensors={standard: aliases[alias] for standard, alias in lstm.tensors.items()}) for lstm in found
    ]
    return Checkpoint(
        name=name,
        sha256=hashlib.sha256(data).hexdigest(),
        format=contents.format,
        size=len(data),
        container=container,
        metadata=contents.metadata,
        locations=locations,
        tensors=tensors,
        lstms=lstms,
        skipped=[*skipped, *unresolved, *(Skipped(*entry) for entry in contents.skipped)],
        learned=contents.learned,
        notes=contents.notes,
    )


View = tuple[int, int | torch.SymInt, torch.Size, tuple[int, ...], torch.dtype]


def view_of(tensor: Tensor) -> View:
    """What tensors have in common that are the same view of the same storage."""
    storage = tensor.untyped_storage().data_ptr()
    return storage, tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype


def _read_file(path: Path) -> bytes:
    try:
        if not path.is_file():
            found = "a folder" if path.is_dir() else "no file"
            raise PrunerError(f"expected a checkpoint file, found {found}: {path}; check the path")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise PrunerError(f"expected a readable file, found {error}: {path}; check its path and permissions") from error


def _named_tensors(
    container: Mapping[Any, Any], size: int, name: str
) -> tuple[dict[str, tuple[str, ...]], dict[str, Tensor]]:
    """Tensors under string keys, up to `NESTING` dictionaries deep; those of optimizers lie under numbers or deeper.

    Where one dictionary alone holds recurrent weights, its names stand as they are. Where several do (an encoder and a
    decoder saved side by side, say), each name begins with the keys that lead to its dictionary.
    """
    groups: dict[tuple[str, ...], dict[str, Tensor]] = {}
    count = 0

    def collect(mapping: Mapping[Any, Any], path: tuple[str, ...]) -> None:
        nonlocal count
        for key, value in mapping.items():
            if not isinstance(key, str):
                continue
            if isinstance(value, Tensor):
                count += 1
                if count * MIN_TENSOR_BYTES > size:
                    raise PrunerError(
                        f"expected every tensor once, found more than {count} names in a file of {size:,} bytes: {name}; "
                        "save each state dict under one key"
                    )
                # Not value.detach(): a pickled parameter can carry attributes of any name, methods' names included.
                groups.setdefault(path, {})[key] = Tensor.detach(value)
            elif isinstance(value, Mapping) and len(path) < NESTING:
                collect(value, (*path, key))

    collect(container, ())
    recurrent = [path for path, tensors in groups.items() if any("weight_hh" in key for key in tensors)]
    if len(recurrent) == 1 or len(groups) == 1:
        path = recurrent[0] if recurrent else next(iter(groups))
        return {key: (*path, key) for key in groups[path]}, groups[path]
    locations: dict[str, tuple[str, ...]] = {}
    named: dict[str, Tensor] = {}
    for path, tensors in groups.items():
        for key, tensor in tensors.items():
            full = ".".join((*path, key))
            if full in named:
                raise PrunerError(f"expected one tensor of each name, found two called {full!r}: {name}; rename one")
            locations[full], named[full] = (*path, key), tensor
    return locations, named


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


def _listed(names: Iterable[str], most: int = 5) -> str:
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
