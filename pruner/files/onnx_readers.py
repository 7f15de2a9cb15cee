"""Who reads the output of an LSTM in an ONNX graph, where the graph proves it.

A value is followed from the LSTM on, with what each of its axes means, through operations that keep the features of a unit
apart and 0 at 0. It must end in matrix products (or other LSTMs) alone: one more reader of any other kind, the graph's own
output among them, and nothing is proven.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pruner.files.onnx_model import Constants, Graph, Node, settings_of

FEATURE, DIRECTION, UNIT, ONE, TIME, OTHER = "feature", "direction", "unit", "one", "time", "other"

Axes = tuple[str, ...]

_KEEPS_ZERO = ("Identity", "Dropout", "Relu", "LeakyRelu", "Tanh", "Cast")
_MOVES = (
    "Identity",
    "Squeeze",
    "Unsqueeze",
    "Transpose",
    "Reshape",
    "Concat",
    "Slice",
    "Gather",
    "Split",
    "Cast",
    "Pad",
)


@dataclass(frozen=True, eq=False)
class Product:
    """A matrix product that reads an LSTM: its weight as `nn.Linear` has it, and its bias if it has one."""

    node: Node
    weight: np.ndarray  # (outputs, width)
    bias: np.ndarray | None
    weight_sources: list[str]
    bias_sources: list[str]
    bias_at: tuple[Node, int]  # the node, and which of its inputs, that the bias goes into, if there is one


Reader = Product | Node  # a node is an LSTM


@dataclass(frozen=True, eq=False)
class Reading:
    """All that reads the outputs of an LSTM: the `readers`, the `values` between it and them, and the nodes on the way whose
    constant shape says how wide the output is, with that. States that are `handed_on` to the next call are read by nobody:
    these outputs (1 for `h`, 2 for `c`) of the node."""

    readers: list[Reader]
    values: list[str]
    reshapes: list[tuple[Node, list[int]]]
    handed_on: list[int]


@dataclass(frozen=True)
class State:
    """A state of an LSTM, `h` or `c`: the values that it begins and ends as, the graph's inputs that it comes from, and the
    graph's outputs that it is moved to, if nothing else reads it."""

    initial: str
    final: str
    origins: set[str]
    ends: set[str]


_MOST_STEPS = 200_000  # from value to value, in a whole model


class _Unproven(Exception):
    pass


