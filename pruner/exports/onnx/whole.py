"""The whole graph of a model that came as ONNX: written with its LSTMs pruned, run beside the masked one, and checked."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
from torch import Tensor

from pruner.compact.layout import Layout
from pruner.errors import PrunerError, shown
from pruner.exports.manifest import Manifest, not_the_export
from pruner.exports.onnx.comparing import Ran, run_whole
from pruner.exports.onnx.facts import FLOAT, INT8, names_in
from pruner.exports.onnx.files import agrees
from pruner.exports.onnx.graphs import graphs_of, states_of
from pruner.exports.onnx.measured import check_measured, check_metadata
from pruner.exports.onnx.parts import Unwritable
from pruner.exports.onnx.quantizing import int8_model_of
from pruner.files.checkpoint import Checkpoint
from pruner.files.runtime.feeding import States, random_inputs
from pruner.files.runtime.isolation import Runner
from pruner.files.source import open_source


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


def check_whole_graph(
    folder: Path,
    manifest: Manifest,
    layouts: Sequence[Layout],
    tensors: Mapping[str, Tensor],
    source: Checkpoint | None,
) -> Iterator[str]:
    """Run the graphs of an export again, in a process with limits, and say what holds: its LSTMs are those of the export's
    file and, with the `source`, its outputs are those of the masked graph. Raises PrunerError where something differs."""
    facts = manifest.onnx or {}
    states, runner = States(facts["states"]), Runner()
    for name, stated in facts["files"].items():
        file = open_source(folder / name, wanted="an ONNX file of an export")
        file.close()
        try:
            check_metadata(folder, name, runner.whole(bytes(file.data)).metadata, manifest)
            found, masked = _ran_again(runner, bytes(file.data), facts["values"], states, layouts, tensors, source)
        except PrunerError as error:
            raise not_the_export(folder, f"{name} as it was exported", f"another ({error})") from error
        measured: dict[str, Any] = {**found.lstms, "graph": stated["graph"] if masked is None else found.apart(masked)}
        check_measured(folder, name, measured, stated)
        beside = "" if masked is None else ", and so are its outputs to those of the masked graph"
        yield (
            f"{name} runs in ONNX Runtime, its LSTMs are as close to the pruned model as the manifest says (largest "
            f"difference {measured['max_abs_difference']:.2g}, outputs reach {measured['max_abs_output']:.2g}){beside}"
        )


def _ran_again(
    runner: Runner,
    data: bytes,
    values: Mapping[str, Any],
    states: States,
    layouts: Sequence[Layout],
    tensors: Mapping[str, Tensor],
    source: Checkpoint | None,
) -> tuple[Ran, Ran | None]:
    """The graph of a file, and the masked one of its source."""
    plain = runner.whole(data)
    fed, outputs = random_inputs(plain, states), [output.name for output in plain.get_outputs()]

    def ran(graph: bytes) -> Ran:
        return run_whole(runner.whole(graph, names_in(values)), outputs, fed, states, layouts, tensors, values)

    found = ran(data)
    if source is None:
        return found, None
    runner.whole(bytes(source.source.data))
    return found, ran(graphs_of(source, layouts, tensors, {}).masked.SerializeToString())
