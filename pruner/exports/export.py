"""A pruned checkpoint -> a folder of files that load in anyone's own code."""

import io
import json
import os
import platform
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor

from pruner.compact import load_pruned
from pruner.compact.costs import Cost
from pruner.compact.masked_and_compact import Pruned
from pruner.errors import PrunerError
from pruner.exports import read_me
from pruner.exports.certificate import Layers, as_stored, certify, length_to_certify
from pruner.exports.keras.writing import write_keras_file
from pruner.exports.lines import QUALITY
from pruner.exports.manifest import (
    LOADER,
    MANIFEST,
    MASKS,
    Manifest,
    entry,
    first_of,
    model_file,
    new_sizes,
    rest,
    totals,
)
from pruner.exports.onnx.facts import DECLINED, ONNX_FILES
from pruner.exports.verdict import Verdict
from pruner.files import stale
from pruner.files.checkpoint import Checkpoint
from pruner.files.consumer_choice import outside_consumers
from pruner.files.onnx_graph import ONNX
from pruner.files.opening import open_checkpoint
from pruner.files.source import open_source
from pruner.files.staging import Staging, clear_dead
from pruner.files.writing import write, write_safetensors
from pruner.lstm.measure import Quality
from pruner.version import VERSION


def save(
    folder: str | os.PathLike[str],
    pruned: Pruned,
    form: str,
    before: Cost,
    after: Cost,
    verdict: Verdict,
    onnx: bool = False,
    quality: Quality | None = None,
    more: Callable[[Path], None] | None = None,
) -> Path:
    """Write a form of a pruned checkpoint as an export folder and return its path; `before` and `after` are its costs.

    With `onnx` it holds the LSTMs as ONNX files, too, float and int8, each rated by the `quality` if there is one. What came
    as ONNX is written as its whole graph, in float always and in int8 with `onnx`, or the manifest says why it is not.
    `more` writes what else belongs into the folder.

    It is written beside its place, or within an empty folder that is there already, read back, and put in its place only
    when it is whole: a new folder at once, an old one file by file, the manifest last. What an export that died left there
    is cleared away before. Raises PrunerError if the folder is in use, being written or cannot be, if what was written does
    not compute what the masks say when it is read back, and if the source changed since it was opened.
    """
    folder = Path(os.path.abspath(folder))  # noqa: PTH100 - "." and ".." have no name to write under
    check_free(folder)
    try:
        there = folder.exists()  # perhaps where somebody stands, or a volume: it is filled, not replaced
        with Staging(folder, "") if there else Staging(folder.parent, folder.name) as staging:
            pruned.checkpoint.source.check_unchanged()
            try:
                _write(staging.files, pruned, form, before, after, verdict, onnx, quality)
            except PrunerError:
                pruned.checkpoint.source.check_unchanged()  # which then is the reason
                raise
            if more is not None:
                more(staging.files)
            staging.settle()
            pruned.checkpoint.source.check_unchanged()
            if there and not staging.others():
                staging.move_in(last=MANIFEST)
            elif there or folder.exists():
                raise _in_use(folder)
            else:
                staging.replace(folder)
    except OSError as error:
        raise PrunerError(f"expected a place to write the export, found {error}; choose another folder") from error
    return folder


