"""What nothing beats, what recipes are compared with, and recipes that are made to run."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pruner import Recipe, examples, run
from pruner.lstm.measure import Rate
from pruner.lstm.module import build
from pruner.search.front import front, lost, smallest_within
from pruner.search.parts import Sensitivity
from pruner.search.references import DENSE, FACTORS, dense_model, factored_models, two_factors
from pruner.search.suggest import suggest
from pruner.search.sweep import rate_all, runnable, sweep_recipes

PYDOCS, REBER = examples.named("pydocs-chars"), examples.named("embedded-reber")
UNEVEN = Recipe(0.5, "units", layer_sparsity={0: 0.25}, consumers=("linear.weight",))


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=30))
def test_the_front_is_what_no_other_beats_in_both(points: list[tuple[int, int]]) -> None:
    found = front(points, lambda point: point)
    assert found == sorted(found)
    for point in found:
        assert not any(other != point and other[0] <= point[0] and other[1] <= point[1] for other in points)
    for point in points:
        assert any(other[0] <= point[0] and other[1] <= point[1] for other in found)


@pytest.mark.parametrize(
    ("value", "dense", "higher", "share"),
    [(0.9, 1.0, True, 0.1), (1.1, 1.0, False, 0.1), (0.9, 1.0, False, -0.1), (0.2, 0.0, False, 0.2)],
)
def test_what_is_lost_is_a_share_of_the_dense_value(value: float, dense: float, higher: bool, share: float) -> None:
    assert lost(value, dense, higher) == pytest.approx(share)


def test_the_smallest_that_loses_little_is_the_one_of_least_work_and_then_of_least_loss() -> None:
    items = [(9, 0.0), (4, 0.02), (4, 0.01), (2, 0.2)]
    assert smallest_within(items, lambda item: item, 0.03) == (4, 0.01)
    assert smallest_within(items, lambda item: item, 0.5) == (2, 0.2)
    assert smallest_within(items[3:], lambda item: item, 0.03) is None


def test_two_factors_take_no_more_work_than_they_may_and_are_the_best_that_do() -> None:
    checkpoint = PYDOCS.open()
    found = two_factors(checkpoint.tensors, checkpoint.lstms, 0.5)
    assert found.keys() == set(checkpoint.lstms[0].weight_names().values())
    for name, weight in found.items():
        rows, columns = weight.shape
        rank = int(torch.linalg.matrix_rank(weight))
        assert rank * (rows + columns) <= 0.5 * rows * columns < (rank + 1) * (rows + columns)
        values = torch.linalg.svdvals(checkpoint.tensors[name])
        left = (weight - checkpoint.tensors[name]).square().sum()
        torch.testing.assert_close(left, values[rank:].square().sum(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("quality", [REBER.quality, None], ids=["quality", "drift"])
def test_references_are_rated_like_recipes_and_as_large_as_those(quality: Rate | None) -> None:
    checkpoint, recipe = REBER.open(), Recipe(0.5, "units")
    dense = dense_model(checkpoint, quality)
    (factored,) = factored_models(checkpoint, recipe, [1472, 1472, 4992], quality=quality)
    assert (dense.name, dense.macs_per_step, factored.name, factored.macs_per_step) == (DENSE, 4992, FACTORS, 1472)
    assert dense.value == (1.0 if quality else 0.0)
    assert factored.parameters == dense.parameters - (4992 - 1472)
    tensors = {**checkpoint.tensors, **two_factors(checkpoint.tensors, checkpoint.lstms, 1472 / 4992)}
    if quality:
        assert factored.value == quality(tensors, {"lstm": build(checkpoint.lstms[0], tensors)}) < 1.0
    else:
        assert factored.value > 0


def test_a_recipe_that_cannot_trim_names_no_consumers_and_so_runs() -> None:
    checkpoint = PYDOCS.open()
    assert runnable(UNEVEN, uneven=False) == UNEVEN
    run(checkpoint, runnable(UNEVEN, uneven=True))
    folded = Recipe(0.5, "units", compensation="fold", consumers=("linear.weight",))
    assert runnable(folded, uneven=True) == folded  # it folds into them, and trims nothing
    ranked = sweep_recipes(
        Recipe(0.5, "units", "l1", "global", consumers=("linear.weight",)), [0.5], ["l1"], ["none"], seeds=1
    )
    assert len(rate_all(checkpoint, ranked, quality=PYDOCS.quality)) == 2


def test_suggested_sparsities_can_be_run_with_the_consumers_that_were_named() -> None:
    checkpoint = PYDOCS.open()
    measured = Sensitivity((0.25, 0.5), 1.5, False, {(0, "units"): (1.6, 1.9), (1, "units"): (1.5, 1.5)})
    found = suggest(checkpoint, Recipe(0.5, "units", consumers=("linear.weight",)), measured, "macs", 0.7)
    assert len(set(found.recipe.layer_sparsity.values())) == 2
    run(checkpoint, found.recipe)
