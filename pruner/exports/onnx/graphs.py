"""The whole graph of a model that came as ONNX, with its LSTMs pruned, and what to read of those when it runs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
import torch
from onnx import helper
from torch import Tensor

from pruner.compact.layout import Layout, wide_tensors
from pruner.exports.onnx.facts import INITIAL, OUTPUTS, Values
from pruner.exports.onnx.parts import MAX_BYTES, Unwritable, wide_directions
from pruner.exports.onnx.rewriting import Pruned, rewritten
from pruner.files.checkpoint import Checkpoint
from pruner.files.onnx_lstms import Found, direction_of, find
from pruner.files.runtime.feeding import States
from pruner.lstm.kept import whole
from pruner.lstm.lstm import title_of


@dataclass(frozen=True)
class Graphs:
    """The pruned graph and the masked one of full size, whose outputs are the same; the `values` of each LSTM in them."""

    pruned: onnx.ModelProto
    masked: onnx.ModelProto
    values: dict[str, Values]


def graphs_of(
    source: Checkpoint, layouts: Sequence[Layout], tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> Graphs:
    """Both graphs of an export of a source that came as ONNX; `tensors` are those of the export's file.

    The source must have been run in a process with limits before: here it is parsed as it is. Raises Unwritable for what a
    graph has no place for.
    """
    data = source.source.data
    if len(data) > MAX_BYTES:
        raise Unwritable(f"expected an ONNX model of less than 2 GiB to write whole, found {len(data):,} bytes")
    found, _ = find(data)
    names = {_name_in_graph(source, layout): layout.lstm.name for layout in layouts}
    values = {layout.lstm.name: _values(found, names, _name_in_graph(source, layout)) for layout in layouts}
    wide = {".".join(source.location(name)): tensor for name, tensor in wide_tensors(layouts, tensors).items()}
    directions = [wide_directions(layout, tensors) for layout in layouts]

    def written(kept: Iterable[Mapping[Any, Any]]) -> onnx.ModelProto:
        lstms = [
            Pruned(
                _name_in_graph(source, layout),
                layout.lstm,
                own,
                {place: torch.as_tensor(units) for place, units in by_place.items()},
            )
            for layout, own, by_place in zip(layouts, directions, kept, strict=True)
        ]
        model = rewritten(bytes(data), found, lstms, wide)
        helper.set_model_props(model, {each.key: each.value for each in model.metadata_props} | dict(metadata))
        return model

    pruned, masked = (layout.kept_units for layout in layouts), (whole(layout.lstm) for layout in layouts)
    return Graphs(written(pruned), written(masked), values)


def states_of(source: Checkpoint) -> States:
    """The states that a source's graph is given."""
    return States.of(find(source.source.data)[0].states)


def _name_in_graph(source: Checkpoint, layout: Layout) -> str:
    """What the LSTM is called by the reader of the graph."""
    first = next(iter(layout.lstm.tensors.values()))
    return ".".join(source.location(first)).rpartition(".")[0]


def _values(found: Found, names: Mapping[str, str], name: str) -> Values:
    """Those of the LSTM of a name in the graph; `names` has the names in the checkpoint."""
    layers = found.modules.get(name)
    if layers is None:
        raise Unwritable(f"expected an LSTM node for {title_of(names[name])}, found none in the graph")
    nodes = [layer.node for layer in layers]
    last = {name: nodes[-1].output(index) for index, name in enumerate(OUTPUTS)}
    initial = {name: [node.input(5 + index) for node in nodes] for index, name in enumerate(INITIAL)}
    makers = [
        names[maker]
        for maker in names.keys() & found.readings
        if (last_of := found.readings[maker][-1]) and nodes[0] in last_of.readers
    ]
    return {
        "input": nodes[0].input(0),
        **last,
        **initial,
        "reverse": direction_of(nodes[0]) == "reverse",
        "made_by": makers,
    }
