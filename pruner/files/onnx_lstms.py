"""The LSTMs that the nodes of an ONNX graph form, and what reads each.

An LSTM node holds one layer: `W` (D, 4H, I), `R` (D, 4H, H) and `B` (D, 8H, first those of W), gates packed i, o, f, c
(https://onnx.ai/onnx/operators/onnx__LSTM.html).
"""

import re
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from pruner.errors import shown
from pruner.files.onnx_model import Constants, Graph, Node, read_graph
from pruner.files.onnx_readers import Product, Readers, Reading, State
from pruner.files.protobuf import Message

GRAPH = 7  # the field of a ModelProto
DIRECTIONS = ("", "_reverse")
PACKED = ".iofc"  # what the name of a weight that was written in ONNX's order of gates ends with

_PYTORCH_NAME = re.compile(
    rf"(?:(?P<module>.*)\.)?(?:weight|bias)_(?:ih|hh)_l(?P<layer>0|[1-9][0-9]{{0,3}})(?:_reverse)?(?:{re.escape(PACKED)})?"
)
_ACTIVATIONS = ["sigmoid", "tanh", "tanh"]

Tensors = dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Layer:
    """One LSTM node. `tensors` are keyed by PyTorch's names for a layer 0."""

    graph: Graph
    node: Node
    tensors: Tensors
    sources: list[str]  # the initializers that it is made from
    module: str | None  # what PyTorch called it, where the initializers kept their names, and which layer it is
    index: int

    @property
    def hidden_size(self) -> int:
        return self.tensors["weight_hh_l0"].shape[1]

    @property
    def directions(self) -> int:
        return 2 if "weight_hh_l0_reverse" in self.tensors else 1


@dataclass(frozen=True, eq=False)
class Found:
    """The LSTMs of a graph, by the names that they get: the layers of each, what reads each layer (None where that is not
    proven), and the nodes that run a layer of one again, with the same weights. `products` are the matrix products among
    the readers, with the names that their weights get; `states` what comes from the graph's inputs; `skipped` is what only
    looks like an LSTM, with the reason."""

    graph: Graph
    modules: dict[str, list[Layer]]
    readings: dict[str, list[Reading | None]]
    again: dict[str, list[Layer]]
    products: list[tuple[str, Product]]
    states: list[State]
    skipped: list[tuple[str, str]]

    def consumers(self, name: str) -> list[str]:
        """The names of the tensors that read the output of an LSTM, all of them; none where that is not proven."""
        last = self.readings[name][-1]
        found = []
        for reader in last.readers if last else ():
            found += [key for key, product in self.products if product is reader] or self._inputs_of(reader)
        return list(dict.fromkeys(found))

    def _inputs_of(self, node: Product | Node) -> list[str]:
        """The tensors that read the input of a layer."""
        return [
            f"{name}.weight_ih_l{index}{end}".removeprefix(".")
            for name, layers in self.modules.items()
            for index, layer in enumerate(layers)
            if layer.node is node
            for end in DIRECTIONS[: layer.directions]
        ]


def find(data: memoryview) -> tuple[Found, Constants]:
    """The LSTMs of a model, and its constants. Raises MalformedMessage, ValueError and the like for a damaged one."""
    graph, constants = read_graph(Message(data).messages(GRAPH)[0]), Constants(len(data))
    return find_in(graph, constants), constants


def find_in(graph: Graph, constants: Constants) -> Found:
    layers, skipped, taken = list[Layer](), list[tuple[str, str]](), set[str]()
    made: dict[tuple[int, ...], Tensors] = {}
    for inner in graph.all():
        for node in inner.nodes:
            try:
                if _is_recurrent(node):
                    layers.append(_layer(inner, node, constants, made))
            except _NotAnLSTM as reason:
                skipped.append((_unique(node.name, "lstm", taken), str(reason)))
    modules, again = _modules(layers, taken)
    readers, products = Readers(graph, constants), list[tuple[str, Product]]()
    readings: dict[str, list[Reading | None]] = {}
    for module, parts in modules.items():
        readings[module] = [readers.of_lstm(each.graph, each.node, each.hidden_size, each.directions) for each in parts]
        last = readings[module][-1]
        for reader in last.readers if last else ():
            if isinstance(reader, Product):
                constants.spend(reader.weight.nbytes)
                products.append((f"{_linear_name(reader)}.weight", reader))
    states = [state for each in layers if each.graph is graph for state in readers.states(graph, each.node)]
    return Found(graph, modules, readings, again, products, states, skipped)


