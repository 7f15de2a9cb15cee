"""Who reads the output of an LSTM in an ONNX graph, where the graph proves it.

A value is followed from the LSTM on, with what each of its axes means, through operations that keep the features of a unit
apart and 0 at 0. It must end in matrix products (or other LSTMs) alone: one more reader of any other kind, the graph's own
output among them, and nothing is proven.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from pruner.files.onnx_model import Constants, Graph, Node, settings_of

FEATURE, DIRECTION, UNIT, ONE, TIME, OTHER = "feature", "direction", "unit", "one", "time", "other"

Axes = tuple[str, ...]

_KEEPS_ZERO = ("Identity", "Dropout", "Relu", "LeakyRelu", "Tanh", "Cast")
_MOVES = ("Identity", "Squeeze", "Unsqueeze", "Transpose", "Reshape", "Concat", "Slice", "Gather", "Split", "Cast")


@dataclass(frozen=True, eq=False)
class Product:
    """A matrix product that reads an LSTM: its weight as `nn.Linear` has it, and its bias if it has one."""

    node: Node
    weight: np.ndarray  # (outputs, width)
    bias: np.ndarray | None
    weight_sources: list[str]
    bias_sources: list[str]


Reader = Product | Node  # a node is an LSTM


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

    def of_lstm(self, graph: Graph, node: Node, hidden_size: int, directions: int) -> list[Reader] | None:
        """Everything that reads the output of an LSTM; None where that is not proven."""
        width = directions * hidden_size
        unit, direction = (FEATURE, ONE) if directions == 1 else (UNIT, DIRECTION)
        batch_first = node.integer("layout", 0) == 1
        sequence = (OTHER, TIME, direction, unit) if batch_first else (TIME, direction, OTHER, unit)
        state = (OTHER, direction, unit) if batch_first else (direction, OTHER, unit)
        try:
            found = list(self._follow(graph, node.output(0), sequence, width))
            for index in (1, 2):
                name = node.output(index)
                if name and not self._is_handed_on(graph, node.input(index + 4), name):
                    found += self._follow(graph, name, state, width)
        except (_Unproven, ValueError, IndexError):
            return None
        return found or None

    def _follow(self, graph: Graph, name: str, axes: Axes, width: int) -> Iterator[Reader]:
        """Everything that reads a value, whose axes mean `axes`. A chain longer than the stack allows proves nothing."""
        ahead = [(name, axes)]
        while ahead:
            name, axes = ahead.pop()
            if not name:
                continue
            if name in graph.outputs:
                raise _Unproven
            for node in self._readers(graph, name):
                if node.operation in ("MatMul", "Gemm"):
                    yield self._product(graph, node, name, axes, width)
                elif node.operation == "LSTM" and node.input(0) == name and axes[-1] == FEATURE:
                    yield node
                else:
                    ahead.append((node.output(0), self._after(graph, node, name, axes, width)))

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

    def _is_handed_on(self, graph: Graph, initial: str, final: str) -> bool:
        """Whether a state comes from the graph's inputs and goes to its outputs: to the next call, which is no reader."""
        ahead, seen, ends = [final], {final}, False
        while ahead:
            name = ahead.pop()
            ends = ends or name in graph.outputs
            self._step(1)
            for node in self._by_value.get((id(graph), name), []):
                self._step(len(node.outputs))
                if node.operation not in _MOVES:
                    return False
                new = [name for name in node.outputs if name not in seen]
                seen.update(new)
                ahead += new
        return ends and self._comes_from_outside(graph, initial)

    def _comes_from_outside(self, graph: Graph, name: str) -> bool:
        ahead, seen = [name], {name}
        while ahead:
            name = ahead.pop()
            self._step(1)
            if name in graph.inputs and name not in graph.initializers:
                return True
            node = graph.producers.get(name)
            new = [name for name in node.inputs if name not in seen] if node and node.operation in _MOVES else []
            seen.update(new)
            ahead += new
        return False

    def _product(self, graph: Graph, node: Node, name: str, axes: Axes, width: int) -> Product:
        if node.input(0) != name or node.input(1) == name or axes[-1] != FEATURE:
            raise _Unproven
        weight, bias, bias_sources = self._constants.value(graph, node.input(1)), None, list[str]()
        if node.operation == "Gemm":
            if node.integer("transA", 0) or node.real("alpha", 1.0) != 1 or node.real("beta", 1.0) != 1:
                raise _Unproven
            transposed = node.integer("transB", 0) == 1
            bias, bias_sources = (
                self._constants.value(graph, node.input(2)),
                self._constants.sources(graph, node.input(2)),
            )
        else:
            transposed = False
            added = self._added_bias(graph, node)
            bias, bias_sources = self._constants.value(graph, added), self._constants.sources(graph, added)
        if weight is None or weight.ndim != 2:
            raise _Unproven
        weight = weight if transposed else weight.T
        if weight.shape[1] != width:
            raise _Unproven
        if bias is not None and bias.shape != weight.shape[:1]:
            bias, bias_sources = None, []
        return Product(node, weight, bias, self._constants.sources(graph, node.input(1)), bias_sources)

    def _added_bias(self, graph: Graph, node: Node) -> str:
        """The other side of the addition that alone reads a product; "" where there is none."""
        readers = self._by_value.get((id(graph), node.output(0)), [])
        if len(readers) != 1 or readers[0].operation != "Add" or node.output(0) in graph.outputs:
            return ""
        return next((name for name in readers[0].inputs if name != node.output(0)), "")

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
