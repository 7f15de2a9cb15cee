"""Commands that rate many recipes: sweep, sensitivity, suggest."""

import argparse
import sys
from typing import Any

from pruner import examples
from pruner.cli.options import add_checkpoint, add_recipe_options, calibration_of, checkpoint_of, completed, recipe_of
from pruner.cli.output import check_place, check_table, put_table, show_progress, write
from pruner.errors import PrunerError
from pruner.files.checkpoint import Checkpoint
from pruner.recipe import Recipe
from pruner.search.parts import Sensitivity
from pruner.search.parts import as_table as table_of_sensitivity
from pruner.search.sensitivity import measure_sensitivity
from pruner.search.suggest import TARGETS, suggest
from pruner.search.sweep import sweep, sweep_recipes
from pruner.search.worth import Measure


def add_commands(commands: Any) -> None:
    """Add the commands of this module to a parser's."""
    sweep = commands.add_parser("sweep", help="rate recipes side by side: sparsity by criterion by compensation")
    add_checkpoint(sweep)
    add_recipe_options(sweep)
    sweep.add_argument("--sparsities", default="0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9", metavar="0.25,0.5")
    sweep.add_argument("--criteria", metavar="l1,obs", help="default: that of the recipe; random is always there")
    sweep.add_argument("--compensations", metavar="none,fold", help="default: that of the recipe")
    sweep.add_argument("--output", metavar="FILE.csv|FILE.json", help="default: a table on the screen")
    sweep.set_defaults(command=_sweep)

    sensitivity = commands.add_parser("sensitivity", help="prune each layer, or each gate block, alone")
    add_checkpoint(sensitivity)
    add_recipe_options(sensitivity)
    sensitivity.add_argument("--sparsities", default="0.25,0.5,0.75", metavar="0.25,0.5")
    sensitivity.add_argument("--output", metavar="FILE.csv|FILE.json", help="default: a table on the screen")
    sensitivity.set_defaults(command=_sensitivity)

    suggest = commands.add_parser("suggest", help="layer sparsities that reach a target with the least loss")
    add_checkpoint(suggest)
    add_recipe_options(suggest)
    suggest.add_argument("--sparsities", default="0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9", metavar="0.25,0.5")
    suggest.add_argument("--target", choices=TARGETS, required=True)
    suggest.add_argument("--amount", type=float, required=True, help="the share to keep at most, or the loss at most")
    suggest.add_argument("--output", metavar="recipe.json", help="default: the recipe on the screen")
    suggest.set_defaults(command=_suggest)


def _opened(options: argparse.Namespace) -> tuple[Checkpoint, Recipe]:
    checkpoint = checkpoint_of(options)
    return checkpoint, completed(checkpoint, recipe_of(options))


def _measure(options: argparse.Namespace, checkpoint: Checkpoint, recipe: Recipe) -> Measure:
    """What models are compared by, with the inputs that a recipe needs."""
    return Measure(examples.quality_of(checkpoint), calibration_of(options, checkpoint, recipe))


def _sparsities(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise PrunerError(f"expected sparsities as 0.25,0.5, found {text!r}") from error


def _sweep(options: argparse.Namespace) -> None:
    check_table(options.output)
    checkpoint, recipe = _opened(options)
    criteria = options.criteria.split(",") if options.criteria else [recipe.criterion]
    compensations = options.compensations.split(",") if options.compensations else [recipe.compensation]
    recipes = sweep_recipes(recipe, _sparsities(options.sparsities), criteria, compensations)
    recipes = [completed(checkpoint, each) for each in recipes]
    measure = _measure(options, checkpoint, next((each for each in recipes if each.needs_data), recipe))
    put_table(options, sweep(checkpoint, recipes, measure, progress=show_progress).table(), measure.name)


def _sensitivity(options: argparse.Namespace) -> None:
    check_table(options.output)
    checkpoint, recipe = _opened(options)
    measure = _measure(options, checkpoint, recipe)
    put_table(options, table_of_sensitivity(_measured_sensitivity(checkpoint, recipe, measure, options)), measure.name)


def _measured_sensitivity(
    checkpoint: Checkpoint, recipe: Recipe, measure: Measure, options: argparse.Namespace
) -> Sensitivity:
    return measure_sensitivity(
        checkpoint,
        recipe,
        _sparsities(options.sparsities),
        measure.calibration,
        quality=measure.quality,
        higher_is_better=measure.higher_is_better,
        progress=show_progress,
    )


def _suggest(options: argparse.Namespace) -> None:
    check_place(options.output)
    checkpoint, recipe = _opened(options)
    measure = _measure(options, checkpoint, recipe)
    measured = _measured_sensitivity(checkpoint, recipe, measure, options)
    found = suggest(checkpoint, recipe, measured, options.target, options.amount)
    what = "parameters" if options.target == "parameters" else "multiply-accumulates"
    print(
        f"leaves {found.share:.1%} of the LSTMs' {what}; predicted loss {found.predicted_loss:.4f} ({measure.name})",
        file=sys.stderr,
    )
    if options.output is None:
        print(found.recipe.to_json(), end="")
        return
    write(options.output, lambda path: path.write_text(found.recipe.to_json(), encoding="utf-8"), options.checkpoint)
