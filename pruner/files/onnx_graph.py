"""An ONNX model as a checkpoint: its LSTMs under PyTorch's names and in PyTorch's order of gates, and its other weights."""

from collections.abc import Iterator

import numpy as np

from pruner.errors import PrunerError, shown
from pruner.files import arrays
from pruner.files.contents import Contents, Learned
from pruner.files.onnx_lstms import GRAPH, Found, Layer, direction_of, find_in
from pruner.files.onnx_model import Constants, Graph, array_of, external_file, read_graph
from pruner.files.protobuf import MalformedMessage, Message

ONNX = "ONNX"

_FIELDS = {1, 2, 3, 4, 5, 6, 7, 8, 14, 20, 25, 26}  # those of a ModelProto
_BACKWARDS = "the model feeds it from the last step to the first: turn calibration inputs round"


def matches(data: memoryview) -> bool:
    """Whether some bytes are an ONNX model: they have no mark, so their outermost fields are looked at."""
    try:
        message = Message(data)
        return message.numbers <= _FIELDS and message.integer(1) > 0 and len(message.blocks(GRAPH)) == 1
    except MalformedMessage:
        return False


def read(data: memoryview, name: str) -> Contents:
    """The LSTMs of a model, what reads them, and the other floating-point weights under their own names.

    Raises PrunerError for a damaged model, and for one whose weights lie in other files: those are not opened.
    """
    try:
        graph = read_graph(Message(data).messages(GRAPH)[0])
        if (outside := external_file(graph)) is not None:
            raise PrunerError(
                f"expected an ONNX model with its weights inside, found weights in a file of their own "
                f"({shown(outside)}): {name}; put both into one with onnx.save_model(onnx.load(path), new_path)"
            )
        return _contents(find_in(graph, Constants(len(data))))
    except (MalformedMessage, ValueError, IndexError, TypeError, OverflowError) as error:
        raise PrunerError(
            f"expected a complete ONNX model, found a damaged one: {name} ({shown(str(error), 160)}); "
            "save or download it again"
        ) from error


def _contents(found: Found) -> Contents:
    tensors = {
        f"{module}.{name}".removeprefix("."): array
        for module, parts in found.modules.items()
        for index, layer in enumerate(parts)
        for name, array in ((name.replace("_l0", f"_l{index}"), array) for name, array in layer.tensors.items())
    }
    used = {
        source
        for layers in (*found.modules.values(), *found.again.values())
        for layer in layers
        for source in layer.sources
    }
    for name, product in found.products:
        tensors[name] = product.weight
        used.update(product.weight_sources)
        if product.bias is not None:
            tensors[f"{name.removesuffix('weight')}bias"] = product.bias
            used.update(product.bias_sources)
    learned = {
        module: Learned(
            batch_first=_is_batch_first(parts[0]),
            classes={module: "LSTM"},
            consumers=tuple(found.consumers(module)),
            notes=(_BACKWARDS,) if direction_of(parts[0].node) == "reverse" else (),
        )
        for module, parts in found.modules.items()
    }
    for name, array in _others(found.graph, used):
        tensors.setdefault(name, array)
    stored = {name: arrays.stored(array) for name, array in tensors.items()}
    return Contents(ONNX, stored, {}, learned, tuple(found.skipped))


def _is_batch_first(layer: Layer) -> bool | None:
    """Whether the model's own inputs are (batch, time, features): the node says so, or the graph turns them before it."""
    if layer.node.integer("layout", 0) == 1:
        return True
    name = layer.node.input(0)
    before = layer.graph.producers.get(name)
    if before is None:
        return False if name in layer.graph.inputs else None
    return True if before.operation == "Transpose" and before.integers("perm") == [1, 0, 2] else None


def _others(graph: Graph, used: set[str]) -> Iterator[tuple[str, np.ndarray]]:
    for inner in graph.all():
        for name, tensor in inner.initializers.items():
            array = None if name in used else array_of(tensor)
            if array is not None and arrays.dtype_name(array.dtype) in arrays.FLOATS:
                yield name, array