class _NotAnLSTM(Exception):
    pass


def _is_recurrent(node: Node) -> bool:
    """Whether an operation is recurrent. Raises _NotAnLSTM for one that is, and is no LSTM that PyTorch could run."""
    if node.operation == "GRU":
        raise _NotAnLSTM("a GRU: 3 gates, an LSTM has 4")
    if node.operation == "RNN":
        raise _NotAnLSTM("a plain RNN: no gates, an LSTM has 4")
    if node.operation == "com.microsoft.DynamicQuantizeLSTM":
        raise _NotAnLSTM(
            "expected an LSTM of floating-point numbers, found one that ONNX Runtime quantized; open the model that it was "
            "made from"
        )
    return node.operation == "LSTM"


def _layer(graph: Graph, node: Node, constants: Constants, made: dict[tuple[int, ...], Tensors]) -> Layer:
    """One LSTM node. `made` are the tensors that other nodes of the same weights share: models are unrolled, too."""
    _check_settings(node)
    found: list[np.ndarray] = []
    for index, letter in ((1, "W"), (2, "R"), (3, "B")):
        value = constants.value(graph, node.input(index)) if node.input(index) else None
        if value is None and (node.input(index) or letter != "B"):
            home = graph.home(node.input(index))
            made_by = home.producers.get(node.input(index)) if home else None
            how = f"{shown(made_by.operation, 40)} makes {letter}" if made_by else f"{letter} is given to the model"
            raise _NotAnLSTM(f"expected weights that are constants, found that {how}")
        if value is not None:
            found.append(value)
    directions = 2 if direction_of(node) == "bidirectional" else 1
    kernel, recurrent = found[:2]
    hidden_size = recurrent.shape[-1]
    expected: list[tuple[int, ...]] = [(directions, 4 * hidden_size, kernel.shape[-1])]
    expected += [(directions, 4 * hidden_size, hidden_size)]
    expected += [(directions, 8 * hidden_size)] * (len(found) - 2)
    if [value.shape for value in found] != expected or hidden_size == 0:
        raise _NotAnLSTM(
            f"expected W, R and B of {directions} x 4 gates, found shapes {', '.join(str(value.shape) for value in found)}"
        )
    key = tuple(map(id, found))
    if key not in made:
        constants.spend(sum(value.nbytes for value in found))
        made[key] = _tensors(*found)
    sources = [source for index in (1, 2, 3) for source in constants.sources(graph, node.input(index))]
    return Layer(graph, node, made[key], sources, *_pytorch_name(sources))


def _tensors(kernel: np.ndarray, recurrent: np.ndarray, bias: np.ndarray | None = None) -> Tensors:
    """W, R and B as PyTorch has them, for a layer 0."""
    tensors = {}
    for direction, suffix in enumerate(DIRECTIONS[: len(kernel)]):
        tensors[f"weight_ih_l0{suffix}"] = _gates_in_order(kernel[direction])
        tensors[f"weight_hh_l0{suffix}"] = _gates_in_order(recurrent[direction])
        if bias is not None:
            tensors[f"bias_ih_l0{suffix}"], tensors[f"bias_hh_l0{suffix}"] = (
                _gates_in_order(half) for half in np.split(bias[direction], 2)
            )
    return tensors


