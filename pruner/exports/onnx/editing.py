"""An ONNX model, edited: inputs of nodes replaced, nodes added, and what nothing reads any more removed."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

from pruner.exports.onnx.names import fresh
from pruner.files.onnx_model import Graph, Node

Array = NDArray[Any]

_INPUTS_NAME_INITIALIZERS = 4  # the IR version up to which initializers had to be among the graph's inputs


class Editor:
    """Changes a model in place; `graph` is what our own reader made of it, and nodes are named by its nodes."""

    def __init__(self, model: onnx.ModelProto, graph: Graph) -> None:
        self._model, self._graph = model, model.graph
        self._index = {id(node): index for index, node in enumerate(graph.nodes)}
        self._nodes = list(model.graph.node)
        self._added: dict[int, list[NodeProto]] = {}
        self._by_name = {tensor.name: tensor for tensor in model.graph.initializer}
        self._reads = Counter(_read(model.graph))
        self._given = {output.name for output in model.graph.output}
        self._taken = {"", *_names(model.graph)}
        self._made: dict[tuple[str, bytes], str] = {}
        self._replaced: list[str] = []
        self.opset = max(each.version for each in model.opset_import if each.domain in ("", "ai.onnx"))

    def proto(self, node: Node) -> NodeProto:
        return self._nodes[self._index[id(node)]]

    def fresh(self, name: str) -> str:
        """A name that nothing has, like this one."""
        return fresh(name, self._taken)

    def add(self, after: Node, kind: str, inputs: Sequence[str], output: str = "", **attributes: Any) -> str:
        """A new node behind one of the graph; the name of its output, which is made up where it is not said."""
        name = self.fresh(f"{output or inputs[0]}_{kind}")
        output = output or self.fresh(f"{name}_output")
        self._append(after, helper.make_node(kind, list(inputs), [output], name=name, **attributes))
        return output

    def add_before(self, node: Node, kind: str, inputs: Sequence[str], **attributes: Any) -> str:
        """The same in front of a node, which is to read its output."""
        name = self.fresh(f"{inputs[0]}_{kind}")
        output = self.fresh(f"{name}_output")
        made = helper.make_node(kind, list(inputs), [output], name=name, **attributes)
        self._added.setdefault(-1 - self._index[id(node)], []).append(made)
        return output

    def copy_after(self, node: Node) -> NodeProto:
        """A copy of a node, behind it."""
        made = NodeProto()
        made.CopyFrom(self.proto(node))
        made.name = self.fresh(made.name) if made.name else ""
        self._reads.update(made.input)
        self._append(node, made)
        return made

    def constant(self, values: Array, name: str) -> str:
        """A new initializer; where the same numbers are asked for under the same name, the one that is there."""
        key = name, values.tobytes()
        if key not in self._made:
            self._made[key] = self.fresh(name)
            self._store(self._graph.initializer.add(), values, self._made[key])
        return self._made[key]

    def replace(self, node: Node | NodeProto, index: int, values: Array, name: str) -> None:
        """Let a node read other numbers: under the old name where nothing else reads that, else under one like `name`."""
        proto = self.proto(node) if isinstance(node, Node) else node
        old = proto.input[index] if index < len(proto.input) else ""
        if old in self._by_name and self._reads[old] == 1 and old not in self._given:
            self._store(self._by_name[old], values, old)
            return
        proto.input.extend([""] * (index + 1 - len(proto.input)))
        proto.input[index] = self.constant(values, name)
        self._reads[old] -= 1
        self._replaced.append(old)

    def initializers(self) -> Iterator[TensorProto]:
        """Those of the graph and of all graphs inside of it."""
        yield from _initializers(self._graph)

    def forget_shapes(self, values: Sequence[str]) -> None:
        """Leave out what is said of the shapes of values that have others now."""
        kept = [info for info in self._graph.value_info if info.name not in set(values)]
        del self._graph.value_info[:]
        self._graph.value_info.extend(kept)

    def finish(self) -> None:
        """Put new nodes in their places, and drop what only made the numbers that were replaced."""
        gone = self._unread()
        nodes = []
        for index, node in enumerate(self._nodes):
            if index not in gone:
                nodes += [*self._added.get(-1 - index, []), node, *self._added.get(index, [])]
        kept = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del self._graph.node[:]
        self._graph.node.extend(kept)

    def _append(self, after: Node, made: NodeProto) -> None:
        self._added.setdefault(self._index[id(after)], []).append(made)

    def _store(self, tensor: TensorProto, values: Array, name: str) -> None:
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), name))
        self._by_name.setdefault(name, tensor)
        self.forget_shapes([name])  # torch's exporter says those of initializers, too
        info = helper.make_tensor_value_info(name, tensor.data_type, values.shape)
        for each in self._graph.input:
            if each.name == name:
                each.CopyFrom(info)
                return
        if self._model.ir_version < _INPUTS_NAME_INITIALIZERS:
            self._graph.input.append(info)

    def _unread(self) -> set[int]:
        """The nodes whose outputs nobody reads now; initializers of that kind are removed."""
        producers = {name: index for index, node in enumerate(self._nodes) for name in node.output if name}
        gone, unread, ahead = set[int](), set[str](), list(self._replaced)
        while ahead:
            name = ahead.pop()
            if not name or self._reads[name] > 0 or name in self._given:
                continue
            unread.add(name)
            index = producers.get(name)
            if index is None or index in gone:
                continue
            outputs = [each for each in self._nodes[index].output if each]
            if all(self._reads[each] <= 0 and each not in self._given for each in outputs):
                gone.add(index)
                for each in self._nodes[index].input:
                    self._reads[each] -= 1
                    ahead.append(each)
        dropped = unread & self._by_name.keys()
        for values in (self._graph.initializer, self._graph.input):
            for place in reversed(range(len(values))):
                if values[place].name in dropped:
                    del values[place]
        self.forget_shapes(list(unread))
        return gone


def set_attribute(node: NodeProto, name: str, value: Any) -> None:
    """Give a node's attribute another value; None leaves it out."""
    kept = [each for each in node.attribute if each.name != name]
    del node.attribute[:]
    node.attribute.extend(kept if value is None else [*kept, helper.make_attribute(name, value)])


def _graphs(graph: GraphProto) -> Iterator[GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                yield from _graphs(inner)


def _read(graph: GraphProto) -> Iterator[str]:
    """Every input of every node, and what inner graphs give of the values around them."""
    for inner in _graphs(graph):
        for node in inner.node:
            yield from node.input
        if inner is not graph:
            yield from (output.name for output in inner.output)


def _names(graph: GraphProto) -> Iterator[str]:
    for inner in _graphs(graph):
        for values in (inner.input, inner.output, inner.initializer, inner.value_info):
            yield from (value.name for value in values)
        for node in inner.node:
            yield from (node.name, *node.input, *node.output)


def _initializers(graph: GraphProto) -> Iterator[TensorProto]:
    for inner in _graphs(graph):
        yield from inner.initializer
