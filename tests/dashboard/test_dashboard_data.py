"""The pages that work with inputs, run in process through `app.py`."""

import base64
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from streamlit.testing.v1 import AppTest

from pruner import PrunerError, Recipe, examples
from pruner.dashboard import data, explore
from pruner.dashboard.data import Gathered
from pruner.dashboard.jobs import Job
from pruner.importance.masks import make_masks_by_cost
from pruner.importance.scores import score_lstm
from pruner.lstm.gates import ALL_BLOCKS
from pruner.result import choose_masks, gather_statistics
from pruner.search.sweep import SEEDS
from tests.dashboard.test_dashboard import (
    PROJECT,
    _checked,
    _click,
    _endless,
    _failing,
    _go,
    _in_detail,
    _metrics,
    _saved,
    _upload,
    _wait,
    sent_to_the_canvas,
)
from tests.helpers.models import named, random_lstm

READERS = {"consumers": ("linear.weight",), "task": "softmax"}


@pytest.fixture
def app() -> AppTest:
    return AppTest.from_file(str(PROJECT / "app.py"), default_timeout=60)


@pytest.fixture
def example(app: AppTest) -> AppTest:
    """The dashboard with the grammar example open."""
    return _click(app.run(), "open_embedded-reber")


@pytest.fixture(scope="module")
def gathered() -> Gathered:
    """What the example's inputs show, gathered once for all tests."""
    checkpoint, example = examples.named("embedded-reber").open(), examples.named("embedded-reber")
    recipe = Recipe(criterion="fisher", **READERS)
    wanted = data.Wanted("example")
    return data.gather(checkpoint, example, wanted, recipe, lambda *_: None)


@pytest.fixture
def calibrated(example: AppTest, gathered: Gathered) -> AppTest:
    """The grammar example, with its inputs gathered and its readers named."""
    example.session_state.gathered = gathered
    example.session_state.consumers, example.session_state.task = ["linear.weight"], "softmax"
    return _checked(example.run())


def _press(app: AppTest, label: str, job: str) -> AppTest:
    """Start the work of a page and wait for its end."""
    next(button for button in app.button if button.label == label).click()
    app.run()
    _wait(app.session_state[job])
    return _checked(app.run())


def _set(app: AppTest, **values: Any) -> AppTest:
    for key, value in values.items():
        app.session_state[key] = value
    return _checked(app.run())


def _figure(app: AppTest, index: int) -> dict[str, Any]:
    return json.loads(app.get("plotly_chart")[index].proto.spec)


def _npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def test_an_example_gathers_its_own_inputs_with_one_click(example: AppTest) -> None:
    example = _go(example, "calibrate")
    assert example.session_state.consumers == ["linear.weight"]
    assert (example.session_state.task, example.session_state.inputs_from) == ("softmax", "example")
    example = _press(example, "Gather", "gathering")
    steps = sum(examples.named("embedded-reber").calibration(example.session_state.checkpoint).steps().values())
    found = next(text.value for text in example.markdown if "time steps" in text.value)
    assert f"**{steps:,}** time steps of the example’s own inputs" in found
    assert example.session_state.gathered.calibration.sha256[:12] in found
    assert len(_figure(example, 0)["data"]) == 1


def test_uneven_shares_are_those_that_the_costs_choose(calibrated: AppTest, gathered: Gathered) -> None:
    calibrated = _set(_go(calibrated, "calibrate"), sparsity=0.3)
    checkpoint = calibrated.session_state.checkpoint
    lstm = checkpoint.lstms[0]
    scores = score_lstm(lstm, checkpoint.tensors, "fisher", (), gathered.statistics["lstm"])
    masks = make_masks_by_cost(lstm, scores.saliency, Recipe(0.3, criterion="fisher", allocation="global"))
    shown = calibrated.get("plotly_chart")[1].proto.spec
    trace = json.loads(shown)["data"][0]
    assert [label.split("<br>")[0] for label in trace["x"]] == list(ALL_BLOCKS)
    ih, hh = (1 - masks[f"lstm.weight_{side}_l0"].view(4, -1).double().mean(1) for side in ("ih", "hh"))
    assert trace["texttemplate"] == "%{z:.0f} %"
    assert _numbers(trace["z"]) == pytest.approx([100 * float(share) for share in (*ih, *hh)], abs=1e-3)
    assert max(_numbers(trace["z"])) > min(_numbers(trace["z"])) + 10


