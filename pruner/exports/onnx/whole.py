"""The whole graph of a model that came as ONNX: written with its LSTMs pruned, and run beside the masked one."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch
from onnx import helper
from torch import Tensor

from pruner.compact.layout import Layout, wide_tensors
from pruner.errors import shown
from pruner.exports.onnx.comparing import Ran, run_whole
from pruner.exports.onnx.facts import FLOAT, INITIAL, INT8, OUTPUTS, Values, agrees, names_in
from pruner.exports.onnx.parts import MAX_BYTES, Unwritable, wide_directions
from pruner.exports.onnx.quantizing import int8_model_of
from pruner.exports.onnx.rewriting import Pruned, rewritten
from pruner.files.checkpoint import Checkpoint
from pruner.files.onnx_lstms import Found, direction_of, find
from pruner.files.runtime.feeding import States, random_inputs
from pruner.files.runtime.isolation import Runner
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


def write_whole_graph(
    folder: Path,
    source: Checkpoint,
    layouts: Sequence[Layout],
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    int8: bool,
) -> dict[str, Any]:
    """Write the graph of a source that came as ONNX as `pruned.onnx`, and with `int8` as `pruned.int8.onnx`, too; what the
    manifest says of them.

    `tensors` are those of the export's file. All graphs are run in a process with limits. Raises PrunerError for a graph
    that does not run there, has no place for what changed, or does not give what the masked one gives.
    """
    runner, states = Runner(), states_of(source)
    dense = runner.whole(bytes(source.source.data))
    fed, outputs = random_inputs(dense, states), [output.name for output in dense.get_outputs()]
    graphs = graphs_of(source, layouts, tensors, metadata)

    def ran(data: bytes) -> Ran:
        session = runner.whole(data, names_in(graphs.values))
        return run_whole(session, outputs, fed, states, layouts, tensors, graphs.values)

    masked, notes = ran(graphs.masked.SerializeToString()), list[str]()
    written = {FLOAT: graphs.pruned}
    if int8:
        try:
            written[INT8] = int8_model_of(graphs.pruned)
        except Exception as error:  # of a quantizer that was not made for every graph
            notes.append(f"no {INT8}: expected a graph that ONNX Runtime quantizes, found {shown(str(error), 160)}")
    files = {}
    for name, model in written.items():
        data = model.SerializeToString()
        found = ran(data)
        measured: dict[str, Any] = {**found.lstms, "graph": found.apart(masked)}
        if name == FLOAT and not (agrees(measured) and agrees(masked.lstms)):
            raise _differs(measured["graph"], found.lstms, masked.lstms)
        files[name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data), **measured}
    for name, model in written.items():
        (folder / name).write_bytes(model.SerializeToString())
    return {
        "files": files,
        "values": graphs.values,
        "states": dict(states.fed_back),
        "notes": notes,
        "versions": {"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__},
    }


def _differs(graph: Mapping[str, float], *lstms: Mapping[str, float]) -> Unwritable:
    inside = " and ".join(f"{each['max_abs_difference']:.3g}" for each in lstms)
    return Unwritable(
        "expected the pruned graph to give in ONNX Runtime what the masked one does, and the LSTMs in both what those of "
        f"PyTorch do, found differences of {graph['max_abs_difference']:.3g} where outputs reach "
        f"{graph['max_abs_output']:.3g}, and of {inside} in LSTMs"
    )
