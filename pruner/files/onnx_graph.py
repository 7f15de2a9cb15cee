"""The LSTMs of an ONNX graph, under PyTorch's names and in PyTorch's order of gates.

An LSTM node holds one layer: `W` (D, 4H, I), `R` (D, 4H, H) and `B` (D, 8H, first those of W), gates packed i, o, f, c
(https://onnx.ai/onnx/operators/onnx__LSTM.html).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from pruner.errors import PrunerError, shown
from pruner.files import arrays
from pruner.files.contents import Contents, Learned
from pruner.files.onnx_model import Constants, Graph, Node, array_of, external_file, read_graph
from pruner.files.onnx_readers import Product, Readers
from pruner.files.protobuf import MalformedMessage, Message

ONNX = "ONNX"

_FIELDS = {1, 2, 3, 4, 5, 6, 7, 8, 14, 20, 25, 26}  # those of a ModelProto
_GRAPH = 7
_PYTORCH_NAME = re.compile(r"(?:(?P<module>.*)\.)?(?:weight|bias)_(?:ih|hh)_l(?P<layer>0|[1-9][0-9]{0,3})(?:_reverse)?")
_DIRECTIONS = ("", "_reverse")
_ACTIVATIONS = ["sigmoid", "tanh", "tanh"]
_BACKWARDS = "the model feeds it from the last step to the first: turn calibration inputs round"


Tensors = dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class _Layer:
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


class _NotAnLSTM(Exception):
    pass


def matches(data: memoryview) -> bool:
    """Whether some bytes are an ONNX model: they have no mark, so their outermost fields are looked at."""
    try:
        message = Message(data)
        return message.numbers <= _FIELDS and message.integer(1) > 0 and len(message.blocks(_GRAPH)) == 1
    except MalformedMessage:
        return False


def read(data: memoryview, name: str) -> Contents:
    """The LSTMs of a model, what reads them, and the other floating-point weights under their own names.

    Raises PrunerError for a damaged model, and for one whose weights lie in other files: those are not opened.
    """
    try:
        graph = read_graph(Message(data).messages(_GRAPH)[0])
        if (outside := external_file(graph)) is not None:
            raise PrunerError(
                f"expected an ONNX model with its weights inside, found weights in a file of their own "
                f"({shown(outside)}): {name}; put both into one with onnx.save_model(onnx.load(path), new_path)"
            )
        return _contents(graph, Constants(len(data)))
    except (MalformedMessage, ValueError, IndexError, TypeError, OverflowError) as error:
        raise PrunerError(
            f"expected a complete ONNX model, found a damaged one: {name} ({shown(str(error), 160)}); "
            "save or download it again"
        ) from error


def _contents(graph: Graph, constants: Constants) -> Contents:
    layers, skipped, taken = list[_Layer](), list[tuple[str, str]](), set[str]()
    made: dict[tuple[int, ...], Tensors] = {}
    for inner in graph.all():
        for node in inner.nodes:
            try:
                if _is_recurrent(node):
                    layers.append(_layer(inner, node, constants, made))
            except _NotAnLSTM as reason:
                skipped.append((_unique(node.name, "lstm", taken), str(reason)))
    modules = _modules(layers, taken)
    tensors = {
        f"{module}.{name}".removeprefix("."): array
        for module, parts in modules.items()
        for index, layer in enumerate(parts)
        for name, array in ((name.replace("_l0", f"_l{index}"), array) for name, array in layer.tensors.items())
    }
    learned = {}
    reading = {
        id(layer.node): [
            f"{module}.weight_ih_l{index}{end}".removeprefix(".") for end in _DIRECTIONS[: layer.directions]
        ]
        for module, parts in modules.items()
        for index, layer in enumerate(parts)
    }
    readers, used = Readers(graph, constants), {source for layer in layers for source in layer.sources}
    for module, parts in modules.items():
        last = parts[-1]
        found = readers.of_lstm(last.graph, last.node, last.hidden_size, last.directions)
        consumers = []
        for reader in found or []:
            if isinstance(reader, Product):
                constants.spend(reader.weight.nbytes)
                consumers.append(_add_product(reader, tensors, used))
            else:
                consumers += reading.get(id(reader), [])
        learned[module] = Learned(
            batch_first=_is_batch_first(parts[0]),
            classes={module: "LSTM"},
            consumers=tuple(dict.fromkeys(consumers)),
            notes=(_BACKWARDS,) if _direction(parts[0].node) == "reverse" else (),
        )
    for name, array in _others(graph, used):
        tensors.setdefault(name, array)
    return Contents(ONNX, {name: arrays.stored(array) for name, array in tensors.items()}, {}, learned, tuple(skipped))


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


def _layer(graph: Graph, node: Node, constants: Constants, made: dict[tuple[int, ...], Tensors]) -> _Layer:
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
    directions = 2 if _direction(node) == "bidirectional" else 1
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
    return _Layer(graph, node, made[key], sources, *_pytorch_name(sources))


def _tensors(kernel: np.ndarray, recurrent: np.ndarray, bias: np.ndarray | None = None) -> Tensors:
    """W, R and B as PyTorch has them, for a layer 0."""
    tensors = {}
    for direction, suffix in enumerate(_DIRECTIONS[: len(kernel)]):
        tensors[f"weight_ih_l0{suffix}"] = _gates_in_order(kernel[direction])
        tensors[f"weight_hh_l0{suffix}"] = _gates_in_order(recurrent[direction])
        if bias is not None:
            tensors[f"bias_ih_l0{suffix}"], tensors[f"bias_hh_l0{suffix}"] = (
                _gates_in_order(half) for half in np.split(bias[direction], 2)
            )
    return tensors


def _check_settings(node: Node) -> None:
    """Raise _NotAnLSTM for what changes the computation into one that `nn.LSTM` does not have."""
    direction = _direction(node)
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


def _direction(node: Node) -> str:
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


def _modules(layers: list[_Layer], taken: set[str]) -> dict[str, list[_Layer]]:
    """The LSTMs that the layers form, by name. Layers are put together only where their names say that they belong so."""
    found: dict[str, list[_Layer]] = {}
    by_name: dict[str, list[_Layer]] = {}
    for layer in layers:
        if layer.module is None:
            found[_unique(layer.node.name, "lstm" if len(layers) > 1 else "", taken)] = [layer]
        else:
            by_name.setdefault(layer.module, []).append(layer)
    for module, parts in by_name.items():
        first = {part.index: part for part in reversed(parts)}  # a model that runs an LSTM twice has its nodes twice
        stack = [first[index] for index in sorted(first)]
        if sorted(first) == list(range(len(first))) and _fit(stack):
            found[_unique(module, "", taken)] = stack
        else:
            for part in stack:
                found[_unique(part.node.name, "lstm", taken)] = [part]
    return found


def _fit(stack: list[_Layer]) -> bool:
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


def _is_batch_first(layer: _Layer) -> bool | None:
    """Whether the model's own inputs are (batch, time, features): the node says so, or the graph turns them before it."""
    if layer.node.integer("layout", 0) == 1:
        return True
    name = layer.node.input(0)
    before = layer.graph.producers.get(name)
    if before is None:
        return False if name in layer.graph.inputs else None
    return True if before.operation == "Transpose" and before.integers("perm") == [1, 0, 2] else None


def _add_product(product: Product, tensors: Tensors, used: set[str]) -> str:
    """Put the weight and bias of a matrix product among the tensors, as `nn.Linear` has them; the weight's name."""
    name = _linear_name(product)
    tensors[f"{name}.weight"] = product.weight
    used.update(product.weight_sources)
    if product.bias is not None:
        tensors[f"{name}.bias"] = product.bias
        used.update(product.bias_sources)
    return f"{name}.weight"


def _linear_name(product: Product) -> str:
    """What PyTorch called a linear layer, if a name of its tensors says so; else the name of the operation."""
    for sources, end in ((product.weight_sources, ".weight"), (product.bias_sources, ".bias")):
        if len(sources) == 1 and sources[0].endswith(end):
            return sources[0].removesuffix(end)
    return product.node.name or (product.weight_sources or ["linear"])[0]


def _others(graph: Graph, used: set[str]) -> Iterator[tuple[str, np.ndarray]]:
    for inner in graph.all():
        for name, tensor in inner.initializers.items():
            array = None if name in used else array_of(tensor)
            if array is not None and arrays.dtype_name(array.dtype) in arrays.FLOATS:
                yield name, array