def _numbers(z: Any) -> list[float]:
    """The numbers of a figure's array, which Plotly sends packed."""
    if isinstance(z, dict):
        return np.frombuffer(base64.b64decode(z["bdata"]), dtype=z["dtype"]).ravel().tolist()
    return np.asarray(z, dtype=float).ravel().tolist()


def test_another_model_takes_what_was_gathered_away(calibrated: AppTest) -> None:
    job = calibrated.session_state.sweep = Job(_endless)
    calibrated = _click(_go(calibrated, "open"), "open_pydocs-chars")
    assert calibrated.session_state.gathered is None
    assert _wait(job).status.state == "cancelled"
    assert calibrated.session_state.consumers == []


@pytest.mark.parametrize("change", [{"consumers": []}, {"task": "regression"}], ids=["readers", "task"])
def test_what_was_gathered_for_other_readers_must_be_gathered_again(
    calibrated: AppTest, change: dict[str, Any]
) -> None:
    calibrated = _set(_go(calibrated, "calibrate"), **change)
    assert "Gather again" in calibrated.warning[0].value
    calibrated = _set(_go(calibrated, "masks"), criterion="fisher")
    assert "gather them again" in calibrated.info[0].value
    assert not calibrated.get("plotly_chart")


@pytest.mark.parametrize("page", ["masks", "saliency"])
@pytest.mark.parametrize("criterion", ["taylor", "fisher"])
def test_without_inputs_a_criterion_leads_to_them(example: AppTest, page: str, criterion: str) -> None:
    example = _set(_go(example, page), criterion=criterion)
    assert "scores come from inputs" in example.info[0].value
    assert "Gather inputs" in [link.label for link in example.get("page_link")]


@pytest.mark.parametrize("page", ["open", "saliency", "calibrate", "masks", "run", "sweep", "sensitivity", "export"])
def test_a_link_that_needs_inputs_opens_every_page(app: AppTest, page: str) -> None:
    params = {"criterion": "obs", "compensation": "full", "granularity": "units", "sparsity": "0.3"}
    app.query_params.update({"example": "embedded-reber", **params})
    app = _checked(app.run())
    if page != "open":
        app = _go(app, page)
    assert (app.session_state.criterion, app.session_state.compensation) == ("obs", "full")
    assert app.session_state.consumers == ["linear.weight"]
    if page in ("masks", "run", "sweep", "sensitivity"):
        assert "None were gathered yet" in app.info[0].value
    if page == "run":
        assert next(button for button in app.button if button.label == "Run").disabled


def test_the_link_says_all_that_a_recipe_with_inputs_needs(calibrated: AppTest) -> None:
    calibrated = _set(_go(calibrated, "masks"), criterion="fisher", compensation="fold", allocation="global")
    params = {key: calibrated.query_params[key] for key in calibrated.query_params}
    wanted = {"criterion": "fisher", "compensation": "fold", "allocation": "global", "task": "softmax"}
    for key, value in {**wanted, "consumers": "linear.weight"}.items():
        assert params[key] in (value, [value]), key
    calibrated = _set(calibrated, criterion="random", seed=7, compensation="none")
    assert calibrated.query_params["seed"] in ("7", ["7"])
    assert "task" not in calibrated.query_params


@pytest.mark.parametrize(
    "params",
    [{"compensation": "much"}, {"task": "softmax"}, {"task": "chess", "consumers": "linear.weight"}, {"seed": "-1"}],
    ids=lambda params: ",".join(params),
)
def test_a_link_with_strange_settings_is_harmless(app: AppTest, params: dict[str, str]) -> None:
    app.query_params.update({"example": "embedded-reber", "sparsity": "0.2", **params})
    app = _checked(app.run())
    assert (app.session_state.sparsity, app.session_state.compensation) == (0.5, "none")


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
    calibrated = _set(_set(_go(calibrated, "masks"), granularity=granularity), **settings, round_to=1, sparsity=0.4)
    assert calibrated.session_state.criterion == criterion
    readers = {} if criterion == "random" else READERS
    masks = choose_masks(
        calibrated.session_state.checkpoint, Recipe(0.4, **settings, **readers), statistics=gathered.statistics
    )
    kept = masks["lstm.weight_ih_l0"].view(4, 32)
    table = calibrated.dataframe[0].value
    assert list(table["rows kept"]) == kept.sum(1).tolist()
    header, arrays = sent_to_the_canvas(calibrated)
    ranks = np.frombuffer(arrays, np.int32, 8 * 32, offset=4 * (8 * 32 + 32)).reshape(8, 32)
    fallen = ranks[:4] < np.array(header["counts"])[40, :4, None]
    assert fallen.tolist() == (~kept).tolist()


