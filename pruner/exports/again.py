"""An export as a checkpoint that can be pruned further: what its manifest knows joins what its file holds."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pruner.compact.layout import READS_INPUT, Layout
from pruner.exports.export import file_facts
from pruner.exports.manifest import MASKS, Manifest, model_file, same
from pruner.exports.stored import read_layouts, read_masks
from pruner.files.checkpoint import Checkpoint
from pruner.files.contents import Learned
from pruner.files.opening import open_checkpoint
from pruner.lstm.find import find_lstms
from pruner.lstm.lstm import LSTM
from pruner.lstm.rebuilt import gone_beside


def open_again(folder: str | os.PathLike[str], *, isolated: bool = False) -> Checkpoint:
    """The checkpoint in an export folder, with what its manifest says of it.

    An LSTM that became smaller, while what reads it kept its width, is opened at its dense size, zeros in what is gone, as
    compact modules are: its consumers can be named, and a module of an export of it has the width that they read. `isolated`
    as in `open_checkpoint`. Raises PrunerError for a folder that is none, or not as its manifest says; nothing in it is
    executed.
    """
    folder = Path(folder)
    manifest = Manifest.read(folder)
    path = folder / model_file(str(manifest.source.get("format")))
    same(folder, manifest.files, path.name, file_facts(path))
    stored = open_checkpoint(path, isolated=isolated, as_stored=True)
    layouts = read_layouts(folder, manifest, stored, read_masks(folder / MASKS, folder))
    checkpoint = open_checkpoint(path, isolated=isolated)
    tensors, notes, gone = dict(checkpoint.tensors), [*checkpoint.notes], dict(checkpoint.gone)
    for layout in layouts:
        if layout.stored_as != "LSTM" or min(map(len, layout.kept_units.values())) == layout.lstm.hidden_size:
            continue
        left = f"{len(layout.last_units[0])} of {layout.lstm.hidden_size} hidden units left"
        if layout.consumers or layout.lstm.proj_size:
            notes.append(f"{layout.lstm.title} was pruned already, with what reads it ({left})")
            continue
        tensors |= _wide(layout, stored.tensors)
        gone[layout.lstm.name] = {
            place: gone_beside(torch.tensor(units), layout.lstm.hidden_size)
            for place, units in layout.kept_units.items()
        }
        notes.append(
            f"{layout.lstm.title} was pruned already ({left}), and what reads it has its full width. It is shown at its "
            "dense size, zeros in what is gone, and a sparsity counts from there"
        )
    lstms = [_resized(lstm, tensors) for lstm in checkpoint.lstms]
    learned = {**dict(_learned(manifest)), **checkpoint.learned}
    return replace(checkpoint, tensors=tensors, lstms=lstms, learned=learned, notes=tuple(notes), gone=gone)


def _resized(lstm: LSTM, tensors: Mapping[str, Tensor]) -> LSTM:
    """What is known of an LSTM whose tensors may have other sizes now."""
    (now,), _ = find_lstms({standard: tensors[name] for standard, name in lstm.tensors.items()})
    return replace(now, name=lstm.name, tensors=lstm.tensors)


def _wide(layout: Layout, stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of an LSTM at its dense size, by their names in the file."""
    found, shapes = {}, layout.lstm.shapes()
    for standard, _, part in layout.parts({}):
        name = layout.lstm.tensors[standard]
        rows, *columns = shapes[standard]
        if standard.endswith(READS_INPUT):  # it may read another, which was trimmed
            columns = [stored[name].shape[1]]
        found[name] = part.widen(stored[name], (rows, *columns))
    return found


def _learned(manifest: Manifest) -> Iterator[tuple[str, Learned]]:
    """What the first checkpoint said of its LSTMs, as far as the files of an export do not: how they are called."""
    for name, facts in (manifest.learned or {}).items():
        known: Mapping[str, Any] = facts if isinstance(facts, dict) else {}
        dropout = known.get("dropout")
        yield (
            name,
            Learned(
                batch_first=known["batch_first"] if type(known.get("batch_first")) is bool else None,
                dropout=dropout if type(dropout) is float else None,
                handed_states=True if known.get("handed_states") is True else None,
            ),
        )
