"""Commands that make and check exports: prune, verify."""

import argparse
from pathlib import Path
from typing import Any

from pruner import examples
from pruner.cli.options import add_recipe_options, calibration_of, completed, recipe_of, told
from pruner.cli.output import show_progress
from pruner.compact.masked_and_compact import DEFAULT_FORM, FORMS
from pruner.exports.export import check_free
from pruner.exports.verify import verify
from pruner.files.checkpoint import open_checkpoint
from pruner.result import run


def add_commands(commands: Any) -> None:
    """Add the commands of this module to a parser's."""
    prune = commands.add_parser("prune", help="prune a checkpoint and export it as a folder")
    prune.add_argument("checkpoint")
    add_recipe_options(prune)
    prune.add_argument("--form", choices=FORMS, help="default: masked for rows, compact for units")
    prune.add_argument("--device", default="cpu", metavar="cpu|cuda")
    prune.add_argument("--output", required=True, metavar="DIR")
    prune.set_defaults(command=_prune)

    check = commands.add_parser("verify", help="read an export back and check it")
    check.add_argument("folder", metavar="DIR|ZIP")
    check.add_argument("--source", metavar="CHECKPOINT", help="compare with the checkpoint it was made from, too")
    check.set_defaults(command=_verify)


def _prune(options: argparse.Namespace) -> None:
    recipe = recipe_of(options)
    check_free(Path(options.output))
    checkpoint = open_checkpoint(options.checkpoint)
    example = examples.example_of(checkpoint)
    recipe = completed(checkpoint, recipe)
    calibration = calibration_of(options, checkpoint, recipe)
    quality = example.quality if example else None
    result = run(checkpoint, recipe, options.device, show_progress, quality, calibration=calibration)
    form = options.form or DEFAULT_FORM[recipe.granularity]
    folder = result.save(options.output, form)
    if calibration is not None:
        print(told(calibration))
    for done in result.compensation.facts.get("lstms", []):
        for step in done["steps"]:
            verdict = "kept" if step["kept"] else "left out"
            print(f"{done['name'] or '(root)'}: {step['name']}: {step['before']:.4f} -> {step['after']:.4f}, {verdict}")
    where = "held-back inputs" if calibration is not None else "random inputs"
    for name, drift in result.drift.items():
        print(f"{name or '(root)'}: output drift {drift.relative:.3f} on {where}")
    if example and result.quality:
        print(f"{example.quality_name}: {result.quality['dense']:.4f} before, {result.quality[form]:.4f} after")
    before, after = result.costs["dense"], result.costs[form]
    if form == "masked":
        dropped = sum(int((~mask).sum()) for mask in result.masks.values())
        print(f"{folder}: {dropped:,} rows masked, {after.zeros:,} of {after.parameters:,} parameters are zero")
        return
    print(
        f"{folder}: {before.parameters:,} parameters became {after.parameters:,}, "
        f"{before.macs_per_step:,} multiply-accumulates per time step {after.macs_per_step:,}"
    )


def _verify(options: argparse.Namespace) -> None:
    source = open_checkpoint(options.source) if options.source else None
    for sentence in verify(options.folder, source):
        print(f"ok: {sentence}")