def test_a_recipe_of_units_and_inputs_is_loaded_over_one_of_rows(calibrated: AppTest) -> None:
    recipe = Recipe(0.25, "units", "obs", compensation="full", **READERS)
    calibrated = _upload(_go(calibrated, "masks"), "recipe.json", recipe.to_json().encode())
    found = calibrated.session_state
    assert (found.granularity, found.criterion, found.compensation) == ("units", "obs", "full")
    assert _metrics(calibrated)["Removable, of 32"] == "8"


def test_rows_are_ranked_together_by_cost_only_where_there_is_a_cost(calibrated: AppTest) -> None:
    calibrated = _set(_in_detail(calibrated), criterion="fisher")
    offered = [control.label for control in calibrated.get("button_group")]
    assert "Allocation" in offered
    calibrated = _set(calibrated, allocation="global")
    assert not [field for field in calibrated.number_input if field.key == "gate_hf"]
    calibrated = _set(calibrated, criterion="l1")
    assert "Allocation" not in [control.label for control in calibrated.get("button_group")]
    assert calibrated.number_input(key="gate_hf") is not None


def test_full_compensation_says_what_it_lacks(calibrated: AppTest, gathered: Gathered) -> None:
    recipe = Recipe(criterion="fisher")
    statistics = gather_statistics(calibrated.session_state.checkpoint, recipe, gathered.calibration)
    calibrated.session_state.gathered = Gathered(gathered.calibration, statistics, recipe)
    calibrated = _set(_go(calibrated, "masks"), consumers=[], task=None, compensation="full")
    assert "no task" in calibrated.info[0].value


def test_a_compensated_run_shows_every_step_and_its_inputs(calibrated: AppTest) -> None:
    calibrated = _set(_go(calibrated, "masks"), granularity="units")
    calibrated = _set(calibrated, criterion="obs", compensation="fold", round_to=1)
    calibrated = _press(_go(calibrated, "run"), "Run", "job")
    sentence = next(text.value for text in calibrated.markdown if text.value.startswith("Drop"))
    assert "brain surgeon score" in sentence and "takes over" in sentence
    steps = calibrated.session_state.job.status.result.compensation.facts["lstms"][0]["steps"]
    table = next(frame.value for frame in calibrated.dataframe if "step" in frame.value)
    assert list(table["step"]) == [step["name"] for step in steps] == ["fold"]
    assert list(table["loss after"]) == [step["after"] for step in steps]
    assert list(table["kept"]) == [True]
    assert any("held back" not in text.value and "training strings" in text.value for text in calibrated.caption)
    assert any("by what it costs alone, which lost less here." in text.value for text in calibrated.caption)
    calibrated = _go(calibrated, "export")
    assert any("Compensated with the example’s own inputs" in text.value for text in calibrated.markdown)


def test_a_run_without_inputs_drifts_on_random_ones(example: AppTest) -> None:
    example = _press(_go(example, "run"), "Run", "job")
    assert any("Output drift on random inputs" in text.value for text in example.caption)
    assert not any("Compensated" in text.value for text in _go(example, "export").markdown)


def _own_model(app: AppTest, tmp_path: Path) -> AppTest:
    """A model of one's own: tokens -> embedding (9, 3) -> LSTM(3 -> 4) -> head (9, 4)."""
    torch.manual_seed(1)
    tensors = {
        "embed.weight": torch.randn(9, 3),
        **named(random_lstm(), "rnn."),
        "head.weight": torch.randn(9, 4),
        "head.bias": torch.zeros(9),
    }
    return _upload(app.run(), "own.pt", _saved(tensors, tmp_path / "any"))


def _sources(app: AppTest) -> list[str]:
    control = next(control for control in app.get("button_group") if control.label == "Inputs")
    return [option.content for option in control.proto.options]


def test_inputs_can_be_sampled_only_from_a_model_that_generates(app: AppTest, tmp_path: Path) -> None:
    app = _go(_own_model(app, tmp_path), "calibrate")
    assert _sources(app) == ["A file", "Sampled from the model", "Random numbers"]
    app = _go(_upload(_go(app, "open"), "b.pt", _saved(named(random_lstm(), "b."), tmp_path / "b")), "calibrate")
    assert _sources(app) == ["A file", "Random numbers"]


def test_sampling_needs_to_know_the_head(app: AppTest, tmp_path: Path) -> None:
    app = _set(_go(_own_model(app, tmp_path), "calibrate"), inputs_from="sampled")
    assert app.session_state.embedding == "embed.weight"
    app = _press(app, "Gather", "gathering")
    assert "1 tensor" not in app.error[0].value and "name both" in app.error[0].value


