"""The ONNX files of an export, checked: what the manifest says of them, and that they hold nothing but LSTMs."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, numpy_helper
from torch import Tensor

from pruner.compact.layout import Layout
from pruner.errors import PrunerError, shown
from pruner.exports.manifest import Manifest, not_the_export
from pruner.exports.onnx_facts import DECLINED, FLOAT
from pruner.exports.onnx_files import agrees
from pruner.exports.onnx_parts import Part, parts_of, weight_bytes
from pruner.exports.onnx_running import compare, lstms_of
from pruner.files.source import open_source
from pruner.lstm.lstm import DTYPES

# What the graphs are made of, in float and after quantization.
_IN_FLOAT = "LSTM MatMul Add Concat Expand Gather Identity Pad Shape Split Squeeze Transpose Unsqueeze"
_IN_INT8 = "DynamicQuantizeLSTM DynamicQuantizeLinear MatMulInteger Cast Mul"
OPERATORS = frozenset(f"{_IN_FLOAT} {_IN_INT8}".split())
_MOST_BESIDE = 2**24  # bytes of a file beside its weights: names, biases, the recipe; and the largest integer in it


def check_onnx_files(
    folder: Path, manifest: Manifest, layouts: Sequence[Layout], tensors: Mapping[str, Tensor]
) -> Iterator[str]:
    """Run the ONNX files of an export again and say what holds; `tensors` are those of its model's file.

    Their graphs are looked at before they are run: nothing but the operators that they need, no functions, no loops, no
    other files. Raises PrunerError where something differs.
    """
    facts = manifest.onnx
    if facts is None or DECLINED in facts:
        return
    _check_consumers(folder, manifest, layouts, tensors)
    parts = parts_of(layouts, tensors, facts["consumers"])
    for name, stated in facts["files"].items():
        data = _read(folder, name, parts)
        _check_graph(folder, name, data, manifest)
        try:
            measured = compare(lstms_of(data, parts, facts["batch_first"]), layouts, tensors, parts)
        except PrunerError as error:
            raise not_the_export(folder, f"{name} that runs in ONNX Runtime", str(error)) from error
        _check_measured(folder, name, measured, stated)
        figures = (
            f"largest difference {measured['max_abs_difference']:.2g}, outputs reach {measured['max_abs_output']:.2g}"
        )
        yield f"{name} runs in ONNX Runtime and is as close to the pruned model as the manifest says ({figures})"


def _check_consumers(
    folder: Path, manifest: Manifest, layouts: Sequence[Layout], tensors: Mapping[str, Tensor]
) -> None:
    """Those of a graph are matrices of the file that fit the output which they read."""
    stated: dict[str, list[str]] = (manifest.onnx or {})["consumers"]
    by_name = {layout.lstm.name: layout for layout in layouts}
    if stated.keys() != by_name.keys():
        raise not_the_export(folder, "the consumers of its LSTMs in its ONNX files", shown(stated))
    for owner, names in stated.items():
        layout = by_name[owner]
        for name in names:
            tensor, trimmed = tensors.get(name), name in layout.consumers
            width = sum(map(len, layout.last_units)) if trimmed else layout.lstm.output_width
            fits = tensor is not None and tensor.dtype in DTYPES and tuple(tensor.shape[1:]) == (width,)
            if not fits or name not in manifest.recipe.get("consumers", ()):
                raise not_the_export(folder, f"a consumer of {shown(owner)} in its ONNX files", shown(name))


def _read(folder: Path, name: str, parts: Sequence[Part]) -> bytes:
    source = open_source(folder / name, wanted="an ONNX file of an export")
    source.close()
    most = 2 * weight_bytes(parts) + _MOST_BESIDE
    if source.size > most:
        raise not_the_export(folder, f"{name} of at most {most:,} bytes", f"{source.size:,}")
    return bytes(source.data)


def _check_graph(folder: Path, name: str, data: bytes, manifest: Manifest) -> None:
    try:
        model = onnx.load_model_from_string(data)
    except DecodeError as error:
        raise not_the_export(folder, f"{name} as ONNX", "something else") from error
    graph = model.graph
    foreign = {node.op_type for node in graph.node} - OPERATORS
    nested = any(attribute.HasField("g") or attribute.graphs for node in graph.node for attribute in node.attribute)
    outside = any(each.data_location == TensorProto.EXTERNAL or each.external_data for each in graph.initializer)
    if foreign or nested or outside or model.functions or model.training_info or graph.sparse_initializer:
        raise not_the_export(folder, f"LSTMs and their consumers alone in {name}", shown(sorted(foreign) or "more"))
    if not all(map(_small, graph.initializer)):
        raise not_the_export(folder, f"sizes and indices in {name}", "other numbers")
    metadata = {each.key: each.value for each in model.metadata_props}
    try:
        recipe = json.loads(metadata.get("recipe", "null"))
    except (ValueError, RecursionError):
        recipe = None
    if recipe != manifest.recipe or metadata.get("source_sha256") != manifest.source.get("sha256"):
        raise not_the_export(folder, f"the recipe and the source of the manifest in {name}", "others")


def _small(initializer: TensorProto) -> bool:
    """Whether integers of 64 bits, which can be sizes of what is computed, are those of such graphs."""
    if initializer.data_type != TensorProto.INT64:
        return True
    try:
        values = numpy_helper.to_array(initializer)
    except (ValueError, TypeError):
        return False
    return not values.size or bool(values.min() >= 0 and values.max() <= _MOST_BESIDE)


def _check_measured(folder: Path, name: str, measured: Mapping[str, Any], stated: Mapping[str, Any]) -> None:
    """Scales as in the certificate; of the float model the tolerance, of the int8 one a difference of the size that was
    stated: processors round its sums alike, but not the scales of its inputs."""
    pairs = [(measured, stated)]
    if ("consumers" in measured) != ("consumers" in stated):
        raise not_the_export(folder, f"consumers in {name} as the manifest says", shown(measured))
    if "consumers" in measured:
        pairs.append((measured["consumers"], stated["consumers"]))
    good = name != FLOAT or (agrees(measured) and agrees(stated))
    for found, claimed in pairs:
        scale, gap = found["max_abs_output"], found["max_abs_difference"]
        good = good and math.isclose(scale, claimed["max_abs_output"], rel_tol=1e-3)
        if name != FLOAT:
            good = good and math.isclose(gap, claimed["max_abs_difference"], rel_tol=0.5, abs_tol=1e-3 * scale)
    if not good:
        raise not_the_export(folder, f"{name} as close to the pruned model as the manifest says", shown(measured, 200))
