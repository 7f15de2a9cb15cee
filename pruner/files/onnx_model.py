"""An ONNX model's graphs, and the values in them that are constant.

The fields are those of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto. Only what moves numbers about is computed:
exporters cut, turn and join weights in the graph before an LSTM reads them.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from pruner.files import arrays
from pruner.files.protobuf import MalformedMessage, Message

MAX_DEPTH = 60  # graphs within graphs, and constants that are made from constants

_TYPES = {
    1: "float32",
    2: "uint8",
    3: "int8",
    5: "int16",
    6: "int32",
    7: "int64",
    9: "bool",
    10: "float16",
    11: "float64",
    16: "bfloat16",
}
_EXTERNAL = 1
_ONNX_DOMAINS = ("", "ai.onnx")


@dataclass(frozen=True, eq=False)
class Node:
    """One operation of a graph. Another domain than ONNX's own is part of its name: `com.microsoft.DynamicQuantizeLSTM`."""

    operation: str
    name: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Message]
    graphs: list["Graph"]

    def integers(self, name: str) -> list[int] | None:
        return self.attributes[name].integers(8) if name in self.attributes else None

    def integer(self, name: str, default: int) -> int:
        return self.attributes[name].integer(3) if name in self.attributes else default

    def real(self, name: str, default: float) -> float:
        return self.attributes[name].real(2) if name in self.attributes else default

    def texts(self, name: str) -> list[str]:
        attribute = self.attributes.get(name)
        return attribute.texts(4) + attribute.texts(9) if attribute else []

    def input(self, index: int) -> str:
        """The name of an input; "" for one that is left out."""
        return self.inputs[index] if index < len(self.inputs) else ""

    def output(self, index: int) -> str:
        return self.outputs[index] if index < len(self.outputs) else ""


@dataclass(eq=False)
class Graph:
    """A graph. Those inside of it (the branches of an `If`, say) see its values, too."""

    around: "Graph | None"
    inputs: set[str]
    outputs: set[str]
    initializers: dict[str, Message]
    nodes: list[Node] = field(default_factory=list)
    producers: dict[str, Node] = field(default_factory=dict)

    def home(self, name: str) -> "Graph | None":
        """The graph that a value is defined in: this one, or one around it."""
        graph: Graph | None = self
        while graph and name not in graph.initializers and name not in graph.producers and name not in graph.inputs:
            graph = graph.around
        return graph

    def all(self) -> Iterator["Graph"]:
        """This graph and those inside of it, in the order of their nodes."""
        yield self
        for node in self.nodes:
            for graph in node.graphs:
                yield from graph.all()


def read_graph(message: Message, around: Graph | None = None, depth: int = 0) -> Graph:
    """A GraphProto as a graph. Raises MalformedMessage for what is none."""
    if depth > MAX_DEPTH:
        raise MalformedMessage(f"graphs nested more than {MAX_DEPTH} deep")
    graph = Graph(
        around,
        {value.text(1) for value in message.messages(11)},
        {value.text(1) for value in message.messages(12)},
        {tensor.text(8): tensor for tensor in message.messages(5)},
    )
    for found in message.messages(1):
        attributes = {attribute.text(1): attribute for attribute in found.messages(5)}
        inner = [
            read_graph(within, graph, depth + 1)
            for attribute in attributes.values()
            for within in attribute.messages(6) + attribute.messages(11)
        ]
        domain = found.text(7)
        operation = found.text(4) if domain in _ONNX_DOMAINS else f"{domain}.{found.text(4)}"
        node = Node(operation, found.text(3), found.texts(1), found.texts(2), attributes, inner)
        graph.nodes.append(node)
        graph.producers |= {name: node for name in node.outputs if name}
    return graph


def external_file(graph: Graph) -> str | None:
    """The file outside of the model that some weights are said to lie in; None where all lie inside."""
    for inner in graph.all():
        for tensor in inner.initializers.values():
            if tensor.integer(14) == _EXTERNAL:
                return next((entry.text(2) for entry in tensor.messages(13) if entry.text(1) == "location"), "")
    return None


def array_of(tensor: Message) -> np.ndarray | None:
    """The numbers of a TensorProto, without a copy where they lie in order; None for what torch has no numbers for."""
    name, shape = _TYPES.get(tensor.integer(2)), tuple(tensor.integers(1))
    if name is None or tensor.integer(14) == _EXTERNAL:
        return None
    dtype = arrays.DTYPES[name]
    if 9 in tensor.numbers:
        return arrays.view(tensor.blocks(9)[-1], dtype, shape)
    if name in ("float32", "float64"):
        blocks = tensor.blocks(4 if name == "float32" else 10)
        return arrays.view(blocks[0] if len(blocks) == 1 else memoryview(b"".join(blocks)), dtype, shape)
    if name == "int64":
        return np.array(tensor.integers(7), dtype).reshape(shape)
    numbers = np.array(tensor.integers(5), np.int64)  # half-precision numbers are stored as the bits that they are
    halves = name in ("float16", "bfloat16")
    return (numbers.astype(np.uint16).view(dtype) if halves else numbers.astype(dtype)).reshape(shape)


