"""The command `measure`: what a checkpoint or an export costs, how good it is, and how fast beside what else can be run."""

import argparse
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from pruner import examples
from pruner.cli.options import add_checkpoint, checkpoint_of
from pruner.cli.output import print_json, show_progress
from pruner.compact.costs import Cost, cost_of_file
from pruner.errors import label, shown
from pruner.examples import Example
from pruner.exports.onnx.facts import DECLINED, is_whole
from pruner.exports.opened import Export, read_export
from pruner.exports.speed.models import Model, dense_of, made_files, model_of
from pruner.exports.speed.table import NOTES, Table, side_by_side
from pruner.files.checkpoint import Checkpoint
from pruner.files.consumer_choice import outside_consumers, proven
from pruner.lstm.measure import latency
from pruner.lstm.module import build
from pruner.lstm.timing import TOO_NOISY
from pruner.recipe import Recipe


def add_commands(commands: Any) -> None:
    """Add the commands of this module to a parser's."""
    measure = commands.add_parser(
        "measure", help="parameters, bytes, multiply-accumulates, quality, and speed beside what else can be run"
    )
    add_checkpoint(measure, "CHECKPOINT|DIR")
    measure.add_argument("--json", action="store_true")
    measure.set_defaults(command=_measure)


@dataclass(frozen=True)
class Measured:
    """A checkpoint, or the masked one that an export stands for, with the LSTMs that run and what they cost."""

    cost: Cost
    checkpoint: Checkpoint
    modules: Mapping[str, nn.Module]
    example: Example | None
    quality: dict[str, Any] | None
    export: Export | None

    def models(self) -> list[Model]:
        """What is timed side by side, the dense model first."""
        value = None if self.quality is None else self.quality["value"]
        judge = self.example.quality if self.example else None
        if self.export is not None:
            return _exported_models(self, self.export, value)
        lstms = self.checkpoint.select()
        consumers = (self.example.consumer,) if self.example else proven(self.checkpoint, lstms)
        dense = dense_of(self.checkpoint, None, consumers)
        return [model_of("dense", dense, "masked", self.cost.bytes, value, judge)]


def _measure(options: argparse.Namespace) -> None:
    measured = _measured(options)
    took = latency({"": measured.modules}, measured.checkpoint.lstms)[""]
    table = side_by_side(measured.models(), show_progress)
    if options.json:
        cost = measured.cost
        print_json(
            {
                "parameters": cost.parameters,
                "bytes": cost.bytes,
                "macs_per_step": cost.macs_per_step,
                "latency_ms": took.typical,
                "quality": measured.quality,
                "times": table.told(),
            }
        )
        return
    print(f"{measured.cost.parameters:,} parameters, {measured.cost.bytes:,} bytes")
    print(f"{measured.cost.macs_per_step:,} multiply-accumulates per time step, all LSTMs")
    if measured.export is None:
        for told in measured.checkpoint.notes:  # that an LSTM is counted at another size than it is stored, say
            print(told)
    taken = TOO_NOISY if took.faster is None else f"{took.typical:.2f} ms"
    print(f"{taken} for 64 time steps at batch 1")
    if measured.example and measured.quality:
        print(f"{measured.quality['value']:.4f} {measured.example.quality_name}")
        if note := examples.data_note(measured.example):
            print(note)
    if measured.export and measured.export.manifest.verdict:
        _print_verdict(measured.export.manifest.verdict)
    _print_table(table, measured.example.quality_name if measured.example else None)


def _measured(options: argparse.Namespace) -> Measured:
    path, export = Path(options.checkpoint), None
    modules: Mapping[str, nn.Module]
    if os.path.isdir(path):  # noqa: PTH112 - False, and not an error, for paths that cannot be
        export = read_export(path, isolated=True, judge=examples.quality_of)
        cost, checkpoint, modules = export.cost, export.masked, export.modules
    else:
        checkpoint = checkpoint_of(options)
        modules = {lstm.name: build(lstm, checkpoint.tensors) for lstm in checkpoint.select()}
        cost = cost_of_file(checkpoint)
    modules = {name: module.float() for name, module in modules.items()}
    example = examples.example_of(checkpoint)
    quality = example.quality.told(checkpoint.tensors, modules) if example else None
    return Measured(cost, checkpoint, modules, example, quality, export)


def _exported_models(measured: Measured, export: Export, value: float | None) -> list[Model]:
    """The dense model that an export was made from, with zeros in place of what was removed, which take as long, and the
    pruned one, of a quality of this value, with the ONNX files that the export has; else they are made and rated."""
    manifest, masked, example = export.manifest, export.masked, measured.example
    recipe = Recipe.from_dict(manifest.recipe)
    before = manifest.totals["bytes"]["before"]  # nobody but the source can tell whether it is true
    size = before if isinstance(before, int) else None
    dense = model_of("dense", dense_of(masked, recipe.lstms, recipe.consumers), "masked", size, None)
    consumers, onnx, files = outside_consumers(masked, recipe), manifest.onnx, export.onnx
    if onnx is None or DECLINED in onnx or is_whole(onnx):  # in which LSTMs run among other things
        from pruner.exports.onnx.files import write_onnx_files  # onnx and onnxruntime take a second to import

        judge = None if example is None else partial(example.quality.told_with, masked.tensors, measured.modules)
        onnx, files = made_files(
            lambda folder: write_onnx_files(folder, export.layouts, export.tensors, consumers, {}, judge)
        )
    pruned = Model(manifest.form, export.layouts, export.tensors, consumers, export.cost.bytes, value, onnx, files)
    return [dense, pruned]


def _print_verdict(verdict: Mapping[str, Any]) -> None:
    word, measure, before, after = (_said(verdict.get(key)) for key in ("word", "measure", "before", "after"))
    print(f"{word}, as the export says: {measure} {before} before, {after} after")


def _said(value: Any) -> str:
    """What a stranger's manifest says, as short as a sentence has it."""
    if isinstance(value, str):
        return label(value, most=200)
    return f"{value:.4g}" if isinstance(value, float) else shown(value)


def _print_table(table: Table, quality: str | None) -> None:
    columns, cells = table.words(quality)
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    print()
    for first, *others in (columns, *cells):
        figures = [f"{cell:>{width}}" for cell, width in zip(others, widths[1:], strict=True)]
        print("  ".join([f"{first:{widths[0]}}", *figures]))
    for sentence in (*table.reasons, NOTES):
        print(sentence)
