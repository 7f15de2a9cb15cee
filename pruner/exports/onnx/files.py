"""The ONNX files of an export, float and int8: written, and run beside the pruned model."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
from torch import Tensor, nn

from pruner.compact.layout import Layout
from pruner.errors import PrunerError, label
from pruner.exports.onnx.building import model_of
from pruner.exports.onnx.facts import DECLINED, FLOAT, INT8, agrees
from pruner.exports.onnx.parts import Part, Unwritable, parts_of
from pruner.exports.onnx.quantizing import int8_model_of
from pruner.exports.onnx.running import compare, lstms_of
from pruner.files.runtime.session import session_of

Rate = Callable[[Mapping[str, nn.Module]], dict[str, Any]]  # the quality with these LSTMs, as the manifest has it


def write_onnx_files(
    folder: Path,
    layouts: Sequence[Layout],
    tensors: Mapping[str, Tensor],
    consumers: Mapping[str, list[str]],
    metadata: Mapping[str, str],
    rate: Rate | None = None,
    *,
    batch_first: bool = True,
) -> dict[str, Any]:
    """Write the LSTMs of an export as `pruned.onnx` and `pruned.int8.onnx`, and return what the manifest says of them.

    `tensors` are those of the export's file, `consumers` the names of those that read an LSTM's output, by its name. Both
    files are run in ONNX Runtime. Raises PrunerError if the first differs from the pruned model by more than `TOLERANCE` of
    the largest output. What ONNX cannot hold is not written, and said instead.
    """
    try:
        parts = parts_of(layouts, tensors, consumers)
    except Unwritable as reason:
        return {DECLINED: str(reason)}
    model = model_of(parts, metadata, batch_first=batch_first)
    files: dict[str, dict[str, Any]] = {}
    for name, written in {FLOAT: model, INT8: int8_model_of(model)}.items():
        data = written.SerializeToString()
        lstms = lstms_of(session_of(data), parts, batch_first)
        measured = compare(lstms, layouts, tensors, parts)
        if name == FLOAT and not agrees(measured):
            raise PrunerError(
                f"expected {FLOAT} to compute in ONNX Runtime what the pruned model does, found a difference of "
                f"{measured['max_abs_difference']:.3g} where outputs reach {measured['max_abs_output']:.3g}; nothing was "
                "exported, export without ONNX and please report this with the checkpoint"
            )
        (folder / name).write_bytes(data)
        files[name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data), **measured}
        if rate is not None:
            files[name]["quality"] = rate(lstms)
    return {
        "files": files,
        "consumers": {part.lstm.name: [each.name for each in part.consumers] for part in parts},
        "batch_first": batch_first,
        "notes": _notes(layouts, parts, consumers),
        "versions": {"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__},
    }


def _notes(layouts: Sequence[Layout], parts: Sequence[Part], consumers: Mapping[str, list[str]]) -> list[str]:
    notes = [
        f"{layout.lstm.title} keeps single rows, which no ONNX operator multiplies alone: in the ONNX files it has its full "
        "size, with zeros"
        for layout in layouts
        if layout.stored_as == "RowCompactLSTM"
    ]
    for part in parts:
        written = {consumer.name for consumer in part.consumers}
        notes += [
            f"{label(name)} is not in the ONNX files: it is no matrix, and the checkpoint does not say how it is applied"
            for name in consumers.get(part.lstm.name, [])
            if name not in written
        ]
    return notes
