"""Models to be set side by side, each as a checkpoint and as ONNX files."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from pruner.compact.layout import Layout
from pruner.compact.masked_and_compact import Pruned
from pruner.errors import PrunerError
from pruner.exports.export import write_lstms_as_onnx
from pruner.exports.onnx.facts import DECLINED
from pruner.files.checkpoint import Checkpoint
from pruner.files.consumer_choice import outside_consumers
from pruner.files.staging import temporary
from pruner.lstm.measure import Quality
from pruner.pipeline import prune
from pruner.recipe import Recipe


@dataclass(frozen=True)
class Model:
    """A model as it lies in a file of `size` bytes, with its `quality`, each if it is known, and its ONNX `files` with what
    a manifest says of them, or why there are none."""

    name: str
    layouts: Sequence[Layout]
    tensors: Mapping[str, Tensor]
    consumers: Mapping[str, Sequence[str]]
    size: int | None
    quality: float | None
    onnx: Mapping[str, Any]
    files: Mapping[str, bytes]


def model_of(
    name: str, pruned: Pruned, form: str, size: int | None, value: float | None, quality: Quality | None = None
) -> Model:
    """A form of a pruned checkpoint, in a file of so many bytes and of a quality of this value; its ONNX files are made, and
    rated by `quality` if there is one."""
    chosen, checkpoint = pruned.forms[form], pruned.checkpoint
    tensors = chosen.tensors(checkpoint)
    onnx, files = made_files(lambda folder: write_lstms_as_onnx(folder, pruned, form, tensors, quality))
    consumers = outside_consumers(checkpoint, pruned.recipe)
    return Model(name, chosen.layouts, tensors, consumers, size, value, onnx, files)


def dense_of(checkpoint: Checkpoint, lstms: tuple[str, ...] | None, consumers: tuple[str, ...]) -> Pruned:
    """A checkpoint of which nothing is dropped, with what reads these LSTMs, or all of them."""
    return prune(checkpoint, Recipe(0.0, "units", lstms=lstms, consumers=consumers))


def made_files(write: Callable[[Path], dict[str, Any]]) -> tuple[dict[str, Any], dict[str, bytes]]:
    """ONNX files and what is said of them; why there are none, where they cannot be."""
    with temporary() as staging:
        try:
            onnx = write(staging.files)
        except PrunerError as error:
            return {DECLINED: str(error)}, {}
        return onnx, {file.name: file.read_bytes() for file in staging.files.iterdir()}
