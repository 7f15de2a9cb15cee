"""Read an export folder back and check that it is what its manifest says."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pruner.compact import load_pruned
from pruner.compact.costs import cost_of_file
from pruner.compact.layout import Layout, reconstructs
from pruner.compact.masked_and_compact import Compensation, Pruned, pruned_by
from pruner.errors import PrunerError, shown
from pruner.exports import read_me
from pruner.exports.certificate import as_stored, as_twins, certify, length_to_certify, same_certificate
from pruner.exports.export import file_facts, masked_lstms
from pruner.exports.keras.checking import check_keras_file
from pruner.exports.keras.facts import KERAS_FILES
from pruner.exports.lines import QUALITY
from pruner.exports.manifest import (
    EXAMPLE,
    LOADER,
    MANIFEST,
    MASKS,
    MODELS,
    README,
    Manifest,
    entry,
    model_file,
    new_sizes,
    not_the_export,
    rest,
    same,
)
from pruner.exports.onnx.facts import ONNX_FILES
from pruner.exports.stored import read_layouts, read_masks, widened
from pruner.exports.verdict import as_good
from pruner.files import formats, stale
from pruner.files.checkpoint import Checkpoint
from pruner.files.consumer_choice import consumers_of
from pruner.files.consumers import bias_beside
from pruner.files.export_files import unpack
from pruner.files.on_demand import OnDemand, described, pieces
from pruner.files.opening import open_checkpoint
from pruner.files.staging import temporary
from pruner.lstm.kept import last_units
from pruner.lstm.measure import Quality
from pruner.lstm.sizes import macs_per_step
from pruner.lstm.sizes import parameters as count_parameters
from pruner.pipeline import choose_masks
from pruner.recipe import DATA_CRITERIA, Recipe

FILES = {MANIFEST, MASKS, LOADER, README, EXAMPLE, QUALITY, *MODELS, *KERAS_FILES, *ONNX_FILES}
MAX_UNPACKED_RATIO = 50


Judge = Callable[[Checkpoint], Quality | None]  # what a checkpoint is judged by, if that is known


def verify(
    folder: str | os.PathLike[str],
    source: Checkpoint | None = None,
    *,
    isolated: bool = False,
    judge: Judge | None = None,
) -> list[str]:
    """Check an export, a folder or the zip of one, and return what was found to hold, a sentence a check.

    Without the source: complete, unaltered files, masks that fit, rows that are zero where the masks say. With it: every
    other value is the source's own, the recipe gives the same masks again, and so does the certificate. Raises PrunerError
    at the first check that fails. Nothing in the folder is executed; `isolated` reads the model's file in a process of its
    own, with limits. ONNX files are rated again where a `judge` knows what the model that they stand for is judged by.
    """
    with unpacked(Path(folder)) as files:
        return list(_checks(files, source, isolated, judge))


@contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """The export's folder; for a zip, a temporary one that holds its files. Raises PrunerError for anything else."""
    if os.path.isdir(path):  # noqa: PTH112 - False, and not an error, for paths that cannot be
        yield path
        return
    with temporary() as staging:
        try:
            unpack(path, staging.files, FILES, MAX_UNPACKED_RATIO)
        except OSError as error:
            raise PrunerError(f"expected room to unpack {path}, found {error}; free some and try again") from error
        yield staging.files