class Readers:
    """Who reads which value of a graph."""

    def __init__(self, graph: Graph, constants: Constants) -> None:
        self._constants = constants
        self._steps_left = _MOST_STEPS
        self._graph_of: dict[int, Graph] = {}
        self._by_value: dict[tuple[int, str], list[Node]] = {}
        for inner in graph.all():
            for node in inner.nodes:
                self._graph_of[id(node)] = inner
                for name in dict.fromkeys(node.inputs):
                    self._by_value.setdefault((id(inner.home(name)), name), []).append(node)

    def of_lstm(self, graph: Graph, node: Node, hidden_size: int, directions: int) -> Reading | None:
        """Everything that reads the output of an LSTM; None where that is not proven."""
        width = directions * hidden_size
        unit, direction = (FEATURE, ONE) if directions == 1 else (UNIT, DIRECTION)
        batch_first = node.integer("layout", 0) == 1
        sequence = (OTHER, TIME, direction, unit) if batch_first else (TIME, direction, OTHER, unit)
        state = (OTHER, direction, unit) if batch_first else (direction, OTHER, unit)
        found = Reading([], [], [], [])
        try:
            self._follow(graph, node.output(0), sequence, width, found)
            for index in (1, 2):
                name = node.output(index)
                if name and self._is_handed_on(graph, node.input(index + 4), name):
                    found.handed_on.append(index)
                elif name:
                    self._follow(graph, name, state, width, found)
        except (_Unproven, ValueError, IndexError):
            return None
        return found if found.readers else None

    def _follow(self, graph: Graph, name: str, axes: Axes, width: int, found: Reading) -> None:
        """Add everything that reads a value, whose axes mean `axes`. A chain longer than the stack allows proves nothing."""
        ahead = [(name, axes)]
        while ahead:
            name, axes = ahead.pop()
            if not name:
                continue
            if name in graph.outputs:
                raise _Unproven
            found.values.append(name)
            for node in self._readers(graph, name):
                if node.operation in ("MatMul", "Gemm"):
                    found.readers.append(self._product(graph, node, name, axes, width))
                elif node.operation == "LSTM" and node.input(0) == name and axes[-1] == FEATURE:
                    found.readers.append(node)
                else:
                    ahead.append((node.output(0), self._after(graph, node, name, axes, width)))
                    shape = self._shape(graph, node) if node.operation == "Reshape" else [-1]
                    if shape[-1] != -1:
                        found.reshapes.append((node, shape))

    def _readers(self, graph: Graph, name: str) -> list[Node]:
        found = self._by_value.get((id(graph), name), [])
        self._step(len(found))
        if any(self._graph_of[id(node)] is not graph for node in found):
            raise _Unproven
        return found

    def _step(self, count: int) -> None:
        self._steps_left -= count
        if self._steps_left < 0:
            raise _Unproven

    def states(self, graph: Graph, node: Node) -> list["State"]:
        """The states of an LSTM node that come from the graph's inputs, whatever becomes of them."""
        found = []
        try:
            for index in (1, 2):
                origins = self._origins(graph, node.input(index + 4))
                if origins:
                    ends = self._ends(graph, node.output(index)) or set()
                    found.append(State(node.input(index + 4), node.output(index), origins, ends))
        except _Unproven:
            return []
        return found

    def _is_handed_on(self, graph: Graph, initial: str, final: str) -> bool:
        """Whether a state comes from the graph's inputs and goes to its outputs: to the next call, which is no reader."""
        return bool(self._ends(graph, final) and self._origins(graph, initial))

    def _ends(self, graph: Graph, name: str) -> set[str] | None:
        """The outputs of the graph that a value is moved to; None where anything else reads it."""
        ahead, seen = [name], {name}
        while ahead:
            name = ahead.pop()
            self._step(1)
            for node in self._by_value.get((id(graph), name), []):
                self._step(len(node.outputs))
                if node.operation not in _MOVES:
                    return None
                new = [name for name in node.outputs if name not in seen]
                seen.update(new)
                ahead += new
        return seen & graph.outputs

    def _origins(self, graph: Graph, name: str) -> set[str]:
        """The inputs of the graph that a value is made of by moving numbers about."""
        ahead, seen, found = [name], {name}, set[str]()
        while ahead:
            name = ahead.pop()
            self._step(1)
            if name in graph.inputs and name not in graph.initializers:
                found.add(name)
            node = graph.producers.get(name)
            new = [name for name in node.inputs if name not in seen] if node and node.operation in _MOVES else []
            seen.update(new)
            ahead += new
        return found

    def _product(self, graph: Graph, node: Node, name: str, axes: Axes, width: int) -> Product:
        if node.input(0) != name or node.input(1) == name or axes[-1] != FEATURE:
            raise _Unproven
        weight = self._constants.value(graph, node.input(1))
        if node.operation == "Gemm":
            if node.integer("transA", 0) or node.real("alpha", 1.0) != 1 or node.real("beta", 1.0) != 1:
                raise _Unproven
            transposed = node.integer("transB", 0) == 1
            bias_at = node, 2
        else:
            transposed = False
            bias_at = self._addition(graph, node)
        added = bias_at[0].input(bias_at[1])
        bias, bias_sources = self._constants.value(graph, added), self._constants.sources(graph, added)
        if weight is None or weight.ndim != 2:
            raise _Unproven
        weight = weight if transposed else weight.T
        if weight.shape[1] != width:
            raise _Unproven
        if bias is not None and bias.shape != weight.shape[:1]:
            bias, bias_sources = None, []
        return Product(node, weight, bias, self._constants.sources(graph, node.input(1)), bias_sources, bias_at)

    def _addition(self, graph: Graph, node: Node) -> tuple[Node, int]:
        """The addition that alone reads a product, and which of its inputs is the other side; where there is none, an input
        that the product does not have."""
        readers = self._by_value.get((id(graph), node.output(0)), [])
        if len(readers) != 1 or readers[0].operation != "Add" or node.output(0) in graph.outputs:
            return node, 2
        others = [index for index, name in enumerate(readers[0].inputs) if name != node.output(0)]
        return readers[0], others[0] if others else 2

    def _shape(self, graph: Graph, node: Node) -> list[int]:
        """The constant shape of a Reshape; [-1] where there is none."""
        return settings_of(node, "shape", [None, self._constants.value(graph, node.input(1))], 1) or [-1]

    def _after(self, graph: Graph, node: Node, name: str, axes: Axes, width: int) -> Axes:
        """What the axes mean after an operation."""
        if node.input(0) != name or name in node.inputs[1:]:
            raise _Unproven
        if node.operation in _KEEPS_ZERO:
            return axes
        if node.operation not in _AFTER:
            raise _Unproven
        values = [None] + [self._constants.value(graph, other) if other else None for other in node.inputs[1:]]
        return _AFTER[node.operation](node, values, axes, width)


