"""Named tensors -> a file of the source's container, nesting and names."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from pruner.errors import PrunerError, shown
from pruner.files.checkpoint import Checkpoint
from pruner.files.materialise import View, view_of
from pruner.files.safetensors_file import SAFETENSORS
from pruner.files.stale import stale_moments, written_plainly


def write(checkpoint: Checkpoint, changed: Mapping[str, Tensor | None], path: Path) -> None:
    """Write the checkpoint with some tensors replaced: same container, nesting, names and dtypes as the source.

    A tensor changed to None is left out; one of a new name goes where `Checkpoint.location` says.

    Tensors that are views of a larger storage (cuDNN keeps a whole LSTM in one) are written alone, without it; tensors
    that were tied to each other stay tied as long as they are equal. Masks that pruning left beside a tensor are multiplied
    into it; a computed weight of an LSTM that changed takes the place of its parts, and a weight that the model copies is
    written over its copy, too. States of optimizers of a shape which is gone are left out. A file of the legacy format is
    written in the zip format of PyTorch 1.6+. Raises PrunerError where there is no room.
    """
    written: dict[View, list[tuple[Tensor, Tensor]]] = {}

    def alone(source: Tensor, value: Tensor) -> Tensor:
        tied = written.setdefault(view_of(source), [])
        for other, tensor in tied:
            if view_of(other) == view_of(value) or torch.equal(other, value):
                return tensor
        tied.append((value, value.detach().clone(memory_format=torch.contiguous_format)))
        return tied[-1][1]

    copies: dict[tuple[str, ...], Any] = {(): copy.copy(checkpoint.container)}

    def copied(keys: tuple[str, ...]) -> Any:
        if keys not in copies:
            parent = copied(keys[:-1])
            parent[keys[-1]] = copies[keys] = copy.copy(parent[keys[-1]])
        return copies[keys]

    for name, keys in checkpoint.locations.items():
        if name in checkpoint.computed:
            continue
        parent = copied(keys[:-1])
        source = parent[keys[-1]]
        value = changed.get(name, checkpoint.tensors[name])
        if value is None:
            del parent[keys[-1]]
            continue
        tensor = alone(Tensor.detach(source), value)
        parent[keys[-1]] = nn.Parameter(tensor, source.requires_grad) if isinstance(source, nn.Parameter) else tensor
    for name in written_plainly(checkpoint, changed):
        for part in checkpoint.computed[name].parts:
            *outer, last = checkpoint.hidden[part]
            del copied(tuple(outer))[last]
        changed = {name: checkpoint.tensors[name], **changed}
    for name, value in changed.items():
        if value is not None and (name in checkpoint.computed or name not in checkpoint.locations):
            keys = checkpoint.location(name)
            copied(keys[:-1])[keys[-1]] = value
    for name, original in checkpoint.copies.items():
        *outer, last = checkpoint.hidden[name]
        value = changed.get(original, checkpoint.tensors[original])
        if value is None:
            del copied(tuple(outer))[last]
        else:
            copied(tuple(outer))[last] = value.detach().clone(memory_format=torch.contiguous_format)
    for keys in stale_moments(checkpoint, changed):
        del copied(keys[:-1])[keys[-1]]
    if checkpoint.format == SAFETENSORS:
        write_safetensors(copies[()], path, checkpoint.metadata)
        return
    try:
        torch.save(copies[()], path)
    except (RuntimeError, TypeError) as error:
        raise PrunerError(
            f"expected a place to write {path.name} and values that torch.save can write, found {shown(str(error))}"
        ) from error


def write_safetensors(tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a flat dictionary; ties are given up, which the format does not know. Raises PrunerError without room."""
    try:
        save_file({name: tensor.clone() for name, tensor in tensors.items()}, path, metadata=metadata or None)
    except SafetensorError as error:
        raise PrunerError(
            f"expected a place to write {path.name}, found a full or failing disk; choose another place"
        ) from error
