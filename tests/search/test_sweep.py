"""Sweeps: every recipe of a grid, rated as a run of its own would be, by one worker or several."""

import time
import warnings
from collections.abc import Iterator
from dataclasses import replace

import joblib
import pytest
import torch
from torch import nn

from pruner import Cancelled, Checkpoint, PrunerError, Recipe, examples, run
from pruner.calibration.calibration import Calibration
from pruner.calibration.inputs import gaussian
from pruner.lstm.measure import Quality
from pruner.search.references import DENSE, FACTORS
from pruner.search.sweep import as_table, rate, rate_all, sweep, sweep_recipes
from pruner.search.worth import Measure, dense_value

REBER = examples.named("embedded-reber")


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return REBER.open()


def slow_quality(tensors: dict[str, torch.Tensor], lstms: dict[str, nn.Module]) -> float:
    time.sleep(0.5)
    return 1.0


def test_the_grid_holds_every_combination_and_the_random_band() -> None:
    base = Recipe(0.9, "units", "obs", "global", layer_sparsity={}, round_to=4)
    recipes = sweep_recipes(base, [0.25, 0.5], ["l1", "obs"], ["none", "fold"], seeds=3)
    found = {(each.sparsity, each.criterion, each.compensation, each.seed) for each in recipes}
    lines = [("l1", 0), ("obs", 0), ("random", 0), ("random", 1), ("random", 2)]
    assert found == {(s, name, how, seed) for s in (0.25, 0.5) for name, seed in lines for how in ("none", "fold")}
    assert len(recipes) == len(found)
    assert {(each.granularity, each.round_to, each.allocation) for each in recipes} == {("units", 4, "global")}


def test_a_criterion_that_does_not_know_an_allocation_is_uniform() -> None:
    recipes = sweep_recipes(Recipe(0.5, "rows", "fisher", "global"), [0.5], ["l1", "fisher"], ["none"], seeds=1)
    assert {each.criterion: each.allocation for each in recipes} == {
        "l1": "uniform",
        "fisher": "global",
        "random": "uniform",
    }


@pytest.mark.parametrize("granularity", ["rows", "units"])
def test_a_rating_is_that_of_a_run(checkpoint: Checkpoint, granularity: str) -> None:
    recipe = Recipe(0.2, granularity, "l2")
    rated, result = rate(checkpoint, recipe, quality=REBER.quality), run(checkpoint, recipe, quality=REBER.quality)
    assert result.quality is not None and rated.value == result.quality["compact"]
    assert rated.macs_per_step == result.costs["compact"].macs_per_step
    assert rated.parameters == result.costs["compact"].parameters


def test_without_a_quality_answers_are_compared_or_without_inputs_the_drift(checkpoint: Checkpoint) -> None:
    recipe = Recipe(0.3, "units")
    calibration = REBER.calibration(checkpoint)
    assert rate(checkpoint, recipe).value == run(checkpoint, recipe).drift["lstm"].relative
    assert rate(checkpoint, recipe, calibration).value == run(checkpoint, recipe, calibration=calibration).answers
    random = gaussian(checkpoint, checkpoint.lstms)
    assert rate(checkpoint, recipe, random).value == rate(checkpoint, recipe).value


def test_results_keep_the_order_of_the_recipes_and_statistics_are_gathered_once(checkpoint: Checkpoint) -> None:
    recipes = sweep_recipes(Recipe(0.5, "units"), [0.6, 0.2], ["obs", "l1"], ["fold"], seeds=1)
    calibration = REBER.calibration(checkpoint)
    told: list[tuple[float, str]] = []
    rated = rate_all(checkpoint, recipes, calibration, progress=lambda *step: told.append(step))
    assert [each.recipe for each in rated] == recipes
    assert sum("Reading" in what for _, what in told) > 0 and told[-1] == (1.0, "Done")
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    table = as_table(rated)
    assert list(table.criterion) == [recipe.criterion for recipe in recipes] and table.value.notna().all()
    alone = rate(checkpoint, recipes[0], calibration, _statistics(checkpoint, recipes[0]))
    assert alone.value == rated[0].value


def _statistics(checkpoint: Checkpoint, recipe: Recipe) -> dict[str, object]:
    from pruner.pipeline import gather_statistics

    return gather_statistics(checkpoint, recipe, REBER.calibration(checkpoint))  # type: ignore[return-value]