def pack(folder: Path) -> bytes:
    """The files of an export folder as one zip; weights hardly compress, so they are stored as they are."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for file in sorted(file for file in folder.iterdir() if file.is_file()):
            archive.write(file, file.name)
    return packed.getvalue()


def check_free(folder: Path) -> None:
    """Raise PrunerError unless an export can take this place: nothing there yet, or an empty folder. What an export that
    died left there does not count, and is cleared away."""
    try:
        for place in (folder, folder.parent):
            clear_dead(place)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise _in_use(folder)
        if not folder.parent.is_dir():
            raise PrunerError(f"expected a place to write the export, found no folder {folder.parent}; make it first")
    except (OSError, ValueError) as error:
        raise PrunerError(f"expected a place to write the export, found {error}; choose another folder") from error


def _in_use(folder: Path) -> PrunerError:
    return PrunerError(f"expected a new or empty folder for the export, found {folder} in use; choose another")


def _write(
    staging: Path,
    pruned: Pruned,
    form: str,
    before: Cost,
    after: Cost,
    verdict: Verdict,
    onnx: bool,
    quality: Quality | None,
) -> None:
    """All files of an export, the manifest last."""
    written = _write_model(staging, pruned, form)
    if quality is not None and quality.file is not None:
        shutil.copyfile(quality.file, staging / QUALITY)
    manifest = _described(staging, pruned, form, written, totals(before, after), verdict)
    manifest = manifest.with_notes(write_keras_file(staging, pruned, form))
    if onnx or pruned.checkpoint.format == ONNX:
        manifest = replace(manifest, onnx=_write_onnx(staging, pruned, form, written.tensors, quality, onnx))
    _write_for_people(staging, manifest)
    for file in staging.iterdir():
        file.chmod(0o644)  # safetensors writes files that only their owner can read


def _write_model(staging: Path, pruned: Pruned, name: str) -> Checkpoint:
    """The model, its masks and its loader; the model as it was read back."""
    checkpoint, form = pruned.checkpoint, pruned.forms[name]
    model = staging / model_file(checkpoint.format)
    write(checkpoint, form.changed, model)
    write_masks(pruned.masks, staging / MASKS)
    shutil.copyfile(load_pruned.__file__, staging / LOADER)
    return open_checkpoint(model, as_stored=True)


def _described(
    staging: Path,
    pruned: Pruned,
    name: str,
    written: Checkpoint,
    counted: dict[str, Any],
    verdict: Verdict,
) -> Manifest:
    """What the manifest says, but of the files. Raises PrunerError if the model does not compute what the masks say."""
    checkpoint, form = pruned.checkpoint, pruned.forms[name]
    stored = as_stored(form.layouts, written.tensors, written.source)
    certificate = certify(masked_lstms(pruned), stored, form.layouts, length_to_certify(form.layouts))
    if not certificate["holds"]:
        raise PrunerError(
            f"expected the written model to compute what the masks say, found a difference of "
            f"{certificate['max_abs_difference']:.3g}; nothing was exported, please report this with the checkpoint"
        )
    return Manifest(
        source={"name": checkpoint.name, "sha256": checkpoint.sha256, "format": checkpoint.format},
        recipe=pruned.recipe.to_dict(),
        form=name,
        lstms=[entry(layout, checkpoint) for layout in form.layouts],
        totals=counted,
        certificate=certificate,
        files={},
        versions={
            "python": platform.python_version(),
            "torch": torch.__version__,
            "safetensors": safetensors.__version__,
        },
        compensation=pruned.compensation.facts or None,
        verdict=verdict.told(),
        first=first_of(checkpoint, form.layouts),
        learned={name: learned.told() for name, learned in checkpoint.learned.items()} or None,
        notes=stale.notes(checkpoint, form.changed) or None,
        rest=rest(form.layouts, written),
        settings=stale.new_settings(checkpoint, form.changed, new_sizes(form.layouts)) or None,
    )


def _write_for_people(staging: Path, manifest: Manifest) -> None:
    """README.md and example.py, and the manifest itself, which names all files but the ONNX ones, of which it says more."""
    named = replace(manifest, files=dict.fromkeys(file.name for file in staging.iterdir()))
    for title, text in read_me.texts(named.told()).items():
        (staging / title).write_text(text, encoding="utf-8")
    files = {file.name: file_facts(file) for file in sorted(staging.iterdir()) if file.name not in ONNX_FILES}
    replace(manifest, files=files).write(staging)


def _write_onnx(
    folder: Path, pruned: Pruned, name: str, written: Mapping[str, Tensor], quality: Quality | None, wanted: bool
) -> dict[str, Any]:
    """The ONNX files of an export, and what the manifest says of them: the whole graph of what came as ONNX, else the LSTMs
    where that is `wanted`."""
    if pruned.checkpoint.format != ONNX:
        return write_lstms_as_onnx(folder, pruned, name, written, quality)
    from pruner.exports.onnx.whole import write_whole_graph  # onnx and onnxruntime take a second to import

    try:
        return write_whole_graph(
            folder, pruned.checkpoint, pruned.forms[name].layouts, written, _metadata(pruned), wanted
        )
    except PrunerError as reason:
        if not wanted:
            return {DECLINED: str(reason)}
        facts = write_lstms_as_onnx(folder, pruned, name, written, quality)
        note = f"the LSTMs alone, not the whole graph: {reason}"
        return facts | {"notes": [note, *facts["notes"]]} if "notes" in facts else facts


def write_lstms_as_onnx(
    folder: Path, pruned: Pruned, name: str, written: Mapping[str, Tensor], quality: Quality | None
) -> dict[str, Any]:
    """Write the LSTMs of a form, whose file holds the tensors `written`, as ONNX files, and return what the manifest says of
    them. Raises PrunerError as `onnx.files.write_onnx_files` does."""
    from pruner.exports.onnx.files import write_onnx_files  # as above

    rate = None if quality is None else partial(quality.told_with, pruned.tensors(), pruned.modules(name))
    layouts, consumers = pruned.forms[name].layouts, outside_consumers(pruned.checkpoint, pruned.recipe)
    batch_first = {learned.batch_first for learned in pruned.checkpoint.learned.values()} != {False}
    return write_onnx_files(folder, layouts, written, consumers, _metadata(pruned), rate, batch_first=batch_first)


def _metadata(pruned: Pruned) -> dict[str, str]:
    """What an ONNX file says of where it comes from."""
    recipe, source = json.dumps(pruned.recipe.to_dict()), pruned.checkpoint.sha256
    return {"recipe": recipe, "source_sha256": source, "pruner_version": VERSION}


def write_masks(masks: Mapping[str, Tensor], path: str | os.PathLike[str]) -> None:
    """Masks as uint8 (4H,) tensors, 1 = kept, under the names of the tensors that they belong to."""
    write_safetensors({name: mask.to("cpu", torch.uint8) for name, mask in masks.items()}, Path(path))


def file_facts(path: Path) -> dict[str, Any]:
    source = open_source(path)
    source.close()
    return {"sha256": source.sha256, "bytes": source.size}


def masked_lstms(pruned: Pruned) -> Iterator[Layers]:
    """What was previewed: the layers of LSTMs of full size with zeros in dropped rows."""
    return as_stored(pruned.forms["masked"].layouts, pruned.tensors(), pruned.checkpoint.source)
