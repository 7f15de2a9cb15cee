"""The ONNX files of an export, checked: what the manifest says of them, and that they hold nothing but LSTMs."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from pruner.compact.layout import Layout
from pruner.errors import PrunerError, shown
from pruner.exports.manifest import Manifest, not_the_export
from pruner.exports.onnx.comparing import Ran, run_whole
from pruner.exports.onnx.facts import DECLINED, FLOAT, agrees, is_whole, names_in
from pruner.exports.onnx.files import Rate
from pruner.exports.onnx.parts import Part, parts_of, weight_bytes
from pruner.exports.onnx.running import Session, compare, in_pieces, lstms_of
from pruner.exports.onnx.whole import graphs_of
from pruner.exports.verdict import as_good
from pruner.files.checkpoint import Checkpoint
from pruner.files.runtime.feeding import States, random_inputs
from pruner.files.runtime.harmless import metadata_of
from pruner.files.runtime.isolation import Runner
from pruner.files.runtime.session import session_of
from pruner.files.source import open_source
from pruner.lstm.lstm import DTYPES

STEPS = 2**13  # that are rated at a time, all sequences together: the process of a file has little memory
_NOT_MEASURED = (
    "; how far its outputs are from those of the masked graph is the manifest's own figure: --source measures it"
)
_MOST_BESIDE = 2**24  # bytes of a file beside its weights: names, biases, the recipe


def check_onnx_files(
    folder: Path,
    manifest: Manifest,
    layouts: Sequence[Layout],
    tensors: Mapping[str, Tensor],
    isolated: bool,
    source: Checkpoint | None,
    rate: Rate | None = None,
) -> Iterator[str]:
    """Run the ONNX files of an export again and say what holds; `tensors` are those of its model's file, and `rate` gives
    its quality with other modules for its LSTMs.

    Their graphs are looked at before they are run, as `harmless` does; `isolated` does both in a process of its own,
    with limits. Raises PrunerError where something differs.
    """
    facts = manifest.onnx
    if facts is None or DECLINED in facts:
        return
    if is_whole(facts):
        yield from _check_whole_graph(folder, manifest, layouts, tensors, source)
        return
    _check_consumers(folder, manifest, layouts, tensors)
    parts = parts_of(layouts, tensors, facts["consumers"])
    for name, stated in facts["files"].items():
        data = _read(folder, name, parts)
        try:
            metadata, session = _opened(data, isolated)
            _check_metadata(folder, name, metadata, manifest)
            lstms = lstms_of(session, parts, facts["batch_first"])
            measured = compare(lstms, layouts, tensors, parts)
            rated = None if rate is None or "quality" not in stated else rate(in_pieces(lstms, STEPS))
        except (PrunerError, RuntimeError, IndexError) as error:  # of shapes that only long sequences show
            raise not_the_export(folder, f"{name} as it was exported", f"another ({error})") from error
        _check_measured(folder, name, measured, stated)
        figures = _figures(measured)
        if rated is not None:
            _check_quality(folder, name, rated, stated["quality"])
            figures += f", {rated['name']} {rated['value']:.4f}"
        yield f"{name} runs in ONNX Runtime and is as close to the pruned model as the manifest says ({figures})"


def _figures(measured: Mapping[str, float]) -> str:
    return f"largest difference {measured['max_abs_difference']:.2g}, outputs reach {measured['max_abs_output']:.2g}"


def _check_consumers(
    folder: Path, manifest: Manifest, layouts: Sequence[Layout], tensors: Mapping[str, Tensor]
) -> None:
    """Those of a graph are matrices of the file that fit the output which they read."""
    stated: dict[str, list[str]] = (manifest.onnx or {})["consumers"]
    by_name = {layout.lstm.name: layout for layout in layouts}
    if stated.keys() != by_name.keys():
        raise not_the_export(folder, "the consumers of its LSTMs in its ONNX files", shown(stated))
    for owner, names in stated.items():
        layout = by_name[owner]
        for name in names:
            tensor, trimmed = tensors.get(name), name in layout.consumers
            width = sum(map(len, layout.last_units)) if trimmed else layout.lstm.output_width
            fits = tensor is not None and tensor.dtype in DTYPES and tuple(tensor.shape[1:]) == (width,)
            if not fits or name not in manifest.recipe.get("consumers", ()):
                raise not_the_export(folder, f"a consumer of {shown(owner)} in its ONNX files", shown(name))


def _read(folder: Path, name: str, parts: Sequence[Part]) -> bytes:
    source = open_source(folder / name, wanted="an ONNX file of an export")
    source.close()
    most = 2 * weight_bytes(parts) + _MOST_BESIDE
    if source.size > most:
        raise not_the_export(folder, f"{name} of at most {most:,} bytes", f"{source.size:,}")
    return bytes(source.data)


def _opened(data: bytes, isolated: bool) -> tuple[dict[str, str], Session]:
    """The metadata of a model and a session of it."""
    if isolated:
        session = Runner().lstms(data)
        return session.metadata, session
    return metadata_of(data), session_of(data)


def _check_whole_graph(
    folder: Path,
    manifest: Manifest,
    layouts: Sequence[Layout],
    tensors: Mapping[str, Tensor],
    source: Checkpoint | None,
) -> Iterator[str]:
    """Run the graphs of an export again, in a process with limits, and say what holds: its LSTMs are those of the export's
    file, and its outputs those of the masked graph of the `source`. Without that, the outputs of the float graph, which is
    the first, stand for those of the masked one in the check of the int8 graph, and are themselves compared with nothing.
    Raises PrunerError where something differs."""
    facts = manifest.onnx or {}
    names = [layout.lstm.name for layout in layouts]
    if facts["values"].keys() != set(names):
        raise not_the_export(folder, f"the LSTMs {shown(names)} in its graph", shown(list(facts["values"])))
    states, runner = States(facts["states"]), Runner()
    beside: Ran | None = None
    for name, stated in sorted(facts["files"].items(), key=lambda each: each[0] != FLOAT):
        file = open_source(folder / name, wanted="an ONNX file of an export")
        file.close()
        try:
            _check_metadata(folder, name, runner.whole(bytes(file.data)).metadata, manifest)
            found, masked = _ran_again(runner, bytes(file.data), facts["values"], states, layouts, tensors, source)
            compared, whose = (masked, "the masked graph") if masked is not None else (beside, FLOAT)
            measured: dict[str, Any] = {**found.lstms, "graph": compared and found.apart(compared)}
        except PrunerError as error:
            raise not_the_export(folder, f"{name} as it was exported", f"another ({error})") from error
        _check_measured(folder, name, measured | {"graph": measured["graph"] or stated["graph"]}, stated)
        beside = beside or found
        outputs = _NOT_MEASURED
        if compared is not None:
            outputs = f"; its outputs beside those of {whose}: {_figures(measured['graph'])}"
        yield (
            f"{name} runs in ONNX Runtime, its LSTMs are as close to the pruned model as the manifest says "
            f"({_figures(measured)}){outputs}"
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


def _check_metadata(folder: Path, name: str, metadata: Mapping[str, str], manifest: Manifest) -> None:
    """Raise PrunerError unless a model says the recipe and the source of the manifest."""
    try:
        recipe = json.loads(metadata.get("recipe", "null"))
    except (ValueError, RecursionError):
        recipe = None
    if recipe != manifest.recipe or metadata.get("source_sha256") != manifest.source.get("sha256"):
        raise not_the_export(folder, f"the recipe and the source of the manifest in {name}", "others")


def _check_measured(folder: Path, name: str, measured: Mapping[str, Any], stated: Mapping[str, Any]) -> None:
    """Scales as in the certificate; of the float model the tolerance, of the int8 one a difference of the size that was
    stated: processors round its sums alike, but not the scales of its inputs."""
    pairs = [(measured, stated)]
    for more in ("consumers", "graph"):
        if (more in measured) != (more in stated):
            raise not_the_export(folder, f"{more} in {name} as the manifest says", shown(measured))
        if more in measured:
            pairs.append((measured[more], stated[more]))
    good = name != FLOAT or (agrees(measured) and agrees(stated))
    for found, claimed in pairs:
        scale, gap = found["max_abs_output"], found["max_abs_difference"]
        good = good and math.isclose(scale, claimed["max_abs_output"], rel_tol=1e-3)
        if name != FLOAT:
            good = good and math.isclose(gap, claimed["max_abs_difference"], rel_tol=0.5, abs_tol=1e-3 * scale)
    if not good:
        raise not_the_export(folder, f"{name} as close to the pruned model as the manifest says", shown(measured, 200))


def _check_quality(folder: Path, name: str, rated: Mapping[str, Any], stated: Mapping[str, Any]) -> None:
    same = {**rated, "value": None} == {**stated, "value": None}
    if not same or not as_good(rated["value"], stated["value"]):
        raise not_the_export(folder, f"{name} as good as the manifest says, {shown(stated)}", shown(rated))