class Constants:
    """The values of a model's graphs that do not depend on its inputs, computed when they are asked for."""

    def __init__(self, size: int) -> None:
        """`size` is that of the file in bytes: what is copied must not take more than four times as much."""
        self._left = 4 * size
        self._known: dict[tuple[int, str], np.ndarray | None] = {}
        self._sources: dict[tuple[int, str], list[str]] = {}

    def spend(self, size: int) -> None:
        """Allow for a copy of `size` bytes. Raises MalformedMessage if there are too many for a file of this size."""
        self._left -= size
        if self._left < 0:
            raise MalformedMessage("constants that take more than four times the file")

    def value(self, graph: Graph, name: str, depth: int = 0) -> np.ndarray | None:
        """A constant; None for a value that is none, or is computed by more than moving numbers about."""
        home = graph.home(name) if name else None
        if home is None or depth > MAX_DEPTH:
            return None
        key = (id(home), name)
        if key not in self._known:
            self._known[key] = self._compute(home, name, depth)
        return self._known[key]

    def sources(self, graph: Graph, name: str) -> list[str]:
        """The initializers that a constant is made from."""
        key = (id(graph.home(name)), name)
        if key in self._sources:
            return self._sources[key]
        found: dict[str, None] = {}
        seen, ahead = set[tuple[int, str]](), [(graph, name)]
        while ahead:
            graph, name = ahead.pop()
            home = graph.home(name) if name else None
            if home is None or (id(home), name) in seen:
                continue
            seen.add((id(home), name))
            node = home.producers.get(name)
            if name in home.initializers:
                found[name] = None
            elif node and node.operation in _OPERATIONS:
                ahead += [(home, made_from) for made_from in node.inputs[: None if node.operation == "Concat" else 1]]
        return self._sources.setdefault(key, list(found))

    def _compute(self, graph: Graph, name: str, depth: int) -> np.ndarray | None:
        if name in graph.initializers:
            return array_of(graph.initializers[name])
        node = graph.producers.get(name)
        if node is None:
            return None
        if node.operation == "Constant":
            return _constant(node)
        if node.operation not in _OPERATIONS:
            return None
        values = [self.value(graph, made_from, depth + 1) if made_from else None for made_from in node.inputs]
        if any(value is None and made_from for value, made_from in zip(values, node.inputs, strict=True)):
            return None
        if node.operation == "Concat":
            self.spend(sum(value.nbytes for value in values if value is not None))
        return _OPERATIONS[node.operation](node, values)


Values = list[np.ndarray | None]


def settings_of(node: Node, name: str, values: Values, index: int) -> list[int] | None:
    """Integers that old versions of an operation have as an attribute and new ones as an input; None if left out."""
    if name in node.attributes:
        return node.integers(name)
    value = values[index] if index < len(values) else None
    return None if value is None else [int(number) for number in value.reshape(-1)]


def _constant(node: Node) -> np.ndarray | None:
    for tensor in node.attributes["value"].messages(5) if "value" in node.attributes else []:
        return array_of(tensor)
    if "value_int" in node.attributes:
        return np.array(node.integer("value_int", 0), np.int64)
    numbers = node.integers("value_ints")
    return None if numbers is None else np.array(numbers, np.int64)


def _identity(node: Node, values: Values) -> np.ndarray | None:
    return values[0]


def _concat(node: Node, values: Values) -> np.ndarray:
    return np.concatenate([value for value in values if value is not None], node.integer("axis", 0))


def _transpose(node: Node, values: Values) -> np.ndarray:
    return np.transpose(_first(values), node.integers("perm"))


def _unsqueeze(node: Node, values: Values) -> np.ndarray:
    return np.expand_dims(_first(values), tuple(settings_of(node, "axes", values, 1) or ()))


def _squeeze(node: Node, values: Values) -> np.ndarray:
    axes = settings_of(node, "axes", values, 1)
    return np.squeeze(_first(values), None if axes is None else tuple(axes))


def _slice(node: Node, values: Values) -> np.ndarray:
    array = _first(values)
    starts, ends = settings_of(node, "starts", values, 1) or [], settings_of(node, "ends", values, 2) or []
    axes = settings_of(node, "axes", values, 3) or list(range(len(starts)))
    steps = settings_of(node, "steps", values, 4) or [1] * len(starts)
    index = [slice(None)] * array.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        index[axis] = slice(start, end, step)
    return array[tuple(index)]


def _first(values: Values) -> np.ndarray:
    if not values or values[0] is None:
        raise MalformedMessage("an operation without an input")
    return values[0]


_OPERATIONS = {
    "Identity": _identity,
    "Concat": _concat,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Slice": _slice,
}
