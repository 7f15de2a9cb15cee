"""A file's bytes -> its named tensors."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pruner.errors import PrunerError, label, shown
from pruner.files import by_hand, formats
from pruner.files.computed_weights import Computed, Weights, compute_weights, unexplained, why_declined
from pruner.files.contents import Contents, Learned
from pruner.files.isolation import read_isolated
from pruner.files.mapping import apply_mapping
from pruner.files.materialise import Materialiser
from pruner.files.naming import Named, as_text, named
from pruner.files.source import Source, open_source
from pruner.lstm.find import find_lstms
from pruner.lstm.lstm import LSTM, Skipped


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory. Nothing here is ever modified: `write` makes a changed copy.

    `tensors` are the values that the model computes with, by their names in the file. Where the file still carries a
    pruning mask beside a tensor (`weight_orig` and `weight_mask`), the value is their product; where it holds only the
    parts of a weight, the weight has the name that it has in the model, and `computed[name]` says which parts these are.

    Shapes and dtypes are those of the file, `size` is in bytes; `lstms` is what was found, `skipped` what only looks like an
    LSTM, with the reason.

        >>> from pruner.examples import named
        >>> checkpoint = named("embedded-reber").open()
        >>> (lstm,) = checkpoint.lstms
        >>> lstm.name, lstm.input_size, lstm.hidden_size, tuple(checkpoint.tensors["lstm.weight_ih_l0"].shape)
        ('lstm', 7, 32, (128, 7))
    """

    name: str
    source: Source
    format: str
    container: Any
    plain: bool  # whether the container is the file's own; else it is a flat dictionary of the tensors
    metadata: dict[str, str]
    locations: dict[str, tuple[str, ...]]  # name of a tensor -> keys that lead to it in the container
    tensors: dict[str, Tensor]
    lstms: list[LSTM]
    skipped: list[Skipped]
    learned: Mapping[str, Learned] = field(default_factory=dict)  # by the names of LSTMs
    notes: tuple[str, ...] = ()  # sentences for people about the file as a whole
    full_names: Mapping[str, str] = field(default_factory=dict)  # name of a tensor -> all its keys in the file, joined
    computed: Mapping[str, Computed] = field(default_factory=dict)
    copies: Mapping[str, str] = field(default_factory=dict)  # keys of `hidden` -> the tensor that is copied over them
    hidden: Mapping[str, tuple[str, ...]] = field(
        default_factory=dict
    )  # parts and copies -> their keys, as `locations`

    @property
    def sha256(self) -> str:
        return self.source.sha256

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.source.size

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
                f"expected the name of an LSTM in {self.name} ({_listed(map(shown, by_name))}), found {shown(unknown[0])}"
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
            return _listed(f"{label(skipped.name) or '(root)'} ({skipped.reason})" for skipped in self.skipped)
        if self.tensors:
            return f"{len(self.tensors)} tensors: {_listed(map(label, self.tensors))}"
        keys = _listed(label(key) if isinstance(key, str) else shown(key) for key in self.container)
        return f"no named tensors, but a {type(self.container).__name__} of {keys}"


def open_checkpoint(
    source: str | os.PathLike[str] | bytes,
    name: str | None = None,
    *,
    isolated: bool = False,
    mapping: Mapping[str, Any] | None = None,
) -> Checkpoint:
    """Open a checkpoint: a path, or the bytes of one together with the name to call it by.

    Reads files of torch.save (zip and legacy format: state dicts, checkpoints around them, whole modules), TorchScript,
    `.safetensors`, `.npz`, raw pickles, ONNX, Keras and JSON; the format is told from the bytes. Nothing that a file names
    is imported or called. `isolated` reads it in a process of its own, with limits on memory and time: for files of
    strangers. `mapping` says which tensors are which of an LSTM that was written by hand (see `mapping.check_mapping`).
    Raises PrunerError for a file that cannot be read safely and completely.

        >>> import tempfile, torch
        >>> from pruner import open_checkpoint
        >>> with tempfile.NamedTemporaryFile(suffix=".pt") as file:
        ...     torch.save({"encoder": torch.nn.LSTM(8, 16).state_dict()}, file.name)
        ...     [lstm.title for lstm in open_checkpoint(file.name).lstms]
        ['(root)']
    """
    opened = open_source(source, as_file=isolated)
    name = label(name or ("checkpoint" if isinstance(source, bytes) else Path(source).name), most=255)
    try:
        apart = isolated and opened.size
        contents = read_isolated("checkpoint", opened, name) if apart else formats.read(opened.data, name)
    finally:
        opened.close()
    return _checkpoint(opened, contents, name, mapping)


