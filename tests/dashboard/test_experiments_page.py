"""The page Experiments, in process through `app.py`: what was tried, and what each part loses alone."""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from streamlit.testing.v1 import AppTest

from pruner import Recipe
from pruner.dashboard import explore
from pruner.dashboard.jobs import Job
from pruner.dashboard.words import in_words
from pruner.exports.verdict import by_quality
from pruner.lstm.gates import ALL_BLOCKS
from pruner.search import experiments
from pruner.search.experiments import Experiment
from pruner.search.sweep import SEEDS
from tests.helpers.files import npy, saved
from tests.helpers.models import named, random_lstm, random_steps
from tests.helpers.pages import (
    CONSUMERS,
    button,
    checked,
    click,
    endless,
    figure_of,
    go,
    metrics,
    numbers_of,
    press,
    run_to_the_end,
    select_row,
    set_to,
    texts,
    upload,
    wait,
    work,
)

SETTINGS = {"granularity": "units", "criterion": "l1", "compensation": "none"}


def _tried(app: AppTest, **settings: Any) -> AppTest:
    """The page once a sweep of two sparsities, or of as many as are set, has ended."""
    return work(set_to(go(app, "experiments"), **{"sweep_count": 2} | settings), "Try sizes", "sweep")


def _by_hand(app: AppTest) -> AppTest:
    """The page with four models that were tried, the best of which loses 10 %."""
    judged = partial(by_quality, "strings wholly right", True, 1.0)
    tried = [
        Experiment(recipe, judged(value), "strings wholly right", "", macs, macs, "Sweep")
        for recipe, value, macs in (
            (Recipe(0.9, "units", compensation="fold", **CONSUMERS), 0.2, 0.035),
            (Recipe(0.1, "units", consumers=CONSUMERS["consumers"]), 0.9, 0.8),
            (Recipe(0.5, "units", "random"), 0.1, 0.3),
            (None, 0.95, 0.8),
        )
    ]
    return set_to(go(app, "experiments"), history={each.key: each for each in tried})


def _measured(app: AppTest) -> AppTest:
    """The page once each part was pruned alone."""
    app = set_to(go(app, "experiments"), experiments="parts", sensitivity_count=2)
    assert "alone and leaves all else whole" in texts(app)
    return work(app, "Measure", "sensitivity")


def _traces(app: AppTest) -> dict[str, Any]:
    return {trace["name"]: trace for trace in figure_of(app)["data"]}


def _table(app: AppTest) -> tuple[Any, str]:
    """What the table shows, and its key."""
    frame = app.dataframe[0]
    return frame.value, frame.proto.id.split("-")[-1]


def _select(app: AppTest, what: str) -> AppTest:
    table, key = _table(app)
    return select_row(app, key, list(table["what"]).index(what))


def test_an_example_is_tried_with_one_click_and_gathers_its_inputs_on_the_way(example: AppTest) -> None:
    example = go(example, "experiments")
    assert "Nothing was tried on this model yet" in texts(example) and not example.get("plotly_chart")
    assert example.session_state.calibrating is None
    example = work(example, "Try sizes", "sweep")
    assert example.session_state.gathered.calibration.source == "example"
    tried = list(example.session_state.history.values())
    recipes = [each.recipe for each in tried if each.recipe]
    assert len(recipes) == 5 * (1 + SEEDS) and len(tried) == len(recipes) + 5
    assert {(each.granularity, each.compensation, each.consumers) for each in recipes} == {
        ("units", "fold", ("linear.weight",))
    }
    table, _ = _table(example)
    values = list(table["value"])
    assert values == sorted(values, reverse=True) and len(values) == len(tried)
    traces = _traces(example)
    assert {"units, Brain surgeon, folded", "units, Random, folded", "units, Random, folded, band"} <= traces.keys()
    front = table[table["front"]]
    assert len(front) == len(numbers_of(traces["nothing beats these"]["x"])) > 1
    assert not front["what"].str.contains("factors").any()
    assert (table["what"] == "two factors a weight").sum() == 5
    assert "has **55%** of the multiply" in texts(example)
    line = _traces(set_to(example, over="sparsity"))["units, Brain surgeon, folded"]
    assert numbers_of(line["x"]) == [10.0, 30.0, 50.0, 70.0, 90.0]


