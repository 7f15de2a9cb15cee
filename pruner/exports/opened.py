"""An export, folder or zip -> its runnable LSTMs and the masked model of full size that it stands for."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from pruner.compact.costs import Cost, cost_of_file
from pruner.compact.layout import wide_tensors
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
    lstms = [layout.lstm for layout in layouts]
    modules = {layout.lstm.name: layout.module(pruned.tensors) for layout in layouts}
    own = {name for layout in layouts for name in layout.tensors.values()}
    for lstm in pruned.lstms:
        if not own & set(lstm.tensors.values()):
            lstms.append(lstm)
            modules[lstm.name] = build(lstm, pruned.tensors)
    tensors = wide_tensors(layouts, pruned.tensors)
    return Export(
        cost_of_file(pruned, layouts), modules, replace(pruned, tensors=tensors, lstms=lstms), manifest.verdict
    )