def test_dense_is_the_quality_of_the_model_itself(checkpoint: Checkpoint) -> None:
    assert dense_value(checkpoint, REBER.quality) == 1.0
    assert dense_value(checkpoint, None) == 0.0
    assert rate(checkpoint, Recipe(0.0), quality=REBER.quality).value == 1.0


def test_a_cancelled_sweep_returns_within_a_second(checkpoint: Checkpoint) -> None:
    recipes = [Recipe(share / 50) for share in range(40)]
    rate_all(checkpoint, recipes[:2])  # the workers have started
    asked = 0.0

    def stop(fraction: float, what: str) -> None:
        nonlocal asked
        if fraction > 0.2:
            asked = asked or time.monotonic()
            raise Cancelled

    with pytest.raises(Cancelled):
        rate_all(checkpoint, recipes, quality=slow_quality, progress=stop)
    assert 0 < time.monotonic() - asked < 1


def test_an_error_in_a_worker_reaches_the_caller(checkpoint: Checkpoint) -> None:
    with pytest.raises(PrunerError, match="expected calibration inputs"):
        rate_all(checkpoint, [Recipe(0.5, "units", "obs")])
    broken = replace(checkpoint, tensors={**checkpoint.tensors, "lstm.bias_ih_l0": torch.full((128,), torch.nan)})
    with pytest.raises(PrunerError, match="expected finite weights"):
        rate_all(broken, [Recipe(0.5)])


@pytest.fixture(scope="module")
def dask_client() -> Iterator[object]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the cluster's own start
        from distributed import Client, LocalCluster

        with (
            LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
            Client(cluster) as client,
        ):
            yield client


def test_two_dask_workers_give_the_same_numbers(checkpoint: Checkpoint, dask_client: object) -> None:
    calibration = gaussian(checkpoint, checkpoint.lstms)
    recipes = sweep_recipes(Recipe(0.5, "units"), [0.25, 0.5], ["l1", "obs"], ["none", "fold"], seeds=2)
    local = rate_all(checkpoint, recipes, calibration, quality=REBER.quality)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with joblib.parallel_config(backend="dask"):
            remote = rate_all(checkpoint, recipes, calibration, quality=REBER.quality)
    assert remote == local
    assert len(dask_client.scheduler_info()["workers"]) == 2  # type: ignore[attr-defined]


def test_a_sweep_tells_of_each_as_it_comes_and_lists_the_best_first(checkpoint: Checkpoint) -> None:
    seen: list[tuple[object, float]] = []
    recipes = [Recipe(0.5, "units"), Recipe(0.25, "units"), Recipe(0.25)]
    found = sweep(
        checkpoint, recipes, Measure(REBER.quality), seen=lambda each, dense: seen.append((each, dense.value))
    )
    assert {id(each) for each, _ in seen} == {id(each) for each in [*found.rated, *found.references[1:]]}
    assert {dense for _, dense in seen} == {1.0}
    assert [each.name for each in found.references] == [DENSE, FACTORS, FACTORS]  # one for each sparsity
    table = found.table()
    assert list(table.value) == sorted(table.value, reverse=True) and table.criterion[0] == DENSE
    assert set(table.criterion[table.seed.isna()]) == {DENSE, FACTORS} and str(table.seed.dtype) == "Int64"
    best = table[table.front]
    assert set(best.criterion) == {"l1"} and best.macs_per_step.is_monotonic_decreasing


@pytest.mark.parametrize(
    ("quality", "source", "name", "higher"),
    [
        (REBER.quality, None, "strings wholly right", True),
        (REBER.quality, "file", "strings wholly right", True),
        (None, "file", "difference of the answers on held-back inputs", False),
        (None, "gaussian", "output drift on random inputs", False),
        (None, None, "output drift on random inputs", False),
    ],
)
def test_what_models_are_compared_by_is_the_best_there_is(
    quality: Quality | None, source: str | None, name: str, higher: bool
) -> None:
    measure = Measure(quality, Calibration(source, {}) if source else None)
    assert (measure.name, measure.higher_is_better) == (name, higher)
    verdict = measure.verdict(Recipe(0.5), 0.2, 0.8)
    assert (verdict.loss is None) == ("drift" in name)
    assert verdict.after == 0.2 and verdict.higher_is_better is higher