def _checks(folder: Path, source: Checkpoint | None, isolated: bool, judge: Judge | None) -> Iterator[str]:
    """Say again, from the files alone, all that the manifest says of them, and compare."""
    manifest = Manifest.read(folder)
    made_from = manifest.source
    if source is not None:
        if made_from.get("sha256") != source.sha256:
            raise not_the_export(folder, f"a source with sha256 {str(made_from.get('sha256'))[:64]}", source.sha256)
        same(folder, made_from, "format", source.format)
    files = {file.name: file for file in folder.iterdir() if file.is_file() and file.name != MANIFEST}
    onnx = _onnx_files(folder, manifest, files)
    models = sorted(
        files.keys() - {MASKS, LOADER, README, EXAMPLE, QUALITY, *KERAS_FILES}
    )  # older exports have neither of the last two
    if not files.keys() >= {MASKS, LOADER} or models not in (["pruned.pt"], ["pruned.safetensors"]):
        raise not_the_export(
            folder, f"one pruned model, {MASKS} and {LOADER}", ", ".join(sorted(files)) or "none of them"
        )
    if folders := sorted(path.name for path in folder.iterdir() if path.is_dir()):
        yield f"not looked into: {', '.join(folders)}"
    stated = manifest.files
    if stated.keys() != files.keys():
        raise not_the_export(folder, f"the files {', '.join(sorted(files))} in the manifest", shown(sorted(stated)))
    for name, file in files.items():
        same(folder, stated, name, file_facts(file))
    for name, facts in onnx.items():
        same(folder, {name: {key: facts[key] for key in ("sha256", "bytes")}}, name, file_facts(folder / name))
    yield f"{len(files) + len(onnx)} files are complete and unaltered"
    if made_from.get("format") not in formats.ALL or model_file(made_from["format"]) != models[0]:
        raise not_the_export(folder, f"a source format that is written as {models[0]}", shown(made_from.get("format")))
    pruned = open_checkpoint(files[models[0]], isolated=isolated, as_stored=True)
    masks = read_masks(files[MASKS], folder)
    layouts = read_layouts(folder, manifest, pruned, masks)
    manifest.check(folder, "lstms", [entry(layout, pruned) for layout in layouts])
    if manifest.rest is not None:
        manifest.check(folder, "rest", rest(layouts, pruned))
    yield f"{models[0]} holds {len(layouts)} LSTM{'s' if len(layouts) > 1 else ''} of the shapes in the manifest"
    dropped = f"{sum(int((~mask).sum()) for mask in masks.values()):,} masked rows are"
    yield f"{dropped} {'zero' if manifest.form == 'masked' else 'not stored, or read by nothing'}"
    _check_totals(folder, manifest, pruned, layouts, source)
    yield from _differing(files, manifest)
    if QUALITY in files:
        yield _rated(folder, manifest, *widened(pruned, layouts), judge)
    elif isinstance((manifest.verdict or {}).get("loss"), float):
        yield "the verdict is the manifest's own: an export does not carry the inputs that it was given by"
    expected = None if source is None else _expected(source, manifest, masks, layouts)
    yield from check_keras_file(folder, manifest, pruned, layouts, masks, expected, isolated)
    reference = as_twins(layouts, pruned.tensors, pruned.source)
    if expected is not None:
        yield from _compare_with_source(folder, manifest, pruned, masks, layouts, expected)
        if manifest.compensation is None:
            reference = masked_lstms(expected)
    stored = as_stored(layouts, pruned.tensors, pruned.source)
    certificate = certify(reference, stored, layouts, length_to_certify(layouts, manifest.certificate))
    if not certificate["holds"] or not same_certificate(certificate, manifest.certificate):
        raise not_the_export(folder, f"the certificate {shown(manifest.certificate)}", str(certificate))
    if source is None:
        yield "the LSTMs run and compute what their masked form of full size does, at the scale that the certificate says"
    else:
        yield f"the certificate holds: largest difference {certificate['max_abs_difference']:g}"

    if onnx:
        from pruner.exports.onnx.checking import check_onnx_files  # onnx and onnxruntime take a second to import

        masked, modules = widened(pruned, layouts)
        quality = judge(masked) if judge else None
        rate = None if quality is None else partial(quality.told_with, masked.tensors, modules)
        yield from check_onnx_files(folder, manifest, layouts, pruned.tensors, isolated, source, rate)


