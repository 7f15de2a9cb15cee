"""What was tried: which experiments are the same, which stand side by side, which nothing beats."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from pruner import Recipe
from pruner.exports.verdict import by_answers, by_quality, unknown
from pruner.search.experiments import Compared, Experiment, verdict_of

WHEN = datetime(2026, 1, 1, tzinfo=UTC)


def experiment(recipe: Recipe | None, value: float, macs: float, higher: bool = True) -> Experiment:
    return Experiment(recipe, by_quality("strings right", higher, 1.0, value), "strings right", "", macs, macs, "Sweep")


A = experiment(Recipe(0.5), 0.9, 0.5)


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (replace(A, when=WHEN, by="Run"), True),
        (replace(A, recipe=Recipe(0.6)), False),
        (replace(A, recipe=None), False),
        (experiment(Recipe(0.5), 0.8, 0.5), False),
        (replace(A, inputs="ab" * 32), False),
        (replace(A, measure="drift"), False),
    ],
    ids=["again", "recipe", "no recipe", "value", "inputs", "measure"],
)
def test_what_is_tried_again_and_turns_out_the_same_has_the_same_key(other: Experiment, same: bool) -> None:
    assert (A.key == other.key) is same


def test_what_was_found_last_of_a_recipe_goes_before_if_it_tells_how_much_worse_it_is() -> None:
    better = replace(A, verdict=by_answers(0.1, True))
    drifted = replace(A, verdict=unknown(0.5))
    assert verdict_of([A, better, drifted], Recipe(0.5)) is better.verdict
    assert verdict_of([drifted], Recipe(0.5)) is None
    assert verdict_of([A], Recipe(0.6)) is None


@pytest.mark.parametrize("higher", [True, False])
def test_the_best_stand_first_and_only_recipes_are_on_the_front(higher: bool) -> None:
    worse = (0.9, 0.5, 0.95) if higher else (1.1, 1.5, 1.05)
    small, smaller, factors = (
        experiment(Recipe(share), value, 1 - share, higher) for share, value in zip((0.5, 0.7, 0.8), worse, strict=True)
    )
    factors = replace(factors, recipe=None)
    useless = experiment(Recipe(0.2), worse[0], 0.8, higher)
    found = Compared((smaller, useless, factors, small))
    assert found.best_first == [factors, small, useless, smaller]
    assert found.front == {small, smaller}
    assert found.smallest_within(0.11) is small and found.smallest_within(0.01) is None
    assert found.dense == 1.0 and found.measure == "strings right"
    assert found == Compared(found.tried) != Compared((small,))
