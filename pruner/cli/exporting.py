"""Commands that make and check exports: prune, shrink, verify."""

import argparse
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from pruner import examples
from pruner.cli.options import (
    add_batch_first,
    add_checkpoint,
    add_mapping,
    add_recipe_options,
    calibration_of,
    checkpoint_of,
    completed,
    recipe_for,
    recipe_of,
    told,
    with_those_in_a_row,
    with_what_is_said,
)
from pruner.cli.output import ended_early, show_progress
from pruner.compact.masked_and_compact import DEFAULT_FORM, FORMS
from pruner.errors import PrunerError
from pruner.exports.export import check_free
from pruner.exports.manifest import Manifest
from pruner.exports.onnx.facts import told as told_of_onnx
from pruner.exports.verify import verify
from pruner.files import stale
from pruner.files.checkpoint import Checkpoint
from pruner.files.learned import without_batch_first
from pruner.recipe import Recipe, check_sparsity
from pruner.result import measured, run
from pruner.search.candidates import Target
from pruner.search.smallest import Shrunk, shrink
from pruner.views.frontier import frontier_svg


def add_commands(commands: Any) -> None:
    """Add the commands of this module to a parser's."""
    prune = commands.add_parser("prune", help="prune a checkpoint and export it as a folder")
    add_checkpoint(prune)
    add_recipe_options(prune)
    add_batch_first(prune)
    prune.add_argument("--form", choices=FORMS, help="default: masked for rows, compact for units")
    prune.add_argument("--device", default="cpu", metavar="cpu|cuda")
    _add_onnx(prune)
    prune.add_argument("--output", required=True, metavar="DIR")
    prune.set_defaults(command=_prune)

    shrink = commands.add_parser(
        "shrink", help="find the smallest model that answers like the whole one, and export it"
    )
    add_checkpoint(shrink)
    shrink.add_argument("--keep", type=float, metavar="0.97", help="share of the quality to keep (default 0.97)")
    shrink.add_argument("--target", metavar="macs=0.5|size=0.5", help="the best model of a size instead")
    add_recipe_options(shrink)
    shrink.add_argument("--output", required=True, metavar="DIR")
    add_batch_first(shrink)
    shrink.add_argument("--form", choices=FORMS, help="default: masked for rows, compact for units")
    shrink.add_argument("--device", default="cpu", metavar="cpu|cuda")
    _add_onnx(shrink)
    shrink.set_defaults(command=_shrink)

    check = commands.add_parser("verify", help="read an export back and check it")
    check.add_argument("folder", metavar="DIR|ZIP")
    check.add_argument("--source", metavar="CHECKPOINT", help="compare with the checkpoint it was made from, too")
    add_mapping(check)
    check.set_defaults(command=_verify)


def _add_onnx(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--onnx",
        action="store_true",
        help="write ONNX files, float and int8, too; of a model that came as ONNX its whole graph, in float unasked",
    )


def _tell_of_onnx(folder: Path) -> None:
    facts = Manifest.read(folder).onnx
    for sentence in told_of_onnx(facts) if facts else []:
        print(sentence)


def _prune(options: argparse.Namespace) -> None:
    recipe = recipe_of(options)
    check_free(Path(options.output))
    checkpoint = with_what_is_said(options, checkpoint_of(options))
    example = examples.example_of(checkpoint)
    recipe = completed(checkpoint, recipe_for(options, checkpoint, recipe))
    recipe = with_those_in_a_row(checkpoint, recipe)
    calibration = calibration_of(options, checkpoint, recipe)
    quality = example.quality if example else None
    with ended_early() if recipe.compensation == "heal" else nullcontext(show_progress) as progress:
        result = run(checkpoint, recipe, options.device, progress, quality, calibration=calibration)
    form = options.form or DEFAULT_FORM[recipe.granularity]
    folder = result.save(options.output, form, onnx=options.onnx)
    if calibration is not None:
        print(told(calibration))
    for done in result.compensation.facts.get("lstms", []):
        for step in done["steps"]:
            verdict = ("kept" if step["kept"] else "left out") + (", ended early" if step.get("stopped") else "")
            print(f"{done['name'] or '(root)'}: {step['name']}: {step['before']:.4f} -> {step['after']:.4f}, {verdict}")
    where = "held-back inputs" if calibration is not None and calibration.is_real else "random inputs"
    for name, drift in result.drift.items():
        print(f"{name or '(root)'}: output drift {drift.relative:.3f} on {where}")
    if example and result.quality:
        print(f"{example.quality_name}: {result.quality['dense']:.4f} before, {result.quality[form]:.4f} after")
    print(f"{result.verdict.word}: {result.verdict.sentence}")
    for note in stale.notes(checkpoint, result.forms[form].changed):
        print(f"note: {note}")
    _ask_for_batch_first(checkpoint, recipe)
    _tell_of_onnx(folder)
    before, after = result.costs["dense"], result.costs[form]
    if form == "masked":
        dropped = sum(int((~mask).sum()) for mask in result.masks.values())
        print(f"{folder}: {dropped:,} rows masked, {after.zeros:,} of {after.parameters:,} parameters are zero")
        return
    print(
        f"{folder}: {before.parameters:,} parameters became {after.parameters:,}, "
        f"{before.macs_per_step:,} multiply-accumulates per time step {after.macs_per_step:,}"
    )