def _rated(
    folder: Path, manifest: Manifest, masked: Checkpoint, modules: Mapping[str, nn.Module], judge: Judge | None
) -> str:
    """Rate the model of an export again where that is known how, and say what came of it. Raises PrunerError where it is not
    as good as the verdict says."""
    known, stated = judge(masked) if judge else None, manifest.verdict or {}
    if known is None or known.file is None or known.file.read_bytes() != (folder / QUALITY).read_bytes():
        return f"{QUALITY} is none that this version of the pruner knows; it was not run, and the model not rated again"
    rated, after = known.told(masked.tensors, modules), stated.get("after")
    if stated.get("measure") != rated["name"] or type(after) is not float or not as_good(rated["value"], after):
        raise not_the_export(folder, f"a model as good as its verdict says, {shown(stated)}", shown(rated))
    return f"the model is as good as its verdict says when it is rated again ({rated['name']} {rated['value']:.4f})"


def _onnx_files(folder: Path, manifest: Manifest, files: dict[str, Path]) -> dict[str, Any]:
    """What the manifest says of each ONNX file; they are taken out of the `files` that were found."""
    found = {name for name in ONNX_FILES if files.pop(name, None)}
    stated: dict[str, Any] = (manifest.onnx or {}).get("files", {})
    if found != stated.keys():
        expected = ", ".join(sorted(stated)) or "no ONNX files"
        raise not_the_export(folder, f"{expected}, as the manifest says", ", ".join(sorted(found)) or "none")
    return stated


def _differing(files: Mapping[str, Path], manifest: Manifest) -> Iterator[str]:
    """A sentence on each file for people that is not what this version of the pruner writes beside such a manifest."""
    own = {LOADER: Path(load_pruned.__file__).read_bytes()}
    if told := {README, EXAMPLE} & files.keys():
        try:
            texts = {name: text.encode() for name, text in read_me.texts(manifest.told()).items()}
        except (
            ArithmeticError,
            AttributeError,
            KeyError,
            TypeError,
            ValueError,
        ):  # of what nobody can check: learned, verdict, notes
            texts = {}
        own |= {name: texts.get(name, b"") for name in sorted(told)}
    for name, written in own.items():
        if files[name].stat().st_size != len(written) or files[name].read_bytes() != written:
            yield f"{name} differs from that of this version of the pruner; it was not run"


def _check_totals(
    folder: Path, manifest: Manifest, pruned: Checkpoint, layouts: list[Layout], source: Checkpoint | None
) -> None:
    """What the manifest counted, counted again; of a source that is not at hand, what can be told from the export."""
    after = asdict(cost_of_file(pruned, layouts))
    before = _widened_size(pruned, layouts) if source is None else asdict(cost_of_file(source))
    if manifest.counts_integers:
        after["parameters"] += _integers(pruned, layouts)
        if "parameters" in before:
            before["parameters"] += _integers(pruned if source is None else source, layouts if source is None else [])
    for key, value in after.items():
        stated = manifest.totals.get(key)
        told = stated.get("before") if isinstance(stated, dict) else None
        same(folder, manifest.totals, key, {"before": before.get(key, told), "after": value})


def _widened_size(pruned: Checkpoint, layouts: list[Layout]) -> dict[str, int]:
    """{figure: what the source had of it}, from the export alone: what was removed is known, but for masks that
    pruning tools had left beside the tensors of an LSTM, and for maps that rebuilt units of it already."""
    if any(reconstructs(layout.tensors) for layout in layouts):
        return {}
    now = cost_of_file(pruned, layouts)
    parameters, macs = now.parameters, now.macs_per_step
    own = {name for layout in layouts for name in layout.lstm.tensors.values()}
    for layout in layouts:
        stored = [pruned.tensors[name] for name in layout.tensors.values()]
        parameters += layout.lstm.parameters - count_parameters(stored)
        macs += macs_per_step(layout.lstm.shapes().values()) - macs_per_step(tuple(each.shape) for each in stored)
        kept = sum(map(len, layout.last_units))
        for name in set(layout.consumers) - own:
            parameters += pruned.tensors[name].numel() // kept * (layout.lstm.output_width - kept)
    plain = all(name.rpartition(".")[2] == standard for each in layouts for standard, name in each.lstm.tensors.items())
    return {"macs_per_step": macs, **({"parameters": parameters} if plain else {})}


