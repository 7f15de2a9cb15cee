"""LSTMs -> an ONNX model, written node by node from their weights: nothing is traced.

One `LSTM` node a layer and direction, since those of a pruned LSTM differ in size, whose gates ONNX packs in the order i, o,
f, c (https://onnx.ai/onnx/operators/onnx__LSTM.html). Inputs and outputs are those of `nn.LSTM` and `nn.LSTMCell`.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from pruner.exports.onnx.names import as_text, fresh
from pruner.exports.onnx.parts import Direction, Interface, Part, interfaces, iofc
from pruner.files.consumers import Consumer
from pruner.version import VERSION

OPSET, IR_VERSION = 17, 8  # of ONNX 1.12 (2022): runtimes of the years since then read it


def model_of(parts: Sequence[Part], metadata: Mapping[str, str], *, batch_first: bool = True) -> onnx.ModelProto:
    """The ONNX model of LSTMs and their consumers, in float32.

    Its input is called `input`, (B, T, I), or (T, B, I) where it is not `batch_first`; `h_0` and `c_0` can be left out, for
    zeros. Its outputs are `output`, `h_n` and `c_n`, of the full width of the LSTM before pruning, with zeros or their
    reconstruction where units were removed, and one for each consumer under the name of its layer: `linear` for
    `linear.weight`. An LSTMCell has `input` (B, I), `h_0` and `c_0`, `h_1` and `c_1`. Batch and time are dynamic. Where
    there are several LSTMs, all names but those of consumers begin with that of the LSTM: `encoder.input`.

        >>> from pruner import Recipe, run
        >>> from pruner.examples import named
        >>> from pruner.exports.onnx.parts import parts_of
        >>> pruned = run(named("embedded-reber").open(), Recipe(granularity="units")).pruned
        >>> tensors = pruned.forms["compact"].tensors(pruned.checkpoint)
        >>> parts = parts_of(pruned.forms["compact"].layouts, tensors, {"lstm": ["linear.weight"]})
        >>> [output.name for output in model_of(parts, {}).graph.output]
        ['output', 'h_n', 'c_n', 'linear']
    """
    named = interfaces(parts)
    graph = _Graph(name for each in named for name in (*each.own.values(), *each.consumers.values()))
    for part, interface in zip(parts, named, strict=True):
        _add(graph, part, interface, batch_first)
    made = helper.make_graph(graph.nodes, "lstms", graph.inputs, graph.outputs, graph.initializers)
    model = helper.make_model(
        made,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="lstm-saliency-pruner",
        producer_version=VERSION,
    )
    helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model, full_check=True)
    return model


class _Graph:
    """Nodes, initializers and what goes in and out, under names that are given once."""

    def __init__(self, reserved: Iterable[str]) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self._taken = {"", *reserved}
        self._constants: dict[str, str] = {}
        self._integers: dict[tuple[int, ...], str] = {}

    def fresh(self, name: str) -> str:
        return fresh(as_text(name), self._taken)

    def constant(self, name: str, values: Tensor) -> str:
        """An initializer, the same one wherever it is asked for by the same name."""
        if name not in self._constants:
            self._constants[name] = self.fresh(name)
            self._keep(self._constants[name], values)
        return self._constants[name]

    def integers(self, *values: int) -> str:
        """An initializer of int64, the same one for the same values."""
        if values not in self._integers:
            self._integers[values] = self.fresh(f"integers_{len(self._integers)}")
            self._keep(self._integers[values], torch.tensor(values))
        return self._integers[values]

    def input(self, name: str, shape: Sequence[int | str], otherwise: Tensor | None = None) -> str:
        """What goes in; a value that stands `otherwise` makes it optional."""
        self.inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        if otherwise is not None:
            self._keep(name, otherwise)
        return name

    def output(self, value: str, name: str, shape: Sequence[int | str]) -> None:
        called = self.fresh(f"Identity_{len(self.nodes)}")
        self.nodes.append(helper.make_node("Identity", [value], [name], name=called))
        self.outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """A node of one output, which is called as it is."""
        return self.node_of(kind, inputs, 1, **attributes)[0]

    def node_of(self, kind: str, inputs: Sequence[str], outputs: int, **attributes: Any) -> list[str]:
        name = self.fresh(f"{kind}_{len(self.nodes)}")
        made = [self.fresh(f"{name}_output_{index}") for index in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), made, name=name, **attributes))
        return made

    def joined(self, values: Sequence[str], axis: int) -> str:
        return values[0] if len(values) == 1 else self.node("Concat", *values, axis=axis)

    def chosen(self, values: str, indices: Tensor, long: bool, zero: bool = False) -> str:
        """The numbers (.., .., N) at some indices of their last axis, of which N stands for a `zero`. Of `long` sequences it
        is brought to the front: moving whole blocks between two transpositions takes a third of the time that moving single
        numbers does."""
        axis = 0 if long else 2
        if long:
            values = self.node("Transpose", values, perm=[2, 0, 1])
        if zero:
            ends = [3 + axis == place for place in range(6)]
            values = self.node("Pad", values, self.integers(*map(int, ends)))
        found = self.node("Gather", values, self.integers(*indices.tolist()), axis=axis)
        return self.node("Transpose", found, perm=[1, 2, 0]) if long else found

    def _keep(self, name: str, values: Tensor) -> None:
        self.initializers.append(numpy_helper.from_array(values.detach().cpu().contiguous().numpy(), name))


def _add(graph: _Graph, part: Part, interface: Interface, batch_first: bool) -> None:
    """The nodes of one LSTM and its consumers. Inside, steps are time-major: (T, B, I)."""
    lstm, names = part.lstm, interface.own
    prefix = names["input"].removesuffix("input")
    batch, time = f"{prefix}batch", f"{prefix}time"
    axes = (batch,) if lstm.kind == "LSTMCell" else (batch, time) if batch_first else (time, batch)
    given = graph.input(names["input"], (*axes, lstm.input_size))
    if lstm.kind == "LSTMCell":
        steps = graph.node("Unsqueeze", given, graph.integers(0))
    else:
        steps = graph.node("Transpose", given, perm=[1, 0, 2]) if batch_first else given
    sequences = graph.node("Shape", steps, start=1, end=2)
    h_0, c_0 = (_initial(graph, part, names[name], f"{prefix}{name}_batch", sequences) for name in ("h_0", "c_0"))
    steps, h_n, c_n = _layers(graph, part, steps, h_0, c_0)
    if lstm.kind == "LSTMCell":
        output, wide, c_1 = (graph.node("Squeeze", value, graph.integers(0)) for value in (steps, *h_n, *c_n))
        graph.output(wide, names["h_1"], (batch, lstm.hidden_size))
        graph.output(c_1, names["c_1"], (batch, lstm.hidden_size))
    else:
        output = graph.node("Transpose", steps, perm=[1, 0, 2]) if batch_first else steps
        wide = _widened(graph, lstm.hidden_size, output, part.last, long=True)
        graph.output(wide, names["output"], (*axes, lstm.output_width))
        for name, states in {"h_n": h_n, "c_n": c_n}.items():
            graph.output(graph.joined(states, axis=0), names[name], (len(states), batch, lstm.hidden_size))
    for consumer in part.consumers:
        read = _read(graph, consumer, wide if part.reconstructs else output)
        graph.output(read, interface.consumers[consumer.name], (*axes, len(consumer.weight)))


def _layers(
    graph: _Graph, part: Part, steps: str, h_0: Sequence[str], c_0: Sequence[str]
) -> tuple[str, list[str], list[str]]:
    """The output (T, B, D*K) of the last layer, and the final states (1, B, H) of each direction."""
    lstm, h_n, c_n = part.lstm, list[str](), list[str]()
    for layer in range(lstm.num_layers):
        outputs = []
        for index in range(layer * lstm.directions, (layer + 1) * lstm.directions):
            own = [part.directions[index]]
            output, h, c = _lstm(graph, part, index, steps, h_0[index], c_0[index])
            outputs.append(output)
            h_n.append(_widened(graph, lstm.hidden_size, h, own))
            c_n.append(_widened(graph, lstm.hidden_size, c, own, filled=False))
        steps = graph.joined(outputs, axis=2)
    return steps, h_n, c_n


def _initial(graph: _Graph, part: Part, name: str, batch: str, sequences: str) -> list[str]:
    """The initial `h` or `c` of each direction, (1, B, K), from an input that can be left out: its own `batch` is 1 then."""
    lstm, count, size = part.lstm, len(part.lstm.places), part.lstm.hidden_size
    if lstm.kind == "LSTMCell":
        given = graph.input(name, (batch, size), torch.zeros(1, size))
        given = graph.node("Unsqueeze", given, graph.integers(0))
    else:
        given = graph.input(name, (count, batch, size), torch.zeros(count, 1, size))
    found = []
    for one, own in zip(
        [given] if count == 1 else graph.node_of("Split", [given], count, axis=0), part.directions, strict=True
    ):
        kept = len(own.units)
        if kept < size:  # before it is repeated for each sequence
            one = graph.node("Gather", one, graph.constant(own.units_name, own.units), axis=2)
        shape = graph.node("Concat", graph.integers(1), sequences, graph.integers(kept), axis=0)
        found.append(graph.node("Expand", one, shape))
    return found


def _lstm(graph: _Graph, part: Part, index: int, steps: str, h_0: str, c_0: str) -> tuple[str, str, str]:
    """One layer and direction: its output (T, B, K) and final states (1, B, K)."""
    own, place = part.directions[index], part.lstm.places[index]
    suffix = part.lstm.suffix(*place)

    def packed(kind: str, *tensors: Tensor) -> str:
        name = part.lstm.tensors[f"{kind}{suffix}"]
        return graph.constant(f"{name}.iofc", torch.cat([iofc(tensor) for tensor in tensors])[None])

    weights = packed("weight_ih", own.weight_ih), packed("weight_hh", own.weight_hh)
    bias = "" if own.bias_ih is None or own.bias_hh is None else packed("bias_ih", own.bias_ih, own.bias_hh)
    lengths = ""  # of the sequences: all of them are as long as the input
    output, h_n, c_n = graph.node_of(
        "LSTM",
        [steps, *weights, bias, lengths, h_0, c_0],
        3,
        hidden_size=len(own.units),
        direction="reverse" if place[1] else "forward",
    )
    return graph.node("Squeeze", output, graph.integers(1)), h_n, c_n


def _widened(
    graph: _Graph,
    hidden_size: int,
    value: str,
    directions: Sequence[Direction],
    filled: bool = True,
    long: bool = False,
) -> str:
    """(.., the units that are there) -> (.., D*H): what was removed stands after them, one zero for all of it or its
    reconstruction, and everything is gathered into its place."""
    widths = [len(own.units) for own in directions]
    rest = [own.reconstruction if filled else None for own in directions]
    if not any(rest) and all(width == hidden_size for width in widths):
        return value
    pieces, end, before = [value], sum(widths), 0
    places = []
    for own, width, told in zip(directions, widths, rest, strict=True):
        place = torch.full((hidden_size,), sum(widths))
        place[own.units] = before + torch.arange(width)
        if told is not None:
            source = graph.chosen(value, place[told.told_by], long)
            weight = graph.constant(f"{told.name}.weight.transposed", told.weight.t())
            product = graph.node("MatMul", source, weight)
            pieces.append(graph.node("Add", product, graph.constant(f"{told.name}.bias", told.bias)))
            place[told.removed] = end + torch.arange(len(told.removed))
            end += len(told.removed)
        places.append(place)
        before += width
    return graph.chosen(graph.joined(pieces, axis=2), torch.cat(places), long, zero=not any(rest))


def _read(graph: _Graph, consumer: Consumer, output: str) -> str:
    """What a consumer makes of the output. A product and a sum apart, since quantization looks for the product."""
    product = graph.node("MatMul", output, graph.constant(f"{consumer.name}.transposed", consumer.weight.t()))
    if consumer.bias is None or consumer.bias_name is None:
        return product
    return graph.node("Add", product, graph.constant(consumer.bias_name, consumer.bias))