def _shrink(options: argparse.Namespace) -> None:
    target = _target(options)
    by_rows = options.granularity == "rows"
    ranked = {"criterion": "fisher", "allocation": "global"} if by_rows else {"criterion": "obs"}
    recipe = recipe_of(options, granularity="units", compensation="heal", **ranked)
    check_free(Path(options.output))
    checkpoint = with_what_is_said(options, checkpoint_of(options))
    example = examples.example_of(checkpoint)
    recipe = completed(checkpoint, recipe)
    calibration = calibration_of(options, checkpoint, recipe)
    if calibration is None:
        raise PrunerError(
            "expected a recipe that needs inputs to shrink with, found criterion and compensation without; leave both out"
        )
    print(told(calibration))
    quality = example.quality if example else None
    with ended_early() as progress:
        found = shrink(checkpoint, recipe, calibration, target, quality, progress, device=options.device)
    result = measured(found.chosen.pruned, options.device, quality, False, calibration)
    frontier = partial(_write_frontier, found)
    folder = result.save(options.output, options.form, onnx=options.onnx, more=frontier)
    for sentence in found.told:
        print(sentence)
    _ask_for_batch_first(checkpoint, recipe)
    _tell_of_onnx(folder)
    before, after = result.costs["dense"], result.costs["compact"]
    print(
        f"{folder}: {before.parameters:,} parameters became {after.parameters:,}; all that was tried: {folder}/frontier"
    )


def _ask_for_batch_first(checkpoint: Checkpoint, recipe: Recipe) -> None:
    """Say that whoever loads the export will be asked, where nobody knows."""
    if unsaid := without_batch_first(checkpoint, checkpoint.select(recipe.lstms)):
        print(
            f"note: {checkpoint.name} does not say whether {', '.join(lstm.title for lstm in unsaid)} read batches first: "
            "--batch-first true or false tells the export's loader, which asks otherwise"
        )


def _target(options: argparse.Namespace) -> Target:
    if options.target is None:
        keep = 0.97 if options.keep is None else options.keep
        check_sparsity("--keep", keep)
        return Target(keep)
    what, _, amount = options.target.partition("=")
    if options.keep is not None or what not in ("macs", "size"):
        raise PrunerError(f"expected either --keep or --target as macs=0.5 or size=0.5, found {options.target!r}")
    try:
        share = float(amount)
    except ValueError as error:
        raise PrunerError(f"expected --target as macs=0.5 or size=0.5, found {options.target!r}") from error
    check_sparsity(f"the {what} of --target", share)
    return Target(None, what, share)


def _write_frontier(found: Shrunk, export: Path) -> None:
    """Everything that was tried, as CSV and as a picture, beside the files of the export."""
    table, verdict, folder = found.frontier(), found.chosen.verdict, export / "frontier"
    folder.mkdir()
    table.to_csv(folder / "frontier.csv", index=False)
    (folder / "frontier.svg").write_text(frontier_svg(table, verdict.measure, verdict.before), encoding="utf-8")


def _verify(options: argparse.Namespace) -> None:
    source = checkpoint_of(options, options.source) if options.source else None
    for sentence in verify(options.folder, source, isolated=True, judge=examples.quality_of):
        print(f"ok: {sentence}")
