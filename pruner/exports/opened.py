"""An export, folder or zip -> its runnable LSTMs and the masked model of full size that it stands for."""

from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn

from pruner.compact.costs import Cost, cost_of_file
from pruner.compact.layout import Layout
from pruner.exports.manifest import MASKS, Manifest, model_file, not_the_export
from pruner.exports.stored import read_layouts, read_masks
from pruner.exports.verify import verify
from pruner.files.checkpoint import Checkpoint
from pruner.files.opening import open_checkpoint
from pruner.files.source import open_source
from pruner.lstm.module import build


@dataclass(frozen=True)
class Export:
    """A verified export: what its file costs, its runnable LSTMs, the masked checkpoint of full size it stands for, how the
    pruned LSTMs lie in its file, the tensors of that, its manifest and its ONNX files."""

    cost: Cost
    modules: dict[str, nn.Module]
    masked: Checkpoint
    layouts: list[Layout]
    tensors: dict[str, Tensor]
    manifest: Manifest
    onnx: dict[str, bytes]


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
    masked = replace(pruned, tensors=tensors, lstms=lstms)
    cost, files = cost_of_file(pruned, layouts), _onnx_files(folder, manifest)
    return Export(cost, modules, masked, layouts, pruned.tensors, manifest, files)


def _onnx_files(folder: Path, manifest: Manifest) -> dict[str, bytes]:
    """The ONNX files that were verified, to the byte."""
    stated = (manifest.onnx or {}).get("files", {})
    found = {}
    for name, facts in stated.items():
        source = open_source(folder / name, wanted="an ONNX file of an export")
        source.close()
        if source.sha256 != facts["sha256"]:
            raise not_the_export(folder, f"{name} as it was verified", "another")
        found[name] = bytes(source.data)
    return found
