"""The options that several commands share: a recipe, and the inputs that it needs."""

import argparse
import os
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from pruner import examples
from pruner.calibration.calibration import Calibration
from pruner.calibration.fed import complete
from pruner.calibration.inputs import gaussian, read_calibration, sampled
from pruner.cli.output import show_progress
from pruner.errors import PrunerError, label
from pruner.exports.again import open_again
from pruner.exports.manifest import MANIFEST
from pruner.files.checkpoint import Checkpoint
from pruner.files.consumer_choice import consumers_of, feeders, in_a_row, proven
from pruner.files.learned import with_batch_first
from pruner.files.mapping import read_mapping
from pruner.files.opening import open_checkpoint
from pruner.files.source import read_small
from pruner.recipe import Recipe

MAX_RECIPE = 2**20  # bytes


def add_checkpoint(parser: argparse.ArgumentParser, metavar: str | None = None) -> None:
    """The argument of the checkpoint to open, and the option that an LSTM written by hand needs."""
    parser.add_argument("checkpoint", metavar=metavar)
    add_mapping(parser)


def add_mapping(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--map", metavar="FILE", help="JSON that says which tensors are which of an LSTM that was written by hand"
    )


def checkpoint_of(options: argparse.Namespace, path: str | None = None) -> Checkpoint:
    """The checkpoint that was named, or the one at `path`, read in a process of its own; of a folder, the export's."""
    mapping, path = read_mapping(options.map) if options.map else None, path or options.checkpoint
    if mapping is None and os.path.isfile(os.path.join(path, MANIFEST)):  # noqa: PTH113, PTH118 - False for odd paths
        return open_again(path, isolated=True)
    return open_checkpoint(path, isolated=True, mapping=mapping)


def add_batch_first(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--batch-first",
        choices=("true", "false"),
        help="as the model's nn.LSTM has it, where the file does not say: the export's loader goes by it",
    )


def with_what_is_said(options: argparse.Namespace, checkpoint: Checkpoint) -> Checkpoint:
    """A checkpoint with `batch_first` as it was given, or as it is known of an example."""
    example = examples.example_of(checkpoint)
    said = (
        example.batch_first
        if example and options.batch_first is None
        else {"true": True, "false": False}.get(options.batch_first)
    )
    return with_batch_first(checkpoint, said)


def add_recipe_options(parser: argparse.ArgumentParser) -> None:
    options = parser.add_argument_group("recipe", "a recipe file, or its settings one by one")
    options.add_argument("--recipe", metavar="FILE", help="a recipe as JSON")
    for setting in fields(Recipe):
        options.add_argument(setting.metadata["flag"], dest=setting.name, **setting.metadata["option"])
    data = parser.add_argument_group("calibration", "inputs for scores from data and for compensation")
    data.add_argument(
        "--calibration",
        metavar="FILE|example|sampled|gaussian",
        help="a .npy, .npz, .csv, .safetensors or .pt file of inputs (N, T, I) or token ids (N, T); the example's own; text "
        "sampled from the model (needs --embedding and --consumer); random numbers",
    )
    data.add_argument("--embedding", metavar="TENSOR", help="the tensor that turns token ids into inputs")
    data.add_argument("--time-major", action="store_true", help="the file's arrays are (T, N, ..)")


def recipe_of(options: argparse.Namespace, **otherwise: Any) -> Recipe:
    """The recipe that was given, or its settings one by one; `otherwise` what is not said."""
    given = {}
    for setting in fields(Recipe):
        value = getattr(options, setting.name)
        if value is not None:
            given[setting.name] = _pairs(setting.metadata["flag"], value) if setting.default_factory is dict else value
    if options.recipe is None:
        return Recipe.from_dict(otherwise | given)
    if given:
        raise PrunerError(
            "expected --recipe alone or the settings one by one, found both; put all settings in the file"
        )
    text = read_small(Path(options.recipe), MAX_RECIPE, "a recipe file")
    for notice in Recipe.notices(text):
        print(f"note: {notice}", file=sys.stderr)
    return Recipe.from_json(text)


