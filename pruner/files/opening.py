"""A file's bytes -> a checkpoint."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from pruner.errors import label
from pruner.files import by_hand, formats
from pruner.files.checkpoint import Checkpoint
from pruner.files.computed_weights import Weights, compute_weights, unexplained, why_declined
from pruner.files.contents import Computed, Contents, Learned
from pruner.files.isolation import read_isolated
from pruner.files.made_smaller import outside_of, widen_compact
from pruner.files.mapping import apply_mapping
from pruner.files.materialise import Materialiser, check_tensors
from pruner.files.naming import Named, as_text, named
from pruner.files.source import Source, open_source
from pruner.lstm.find import find_lstms
from pruner.lstm.lstm import LSTM, Skipped
from pruner.lstm.rebuilt import names_of_maps, rebuilt_of


def open_checkpoint(
    source: str | os.PathLike[str] | bytes,
    name: str | None = None,
    *,
    isolated: bool = False,
    mapping: Mapping[str, Any] | None = None,
    own: bool = False,
    as_stored: bool = False,
) -> Checkpoint:
    """Open a checkpoint: a path, or the bytes of one together with the name to call it by.

    Reads files of torch.save (zip and legacy format: state dicts, checkpoints around them, whole modules), TorchScript,
    `.safetensors`, `.npz`, raw pickles, ONNX, Keras and JSON; the format is told from the bytes. Nothing that a file names
    is imported or called. `isolated` reads it in a process of its own, with limits on memory and time: for files of
    strangers. `mapping` says which tensors are which of an LSTM that was written by hand (see `mapping.check_mapping`).
    Compact LSTMs of this project are opened at their dense size, zeros in what is gone; `as_stored` leaves their tensors as
    they lie in the file.

    The file at a path is mapped and read again when needed, so it must stay as it is while its checkpoint is in use: a
    process dies of mapped bytes that somebody else cut off. `own` reads a nameless copy instead, for servers.

    Raises PrunerError for a file that cannot be read safely and completely.

        >>> import tempfile, torch
        >>> from pruner import open_checkpoint
        >>> with tempfile.NamedTemporaryFile(suffix=".pt") as file:
        ...     torch.save({"encoder": torch.nn.LSTM(8, 16).state_dict()}, file.name)
        ...     [lstm.title for lstm in open_checkpoint(file.name).lstms]
        ['(root)']
    """
    opened = open_source(source, as_file=isolated, own=own)
    opened.isolated = isolated
    name = label(name or ("checkpoint" if isinstance(source, bytes) else Path(source).name), most=255)
    try:
        apart = isolated and opened.size
        contents = read_isolated("checkpoint", opened, name) if apart else formats.read(opened.data, name)
    finally:
        opened.close()
    return _checkpoint(opened, contents, name, mapping, as_stored)


def _checkpoint(
    source: Source, contents: Contents, name: str, mapping: Mapping[str, Any] | None, as_stored: bool
) -> Checkpoint:
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
    lstms, skipped = _lstms(weights, widen_compact(weights, as_stored))
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
        learned=_learned(contents, found, lstms, weights.computed),
        notes=(*contents.notes, *weights.notes),
        full_names={
            **found.full_names,
            **{name: ".".join(keys) for name, keys in places.items() if name in weights.computed},
        },
        gone=weights.gone,
        computed=weights.computed,
        copies=weights.copies,
        hidden={key: keys for key, keys in found.locations.items() if key not in weights.tensors},
    )


def _lstms(weights: Weights, compact: list[Skipped]) -> tuple[list[LSTM], list[Skipped]]:
    """The LSTMs among the weights that a model computes with, by the names in the file; and what only looks like one, the
    `compact` ones that stay so among it."""
    found, skipped = find_lstms({alias: weights.tensors[name] for alias, name in weights.aliases.items()})
    lstms, in_order = [], sorted(weights.tensors)
    for lstm in outside_of(compact, found):
        names = {standard: weights.aliases[alias] for standard, alias in lstm.tensors.items()}
        here = replace(lstm, tensors=names)
        rebuilt = rebuilt_of(here, weights.tensors)
        maps = set() if rebuilt is None else set(names_of_maps(here).values())
        if others := [name for name in unexplained(here, weights, in_order) if name not in maps]:
            skipped.append(Skipped(lstm.name, why_declined(others)))
            continue
        lstms.append(here)
        if rebuilt is not None:
            last = here.num_layers - 1
            weights.gone.setdefault(here.name, {(last, each): units for each, units in rebuilt.gone.items()})
            left = ", ".join(str(len(units)) for units in rebuilt.kept)
            weights.notes.append(
                f"in the output of {here.title}, of whose last layer {left} of {here.hidden_size} hidden units are left, "
                "the others come back as these tell them"
            )
    return lstms, skipped + compact + weights.unresolved


def _places(locations: Mapping[str, tuple[str, ...]], weights: Weights) -> dict[str, tuple[str, ...]]:
    """The keys that lead to each tensor; to a computed one, its place beside its parts."""
    places = {name: keys for name, keys in locations.items() if name in weights.tensors}
    for name, computed in weights.computed.items():
        *outer, part = locations[computed.parts[0]]
        places[name] = (*outer, name.removeprefix(computed.parts[0].removesuffix(part)))
    return places


def _learned(
    contents: Contents, found: Named, lstms: list[LSTM], computed: Mapping[str, Computed]
) -> dict[str, Learned]:
    """What the file says of each LSTM, by the name that the LSTM is known by here."""
    learned = {}
    for lstm in lstms:
        stored = [
            part for name in lstm.tensors.values() for part in (computed[name].parts if name in computed else [name])
        ]
        first = next((name for name in stored if name in found.full_names), None)
        full = (found.full_names[first].removesuffix(first) if first else "") + lstm.name
        facts = contents.learned.get(full.removesuffix("."))
        if facts is not None:
            learned[lstm.name] = facts
    return learned
