"""An export, folder or zip -> its runnable LSTMs and the masked model of full size that it stands for."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from pruner.compact.costs import Cost, cost_of_file
from pruner.exports.manifest import MASKS, Manifest, model_file
from pruner.exports.stored import read_layouts, read_masks
from pruner.exports.verify import verify
from pruner.files.checkpoint import Checkpoint
from pruner.files.opening import open_checkpoint
from pruner.lstm.module import build


@dataclass(frozen=True)
class Export:
    """A verified export: what its file costs, its runnable LSTMs, the masked checkpoint of full size it stands for, and the
    verdict of its manifest, which older ones do not have and nobody can tell again."""

    cost: Cost
    modules: dict[str, nn.Module]
    masked: Checkpoint
    told: Mapping[str, Any] | None


def read_export(folder: Path, *, isolated: bool = False) -> Export:
    """Verify an export folder, then open it, as `verify` does. Raises PrunerError if it does not hold."""
    verify(folder, isolated=isolated)
    manifest = Manifest.read(folder)
    pruned = open_checkpoint(folder / model_file(manifest.source["format"]), isolated=isolated)
    layouts = read_layouts(folder, manifest, pruned, read_masks(folder / MASKS, folder))
    tensors, lstms = dict(pruned.tensors), []
    modules: dict[str, nn.Module] = {}
    for lstm in pruned.lstms:
        if not any(set(lstm.tensors.values()) & set(layout.tensors.values()) for layout in layouts):
            lstms.append(lstm)
            modules[lstm.name] = build(lstm, pruned.tensors)
    for layout in layouts:
        for name in layout.tensors.values():
            del tensors[name]
    for layout in layouts:
        lstms.append(layout.lstm)
        modules[layout.lstm.name] = layout.module(pruned.tensors)
        wide = layout.masked_twin(pruned.tensors).state_dict()
        tensors |= {
            name: wide[standard if "_l" in standard else f"{standard}_l0"]
            for standard, name in layout.lstm.tensors.items()
        }
        for name in set(layout.consumers) & tensors.keys():
            first, _, *rest = pruned.tensors[name].shape
            tensors[name] = layout.trimmed.widen(pruned.tensors[name], (first, layout.lstm.output_width, *rest))
    return Export(
        cost_of_file(pruned, layouts), modules, replace(pruned, tensors=tensors, lstms=lstms), manifest.verdict
    )