@pytest.mark.parametrize("source", ["sampled", "gaussian"])
def test_inputs_are_made_for_a_model_of_ones_own(
    app: AppTest, tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pruner.calibration.inputs.STREAMS", 8)
    monkeypatch.setattr("pruner.calibration.inputs.STEPS", 64)
    app = _go(_own_model(app, tmp_path), "calibrate")
    app = _set(app, inputs_from=source, consumers=["head.weight"], task="softmax")
    app = _press(app, "Gather", "gathering")
    assert not app.error
    calibration = app.session_state.gathered.calibration
    assert (calibration.source, calibration.embedding) == (source, "embed.weight" if source == "sampled" else None)
    told = next(text.value for text in app.markdown if "time steps" in text.value)
    assert ("not real inputs" in told) == (source == "gaussian")


def test_inputs_from_a_file_are_read_and_the_upload_let_go(app: AppTest, tmp_path: Path) -> None:
    app = _set(_go(_own_model(app, tmp_path), "calibrate"), inputs_from="file")
    values = np.random.default_rng(0).normal(size=(40, 6, 3)).astype(np.float32)
    app.file_uploader[0].upload("inputs.npy", _npy(values))
    app = _press(_set(_checked(app.run()), time_major=True), "Gather", "gathering")
    assert not app.error
    calibration = app.session_state.gathered.calibration
    assert torch.equal(calibration.sequences["rnn"][0], torch.from_numpy(values).transpose(0, 1))
    assert app.session_state.input_upload == 1
    app = _set(app, consumers=["head.weight"])
    assert "Gather again" in app.warning[0].value
    app = _press(app, "Gather", "gathering")
    assert app.session_state.gathered.calibration is calibration
    assert not app.warning and not app.error


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("inputs.npy", b"junk"),
        ("inputs.npy", _npy(np.zeros((4, 5, 7), np.float32))),
        ("inputs.npy", _npy(np.full((4, 5, 3), np.nan, np.float32))),
        ("inputs.csv", b"a,b\n1,x\n"),
        ("inputs.pt", b"\x80\x04cposix\nsystem\n(S'touch stolen'\ntR."),
    ],
    ids=["junk", "width", "nan", "csv", "pickle"],
)
def test_a_bad_file_of_inputs_gets_one_message(app: AppTest, tmp_path: Path, name: str, content: bytes) -> None:
    app = _set(_go(_own_model(app, tmp_path), "calibrate"), inputs_from="file")
    app.file_uploader[0].upload(name, content)
    app = _press(_checked(app.run()), "Gather", "gathering")
    assert len(app.error) == 1
    assert "expected" in app.error[0].value
    assert app.session_state.gathered is None


def test_no_file_of_inputs_is_said(app: AppTest, tmp_path: Path) -> None:
    app = _set(_go(_own_model(app, tmp_path), "calibrate"), inputs_from="file")
    assert "found none" in _press(app, "Gather", "gathering").error[0].value


def _swept(app: AppTest, **settings: Any) -> AppTest:
    app = _set(_go(app, "sweep"), sweep_count=2, **settings)
    return _press(app, "Sweep", "sweep")


def test_a_sweep_rates_every_recipe_and_one_can_be_taken(calibrated: AppTest) -> None:
    calibrated = _set(_set(_go(calibrated, "masks"), granularity="units"), criterion="obs", round_to=1)
    calibrated = _swept(calibrated, sweep_criteria=["l1", "obs"], sweep_compensations=["none", "fold"])
    rated = calibrated.session_state.sweep.status.result.rated
    table = calibrated.dataframe[0].value
    assert len(rated) == len(table) == 2 * 2 * (2 + SEEDS) + 1
    assert list(table["strings wholly right"]) == [each.value for each in rated]
    names = [trace["name"] for trace in _figure(calibrated, 0)["data"]]
    assert {"L1 norm, none", "Brain surgeon, fold", "Random, fold", "Random, fold, band", "your recipe"} <= set(names)
    take = next(button for button in calibrated.button if button.label == "Take this recipe")
    assert take.disabled
    index = next(
        index
        for index, each in enumerate(rated)
        if (each.recipe.criterion, each.recipe.compensation, each.recipe.sparsity) == ("l1", "fold", 0.9)
    )
    calibrated = _set(calibrated, recipes={"selection": {"rows": [index], "columns": [], "cells": []}})
    next(button for button in calibrated.button if button.label == "Take this recipe").click()
    calibrated = _checked(calibrated.run())
    found = calibrated.session_state
    assert (found.sparsity, found.criterion, found.compensation) == (0.9, "l1", "fold")
    assert "star" in calibrated.success[0].value
    star = next(trace for trace in _figure(calibrated, 0)["data"] if trace["name"] == "your recipe")
    assert (star["x"], star["y"]) == ([90.0], [rated[index].value])