Values = list[np.ndarray | None]


def _transposed(node: Node, values: Values, axes: Axes, width: int) -> Axes:
    order = node.integers("perm") or list(range(len(axes)))[::-1]
    if sorted(order) != list(range(len(axes))):
        raise _Unproven
    return tuple(axes[axis] for axis in order)


def _squeezed(node: Node, values: Values, axes: Axes, width: int) -> Axes:
    gone = settings_of(node, "axes", values, 1)
    if not gone or any(axes[axis] in (FEATURE, UNIT, DIRECTION) for axis in gone):
        raise _Unproven
    gone = [axis % len(axes) for axis in gone]
    return tuple(meaning for axis, meaning in enumerate(axes) if axis not in gone)


def _unsqueezed(node: Node, values: Values, axes: Axes, width: int) -> Axes:
    new = settings_of(node, "axes", values, 1)
    if not new:
        raise _Unproven
    rank = len(axes) + len(new)
    places, rest = {axis % rank for axis in new}, iter(axes)
    return tuple(ONE if axis in places else next(rest) for axis in range(rank))


def _reshaped(node: Node, values: Values, axes: Axes, width: int) -> Axes:
    """The last axis must be the features again: as wide as they are, or what is left when the axes before are kept."""
    shape = settings_of(node, "shape", values, 1)
    if not shape:
        raise _Unproven
    kept = len(shape) - 1
    merged = [meaning for meaning in axes[kept:] if meaning != ONE] if len(axes) > kept else []
    in_order = axes[-1] == FEATURE or axes[-2:] == (DIRECTION, UNIT)
    rest_is_feature = shape[-1] == -1 and not any(shape[:-1]) and merged in ([FEATURE], [DIRECTION, UNIT])
    if not in_order or not (shape[-1] == width or rest_is_feature):
        raise _Unproven
    return (axes[:kept] if rest_is_feature else (OTHER,) * kept) + (FEATURE,)


def _sliced(node: Node, values: Values, axes: Axes, width: int) -> Axes:
    cut = settings_of(node, "axes", values, 3)
    if not cut or any(axes[axis] in (FEATURE, UNIT, DIRECTION) for axis in cut):
        raise _Unproven
    return axes


def _gathered(node: Node, values: Values, axes: Axes, width: int) -> Axes:
    index, axis = values[1], node.integer("axis", 0)
    if index is None or index.ndim > 1 or axes[axis] in (FEATURE, UNIT, DIRECTION):
        raise _Unproven
    axis %= len(axes)
    return axes if index.ndim else axes[:axis] + axes[axis + 1 :]


_AFTER: dict[str, Callable[[Node, Values, Axes, int], Axes]] = {
    "Transpose": _transposed,
    "Squeeze": _squeezed,
    "Unsqueeze": _unsqueezed,
    "Reshape": _reshaped,
    "Slice": _sliced,
    "Gather": _gathered,
}
