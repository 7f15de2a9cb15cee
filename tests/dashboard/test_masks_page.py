"""The page Masks: what falls, and recipes that are loaded; in process through `app.py`."""

import json

import numpy as np
import pytest
import torch
from streamlit.testing.v1 import AppTest

from pruner import Recipe, examples
from pruner.calibration.inputs import gaussian
from pruner.dashboard.gathered import Gathered
from pruner.lstm.gates import ALL_BLOCKS
from pruner.pipeline import choose_masks, gather_statistics
from tests.helpers.files import saved
from tests.helpers.models import named, random_lstm
from tests.helpers.pages import (
    CONSUMERS,
    canvases,
    checked,
    choose,
    go,
    metrics,
    said,
    sent_to_the_canvas,
    set_to,
    slide,
    standing,
    upload,
    wait,
)


@pytest.mark.parametrize("page", ["saliency", "masks"])
def test_every_row_of_the_example_is_drawn(example: AppTest, page: str) -> None:
    header, arrays = sent_to_the_canvas(go(example, page))
    assert header["blocks"] == ["ii", "if", "ig", "io", "hi", "hf", "hg", "ho"]
    weight = examples.named("embedded-reber").open().tensors["lstm.weight_ih_l0"]
    sent = np.frombuffer(arrays, np.float32, 4 * 32)
    assert np.allclose(sent, weight.abs().sum(1).numpy(), rtol=1e-6)


def test_masks_show_what_the_library_chooses(example: AppTest) -> None:
    example = slide(go(example, "masks"), overall=0.3, gates={"ig": 0.75})
    checkpoint = examples.named("embedded-reber").open()
    masks = choose_masks(checkpoint, Recipe(sparsity=0.3, gate_sparsity={"ig": 0.75}))
    dropped = sum(int((~mask).sum()) for mask in masks.values())
    assert metrics(example)["Rows dropped, of 256"] == f"{dropped:,}"
    assert list(example.dataframe[0].value["rows dropped"]) == [9, 9, 24, 9]


def test_lowering_the_sparsity_brings_rows_back(example: AppTest) -> None:
    example = go(example, "masks")
    for sparsity in (0.9, 0.0):
        example = slide(example, overall=sparsity)
    assert metrics(example)["Rows dropped, of 256"] == "0"


def test_overrides_are_reset_together(example: AppTest) -> None:
    example = slide(go(example, "masks"), layers={"0": 0.2}, gates={"hf": 0.1})
    assert (example.session_state.layer_sparsity, example.session_state.gate_sparsity) == ({0: 0.2}, {"hf": 0.1})
    assert metrics(example)["Rows dropped, of 256"] == str(7 * 6 + 3)
    example = slide(example, layers={}, gates={})
    assert example.session_state.gate_sparsity == {} == example.session_state.layer_sparsity
    assert metrics(example)["Rows dropped, of 256"] == "128"


def test_whole_units_fall_and_agree(units: AppTest) -> None:
    units = go(units, "masks")
    assert metrics(units)["Removable, of 32"] == "16"
    spec = json.loads(units.get("plotly_chart")[0].proto.spec)
    assert [trace["name"] for trace in spec["data"][1:]] == ["dropped by all: 16", "mixed: 0", "kept by all: 16"]
    assert any("**16 of 32** units" in text.value for text in units.markdown)


def test_agreement_counts_what_rows_would_leave(example: AppTest) -> None:
    example = go(example, "masks")
    masks = choose_masks(examples.named("embedded-reber").open(), Recipe(0.5))
    keeping = torch.stack([mask.view(4, 32).sum(0) for mask in masks.values()]).sum(0)
    spec = json.loads(example.get("plotly_chart")[1].proto.spec)
    names = [trace["name"] for trace in spec["data"][1:]]
    assert names[0] == f"dropped by all: {int((keeping == 0).sum())}"
    assert names[2] == f"kept by all: {int((keeping == 8).sum())}"


def test_rounding_is_off_until_it_is_chosen_and_then_says_what_it_does(example: AppTest) -> None:
    example = set_to(go(example, "masks"), sparsity=0.6, granularity="units")
    assert metrics(example)["Removable, of 32"] == "19"
    example = set_to(example, round_to=16)
    assert metrics(example)["Removable, of 32"] == "16"
    assert "Layers keep 16 units of 32, not 13." in [text.value for text in example.caption]


def test_units_of_a_model_whose_inputs_are_known_are_ordered_from_them_and_healed(example: AppTest) -> None:
    example = go(example, "masks")
    choose(example, "Granularity", "units")
    state = example.session_state
    assert (state.criterion, state.compensation, state.consumers) == ("obs", "heal", ["linear.weight"])
    assert any("own inputs, once" in text.value for text in example.caption)
    wait(state.calibrating)
    example = checked(example.run())
    assert metrics(example)["Removable, of 32"] == "16"
    choose(example, "Granularity", "rows")
    assert (state.criterion, state.compensation) == ("l1", "none")
    choose(set_to(example, criterion="l2"), "Granularity", "units")
    assert (state.criterion, state.compensation) == ("l2", "none")


def test_units_of_a_model_without_inputs_stay_with_what_weights_tell(app: AppTest) -> None:
    app = go(upload(app.run(), "own.pt", saved(named(random_lstm()))), "masks")
    choose(app, "Granularity", "units")
    assert (app.session_state.criterion, app.session_state.compensation) == ("l1", "none")


