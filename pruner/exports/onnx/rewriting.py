"""A whole ONNX graph -> the same with its LSTMs pruned: nodes keep their names and places, all else stays as it is.

An LSTM node shrinks. Where the graph proves that nothing but matrix products and other LSTMs reads it, their weights lose
the columns of removed units; elsewhere these come back as zeros, or as what the others tell of them.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from pruner.exports.onnx.editing import Editor, set_attribute
from pruner.exports.onnx.parts import Direction, Reconstruction, Unwritable, iofc
from pruner.files.consumers import bias_beside
from pruner.files.onnx_lstms import DIRECTIONS, PACKED, Found, Layer
from pruner.files.onnx_model import Node
from pruner.files.onnx_readers import Product, Reader, Reading
from pruner.lstm.kept import output_columns, packed_rows
from pruner.lstm.lstm import LSTM, Place

_OUTPUT, _H, _C = range(3)  # the outputs of an LSTM node
_AXES = (4, 3, 3)  # how many they have: (T, D, B, H), and (D, B, H) of both states
_DIRECTION = (1, 0, 0)  # which of them is the direction
_KINDS = ("weight_ih", "weight_hh", "bias_ih")  # what W, R and B are made of, and named by
_PADS_ARE_AN_INPUT = 11  # the opset since which
_INITIAL = {_H: 5, _C: 6}  # the inputs that states come from


class Pruned:
    """An LSTM of a graph to write: its name there, its directions at full size, and which units stay at each place."""

    def __init__(self, name: str, lstm: LSTM, wide: list[Direction], kept: Mapping[Place, Tensor]) -> None:
        self.name, self.lstm, self.hidden_size = name, lstm, lstm.hidden_size
        count = lstm.directions
        self.layers = [wide[index : index + count] for index in range(0, len(wide), count)]
        self.kept = [[kept[layer, direction] for direction in range(count)] for layer in range(lstm.num_layers)]

    def equal(self, layer: int) -> bool:
        """Whether the directions of a layer keep as many units, as those of one node do."""
        return len({len(units) for units in self.kept[layer]}) == 1

    def changes_width(self, layer: int) -> bool:
        return any(len(units) < self.hidden_size for units in self.kept[layer])

    def columns(self, layer: int) -> Tensor:
        """Those that stay of what reads a layer."""
        return output_columns(self.kept[layer], self.hidden_size)


def rewritten(data: bytes, found: Found, lstms: Sequence[Pruned], tensors: Mapping[str, Tensor]) -> onnx.ModelProto:
    """A model with these LSTMs.

    `found` are the LSTMs of `data`, and `tensors` those of the masked model, of full size, by the names that they have in
    the graph. Raises Unwritable for what the graph has no place for.
    """
    model = onnx.load_model_from_string(data)
    editor = Editor(model, found.graph)
    for lstm in lstms:
        _check(found, lstm)
    by_node = {id(layer.node): (lstm, index) for lstm in lstms for index, layer in enumerate(found.modules[lstm.name])}
    narrow = {
        (lstm.name, index): _is_narrow(found, lstm, index, by_node)
        for lstm in lstms
        for index in range(len(lstm.layers))
    }
    columns: dict[int, Tensor] = {}  # of the nodes that read a narrow layer
    for lstm in lstms:
        for index, reading in enumerate(found.readings[lstm.name]):
            if reading is not None and narrow[lstm.name, index]:
                columns |= {id(_node_of(reader)): lstm.columns(index) for reader in reading.readers}
                _narrow(editor, reading, len(lstm.columns(index)))
    for name, product in found.products:
        _write_product(editor, name, product, tensors, columns.get(id(product.node)))
    for lstm in lstms:
        for index, layer in enumerate(found.modules[lstm.name]):
            reading = found.readings[lstm.name][index]
            wide = [_OUTPUT, _H, _C] if not narrow[lstm.name, index] else reading.handed_on if reading else []
            _write_layer(editor, lstm, index, layer, columns.get(id(layer.node)), wide)
            for twin in found.again.get(lstm.name, ()):
                if twin.index == layer.index:
                    _write_layer(editor, lstm, index, twin, None, [_OUTPUT, _H, _C])
    written = {name for name, _ in found.products} | {name for each in lstms for name in each.lstm.tensors.values()}
    _write_others(editor, {name: tensor for name, tensor in tensors.items() if name not in written})
    editor.finish()
    return model


def _check(found: Found, lstm: Pruned) -> None:
    layers = found.modules.get(lstm.name)
    if layers is None:
        raise Unwritable(f"expected an LSTM node for {lstm.lstm.title}, found none in the graph")
    for layer in (*layers, *found.again.get(lstm.name, ())):
        if layer.graph is not found.graph:
            raise Unwritable(f"expected {lstm.lstm.title} in the graph itself, found it in a loop or a branch")
        if layer.node.input(4):
            raise Unwritable(
                f"expected {lstm.lstm.title} to read all steps, found lengths of its sequences among its inputs"
            )
        if any(array.dtype != np.float32 for array in layer.tensors.values()):
            raise Unwritable(f"expected {lstm.lstm.title} in float32, which ONNX Runtime computes LSTMs in")


def _is_narrow(found: Found, lstm: Pruned, index: int, by_node: Mapping[int, tuple[Pruned, int]]) -> bool:
    """Whether all that reads a layer is known, and reads nothing else of it than the units that stay."""
    reading = found.readings[lstm.name][index]
    if reading is None or found.again.get(lstm.name) or not lstm.equal(index) or not lstm.changes_width(index):
        return False
    if any(each.reconstruction is not None for each in lstm.layers[index]):
        return False
    products = {id(product) for _, product in found.products}
    return all(
        id(reader) in products if isinstance(reader, Product) else _is_rewritten(found, by_node.get(id(reader)))
        for reader in reading.readers
    )


def _is_rewritten(found: Found, reader: tuple[Pruned, int] | None) -> bool:
    return reader is not None and not found.again.get(reader[0].name)


def _node_of(reader: Reader) -> Node:
    return reader.node if isinstance(reader, Product) else reader


def _narrow(editor: Editor, reading: Reading, width: int) -> None:
    """What is said of the width between an LSTM and its readers."""
    editor.forget_shapes(reading.values)
    for node, shape in reading.reshapes:
        editor.replace(node, 1, np.array([*shape[:-1], width], np.int64), f"{node.input(1)}_narrow")


def _write_product(
    editor: Editor, name: str, product: Product, tensors: Mapping[str, Tensor], columns: Tensor | None
) -> None:
    weight = tensors[name].float().numpy()
    if weight.shape != product.weight.shape or product.weight.dtype != np.float32:
        raise Unwritable(f"expected {name} in float32 and of the shape that the graph has")
    if columns is not None or not np.array_equal(weight, product.weight):
        weight = weight if columns is None else weight[:, columns.numpy()]
        transposed = product.node.operation == "Gemm" and product.node.integer("transB", 0) == 1
        editor.replace(product.node, 1, weight if transposed else weight.T, name)
    bias_name = bias_beside(tensors, name)
    if bias_name is not None and product.bias is not None:
        bias = tensors[bias_name].float().numpy()
        if not np.array_equal(bias, product.bias):
            editor.replace(*product.bias_at, bias, bias_name)


def _write_others(editor: Editor, tensors: Mapping[str, Tensor]) -> None:
    """Weights of other kinds that changed, as consumers do that are named and not proven."""
    for initializer in editor.initializers():
        tensor = tensors.get(initializer.name)
        if tensor is not None and tensor.dtype == torch.float32 and tuple(initializer.dims) == tuple(tensor.shape):
            after = np.ascontiguousarray(tensor.numpy())
            if not np.array_equal(numpy_helper.to_array(initializer), after):
                initializer.CopyFrom(numpy_helper.from_array(after, initializer.name))


def _write_layer(
    editor: Editor, lstm: Pruned, index: int, layer: Layer, columns: Tensor | None, wide: Sequence[int]
) -> None:
    """One node: its weights, initial states, and outputs, those that must be `wide` with their removed units."""
    units, directions = lstm.kept[index], lstm.layers[index]
    groups = [list(range(len(units)))] if lstm.equal(index) else [[direction] for direction in range(len(units))]
    node = editor.proto(layer.node)
    node.input.extend([""] * (7 - len(node.input)))
    node.output.extend([""] * (3 - len(node.output)))
    outputs, initial = list(node.output), {which: node.input[place] for which, place in _INITIAL.items()}
    made: list[list[str]] = []
    copies = [node, *(editor.copy_after(layer.node) for _ in groups[1:])]
    for group, written in zip(groups, copies, strict=True):
        own = [_shrunk(directions[direction], units[direction], columns) for direction in group]
        suffix = f"l{index}{DIRECTIONS[group[0]]}"
        for place, (kind, values) in enumerate(zip(_KINDS, zip(*own, strict=True), strict=True), 1):
            if values[0] is not None:
                name = f"{lstm.lstm.tensors[f'{kind}_{suffix}']}{PACKED}"
                editor.replace(written, place, torch.stack(values).numpy(), name)
        set_attribute(written, "hidden_size", len(units[group[0]]))
        if len(groups) > 1:
            set_attribute(written, "direction", "reverse" if group[0] else "forward")
            set_attribute(written, "activations", None)
        for which, place in _INITIAL.items():
            if initial[which] and lstm.changes_width(index):
                written.input[place] = _chosen_state(editor, layer, initial[which], group, units)
        names = [
            editor.fresh(name) if name and (len(groups) > 1 or _is_filled(lstm, index, which, wide)) else name
            for which, name in enumerate(outputs)
        ]
        written.output[:] = names
        made.append(names)
    for which, name in enumerate(outputs):
        if name and name not in made[0]:
            _widen(editor, layer, lstm, index, which, [names[which] for names in made], name)


def _is_filled(lstm: Pruned, index: int, which: int, wide: Sequence[int]) -> bool:
    """Whether an output gets numbers that the node does not compute."""
    told = which != _C and any(each.reconstruction is not None for each in lstm.layers[index])
    return told or (which in wide and lstm.changes_width(index))


def _shrunk(direction: Direction, units: Tensor, columns: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """W, R and B of the units that stay, in ONNX's order of gates."""
    rows = packed_rows(units, direction.weight_hh.shape[1])
    ih = direction.weight_ih if columns is None else direction.weight_ih[:, columns]
    biases = None
    if direction.bias_ih is not None and direction.bias_hh is not None:
        biases = torch.cat([iofc(direction.bias_ih[rows]), iofc(direction.bias_hh[rows])])
    return iofc(ih[rows]), iofc(direction.weight_hh[rows][:, units]), biases