def _integers(checkpoint: Checkpoint, layouts: list[Layout]) -> int:
    """How many numbers are no parameters, but for the indices that compact LSTMs carry."""
    own = {name for layout in layouts for name in layout.tensors.values()}
    others = [tensor for name, tensor in checkpoint.tensors.items() if name not in own]
    return sum(tensor.numel() for tensor in others) - count_parameters(others)


def _compare_with_source(
    folder: Path,
    manifest: Manifest,
    pruned: Checkpoint,
    masks: Mapping[str, Tensor],
    layouts: list[Layout],
    expected: Pruned,
) -> Iterator[str]:
    source, form, recipe = expected.checkpoint, expected.forms[manifest.form], expected.recipe
    if any(found.lstm not in source.lstms for found in layouts):
        raise not_the_export(folder, "the LSTMs of the source", "others")
    if manifest.settings is not None:
        manifest.check(folder, "settings", stale.new_settings(source, form.changed, new_sizes(layouts)))
    made = form.tensors(source)
    # Of what compact LSTMs stand for, older exports say nothing.
    said = {name for name in made if name in pruned.locations or name.rpartition(".")[2] != load_pruned.STANDS_FOR}
    tensors = OnDemand({name: value for name, value in made.unmade().items() if name in said})
    refitted = form.changed.keys() if manifest.compensation is not None else set()
    if {name: source.location(name) for name in tensors} != pruned.locations:
        raise not_the_export(folder, "the tensor names that pruning the source gives", "other names")
    for name, tensor in described(tensors).items():
        found = pruned.tensors[name]
        if found.shape != tensor.shape or found.dtype != tensor.dtype:
            raise not_the_export(
                folder, f"{name} {tuple(tensor.shape)} {tensor.dtype}", f"{tuple(found.shape)} {found.dtype}"
            )
        if name not in refitted and not _same_bits(pruned.tensors, tensors, name):
            raise not_the_export(folder, f"the source's own values in {name}", "others")
        source.source.let_go()
        pruned.source.let_go()
    yield (
        f"{len(tensors)} tensors have the names, shapes and dtypes that pruning the source gives, and all but those that "
        "compensation may change its values"
        if refitted
        else f"{len(tensors)} tensors have the names, shapes, dtypes and values that pruning the source gives"
    )
    if recipe.criterion in DATA_CRITERIA:
        yield f"the masks were chosen from calibration data ({recipe.criterion}), which an export does not carry"
        return
    again = choose_masks(source, recipe)
    if again.keys() != masks.keys() or not all(torch.equal(again[name], masks[name]) for name in masks):
        raise not_the_export(folder, "the masks that the recipe gives on the source", "others")
    yield "the recipe gives the same masks again"


def _expected(source: Checkpoint, manifest: Manifest, masks: Mapping[str, Tensor], layouts: list[Layout]) -> Pruned:
    """What the export must look like: what pruning the source gives, except for the values that compensation changed."""
    recipe = Recipe.from_dict(manifest.recipe)
    if manifest.compensation is None:
        return pruned_by(source, recipe, masks)
    consumers = [name for names in consumers_of(source, recipe).values() for name in names]
    names = [name for layout in layouts for name in layout.lstm.tensors.values()]
    names += consumers + [bias for name in consumers if (bias := bias_beside(source.tensors, name))]
    filled = {
        layout.lstm.name: [
            (torch.zeros(layout.lstm.hidden_size - len(own), len(own)), torch.zeros(layout.lstm.hidden_size - len(own)))
            for own in last_units(layout.lstm, masks)
        ]
        for layout in layouts
        if reconstructs(layout.tensors) and recipe.granularity == "units"
    }
    return pruned_by(source, recipe, masks, Compensation({name: source.tensors[name] for name in names}, filled, {}))


def _same_bits(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], name: str) -> bool:
    """Equal to the bit, NaN and types without arithmetic included; both have the same shape and type."""
    pairs = zip(pieces(found, name), pieces(wanted, name), strict=True)
    return all(torch.equal(*(each.contiguous().flatten().view(torch.uint8) for each in pair)) for pair in pairs)