def recipe_for(options: argparse.Namespace, checkpoint: Checkpoint, recipe: Recipe) -> Recipe:
    """The recipe of a command that prunes. Units of a model whose inputs are known fall in the brain surgeon's order and are
    healed, unless a criterion or a compensation is named: by weights alone they would leave a ruin."""
    if options.recipe or options.criterion or options.compensation or recipe.granularity == "rows":
        return recipe
    if options.calibration in (None, "gaussian") and (options.calibration or not examples.example_of(checkpoint)):
        return recipe
    print(
        "note: inputs are known, so units fall by obs and are healed; name a --criterion or --compensation for another way",
        file=sys.stderr,
    )
    return replace(recipe, criterion="obs", compensation="heal")


def _pairs(option: str, given: list[str]) -> dict[str, float]:
    try:
        return {key: float(value) for key, value in (pair.split("=") for pair in given)}
    except ValueError as error:
        raise PrunerError(f"expected {option} as name=sparsity (hf=0.3, say), found {' '.join(given)!r}") from error


def calibration_of(options: argparse.Namespace, checkpoint: Checkpoint, recipe: Recipe) -> Calibration | None:
    """The inputs that a recipe needs, None if it needs none: those named, else the example's, else sampled ones where the
    model can generate, else random ones. LSTMs that read others need none of their own."""
    if not recipe.needs_data:
        if options.calibration:
            raise PrunerError(
                "expected --calibration with a criterion or a compensation that needs inputs, found neither; add "
                "--compensation fold, say, or leave it out"
            )
        return None
    return complete(_inputs(options, checkpoint, recipe), checkpoint, recipe)


def _inputs(options: argparse.Namespace, checkpoint: Checkpoint, recipe: Recipe) -> Calibration:
    lstms, example = checkpoint.select(recipe.lstms), examples.example_of(checkpoint)
    fed = feeders(checkpoint, consumers_of(checkpoint, recipe))
    wanted = options.calibration
    if wanted is None:
        can_generate = options.embedding and len(recipe.consumers) == len(lstms) == 1
        wanted = "example" if example else "sampled" if can_generate else "gaussian"
    if wanted == "gaussian":
        return gaussian(checkpoint, [lstm for lstm in lstms if lstm.name not in fed], options.embedding)
    if wanted == "sampled":
        if not options.embedding or len(recipe.consumers) != 1 or len(lstms) != 1:
            raise PrunerError(
                "expected one LSTM, one --consumer and an --embedding to sample inputs from the model, found "
                f"{len(lstms)}, {len(recipe.consumers)} and {1 if options.embedding else 0}; name them, or give a file"
            )
        return sampled(checkpoint, lstms[0], options.embedding, recipe.consumers[0], show_progress)
    if wanted == "example":
        if example is None:
            raise PrunerError(
                f"expected one of the examples ({', '.join(examples.EXAMPLES)}) for --calibration example, found "
                f"{checkpoint.name}; give a file of inputs, or gaussian"
            )
        return example.calibration(checkpoint)
    path = Path(wanted)
    settings = options.embedding, options.time_major
    return read_calibration(path, path.name, checkpoint, lstms, *settings, fed=fed, isolated=True)


def told(calibration: Calibration) -> str:
    """What a recipe's data was, in words."""
    kind = {
        "file": f"inputs from {calibration.name}",
        "example": f"the example's own inputs ({calibration.name})",
        "sampled": "inputs sampled from the model itself",
        "gaussian": "random inputs, not real ones"
        + (" (with the embedding's statistics)" if calibration.embedding else ""),
    }[calibration.source]
    return f"calibrated on {kind}, {sum(calibration.steps().values()):,} time steps"


def completed(checkpoint: Checkpoint, recipe: Recipe) -> Recipe:
    """The recipe with what is known of an example, or with the consumers that the file itself shows."""
    if example := examples.example_of(checkpoint):
        return example.complete(recipe)
    if recipe.granularity == "units" and not recipe.consumers:
        found = proven(checkpoint, checkpoint.select(recipe.lstms))
        if found:
            print(f"note: consumers, as {checkpoint.name} shows them: {', '.join(map(label, found))}", file=sys.stderr)
        return replace(recipe, consumers=found)
    return recipe


def with_those_in_a_row(checkpoint: Checkpoint, recipe: Recipe) -> Recipe:
    """The recipe with the consumers that follow from those named, and a note of them."""
    if found := in_a_row(checkpoint, recipe):
        print(
            f"note: {', '.join(map(label, found))} trimmed, too, as the only consumer that fits, by number and size; "
            "--lstm with the other LSTMs alone leaves it whole",
            file=sys.stderr,
        )
    return replace(recipe, consumers=(*recipe.consumers, *found))
