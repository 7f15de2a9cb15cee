"""What the ONNX file of a stranger holds, before it is run: LSTMs and what reads them, or it is refused."""

import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, numpy_helper

from pruner.errors import PrunerError, shown

# What the graphs are made of, in float and after quantization.
_IN_FLOAT = "LSTM MatMul Add Concat Expand Gather Identity Pad Shape Split Squeeze Transpose Unsqueeze"
_IN_INT8 = "DynamicQuantizeLSTM DynamicQuantizeLinear MatMulInteger Cast Mul"
OPERATORS = frozenset(f"{_IN_FLOAT} {_IN_INT8}".split())
MOST = 2**24  # of an integer, which may be the size of what is computed


def metadata_of(data: bytes) -> dict[str, str]:
    """The metadata of a model that has nothing but what these graphs need: no other operators, no loops, no functions, no
    other files, no huge sizes. Raises PrunerError for any other."""
    try:
        model = onnx.load_model_from_string(data)
    except DecodeError as error:
        raise PrunerError("expected an ONNX model, found something else") from error
    graph = model.graph
    foreign = sorted({node.op_type for node in graph.node} - OPERATORS)
    nested = any(attribute.HasField("g") or attribute.graphs for node in graph.node for attribute in node.attribute)
    outside = any(each.data_location == TensorProto.EXTERNAL or each.external_data for each in graph.initializer)
    if foreign or nested or outside or model.functions or model.training_info or graph.sparse_initializer:
        raise PrunerError(
            f"expected LSTMs and their consumers alone in an ONNX model, found {shown(foreign or 'more')}"
        )
    if not all(map(_small, graph.initializer)):
        raise PrunerError("expected sizes and indices as the integers of an ONNX model, found other numbers")
    return {each.key: each.value for each in model.metadata_props}


def _small(initializer: TensorProto) -> bool:
    """Whether integers of 64 bits, where it has them, are sizes and indices."""
    if initializer.data_type != TensorProto.INT64:
        return True
    try:
        values = numpy_helper.to_array(initializer)
    except (ValueError, TypeError):
        return False
    return not values.size or bool(values.min() >= 0 and values.max() <= MOST)