def test_a_sweep_without_inputs_goes_by_weights(example: AppTest) -> None:
    example = _swept(example, sweep_criteria=["l1", "l2"])
    assert set(example.dataframe[0].value["criterion"]) == {"L1 norm", "L2 norm", "Random"}
    example = _set(example, sweep_criteria=["fisher"])
    assert "come from inputs" in example.info[0].value
    assert next(button for button in example.button if button.label == "Sweep").disabled


def test_a_grid_of_rows_names_readers_where_they_are_of_use() -> None:
    recipe, readers = Recipe(criterion="fisher", **READERS), Recipe(criterion="fisher", **READERS)
    recipes = explore.grid(recipe, readers, [0.5], ["l1", "fisher"], ["none", "full"])
    assert len(recipes) == 2 * (2 + SEEDS)
    assert recipe in recipes
    for each in recipes:
        assert (each.consumers == ("linear.weight",)) == each.needs_data
    elsewhere = replace(recipe, sparsity=0.3)
    assert explore.grid(elsewhere, readers, [0.5], ["l1"], ["none"])[-1] == elsewhere


def test_sensitivity_shows_every_block_and_suggests_sparsities(calibrated: AppTest) -> None:
    calibrated = _press(_set(_go(calibrated, "sensitivity"), sensitivity_count=2), "Measure", "sensitivity")
    found = calibrated.session_state.sensitivity.status.result.sensitivity
    assert set(found.values) == {(0, block) for block in ALL_BLOCKS}
    trace = _figure(calibrated, 0)["data"][0]
    assert _numbers(trace["z"]) == pytest.approx(
        [loss for part in found.values for loss in found.losses(part)], abs=1e-6
    )
    assert calibrated.session_state.sparsity == 0.5
    suggested = calibrated.dataframe[0].value["sparsity"]
    next(button for button in calibrated.button if button.label == "Use these sparsities").click()
    calibrated = _checked(calibrated.run())
    assert calibrated.session_state.layer_0 == suggested[0] == 0.9
    assert not calibrated.warning and calibrated.success


def test_a_target_out_of_reach_is_said(example: AppTest) -> None:
    example = _press(_set(_go(example, "sensitivity"), sensitivity_count=2), "Measure", "sensitivity")
    next(slider for slider in example.slider if slider.label == "Leave at most").set_value(0.05)
    assert "least" in _checked(example.run()).error[0].value


def test_sensitivity_measured_under_other_settings_is_told(example: AppTest) -> None:
    example = _press(_set(_go(example, "sensitivity"), sensitivity_count=2), "Measure", "sensitivity")
    assert not _set(example, sparsity=0.2).warning
    assert "changed since" in _set(example, criterion="l2").warning[0].value


@pytest.mark.parametrize(
    ("page", "key"), [("calibrate", "gathering"), ("sweep", "sweep"), ("sensitivity", "sensitivity")]
)
def test_long_work_can_be_cancelled_and_fails_with_a_sentence(example: AppTest, page: str, key: str) -> None:
    example.session_state[key] = Job(_endless)
    example = _go(example, page)
    next(button for button in example.button if button.label == "Cancel").click()
    example.run()
    _wait(example.session_state[key])
    assert "cancelled" in _checked(example.run()).info[-1].value
    example.session_state[key] = _wait(Job(_failing))
    assert _checked(example.run()).error[0].value == "expected \\*more\\*"


def test_a_fault_that_nobody_foresaw_ends_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("threading.excepthook", lambda *_: None)
    assert "fault" in _wait(Job(lambda progress: {}["nothing"])).status.error


def test_metrics_of_masks_follow_inputs(calibrated: AppTest) -> None:
    by_norm = _metrics(_go(calibrated, "masks"))
    assert _metrics(_set(calibrated, criterion="fisher")) != by_norm


def test_sampling_refuses_what_it_cannot_read() -> None:
    checkpoint = examples.named("embedded-reber").open()
    with pytest.raises(PrunerError, match="embedding"):
        data.gather(checkpoint, None, data.Wanted("sampled"), Recipe(criterion="fisher"), lambda *_: None)