def test_a_second_sweep_a_run_and_a_reload_lose_nothing(calibrated: AppTest) -> None:
    calibrated = _tried(calibrated, sweep_criteria=["l1"], sweep_compensations=["none"])
    first = dict(calibrated.session_state.history)
    assert len(first) == 2 * (1 + SEEDS) + 2
    calibrated = _tried(calibrated, sweep_criteria=["obs"], sweep_compensations=["none"])
    history = calibrated.session_state.history
    assert list(history)[: len(first)] == list(first)  # the same seeds and factors again are nothing new
    assert len(history) == len(first) + 2
    calibrated = run_to_the_end(set_to(calibrated, **SETTINGS, sparsity=0.25))
    (run,) = [each for each in calibrated.session_state.history.values() if each.by == "Run"]
    result = calibrated.session_state.run.status.result
    assert run.value == result.quality["masked"] and run.recipe == result.recipe
    calibrated = go(calibrated, "experiments")
    star = _traces(calibrated)["your recipe now"]
    assert (numbers_of(star["x"]), numbers_of(star["y"])) == ([100 * run.macs], [run.value])
    calibrated = press(calibrated, "Forget all of it")
    assert "Nothing was tried" in texts(calibrated) and not calibrated.session_state.history


def test_what_was_tried_goes_with_its_model(example: AppTest) -> None:
    example = _by_hand(example)
    assert len(_table(example)[0]) == 4
    example = click(go(example, "open"), "open_pydocs-chars")
    assert "Nothing was tried" in texts(go(example, "experiments"))


@pytest.mark.parametrize(("label", "page"), [("Open on Masks", "Masks"), ("Run it", "Run")])
def test_a_pick_leads_on_with_its_recipe(calibrated: AppTest, label: str, page: str) -> None:
    calibrated = _select(_by_hand(calibrated), "90% of units, L1 norm, folded")
    assert "0.2, with 4% of the work" in texts(calibrated)
    calibrated = press(calibrated, label)
    assert calibrated.title[0].value == page
    found = calibrated.session_state
    assert (found.granularity, found.sparsity, found.criterion, found.compensation) == ("units", 0.9, "l1", "fold")
    if page == "Masks":  # which knows what it is worth
        assert metrics(calibrated)["Quality"] == "0.200"


def test_a_size_is_sent_to_shrink(example: AppTest) -> None:
    example = press(_select(_by_hand(example), "90% of units, L1 norm, folded"), "Shrink to its size")
    assert example.title[0].value == "Shrink"
    assert (example.session_state.shrink_for, example.session_state.target_size) == ("macs", 4)


def test_only_what_a_recipe_made_can_be_opened_and_the_smallest_that_loses_little_is_selected(example: AppTest) -> None:
    example = _by_hand(example)
    assert "Nothing of this loses so little" in texts(example) and button(example, "Run it").disabled
    factors = _select(example, "two factors a weight")
    assert button(factors, "Open on Masks").disabled and not button(factors, "Shrink to its size").disabled
    example = set_to(example, most_lost=10.5)
    assert "The smallest that loses no more has **80%**" in texts(example)
    assert press(example, "Open on Masks").session_state.sparsity == 0.1


def test_a_point_that_is_chosen_in_the_figure_is_selected(example: AppTest) -> None:
    example = _by_hand(example)
    key = next(iter(example.session_state.history))
    chosen = {"selection": {"points": [{"customdata": [key]}], "point_indices": [], "box": [], "lasso": []}}
    example = set_to(example, frontier_of_macs=chosen)
    assert "Selected: **90" in texts(example)


def test_the_front_is_found_once_for_a_history(example: AppTest, monkeypatch: pytest.MonkeyPatch) -> None:
    example = _by_hand(example)
    with monkeypatch.context() as patched:
        patched.setattr(experiments, "front", lambda *_: pytest.fail("the front is found again"))
        example = set_to(example, over="sparsity", most_lost=50.0, sparsity=0.9)
        example = go(go(example, "masks"), "experiments")
    more = {**example.session_state.history}
    last = replace(more.popitem()[1], recipe=Recipe(0.4, "units", "l2"))
    example = set_to(example, history=more | {last.key: last})
    assert "units, L2 norm" in _traces(example)


def test_a_sweep_that_is_cancelled_keeps_what_it_has_rated(example: AppTest) -> None:
    example = set_to(_by_hand(example), sweep=Job(endless))
    assert "units, L1 norm" in _traces(example) and not example.dataframe  # the frontier grows meanwhile
    wait(press(example, "Cancel").session_state.sweep)
    example = checked(example.run())
    assert "cancelled" in example.info[0].value and len(_table(example)[0]) == 4


def test_what_is_judged_otherwise_does_not_stand_beside_it(app: AppTest) -> None:
    app = upload(app.run(), "own.pt", saved(named(random_lstm())))
    app = _tried(app, sweep_criteria=["l1"])
    assert app.session_state.gathered is None
    assert {each.measure for each in app.session_state.history.values()} == {"output drift on random inputs"}
    drifted = len(app.session_state.history)
    app = go(app, "calibrate")
    app.file_uploader[0].upload("inputs.npy", npy(random_steps(40, 8, 3, dtype=torch.float32).numpy()))
    app = _tried(work(checked(app.run()), "Calibrate", "calibrating"), sweep_criteria=["l1"])
    assert figure_of(app)["layout"]["yaxis"]["title"]["text"] == "difference of the answers on held-back inputs"
    assert len(_table(app)[0]) == len(app.session_state.history) - drifted
    judged = next(each for each in app.selectbox if each.label == "Judged by")
    app = checked(judged.select_index(1).run())
    assert len(_table(app)[0]) == drifted


