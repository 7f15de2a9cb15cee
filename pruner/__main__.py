"""The command line: `python -m pruner --help`."""

import argparse
import io
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pandas as pd

from pruner import examples
from pruner.calibration.inputs import Calibration, gaussian, read_calibration, sampled
from pruner.compact.masked_and_compact import DEFAULT_FORM, FORMS
from pruner.errors import PrunerError
from pruner.exports.export import check_free, write_masks
from pruner.exports.verify import read_export, verify
from pruner.files.checkpoint import Checkpoint, open_checkpoint
from pruner.files.source import read_small
from pruner.importance.weights import CRITERIA, ROW_NORMS, as_table, score
from pruner.lstm.find import build
from pruner.lstm.measure import cost_of_file, latency
from pruner.recipe import ALLOCATIONS, COMPENSATIONS, GRANULARITIES, TASKS, Recipe
from pruner.result import choose_masks, gather_statistics, run
from pruner.search.sensitivity import Sensitivity, measure_sensitivity
from pruner.search.sensitivity import as_table as table_of_sensitivity
from pruner.search.suggest import TARGETS, suggest
from pruner.search.sweep import as_table as table_of_rated
from pruner.search.sweep import rate_all, sweep_recipes

MAX_RECIPE = 2**20  # bytes


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise PrunerError(f"{message}; see {self.prog} --help")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit status: 0, 2 after one line on stderr for unusable input, 130 if interrupted."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names in a file can be anything
    try:
        try:
            options = _parser().parse_args(arguments)
            options.command(options)
        finally:
            sys.stdout.flush()
    except PrunerError as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of our output left early, as `head` does
        _give_up_stdout()
    except OSError as error:
        _give_up_stdout()
        print(f"error: expected a place to print the output, found {error}; give another", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return 0


def _give_up_stdout() -> None:
    """Nothing more can be printed; what is left of it must not fail again when Python ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser() -> argparse.ArgumentParser:
    parser = _Parser("python -m pruner", description="Look inside an LSTM and make it smaller.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)

    inspect = commands.add_parser("inspect", help="list the LSTMs in a checkpoint")
    inspect.add_argument("checkpoint")
    inspect.add_argument("--json", action="store_true")
    inspect.set_defaults(command=_inspect)

    saliency = commands.add_parser("saliency", help="write the saliency of every row as CSV")
    saliency.add_argument("checkpoint")
    saliency.add_argument("--criterion", choices=ROW_NORMS, default="l1")
    saliency.add_argument("--output", required=True, metavar="rows.csv")
    saliency.set_defaults(command=_saliency)

    masks = commands.add_parser("masks", help="write the masks of a recipe (uint8, 1 = kept)")
    masks.add_argument("checkpoint")
    _add_recipe_options(masks)
    masks.add_argument("--output", required=True, metavar="masks.safetensors")
    masks.set_defaults(command=_masks)

    prune = commands.add_parser("prune", help="prune a checkpoint and export it as a folder")
    prune.add_argument("checkpoint")
    _add_recipe_options(prune)
    prune.add_argument("--form", choices=FORMS, help="default: masked for rows, compact for units")
    prune.add_argument("--device", default="cpu", metavar="cpu|cuda")
    prune.add_argument("--output", required=True, metavar="DIR")
    prune.set_defaults(command=_prune)

    check = commands.add_parser("verify", help="read an export back and check it")
    check.add_argument("folder", metavar="DIR|ZIP")
    check.add_argument("--source", metavar="CHECKPOINT", help="compare with the checkpoint it was made from, too")
    check.set_defaults(command=_verify)

    measure = commands.add_parser("measure", help="parameters, bytes, multiply-accumulates, latency, quality")
    measure.add_argument("checkpoint", metavar="CHECKPOINT|DIR")
    measure.add_argument("--json", action="store_true")
    measure.set_defaults(command=_measure)

    sweep = commands.add_parser("sweep", help="rate recipes side by side: sparsity by criterion by compensation")
    sweep.add_argument("checkpoint")
    _add_recipe_options(sweep)
    sweep.add_argument("--sparsities", default="0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9", metavar="0.25,0.5")
    sweep.add_argument("--criteria", metavar="l1,obs", help="default: that of the recipe; random is always there")
    sweep.add_argument("--compensations", metavar="none,fold", help="default: that of the recipe")
    sweep.add_argument("--output", metavar="FILE.csv|FILE.json", help="default: a table on the screen")
    sweep.set_defaults(command=_sweep)

    sensitivity = commands.add_parser("sensitivity", help="prune each layer, or each gate block, alone")
    sensitivity.add_argument("checkpoint")
    _add_recipe_options(sensitivity)
    sensitivity.add_argument("--sparsities", default="0.25,0.5,0.75", metavar="0.25,0.5")
    sensitivity.add_argument("--output", metavar="FILE.csv|FILE.json", help="default: a table on the screen")
    sensitivity.set_defaults(command=_sensitivity)

    suggest = commands.add_parser("suggest", help="layer sparsities that reach a target with the least loss")
    suggest.add_argument("checkpoint")
    _add_recipe_options(suggest)
    suggest.add_argument("--sparsities", default="0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9", metavar="0.25,0.5")
    suggest.add_argument("--target", choices=TARGETS, required=True)
    suggest.add_argument(
        "--amount", type=float, required=True, help="the share to keep at most, or the loss to bear at most"
    )
    suggest.add_argument("--output", metavar="recipe.json", help="default: the recipe on the screen")
    suggest.set_defaults(command=_suggest)

    ready = commands.add_parser("examples", help="list the trained examples, or copy one to a file")
    ready.add_argument("name", nargs="?", help=", ".join(examples.EXAMPLES))
    ready.add_argument("--output", metavar="FILE")
    ready.set_defaults(command=_examples)
    return parser


def _add_recipe_options(parser: argparse.ArgumentParser) -> None:
    options = parser.add_argument_group("recipe", "a recipe file, or its settings one by one")
    options.add_argument("--recipe", metavar="FILE", help="a recipe as JSON")
    options.add_argument("--sparsity", type=float, help="share of rows or units to drop, 0 to 1 (default 0.5)")
    options.add_argument("--granularity", choices=GRANULARITIES)
    options.add_argument("--criterion", choices=CRITERIA)
    options.add_argument(
        "--allocation", choices=ALLOCATIONS, help="units: the same share of every layer, or one ranking"
    )
    options.add_argument("--round-to", type=int, metavar="16", help="units: round the kept count up to a multiple")
    options.add_argument("--lstm", action="append", metavar="NAME", help="prune this LSTM only (repeatable)")
    options.add_argument("--layer-sparsity", action="append", metavar="0=0.5", help="for one layer (repeatable)")
    options.add_argument("--gate-sparsity", action="append", metavar="hf=0.3", help="rows: for one gate (repeatable)")
    options.add_argument(
        "--consumer", action="append", metavar="TENSOR", help="a tensor that reads the output (repeatable)"
    )
    options.add_argument(
        "--compensation",
        choices=COMPENSATIONS,
        help="what stays takes over from what goes (fold), and is refitted with its head (full)",
    )
    options.add_argument("--task", choices=TASKS, help="what the consumers' outputs are; examples know their own")
    options.add_argument("--seed", type=int, help="of the criterion random")
    data = parser.add_argument_group("calibration", "inputs for scores from data and for compensation")
    data.add_argument(
        "--calibration",
        metavar="FILE|example|sampled|gaussian",
        help="a .npy, .npz, .csv, .safetensors or .pt file of inputs (N, T, I) or token ids (N, T); the example's own; text "
        "sampled from the model (needs --embedding and --consumer); random numbers",
    )
    data.add_argument("--embedding", metavar="TENSOR", help="the tensor that turns token ids into inputs")
    data.add_argument("--time-major", action="store_true", help="the file's arrays are (T, N, ..)")


def _recipe(options: argparse.Namespace) -> Recipe:
    given = {
        "sparsity": options.sparsity,
        "granularity": options.granularity,
        "criterion": options.criterion,
        "allocation": options.allocation,
        "round_to": options.round_to,
        "consumers": options.consumer,
        "compensation": options.compensation,
        "task": options.task,
        "seed": options.seed,
        "lstms": options.lstm,
        "layer_sparsity": _pairs("--layer-sparsity", options.layer_sparsity),
        "gate_sparsity": _pairs("--gate-sparsity", options.gate_sparsity),
    }
    given = {setting: value for setting, value in given.items() if value is not None}
    if options.recipe is None:
        return Recipe.from_dict(given)
    if given:
        raise PrunerError(
            "expected --recipe alone or the settings one by one, found both; put all settings in the file"
        )
    return Recipe.from_json(read_small(Path(options.recipe), MAX_RECIPE, "a recipe file"))


def _calibration(options: argparse.Namespace, checkpoint: Checkpoint, recipe: Recipe) -> Calibration | None:
    """The inputs that a recipe needs, None if it needs none: those named, else the example's, else sampled ones where the
    model can generate, else random ones."""
    if not recipe.needs_data:
        if options.calibration:
            raise PrunerError(
                "expected --calibration with a criterion or a compensation that needs inputs, found neither; add "
                "--compensation fold, say, or leave it out"
            )
        return None
    lstms, example = checkpoint.select(recipe.lstms), examples.example_of(checkpoint)
    wanted = options.calibration
    if wanted is None:
        can_generate = options.embedding and len(recipe.consumers) == len(lstms) == 1
        wanted = "example" if example else "sampled" if can_generate else "gaussian"
    if wanted == "gaussian":
        return gaussian(checkpoint, lstms, options.embedding)
    if wanted == "sampled":
        if not options.embedding or len(recipe.consumers) != 1 or len(lstms) != 1:
            raise PrunerError(
                "expected one LSTM, one --consumer and an --embedding to sample inputs from the model, found "
                f"{len(lstms)}, {len(recipe.consumers)} and {1 if options.embedding else 0}; name them, or give a file"
            )
        return sampled(checkpoint, lstms[0], options.embedding, recipe.consumers[0], _show_progress)
    if wanted == "example":
        if example is None:
            raise PrunerError(
                f"expected one of the examples ({', '.join(examples.EXAMPLES)}) for --calibration example, found "
                f"{checkpoint.name}; give a file of inputs, or gaussian"
            )
        return example.calibration(checkpoint)
    path = Path(wanted)
    settings = options.embedding, options.time_major
    return read_calibration(path, path.name, checkpoint, lstms, *settings, isolated=True)


def _told(calibration: Calibration) -> str:
    """What a recipe's data was, in words."""
    kind = {
        "file": f"inputs from {calibration.name}",
        "example": f"the example's own inputs ({calibration.name})",
        "sampled": "inputs sampled from the model itself",
        "gaussian": "random inputs, not real ones"
        + (" (with the embedding's statistics)" if calibration.embedding else ""),
    }[calibration.source]
    return f"calibrated on {kind}, {sum(calibration.steps().values()):,} time steps"


def _completed(checkpoint: Checkpoint, recipe: Recipe) -> Recipe:
    example = examples.example_of(checkpoint)
    return example.complete(recipe) if example else recipe


def _pairs(option: str, given: list[str] | None) -> dict[str, float] | None:
    if given is None:
        return None
    try:
        return {key: float(value) for key, value in (pair.split("=") for pair in given)}
    except ValueError as error:
        raise PrunerError(f"expected {option} as name=sparsity (hf=0.3, say), found {' '.join(given)!r}") from error


def _inspect(options: argparse.Namespace) -> None:
    checkpoint = open_checkpoint(options.checkpoint, isolated=True)
    if options.json:
        _print_json(
            {
                "format": checkpoint.format,
                "tensors": len(checkpoint.tensors),
                "bytes": checkpoint.size,
                "lstms": [lstm.describe() for lstm in checkpoint.lstms],
                "skipped": [{"name": skipped.name, "reason": skipped.reason} for skipped in checkpoint.skipped],
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
    for skipped in checkpoint.skipped:
        print(f"  {skipped.name or '(root)'}: not an LSTM: {skipped.reason}")
    if not checkpoint.lstms:
        print(f"  no LSTM; it holds {checkpoint.contents()}")


def _saliency(options: argparse.Namespace) -> None:
    checkpoint = open_checkpoint(options.checkpoint, isolated=True)
    table = pd.concat(
        as_table(lstm, score(lstm, checkpoint.tensors, options.criterion)) for lstm in checkpoint.select()
    )
    _write(options.output, lambda path: table.to_csv(path, index=False), options.checkpoint)


def _masks(options: argparse.Namespace) -> None:
    checkpoint = open_checkpoint(options.checkpoint, isolated=True)
    recipe = _completed(checkpoint, _recipe(options))
    calibration = _calibration(options, checkpoint, recipe)
    statistics = None
    if calibration is not None:
        statistics = gather_statistics(checkpoint, recipe, calibration, progress=_show_progress)
    masks = choose_masks(checkpoint, recipe, statistics=statistics)
    _write(options.output, lambda path: write_masks(masks, path), options.checkpoint)


def _prune(options: argparse.Namespace) -> None:
    recipe = _recipe(options)
    check_free(Path(options.output))
    checkpoint = open_checkpoint(options.checkpoint, isolated=True)
    example = examples.example_of(checkpoint)
    recipe = _completed(checkpoint, recipe)
    calibration = _calibration(options, checkpoint, recipe)
    quality = example.quality if example else None
    result = run(checkpoint, recipe, options.device, _show_progress, quality, calibration=calibration)
    form = options.form or DEFAULT_FORM[recipe.granularity]
    folder = result.save(options.output, form)
    if calibration is not None:
        print(_told(calibration))
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


def _show_progress(fraction: float, what: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{fraction:4.0%} {what:<60}", end="\n" if fraction == 1 else "", file=sys.stderr, flush=True)


def _verify(options: argparse.Namespace) -> None:
    source = open_checkpoint(options.source, isolated=True) if options.source else None
    for sentence in verify(options.folder, source, isolated=True):
        print(f"ok: {sentence}")


def _measure(options: argparse.Namespace) -> None:
    path = Path(options.checkpoint)
    if os.path.isdir(path):  # noqa: PTH112 - False, and not an error, for paths that cannot be
        opened = read_export(path, isolated=True)
        found, checkpoint, modules = opened.cost, opened.masked, opened.modules
    else:
        checkpoint = open_checkpoint(path, isolated=True)
        modules = {lstm.name: build(lstm, checkpoint.tensors) for lstm in checkpoint.select()}
        found = cost_of_file(checkpoint)
    modules = {name: module.float() for name, module in modules.items()}
    example = examples.example_of(checkpoint)
    figures: dict[str, Any] = {
        "parameters": found.parameters,
        "bytes": found.bytes,
        "macs_per_step": found.macs_per_step,
        "latency_ms": latency({"": modules}, checkpoint.lstms)[""].median,
        "quality": example
        and {
            "name": example.quality_name,
            "value": example.quality(checkpoint.tensors, modules),
            "higher_is_better": example.higher_is_better,
        },
    }
    if options.json:
        _print_json(figures)
        return
    print(f"{figures['parameters']:,} parameters, {figures['bytes']:,} bytes")
    print(f"{figures['macs_per_step']:,} multiply-accumulates per time step, all LSTMs")
    print(f"{figures['latency_ms']:.2f} ms for 64 time steps at batch 1")
    if example:
        print(f"{figures['quality']['value']:.4f} {example.quality_name}")
        if note := examples.data_note(example):
            print(note)


def _rating(options: argparse.Namespace) -> tuple[Checkpoint, Recipe, examples.Example | None]:
    checkpoint = open_checkpoint(options.checkpoint, isolated=True)
    return checkpoint, _completed(checkpoint, _recipe(options)), examples.example_of(checkpoint)


def _sparsities(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise PrunerError(f"expected sparsities as 0.25,0.5, found {text!r}") from error


def _check_place(output: str | None) -> None:
    """Before long work, not after it."""
    if output is not None and not (parent := Path(output).absolute().parent).is_dir():
        raise PrunerError(f"expected a place to write {output}, found no folder {parent}; make it first")


def _check_table(output: str | None) -> None:
    if output is not None and not output.endswith((".csv", ".json")):
        raise PrunerError(f"expected --output as a .csv or .json file, found {output!r}; change its suffix")
    _check_place(output)


def _sweep(options: argparse.Namespace) -> None:
    _check_table(options.output)
    checkpoint, recipe, example = _rating(options)
    criteria = options.criteria.split(",") if options.criteria else [recipe.criterion]
    compensations = options.compensations.split(",") if options.compensations else [recipe.compensation]
    recipes = sweep_recipes(recipe, _sparsities(options.sparsities), criteria, compensations)
    recipes = [_completed(checkpoint, each) for each in recipes]
    calibration = _calibration(options, checkpoint, next((each for each in recipes if each.needs_data), recipe))
    quality = example.quality if example else None
    rated = rate_all(checkpoint, recipes, calibration, quality=quality, progress=_show_progress)
    _put_table(options, table_of_rated(rated), example)


def _sensitivity(options: argparse.Namespace) -> None:
    _check_table(options.output)
    table = table_of_sensitivity(_measured_sensitivity(*_rating(options), options))
    _put_table(options, table, examples.example_of(open_checkpoint(options.checkpoint, isolated=True)))


def _measured_sensitivity(
    checkpoint: Checkpoint, recipe: Recipe, example: examples.Example | None, options: argparse.Namespace
) -> Sensitivity:
    return measure_sensitivity(
        checkpoint,
        recipe,
        _sparsities(options.sparsities),
        _calibration(options, checkpoint, recipe),
        quality=example.quality if example else None,
        higher_is_better=example.higher_is_better if example else False,
        progress=_show_progress,
    )


def _suggest(options: argparse.Namespace) -> None:
    _check_place(options.output)
    checkpoint, recipe, example = _rating(options)
    measured = _measured_sensitivity(checkpoint, recipe, example, options)
    found = suggest(checkpoint, recipe, measured, options.target, options.amount)
    what = "parameters" if options.target == "parameters" else "multiply-accumulates"
    of = example.quality_name if example else "output drift"
    print(
        f"leaves {found.share:.1%} of the LSTMs' {what}; predicted loss {found.predicted_loss:.4f} ({of})",
        file=sys.stderr,
    )
    if options.output is None:
        print(found.recipe.to_json(), end="")
        return
    _write(options.output, lambda path: path.write_text(found.recipe.to_json(), encoding="utf-8"), options.checkpoint)


def _put_table(options: argparse.Namespace, table: pd.DataFrame, example: examples.Example | None) -> None:
    """A table as CSV or JSON by the file's suffix, or on the screen with what its values are."""
    if options.output is None:
        print(f"value: {example.quality_name if example else 'output drift, relative'}")
        print(table.to_string(index=False))
    elif options.output.endswith(".json"):
        _write(options.output, lambda path: table.to_json(path, orient="records", indent=2), options.checkpoint)
    else:
        _write(options.output, lambda path: table.to_csv(path, index=False), options.checkpoint)


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
    _write(options.output, lambda path: shutil.copyfile(example.file, path), example.file)


def _write(output: str, write: Callable[[Path], Any], source: str | Path) -> None:
    """Write a file under a temporary name beside its place, then rename it: never a partial file, never the source. What is
    there and is no file, a pipe or a device, is written to."""
    try:
        target = Path(os.path.realpath(output))
        if target.is_dir():
            raise PrunerError(f"expected a place to write a file, found the folder {output!r}; add the name of a file")
        if target.exists() and target.samefile(source):
            raise PrunerError(f"expected another file than the source, found {output!r} for both; choose another name")
        stream = Path(output).exists() and not Path(output).is_file()
        with tempfile.TemporaryDirectory(prefix=".pruner-", dir=None if stream else target.parent) as folder:
            staged = Path(folder) / "written"
            write(staged)
            if stream:
                Path(output).write_bytes(staged.read_bytes())
            else:
                staged.chmod(0o644)
                staged.replace(target)
    except (OSError, ValueError) as error:
        raise PrunerError(f"expected a place to write {output}, found {error}; choose another") from error


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2))


if __name__ == "__main__":
    sys.exit(main())