def _checkpoint(source: Source, contents: Contents, name: str, mapping: Mapping[str, Any] | None) -> Checkpoint:
    found = named(contents, source.size, name)
    materialiser = Materialiser(name)
    stored = {key: materialiser.container(tensor) for key, tensor in found.tensors.items()}
    # Not value.detach(): a pickled parameter can carry attributes of any name, methods' names included.
    stored = {key: Tensor.detach(tensor) for key, tensor in stored.items()}
    check_tensors(stored, max(source.size, materialiser.held), name)
    if mapping is not None:
        stored = apply_mapping(stored, mapping, name)
        own = {key: key for key in stored}
        found = Named(dict(stored), False, {key: (key,) for key in stored}, {}, {**own, **found.full_names})
    weights = compute_weights(stored)
    lstms, skipped = _lstms(weights)
    skipped += by_hand.look_for(weights.tensors)
    places = _places(found.locations, weights)
    return Checkpoint(
        name=name,
        source=source,
        format=contents.format,
        container=materialiser.container(found.container),
        plain=found.plain,
        metadata=contents.metadata,
        locations=places,
        tensors=weights.tensors,
        lstms=lstms,
        skipped=[*skipped, *(Skipped(as_text(key), reason) for key, reason in contents.skipped)],
        learned=_learned(contents, found, lstms),
        notes=(*contents.notes, *weights.notes),
        full_names={
            **found.full_names,
            **{name: ".".join(keys) for name, keys in places.items() if name in weights.computed},
        },
        computed=weights.computed,
        copies=weights.copies,
        hidden={key: keys for key, keys in found.locations.items() if key not in weights.tensors},
    )


def _lstms(weights: Weights) -> tuple[list[LSTM], list[Skipped]]:
    """The LSTMs among the weights that a model computes with, by the names in the file; and what only looks like one."""
    found, skipped = find_lstms({alias: weights.tensors[name] for alias, name in weights.aliases.items()})
    lstms, in_order = [], sorted(weights.tensors)
    for lstm in found:
        names = {standard: weights.aliases[alias] for standard, alias in lstm.tensors.items()}
        here = replace(lstm, tensors=names)
        if others := unexplained(here, weights, in_order):
            skipped.append(Skipped(lstm.name, why_declined(others)))
        else:
            lstms.append(here)
    return lstms, skipped + weights.unresolved


def _places(locations: Mapping[str, tuple[str, ...]], weights: Weights) -> dict[str, tuple[str, ...]]:
    """The keys that lead to each tensor; to a computed one, its place beside its parts."""
    places = {name: keys for name, keys in locations.items() if name in weights.tensors}
    for name, computed in weights.computed.items():
        *outer, part = locations[computed.parts[0]]
        places[name] = (*outer, name.removeprefix(computed.parts[0].removesuffix(part)))
    return places


def _learned(contents: Contents, found: Named, lstms: list[LSTM]) -> dict[str, Learned]:
    """What the file says of each LSTM, by the name that the LSTM is known by here."""
    learned = {}
    for lstm in lstms:
        first = next((name for name in lstm.tensors.values() if name in found.full_names), None)
        full = (found.full_names[first].removesuffix(first) if first else "") + lstm.name
        facts = contents.learned.get(full.removesuffix("."))
        if facts is not None:
            learned[lstm.name] = facts
    return learned


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


def _listed(names: Iterable[str], most: int = 5) -> str:
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
