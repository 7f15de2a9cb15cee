"""What is no longer true in a file once some of its tensors have changed: its form, ties, settings, optimizer states."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from pruner.files.checkpoint import Checkpoint
from pruner.files.materialise import view_of
from pruner.files.on_demand import described

Changed = Mapping[str, Tensor | None]  # as `Form.changed`: new values by name, None for what is no longer there
Keys = tuple[Any, ...]

_MAX_DEPTH = 6
_NO_SIZE = re.compile(r"epoch|step|iter|batch|seed|loss|acc|num_layers", re.IGNORECASE)


def notes(checkpoint: Checkpoint, changed: Changed) -> list[str]:
    """Sentences for people who load a file in which these tensors changed."""
    return [
        *_form(checkpoint),
        *_computed(checkpoint, changed),
        *_untied(checkpoint, changed),
        *_moments(checkpoint, changed),
        *_settings(checkpoint, changed),
    ]


def written_plainly(checkpoint: Checkpoint, changed: Changed) -> list[str]:
    """The computed weights that are written themselves, in place of their parts: those that changed, and all others of an
    LSTM in which one did."""
    touched = set(changed)
    for lstm in checkpoint.lstms:
        if touched & set(lstm.tensors.values()):
            touched |= set(lstm.tensors.values())
    return [name for name in checkpoint.computed if name in touched]


def untied(checkpoint: Checkpoint, changed: Changed) -> list[tuple[str, str]]:
    """Pairs of names that were one tensor in the file and are two in the changed one."""
    groups: dict[Any, list[str]] = {}
    for name, tensor in checkpoint.tensors.items():
        if tensor.numel():
            groups.setdefault(view_of(tensor), []).append(name)
    return [
        (first, name)
        for first, *others in groups.values()
        for name in others
        if not _same(changed.get(first, checkpoint.tensors[first]), changed.get(name, checkpoint.tensors[name]))
    ]


def stale_moments(checkpoint: Checkpoint, changed: Changed) -> list[Keys]:
    """The keys that lead to each entry of an optimizer's state with tensors of a shape that some tensor no longer has."""
    shapes = {checkpoint.tensors[name].shape for name in _resized(checkpoint, changed)}
    if not shapes or not checkpoint.plain:
        return []
    return [
        (*keys, "state", key)
        for keys, optimizer in _dictionaries(checkpoint.container, ())
        if _is_optimizer(optimizer)
        for key, entry in optimizer["state"].items()
        if isinstance(entry, dict)
        and any(isinstance(value, Tensor) and value.shape in shapes for value in entry.values())
    ]


def stale_settings(checkpoint: Checkpoint, changed: Changed) -> list[tuple[str, int]]:
    """(name, value) of the numbers beside the tensors that equal the hidden size of an LSTM which lost units."""
    resized = set(_resized(checkpoint, changed))
    sizes = {lstm.hidden_size for lstm in checkpoint.lstms if resized & set(lstm.tensors.values())}
    if not sizes or not checkpoint.plain:
        return []
    return [
        (".".join(map(str, keys)), value)
        for keys, value in _numbers(checkpoint.container, ())
        if value in sizes and not _NO_SIZE.search(str(keys[-1]))
    ]


def new_settings(checkpoint: Checkpoint, changed: Changed, sizes: Mapping[int, int]) -> dict[str, dict[str, int]]:
    """{name: {"before", "after"}} of the numbers that `stale_settings` names; `sizes` says what became of a hidden size."""
    stale = stale_settings(checkpoint, changed)
    return {name: {"before": value, "after": sizes[value]} for name, value in stale if value in sizes}


def _form(checkpoint: Checkpoint) -> Iterator[str]:
    if not checkpoint.plain:
        yield (
            f"what is written for PyTorch of {checkpoint.name} ({checkpoint.format}) is a plain state dict under its "
            "tensors' names, without what stands beside them"
        )


def _computed(checkpoint: Checkpoint, changed: Changed) -> Iterator[str]:
    now, groups = described(changed), dict[str, list[str]]()
    for name in written_plainly(checkpoint, changed):
        if now.get(name, checkpoint.tensors[name]) is not None:
            groups.setdefault(checkpoint.computed[name].remedy, []).append(name)
    for remedy, names in groups.items():
        parts = [part for name in names for part in checkpoint.computed[name].parts]
        written = "is written as the model computes it" if len(names) == 1 else "are written as the model computes them"
        yield f"{_listed(names)} {written}, in place of {_listed(parts)}: {remedy} before you load the file"


def _listed(names: list[str]) -> str:
    return " and ".join(names) if len(names) < 4 else f"{names[0]} and {len(names) - 1} more"


def _untied(checkpoint: Checkpoint, changed: Changed) -> Iterator[str]:
    for first, other in untied(checkpoint, changed):
        yield f"{first} and {other} were tied (one tensor) and are two now: untie them in the model before you load the file"


def _moments(checkpoint: Checkpoint, changed: Changed) -> Iterator[str]:
    if found := stale_moments(checkpoint, changed):
        yield (
            f"{len(found)} entries of optimizer states, whose tensors have the old shapes, are left out: the optimizer "
            "begins anew for their parameters"
        )


def _settings(checkpoint: Checkpoint, changed: Changed) -> Iterator[str]:
    for name, value in stale_settings(checkpoint, changed):
        yield f"{name} = {value} in the file equals the old hidden size; set the new one where the model is built from it"


def _resized(checkpoint: Checkpoint, changed: Changed) -> Iterator[str]:
    """The names of the file whose tensors have another shape now, or are gone."""
    for name, value in described(changed).items():
        if name in checkpoint.tensors and (value is None or value.shape != checkpoint.tensors[name].shape):
            yield name


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return one.shape == other.shape and (view_of(one) == view_of(other) or torch.equal(one, other))


def _is_optimizer(value: dict[Any, Any]) -> bool:
    return isinstance(value.get("state"), dict) and isinstance(value.get("param_groups"), list)


def _dictionaries(value: Any, keys: Keys) -> Iterator[tuple[Keys, dict[Any, Any]]]:
    """Every dictionary in nested dictionaries and lists, with the keys that lead to it."""
    if isinstance(value, dict):
        yield keys, value
    if len(keys) < _MAX_DEPTH:
        for key, item in _items(value):
            yield from _dictionaries(item, (*keys, key))


def _numbers(value: Any, keys: Keys) -> Iterator[tuple[Keys, int]]:
    """Every whole number in nested dictionaries and lists, those of optimizers apart."""
    if isinstance(value, int) and not isinstance(value, bool):
        yield keys, value
    if len(keys) < _MAX_DEPTH and not (isinstance(value, dict) and _is_optimizer(value)):
        for key, item in _items(value):
            yield from _numbers(item, (*keys, key))


def _items(value: Any) -> list[tuple[Any, Any]]:
    if isinstance(value, dict):
        return list(dict.items(value))
    return list(enumerate(value)) if isinstance(value, (list, tuple)) else []