def _chosen_state(editor: Editor, layer: Layer, state: str, group: Sequence[int], units: Sequence[Tensor]) -> str:
    """The initial state (D, B, K) of a node, from that of full size."""
    chosen = []
    for direction in group:
        own = state
        if len(units) > 1:
            own = editor.add_before(layer.node, "Gather", [own, _indices(editor, torch.tensor([direction]))], axis=0)
        chosen.append(editor.add_before(layer.node, "Gather", [own, _indices(editor, units[direction])], axis=2))
    return chosen[0] if len(chosen) == 1 else editor.add_before(layer.node, "Concat", chosen, axis=0)


def _widen(
    editor: Editor, layer: Layer, lstm: Pruned, index: int, which: int, values: Sequence[str], name: str
) -> None:
    """An output (.., K) of one node, or of one for each direction, as one of full size under its old name."""
    units, axis, after = lstm.kept[index], _DIRECTION[which], layer.node
    each = list(values)
    if len(each) < len(units):
        each = [
            editor.add(after, "Gather", [values[0], _indices(editor, torch.tensor([direction]))], axis=axis)
            for direction in range(len(units))
        ]
    alone = name if len(each) == 1 else ""
    wide = []
    for value, own, direction in zip(each, units, lstm.layers[index], strict=True):
        told = None if which == _C else direction.reconstruction
        wide.append(_filled(editor, layer, value, own, lstm.hidden_size, told, _AXES[which], alone))
    if not alone:
        editor.add(after, "Concat", wide, name, axis=axis)


