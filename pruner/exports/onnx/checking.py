"""The ONNX files of an export, checked: what the manifest says of them, and that they hold nothing but LSTMs."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from pruner.compact.layout import Layout
from pruner.errors import PrunerError, shown
from pruner.exports.manifest import Manifest, not_the_export
from pruner.exports.onnx.facts import DECLINED
from pruner.exports.onnx.measured import check_measured, check_metadata
from pruner.exports.onnx.parts import Part, parts_of, weight_bytes
from pruner.exports.onnx.running import Session, compare, lstms_of
from pruner.files.runtime.harmless import metadata_of
from pruner.files.runtime.isolation import Runner
from pruner.files.runtime.session import session_of
from pruner.files.source import open_source
from pruner.lstm.lstm import DTYPES

_MOST_BESIDE = 2**24  # bytes of a file beside its weights: names, biases, the recipe


def check_onnx_files(
    folder: Path, manifest: Manifest, layouts: Sequence[Layout], tensors: Mapping[str, Tensor], isolated: bool
) -> Iterator[str]:
    """Run the ONNX files of an export again and say what holds; `tensors` are those of its model's file.

    Their graphs are looked at before they are run, as `harmless` does; `isolated` does both in a process of its own,
    with limits. Raises PrunerError where something differs.
    """
    facts = manifest.onnx
    if facts is None or DECLINED in facts:
        return
    _check_consumers(folder, manifest, layouts, tensors)
    parts = parts_of(layouts, tensors, facts["consumers"])
    for name, stated in facts["files"].items():
        data = _read(folder, name, parts)
        try:
            metadata, session = _opened(data, isolated)
            check_metadata(folder, name, metadata, manifest)
            measured = compare(lstms_of(session, parts, facts["batch_first"]), layouts, tensors, parts)
        except PrunerError as error:
            raise not_the_export(folder, f"{name} as it was exported", f"another ({error})") from error
        check_measured(folder, name, measured, stated)
        figures = (
            f"largest difference {measured['max_abs_difference']:.2g}, outputs reach {measured['max_abs_output']:.2g}"
        )
        yield f"{name} runs in ONNX Runtime and is as close to the pruned model as the manifest says ({figures})"


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