def _check_settings(node: Node) -> None:
    """Raise _NotAnLSTM for what changes the computation into one that `nn.LSTM` does not have."""
    direction = direction_of(node)
    if direction not in ("forward", "reverse", "bidirectional"):
        raise _NotAnLSTM(f"expected a direction forward, reverse or bidirectional, found {shown(direction)}")
    activations = [name.lower() for name in node.texts("activations")]
    if activations not in ([], _ACTIVATIONS, _ACTIVATIONS * 2):
        raise _NotAnLSTM(
            f"expected activations Sigmoid, Tanh and Tanh, which nn.LSTM has, found {shown(', '.join(activations))}"
        )
    if node.input(7):
        raise _NotAnLSTM("expected gates that do not see the cell, as in nn.LSTM, found peephole weights P")
    if node.integer("input_forget", 0):
        raise _NotAnLSTM("expected separate input and forget gates, as in nn.LSTM, found input_forget=1")
    if "clip" in node.attributes:
        raise _NotAnLSTM(f"expected no clipping, as in nn.LSTM, found clip={node.real('clip', 0):g}")


def direction_of(node: Node) -> str:
    return "".join(node.texts("direction")) or "forward"


def _gates_in_order(packed: np.ndarray) -> np.ndarray:
    """Rows in blocks of i, o, f, c -> rows in blocks of i, f, c, o, which PyTorch calls i, f, g, o."""
    gates = packed.reshape(4, -1, *packed.shape[1:])
    return gates[[0, 2, 3, 1]].reshape(packed.shape)


def _pytorch_name(sources: list[str]) -> tuple[str | None, int]:
    """(module, layer) that all initializers of a node agree on; (None, 0) where they have other names."""
    matches = [_PYTORCH_NAME.fullmatch(source) for source in sources]
    agreed = {(match["module"] or "", int(match["layer"])) for match in matches if match}
    return agreed.pop() if len(agreed) == 1 and all(matches) else (None, 0)


def _modules(layers: list[Layer], taken: set[str]) -> tuple[dict[str, list[Layer]], dict[str, list[Layer]]]:
    """The LSTMs that the layers form, by name, and what runs them again. Layers are put together only where their names say
    that they belong so."""
    found: dict[str, list[Layer]] = {}
    again: dict[str, list[Layer]] = {}
    by_name: dict[str, list[Layer]] = {}
    for layer in layers:
        if layer.module is None:
            found[_unique(layer.node.name, "lstm" if len(layers) > 1 else "", taken)] = [layer]
        else:
            by_name.setdefault(layer.module, []).append(layer)
    for module, parts in by_name.items():
        first = {part.index: part for part in reversed(parts)}  # a model that runs an LSTM twice has its nodes twice
        stack = [first[index] for index in sorted(first)]
        if sorted(first) == list(range(len(first))) and _fit(stack):
            name = _unique(module, "", taken)
            found[name], again[name] = stack, [part for part in parts if part not in stack]
        else:
            for part in stack:
                name = _unique(part.node.name, "lstm", taken)
                found[name] = [part]
                again[name] = [each for each in parts if each.index == part.index and each is not part]
    return found, again


def _fit(stack: list[Layer]) -> bool:
    return all(
        after.tensors["weight_ih_l0"].shape[1] == before.directions * before.hidden_size
        and (after.tensors.keys(), after.hidden_size) == (before.tensors.keys(), before.hidden_size)
        for before, after in pairwise(stack)
    )


def _unique(name: str, fallback: str, taken: set[str]) -> str:
    """A name that nothing else has yet."""
    first = name = name or fallback
    number = 0
    while name in taken:
        number += 1
        name = f"{first}_{number}".removeprefix("_")
    taken.add(name)
    return name


def _linear_name(product: Product) -> str:
    """What PyTorch called a linear layer, if a name of its tensors says so; else the name of the operation."""
    for sources, end in ((product.weight_sources, ".weight"), (product.bias_sources, ".bias")):
        if len(sources) == 1 and sources[0].endswith(end):
            return sources[0].removesuffix(end)
    return product.node.name or (product.weight_sources or ["linear"])[0]
