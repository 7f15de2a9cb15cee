"""Named tensors -> a file of the source's container, nesting and names."""

import copy
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pruner.errors import PrunerError
from pruner.files.checkpoint import Checkpoint
from pruner.files.materialise import View, view_of
from pruner.files.on_demand import Made, OnDemand, described, unmade, without_numbers
from pruner.files.safetensors_file import ALIGNMENT, DTYPES, SAFETENSORS
from pruner.files.staging import temporary
from pruner.files.stale import stale_moments, written_plainly
from pruner.files.torch_writing import TorchFile, bytes_of, no_room, write_all


def write(checkpoint: Checkpoint, changed: Mapping[str, Tensor | None], path: Path) -> None:
    """Write the checkpoint with some tensors replaced: same container, nesting, names and dtypes as the source.

    A tensor changed to None is left out; one of a new name goes where `Checkpoint.location` says.

    Tensors that are views of a larger storage (cuDNN keeps a whole LSTM in one) are written alone, without it; tensors
    that were tied to each other stay tied as long as they are equal. Masks that pruning left beside a tensor are multiplied
    into it; a computed weight of an LSTM that changed takes the place of its parts, and a weight that the model copies is
    written over its copy, too. States of optimizers of a shape which is gone are left out. A file of the legacy format is
    written in the zip format of PyTorch 1.6+. Raises PrunerError where there is no room.
    """
    if checkpoint.format == SAFETENSORS:
        tensors = OnDemand(_container(checkpoint, changed, lambda value: value))
        write_safetensors(tensors, path, checkpoint.metadata, checkpoint.source.let_go)
        return

    written = TorchFile()
    written.write(_container(checkpoint, changed, written.put), path, checkpoint.source.let_go)


def size_when_written(checkpoint: Checkpoint, changed: Mapping[str, Tensor | None]) -> int:
    """The bytes of the file that `write` would write under the name `pruned`, found without writing any numbers. Raises
    PrunerError where there is no room for a temporary file."""
    if checkpoint.format == SAFETENSORS:
        tensors = described(OnDemand(_container(checkpoint, changed, lambda value: value)))
        return len(_header(tensors, checkpoint.metadata)) + sum(map(_bytes_of, tensors.values()))
    written = TorchFile()
    container = _container(checkpoint, changed, written.put)
    try:
        with temporary() as staging:
            path = staging.files / "pruned"
            written.write_empty(container, path)
            return path.stat().st_size
    except (OSError, RuntimeError) as error:
        raise PrunerError(f"expected room for a temporary file, found {error}; make room or set TMPDIR") from error


def _container(
    checkpoint: Checkpoint, changed: Mapping[str, Tensor | None], put: Callable[[Tensor | Made], Any]
) -> Any:
    """A copy of the container with what `put` makes of each value in the place of its tensor; of tied ones that are equal,
    of the first."""
    values = {**checkpoint.tensors, **unmade(changed)}
    written: dict[View, list[tuple[str, Any]]] = {}
    copies: dict[tuple[str, ...], Any] = {(): copy.copy(checkpoint.container)}

    copied = partial(_copied, copies)
    for name, keys in checkpoint.locations.items():
        if name in checkpoint.computed:
            continue
        parent = copied(keys[:-1])
        source, value = parent[keys[-1]], values[name]
        if value is None:
            del parent[keys[-1]]
            continue
        tied = written.setdefault(view_of(Tensor.detach(source)), [])
        found = next((made for other, made in tied if _same(OnDemand(values), other, name)), None)
        if found is None:
            found = put(value)
            tied.append((name, found))
        parent[keys[-1]] = nn.Parameter(found, source.requires_grad) if isinstance(source, nn.Parameter) else found
    plainly = written_plainly(checkpoint, changed)
    for name in plainly:
        for part in checkpoint.computed[name].parts:
            *outer, last = checkpoint.hidden[part]
            del copied(tuple(outer))[last]
    for name in [*(name for name in plainly if name not in changed), *changed]:
        new = values[name]
        if new is not None and (name in checkpoint.computed or name not in checkpoint.locations):
            keys = checkpoint.location(name)
            copied(keys[:-1])[keys[-1]] = put(new)
    for name, original in checkpoint.copies.items():
        *outer, last = checkpoint.hidden[name]
        value = values[original]
        if value is None:
            del copied(tuple(outer))[last]
        else:
            copied(tuple(outer))[last] = put(_made_anew(value))
    for keys in stale_moments(checkpoint, changed):
        del copied(keys[:-1])[keys[-1]]
    return copies[()]


def _copied(copies: dict[tuple[str, ...], Any], keys: tuple[str, ...]) -> Any:
    """The copy of the dictionary that keys lead to, and of all around it."""
    if keys not in copies:
        parent = _copied(copies, keys[:-1])
        parent[keys[-1]] = copies[keys] = copy.copy(parent[keys[-1]])
    return copies[keys]


def _same(values: Mapping[str, Tensor | None], one: str, other: str) -> bool:
    a, b = values[one], values[other]
    return a is not None and b is not None and (view_of(a) == view_of(b) or torch.equal(a, b))


def _made_anew(value: Tensor | Made) -> Made:
    return value if isinstance(value, Made) else Made(without_numbers(value), partial(torch.clone, value))


def _bytes_of(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def write_safetensors(
    tensors: Mapping[str, Tensor],
    path: Path,
    metadata: Mapping[str, str] | None = None,
    after_each: Callable[[], None] = lambda: None,
) -> None:
    """Write a flat dictionary, one tensor after the other, so that none is held longer than it takes; ties are given up,
    which the format does not know. Raises PrunerError without room."""
    likes, whole = described(tensors), unmade(tensors)
    try:
        with path.open("wb", buffering=0) as file:
            write_all(file, memoryview(_header(likes, metadata)))
            for name in _in_order(likes):
                for data in bytes_of(whole[name]):
                    write_all(file, data)
                after_each()
    except OSError as error:
        raise no_room(path) from error


def _in_order(tensors: Mapping[str, Tensor]) -> list[str]:
    """Wide numbers first, so that all lie where their width divides the place."""
    return sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))


def _header(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None) -> bytes:
    """What stands before the numbers; it ends where a kernel likes the numbers to begin."""
    entries: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    place = 0
    for name in _in_order(tensors):
        tensor, start, place = tensors[name], place, place + _bytes_of(tensors[name])
        dtype = DTYPES[str(tensor.dtype).removeprefix("torch.")]
        entries[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [start, place]}
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-(len(text) + 8) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text
