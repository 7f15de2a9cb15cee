"""An export, folder or zip -> its runnable LSTMs and the masked model of full size that it stands for."""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from pruner.compact.costs import Cost, cost_of_file
from pruner.compact.layout import Layout
from pruner.exports.manifest import MASKS, Manifest, model_file, not_the_export
from pruner.exports.stored import read_layouts, read_masks, widened
from pruner.exports.verify import Judge, verify
from pruner.files.checkpoint import Checkpoint
from pruner.files.opening import open_checkpoint
from pruner.files.source import open_source


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


def read_export(folder: Path, *, isolated: bool = False, judge: Judge | None = None) -> Export:
    """Verify an export folder, then open it, as `verify` does. Raises PrunerError if it does not hold."""
    verify(folder, isolated=isolated, judge=judge)
    manifest = Manifest.read(folder)
    pruned = open_checkpoint(folder / model_file(manifest.source["format"]), isolated=isolated, as_stored=True)
    layouts = read_layouts(folder, manifest, pruned, read_masks(folder / MASKS, folder))
    masked, modules = widened(pruned, layouts)
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