def test_a_recipe_is_loaded_into_the_controls(example: AppTest) -> None:
    recipe = Recipe(sparsity=0.2, criterion="l2", gate_sparsity={"hg": 0.4}, layer_sparsity={0: 0.1})
    example = upload(go(example, "masks"), "recipe.json", recipe.to_json().encode())
    assert standing(example) == {"overall": 0.2, "layers": {"0": 0.1}, "gates": {"hg": 0.4}}
    assert said(example).items() >= standing(example).items()
    assert example.session_state.criterion == "l2"


@pytest.mark.parametrize(
    "text", ["no json", "[]", '{"sparsity": 2}', '{"layer_sparsity": {"5": 0.1}}', '{"lstms": ["other"]}']
)
def test_a_recipe_that_does_not_fit_changes_nothing(example: AppTest, text: str) -> None:
    example = upload(go(example, "masks"), "recipe.json", text.encode())
    assert len(example.error) == 1
    assert standing(example) == {"overall": 0.5, "layers": {}, "gates": {}}


def test_only_chosen_lstms_are_pruned(app: AppTest) -> None:
    tensors = named(random_lstm(), "a.") | named(random_lstm(hidden_size=5), "b.")
    app = go(upload(app.run(), "two.pt", saved(tensors)), "masks")
    app.session_state.lstms = ["b"]
    app = checked(app.run())
    assert metrics(app)["Rows dropped, of 40"] == "16"
    assert "left as it is" in app.info[0].value


@pytest.mark.parametrize(
    ("granularity", "criterion", "allocation"),
    [
        ("rows", "taylor", "uniform"),
        ("rows", "fisher", "global"),
        ("rows", "random", "uniform"),
        ("units", "activation", "uniform"),
        ("units", "outgoing", "uniform"),
        ("units", "obs", "global"),
    ],
)
def test_masks_show_what_the_library_chooses_from_inputs(
    calibrated: AppTest, gathered: Gathered, granularity: str, criterion: str, allocation: str
) -> None:
    settings = {"granularity": granularity, "criterion": criterion, "allocation": allocation}
    calibrated = set_to(set_to(go(calibrated, "masks"), granularity=granularity), **settings, round_to=1, sparsity=0.4)
    assert calibrated.session_state.criterion == criterion
    consumers = {} if criterion == "random" else CONSUMERS
    masks = choose_masks(
        calibrated.session_state.checkpoint, Recipe(0.4, **settings, **consumers), statistics=gathered.statistics
    )
    kept = masks["lstm.weight_ih_l0"].view(4, 32)
    table = calibrated.dataframe[0].value
    assert list(table["rows kept"]) == kept.sum(1).tolist()
    header, arrays = sent_to_the_canvas(calibrated)
    ranks = np.frombuffer(arrays, np.int32, 8 * 32, offset=4 * (8 * 32 + 32)).reshape(8, 32)
    fallen = ranks[:4] < np.array(header["counts"])[40, :4, None]
    assert fallen.tolist() == (~kept).tolist()


def test_a_recipe_of_units_and_inputs_is_loaded_over_one_of_rows(calibrated: AppTest) -> None:
    recipe = Recipe(0.25, "units", "obs", compensation="heal", **CONSUMERS)
    calibrated = upload(go(calibrated, "masks"), "recipe.json", recipe.to_json().encode())
    found = calibrated.session_state
    assert (found.granularity, found.criterion, found.compensation) == ("units", "obs", "heal")
    assert metrics(calibrated)["Removable, of 32"] == "8"


def test_rows_are_ranked_together_by_cost_only_where_there_is_a_cost(calibrated: AppTest) -> None:
    calibrated = set_to(go(calibrated, "masks"), criterion="fisher")
    offered = [control.label for control in calibrated.get("button_group")]
    assert "Allocation" in offered
    calibrated = set_to(calibrated, allocation="global")
    assert len(canvases(calibrated)) == 1  # no sliders of parts
    calibrated = set_to(calibrated, criterion="l1")
    assert "Allocation" not in [control.label for control in calibrated.get("button_group")]
    groups = sent_to_the_canvas(calibrated, 0)[0]["sliders"]["groups"]
    assert [part for group in groups if group["kind"] == "gates" for part, _ in group["parts"]] == list(ALL_BLOCKS)


def test_healing_says_what_it_lacks_and_how_long_it_takes(calibrated: AppTest, gathered: Gathered) -> None:
    recipe = Recipe(criterion="fisher")
    checkpoint = calibrated.session_state.checkpoint
    random = gaussian(checkpoint, checkpoint.lstms)
    calibrated.session_state.gathered = Gathered(random, gather_statistics(checkpoint, recipe, random), recipe)
    calibrated = set_to(go(calibrated, "masks"), consumers=[], task=None, compensation="heal")
    assert "found random ones" in calibrated.info[0].value
    calibrated = set_to(calibrated, budget=120.0)
    assert calibrated.query_params["budget"] == "120"
    assert any("trained to answer" in text.value for text in calibrated.caption)


def test_metrics_of_masks_follow_inputs(calibrated: AppTest) -> None:
    by_norm = metrics(go(calibrated, "masks"))
    assert metrics(set_to(calibrated, criterion="fisher")) != by_norm