def test_inputs_that_are_not_there_are_asked_for(app: AppTest) -> None:
    app = go(upload(app.run(), "own.pt", saved(named(random_lstm()))), "experiments")
    assert not button(app, "Try sizes").disabled  # weights alone tell something
    assert "by output drift on random inputs" in texts(app)
    app = set_to(app, sweep_criteria=["fisher"])
    assert button(app, "Try sizes").disabled and "is not calibrated yet" in app.info[0].value


def test_a_grid_of_rows_names_consumers_where_they_are_of_use() -> None:
    recipe = Recipe(criterion="fisher", round_to=1, **CONSUMERS)
    recipes = explore.grid(recipe, recipe, "rows", [0.5], ["l1", "fisher"], ["none", "heal"])
    assert len(recipes) == 2 * (2 + SEEDS)
    assert all((each.consumers == ("linear.weight",)) == each.needs_data for each in recipes)
    units = explore.grid(Recipe(gate_sparsity={"hf": 0.1}), recipe, "units", [0.5], ["group"], ["none"])
    assert {(each.granularity, each.consumers, each.task) for each in units} == {("units", ("linear.weight",), None)}


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        (Recipe(), "50% of rows, L1 norm"),
        (Recipe(0.125, "units", "random", seed=2), "12.5% of units, Random, seed 2"),
        (Recipe(0.3, "units", "obs", compensation="heal"), "30% of units, Brain surgeon, healed, 60 s"),
        (
            Recipe(0.3, "units", "obs", "global", 16, compensation="heal", steps=9),
            "30% of units, Brain surgeon, ranked together, healed, 9 updates, multiples of 16",
        ),
        (
            Recipe(layer_sparsity={1: 0.1}, gate_sparsity={"hf": 0.2}, compensation="fold"),
            "50% of rows, L1 norm, folded, layer 1 at 10%, hf at 20%",
        ),
    ],
)
def test_a_recipe_in_words(recipe: Recipe, words: str) -> None:
    assert in_words(recipe) == words


def test_sensitivity_shows_every_block_and_its_sparsities_lead_to_masks_and_run(calibrated: AppTest) -> None:
    calibrated = _measured(calibrated)
    found = calibrated.session_state.sensitivity.status.result.sensitivity
    assert set(found.values) == {(0, block) for block in ALL_BLOCKS}
    trace = figure_of(calibrated, 0)["data"][0]
    assert numbers_of(trace["z"]) == pytest.approx(
        [loss for part in found.values for loss in found.losses(part)], abs=1e-6
    )
    suggested = calibrated.dataframe[0].value["sparsity"]
    calibrated = press(calibrated, "Use these sparsities")
    assert calibrated.title[0].value == "Masks"
    assert calibrated.session_state.layer_sparsity[0] == suggested[0] == 0.9
    calibrated = run_to_the_end(calibrated)
    assert calibrated.session_state.run.status.result.recipe.layer_sparsity == {0: 0.9}


def test_uneven_layers_of_units_run_once_they_are_used(app: AppTest) -> None:
    tensors = named(random_lstm(num_layers=2, hidden_size=12), "rnn.") | {
        "head.weight": random_steps(2, 12, dtype=torch.float32)
    }
    app = set_to(upload(app.run(), "own.pt", saved(tensors)), granularity="units", consumers=["head.weight"])
    app = run_to_the_end(press(_measured(app), "Use these sparsities"))
    assert len(set(app.session_state.run.status.result.recipe.layer_sparsity.values())) == 2


def test_a_target_out_of_reach_is_said(example: AppTest) -> None:
    example = _measured(example)
    next(slider for slider in example.slider if slider.label == "Leave at most").set_value(0.05)
    assert "least" in checked(example.run()).error[0].value


def test_sensitivity_measured_under_other_settings_is_told(example: AppTest) -> None:
    example = _measured(example)
    assert not set_to(example, sparsity=0.2).warning
    assert "changed since" in set_to(example, criterion="l2").warning[0].value


@pytest.mark.parametrize(("page", "label"), [("sweep", "Try sizes"), ("sensitivity", "Measure")])
def test_old_addresses_lead_on_with_their_query(app: AppTest, page: str, label: str) -> None:
    app.query_params.update({"example": "embedded-reber", "sparsity": "0.3"})
    app = go(app, page)
    assert app.title[0].value == "Experiments" and app.session_state.sparsity == 0.3
    assert button(app, label)
