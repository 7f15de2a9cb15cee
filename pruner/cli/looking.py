"""Commands that look: inspect, saliency, masks, examples."""

import argparse
import shutil
from typing import Any

import pandas as pd

from pruner import examples
from pruner.cli.options import (
    add_checkpoint,
    add_recipe_options,
    calibration_of,
    checkpoint_of,
    completed,
    recipe_for,
    recipe_of,
)
from pruner.cli.output import print_json, show_progress, write
from pruner.errors import PrunerError, label
from pruner.exports.export import write_masks
from pruner.files.learned import told_beside
from pruner.importance.weights import ROW_NORMS, as_table, score
from pruner.lstm.lstm import title_of
from pruner.pipeline import choose_masks, gather_statistics


def add_commands(commands: Any) -> None:
    """Add the commands of this module to a parser's."""
    inspect = commands.add_parser("inspect", help="list the LSTMs in a checkpoint")
    add_checkpoint(inspect)
    inspect.add_argument("--json", action="store_true")
    inspect.add_argument("--tensors", action="store_true", help="list all tensors with their shapes, too")
    inspect.set_defaults(command=_inspect)

    saliency = commands.add_parser("saliency", help="write the saliency of every row as CSV")
    add_checkpoint(saliency)
    saliency.add_argument("--criterion", choices=ROW_NORMS, default="l1")
    saliency.add_argument("--output", required=True, metavar="rows.csv")
    saliency.set_defaults(command=_saliency)

    masks = commands.add_parser("masks", help="write the masks of a recipe (uint8, 1 = kept)")
    add_checkpoint(masks)
    add_recipe_options(masks)
    masks.add_argument("--output", required=True, metavar="masks.safetensors")
    masks.set_defaults(command=_masks)

    ready = commands.add_parser("examples", help="list the trained examples, or copy one to a file")
    ready.add_argument("name", nargs="?", help=", ".join(examples.EXAMPLES))
    ready.add_argument("--output", metavar="FILE")
    ready.set_defaults(command=_examples)


def _inspect(options: argparse.Namespace) -> None:
    checkpoint = checkpoint_of(options)
    if options.json:
        print_json(
            {
                "format": checkpoint.format,
                "tensors": len(checkpoint.tensors),
                "bytes": checkpoint.size,
                "lstms": [lstm.describe() for lstm in checkpoint.lstms],
                "skipped": [{"name": skipped.name, "reason": skipped.reason} for skipped in checkpoint.skipped],
                "learned": {name: learned.told() for name, learned in checkpoint.learned.items()},
                "notes": checkpoint.notes,
                "shapes": {name: list(tensor.shape) for name, tensor in checkpoint.tensors.items()},
            }
        )
        return
    print(f"{checkpoint.name}: {checkpoint.format}, {len(checkpoint.tensors)} tensors, {checkpoint.size:,} bytes")
    for lstm in checkpoint.lstms:
        notes = [f"{lstm.num_layers} layer{'s' if lstm.num_layers > 1 else ''}"]
        notes += ["bidirectional"] if lstm.bidirectional else []
        notes += [f"projection {lstm.proj_size}"] if lstm.proj_size else []
        notes += [] if lstm.bias else ["no bias"]
        print(
            f"  {lstm.title}: {lstm.kind}({lstm.input_size} -> {lstm.hidden_size}), {', '.join(notes)}, {lstm.dtype}, "
            f"{lstm.parameters:,} parameters"
        )
        for sentence in told_beside(checkpoint, lstm):
            print(f"    {sentence}")
    for skipped in checkpoint.skipped:
        print(f"  {title_of(skipped.name)}: not an LSTM: {skipped.reason}")
    for note in checkpoint.notes:
        print(f"  {note}")
    if options.tensors:
        for name, tensor in checkpoint.tensors.items():
            print(f"  {label(name)} {tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}")
    if not checkpoint.lstms and not checkpoint.skipped:
        print(f"  no LSTM; it holds {checkpoint.contents()}")


def _saliency(options: argparse.Namespace) -> None:
    checkpoint = checkpoint_of(options)
    table = pd.concat(
        as_table(lstm, score(lstm, checkpoint.tensors, options.criterion)) for lstm in checkpoint.select()
    )
    write(options.output, lambda path: table.to_csv(path, index=False), options.checkpoint)


def _masks(options: argparse.Namespace) -> None:
    checkpoint = checkpoint_of(options)
    recipe = completed(checkpoint, recipe_for(options, checkpoint, recipe_of(options)))
    calibration = calibration_of(options, checkpoint, recipe)
    statistics = None
    if calibration is not None:
        statistics = gather_statistics(checkpoint, recipe, calibration, progress=show_progress)
    masks = choose_masks(checkpoint, recipe, statistics=statistics)
    write(options.output, lambda path: write_masks(masks, path), options.checkpoint)


def _examples(options: argparse.Namespace) -> None:
    if options.name is None:
        if options.output:
            raise PrunerError(f"expected the name of an example to copy ({', '.join(examples.EXAMPLES)}), found none")
        for example in examples.EXAMPLES.values():
            print(f"{example.name}: {example.description}")
        return
    example = examples.named(options.name)
    if options.output is None:
        raise PrunerError(f"expected --output FILE to copy {example.name} to, found none")
    write(options.output, lambda path: shutil.copyfile(example.file, path), example.file)
