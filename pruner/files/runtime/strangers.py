"""What the whole graph of a stranger's ONNX model may hold, before it is run in a process with limits."""

from collections.abc import Iterable, Iterator

import onnx
from google.protobuf.message import DecodeError
from onnx import GraphProto, NodeProto, TensorProto

from pruner.errors import PrunerError, shown

# Those whose operators ONNX Runtime has of its own: no code of others runs.
DOMAINS = frozenset(("", "ai.onnx", "ai.onnx.ml", "com.microsoft"))


def checked(data: bytes) -> onnx.ModelProto:
    """A model that passes the checker of `onnx`, all of which lies in the file and whose operators are ONNX Runtime's own.

    Raises PrunerError for any other.
    """
    try:
        model = onnx.load_model_from_string(data)
    except DecodeError as error:
        raise PrunerError("expected an ONNX model, found something else") from error
    if model.functions or model.training_info:
        raise PrunerError("expected an ONNX model of plain nodes, found functions or training steps of its own")
    for node in _nodes(model.graph):
        if node.domain not in DOMAINS:
            raise PrunerError(
                f"expected operators that ONNX Runtime has, found {shown(node.op_type, 40)} of the domain "
                f"{shown(node.domain, 40)}: code of others is not run"
            )
    if any(each.data_location == TensorProto.EXTERNAL or each.external_data for each in _tensors(model.graph)):
        raise PrunerError("expected an ONNX model with its weights inside, found weights in a file of their own")
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # those of the checker and of shape inference have no common class
        raise PrunerError(
            f"expected a model that the checker of onnx passes, found {shown(str(error).strip(), 200)}"
        ) from error
    return model


def _graphs(node: NodeProto) -> Iterator[GraphProto]:
    for attribute in node.attribute:
        yield from [attribute.g] if attribute.HasField("g") else attribute.graphs


def _nodes(graph: GraphProto) -> Iterator[NodeProto]:
    """Those of a graph and of all graphs inside of it."""
    for node in graph.node:
        yield node
        for inner in _graphs(node):
            yield from _nodes(inner)


def _tensors(graph: GraphProto) -> Iterator[TensorProto]:
    yield from _initializers(graph)
    for node in _nodes(graph):
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
        for inner in _graphs(node):
            yield from _initializers(inner)


def _initializers(graph: GraphProto) -> Iterable[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
