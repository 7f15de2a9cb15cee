"""The pages Sweep and Sensitivity, in process through `app.py`."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from streamlit.testing.v1 import AppTest

from pruner import Recipe
from pruner.dashboard import explore
from pruner.lstm.gates import ALL_BLOCKS
from pruner.search.front import smallest_within
from pruner.search.sweep import SEEDS
from tests.helpers.files import npy, saved
from tests.helpers.models import named, random_lstm, random_steps
from tests.helpers.pages import (
    CONSUMERS,
    button,
    checked,
    figure_of,
    go,
    numbers_of,
    press,
    select_row,
    set_to,
    texts,
    upload,
    work,
)


def _swept(app: AppTest, **settings: Any) -> AppTest:
    app = set_to(go(app, "sweep"), sweep_count=2, **settings)
    return work(app, "Sweep", "sweep")


def test_a_sweep_rates_every_recipe_and_one_can_be_taken(calibrated: AppTest) -> None:
    calibrated = set_to(set_to(go(calibrated, "masks"), granularity="units"), criterion="obs", round_to=1)
    calibrated = _swept(calibrated, sweep_criteria=["l1", "obs"], sweep_compensations=["none", "fold"])
    rated = calibrated.session_state.sweep.status.result.rated
    table = calibrated.dataframe[0].value
    assert len(rated) == len(table) == 2 * 2 * (2 + SEEDS) + 1
    assert list(table["strings wholly right"]) == [each.value for each in rated]
    assert [each.value for each in rated] == sorted((each.value for each in rated), reverse=True)
    names = [trace["name"] for trace in figure_of(calibrated, 0)["data"]]
    assert {
        "L1 norm, none",
        "Brain surgeon, fold",
        "Random, fold",
        "dense",
        "two factors",
        "front",
        "your recipe",
    } <= set(names)
    front = next(trace for trace in figure_of(calibrated, 0)["data"] if trace["name"] == "front")
    assert numbers_of(front["y"]) == sorted(numbers_of(front["y"]))
    assert table["front"].sum() == len(numbers_of(front["y"]))
    index = next(
        index
        for index, each in enumerate(rated)
        if (each.recipe.criterion, each.recipe.compensation, each.recipe.sparsity) == ("l1", "fold", 0.9)
    )
    smallest = smallest_within(rated, 1.0, True, 0.03)
    calibrated = select_row(calibrated, f"recipes_{rated.index(smallest) if smallest else ''}", index)
    calibrated = press(calibrated, "Take this recipe")
    found = calibrated.session_state
    assert (found.sparsity, found.criterion, found.compensation) == (0.9, "l1", "fold")
    assert "star" in calibrated.success[0].value
    star = next(trace for trace in figure_of(calibrated, 0)["data"] if trace["name"] == "your recipe")
    assert (star["x"], star["y"]) == ([rated[index].macs_per_step], [rated[index].value])
    curves = figure_of(set_to(calibrated, sweep_over="Sparsity"), 0)["data"]
    assert "Random, fold, band" in [trace["name"] for trace in curves]
    assert next(trace for trace in curves if trace["name"] == "your recipe")["x"] == [90.0]


def test_the_smallest_recipe_that_loses_little_is_selected(example: AppTest) -> None:
    example = _swept(example, sweep_criteria=["l1"])
    assert "No recipe of these loses so little" in texts(example)
    assert button(example, "Take this recipe").disabled
    rated = example.session_state.sweep.status.result.rated
    example = set_to(example, borne=100.0 * (1.001 - rated[0].value))  # what the best of them loses
    assert "It is selected below" in texts(example)
    example = press(example, "Take this recipe")
    assert example.session_state.sparsity == rated[0].recipe.sparsity


def test_models_of_ones_own_are_judged_by_their_answers_once_there_are_inputs(app: AppTest) -> None:
    app = upload(app.run(), "own.pt", saved(named(random_lstm())))
    app = _swept(app, sweep_criteria=["l1"])
    assert "output drift on random inputs" in app.dataframe[0].value
    inputs = npy(random_steps(40, 8, 3, dtype=torch.float32).numpy())
    app = go(app, "calibrate")
    app.file_uploader[0].upload("inputs.npy", inputs)
    app = _swept(work(checked(app.run()), "Gather", "gathering"), sweep_criteria=["l1"])
    assert "difference of the answers on held-back inputs" in app.dataframe[0].value


def test_a_sweep_without_inputs_goes_by_weights(example: AppTest) -> None:
    example = _swept(example, sweep_criteria=["l1", "l2"])
    assert set(example.dataframe[0].value["criterion"]) == {"L1 norm", "L2 norm", "Random"}
    example = set_to(example, sweep_criteria=["fisher"])
    assert any("own inputs are gathered" in text.value for text in example.caption)
    assert button(example, "Sweep").disabled


def test_a_grid_of_rows_names_consumers_where_they_are_of_use() -> None:
    recipe = wanted = Recipe(criterion="fisher", **CONSUMERS)
    recipes = explore.grid(recipe, wanted, [0.5], ["l1", "fisher"], ["none", "heal"])
    assert len(recipes) == 2 * (2 + SEEDS)
    assert recipe in recipes
    for each in recipes:
        assert (each.consumers == ("linear.weight",)) == each.needs_data
    elsewhere = replace(recipe, sparsity=0.3)
    assert explore.grid(elsewhere, wanted, [0.5], ["l1"], ["none"])[-1] == elsewhere


def test_sensitivity_shows_every_block_and_suggests_sparsities(calibrated: AppTest) -> None:
    calibrated = work(set_to(go(calibrated, "sensitivity"), sensitivity_count=2), "Measure", "sensitivity")
    found = calibrated.session_state.sensitivity.status.result.sensitivity
    assert set(found.values) == {(0, block) for block in ALL_BLOCKS}
    trace = figure_of(calibrated, 0)["data"][0]
    assert numbers_of(trace["z"]) == pytest.approx(
        [loss for part in found.values for loss in found.losses(part)], abs=1e-6
    )
    assert calibrated.session_state.sparsity == 0.5
    suggested = calibrated.dataframe[0].value["sparsity"]
    calibrated = press(calibrated, "Use these sparsities")
    assert calibrated.session_state.layer_sparsity[0] == suggested[0] == 0.9
    assert not calibrated.warning and calibrated.success


def test_a_target_out_of_reach_is_said(example: AppTest) -> None:
    example = work(set_to(go(example, "sensitivity"), sensitivity_count=2), "Measure", "sensitivity")
    next(slider for slider in example.slider if slider.label == "Leave at most").set_value(0.05)
    assert "least" in checked(example.run()).error[0].value


def test_sensitivity_measured_under_other_settings_is_told(example: AppTest) -> None:
    example = work(set_to(go(example, "sensitivity"), sensitivity_count=2), "Measure", "sensitivity")
    assert not set_to(example, sparsity=0.2).warning
    assert "changed since" in set_to(example, criterion="l2").warning[0].value