def _filled(
    editor: Editor,
    layer: Layer,
    value: str,
    units: Tensor,
    hidden_size: int,
    told: Reconstruction | None,
    axes: int,
    name: str,
) -> str:
    """(.., K) -> (.., H): behind what is there stands one zero or the reconstruction, and all is put into its place."""
    after, place = layer.node, torch.full((hidden_size,), len(units))
    place[units] = torch.arange(len(units))
    if told is None and len(units) == hidden_size:
        return editor.add(after, "Identity", [value], name)
    if told is None:
        more = _padded(editor, layer, value, axes)
    else:
        source = editor.add(after, "Gather", [value, _indices(editor, place[told.told_by])], axis=axes - 1)
        weight = editor.constant(told.weight.detach().t().contiguous().numpy(), f"{value}_removed_weight")
        product = editor.add(after, "MatMul", [source, weight])
        bias = editor.constant(told.bias.detach().numpy(), f"{value}_removed_bias")
        more = editor.add(after, "Concat", [value, editor.add(after, "Add", [product, bias])], axis=axes - 1)
        place[told.removed] = len(units) + torch.arange(len(told.removed))
    if axes == _AXES[0]:  # moving whole blocks between two transpositions is quicker for long sequences
        front = editor.add(after, "Transpose", [more], perm=[3, 0, 1, 2])
        chosen = editor.add(after, "Gather", [front, _indices(editor, place)], axis=0)
        return editor.add(after, "Transpose", [chosen], name, perm=[1, 2, 3, 0])
    return editor.add(after, "Gather", [more, _indices(editor, place)], name, axis=axes - 1)


def _padded(editor: Editor, layer: Layer, value: str, axes: int) -> str:
    """A value with a zero behind the last of its numbers."""
    pads = [0] * (2 * axes - 1) + [1]
    if editor.opset < _PADS_ARE_AN_INPUT:
        return editor.add(layer.node, "Pad", [value], pads=pads)
    return editor.add(layer.node, "Pad", [value, editor.constant(np.array(pads, np.int64), "pads")])


def _indices(editor: Editor, indices: Tensor) -> str:
    return editor.constant(indices.numpy().astype(np.int64), "indices")
