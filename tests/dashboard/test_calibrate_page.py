"""The page Calibrate, in process through `app.py`."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from streamlit.testing.v1 import AppTest

from pruner import PrunerError, Recipe, examples
from pruner.dashboard import gathering
from pruner.dashboard.gathered import Gathered
from pruner.dashboard.jobs import Job
from pruner.importance.masks import make_masks_by_cost
from pruner.importance.scores import score_lstm
from pruner.lstm.gates import ALL_BLOCKS
from tests.helpers.files import npy, saved
from tests.helpers.models import named, random_lstm
from tests.helpers.pages import checked, click, endless, figure_of, go, numbers_of, set_to, texts, upload, wait, work


def test_an_example_gathers_its_own_inputs_with_one_click(example: AppTest) -> None:
    example = go(example, "calibrate")
    assert example.session_state.consumers == ["linear.weight"]
    assert (example.session_state.task, example.session_state.inputs_from) == ("softmax", "example")
    example = work(example, "Calibrate", "calibrating")
    steps = sum(examples.named("embedded-reber").calibration(example.session_state.checkpoint).steps().values())
    found = next(text.value for text in example.markdown if "time steps" in text.value)
    assert f"**{steps:,}** time steps of the example’s own inputs" in found
    assert example.session_state.gathered.calibration.sha256[:12] in found
    assert len(figure_of(example, 0)["data"]) == 1


def test_uneven_shares_are_those_that_the_costs_choose(calibrated: AppTest, gathered: Gathered) -> None:
    calibrated = set_to(go(calibrated, "calibrate"), sparsity=0.3)
    checkpoint = calibrated.session_state.checkpoint
    lstm = checkpoint.lstms[0]
    scores = score_lstm(lstm, checkpoint.tensors, "fisher", (), gathered.statistics["lstm"])
    masks = make_masks_by_cost(lstm, scores.saliency, Recipe(0.3, criterion="fisher", allocation="global"))
    shown = calibrated.get("plotly_chart")[1].proto.spec
    trace = json.loads(shown)["data"][0]
    assert [label.split("<br>")[0] for label in trace["x"]] == list(ALL_BLOCKS)
    ih, hh = (1 - masks[f"lstm.weight_{side}_l0"].view(4, -1).double().mean(1) for side in ("ih", "hh"))
    assert trace["texttemplate"] == "%{z:.0f} %"
    assert numbers_of(trace["z"]) == pytest.approx([100 * float(share) for share in (*ih, *hh)], abs=1e-3)
    assert max(numbers_of(trace["z"])) > min(numbers_of(trace["z"])) + 10


def test_another_model_takes_what_was_gathered_away(calibrated: AppTest) -> None:
    calibrated = go(calibrated, "experiments")
    job = calibrated.session_state.sweep = Job(endless)
    calibrated = click(go(calibrated, "open"), "open_pydocs-chars")
    assert calibrated.session_state.gathered is None
    assert wait(job).status.state == "cancelled"
    assert calibrated.session_state.consumers == []


@pytest.mark.parametrize("change", [{"consumers": []}, {"task": "regression"}], ids=["consumers", "task"])
def test_what_was_gathered_for_other_consumers_must_be_gathered_again(
    calibrated: AppTest, change: dict[str, Any]
) -> None:
    calibrated = set_to(go(calibrated, "calibrate"), **change)
    assert "Calibrate again" in calibrated.warning[0].value
    calibrated = set_to(go(calibrated, "masks"), criterion="fisher")
    assert "calibrate again" in calibrated.info[0].value
    assert not calibrated.get("plotly_chart")


@pytest.mark.parametrize("page", ["masks", "saliency"])
@pytest.mark.parametrize("criterion", ["taylor", "fisher"])
def test_without_inputs_a_criterion_leads_to_them(app: AppTest, page: str, criterion: str) -> None:
    app = set_to(go(upload(app.run(), "own.pt", saved(named(random_lstm()))), page), criterion=criterion)
    assert "scores come from inputs" in app.info[0].value
    assert "Calibrate on inputs" in [link.label for link in app.get("page_link")]


@pytest.mark.parametrize("page", ["masks", "saliency"])
def test_an_examples_own_inputs_are_gathered_unasked(example: AppTest, page: str) -> None:
    example = set_to(go(example, page), criterion="fisher")
    assert not example.info and any("own inputs, once" in text.value for text in example.caption)
    wait(example.session_state.calibrating)
    assert checked(example.run()).get("bidi_component")


def _own_model(app: AppTest) -> AppTest:
    """A model of one's own: tokens -> embedding (9, 3) -> LSTM(3 -> 4) -> head (9, 4)."""
    torch.manual_seed(1)
    tensors = {
        "embed.weight": torch.randn(9, 3),
        **named(random_lstm(), "rnn."),
        "head.weight": torch.randn(9, 4),
        "head.bias": torch.zeros(9),
    }
    return upload(app.run(), "own.pt", saved(tensors))


def _sources(app: AppTest) -> list[str]:
    control = next(control for control in app.get("button_group") if control.label == "Inputs")
    return [option.content for option in control.proto.options]


def test_inputs_can_be_sampled_only_from_a_model_that_generates(app: AppTest) -> None:
    app = go(_own_model(app), "calibrate")
    assert _sources(app) == ["A file", "Sampled from the model", "Random numbers"]
    app = go(upload(go(app, "open"), "b.pt", saved(named(random_lstm(), "b."))), "calibrate")
    assert _sources(app) == ["A file", "Random numbers"]


def test_sampling_needs_to_know_the_head(app: AppTest) -> None:
    app = set_to(go(_own_model(app), "calibrate"), inputs_from="sampled")
    assert app.session_state.embedding == "embed.weight"
    app = work(app, "Calibrate", "calibrating")
    assert "1 tensor" not in app.error[0].value and "name both" in app.error[0].value


@pytest.mark.parametrize("source", ["sampled", "gaussian"])
def test_inputs_are_made_for_a_model_of_ones_own(app: AppTest, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pruner.calibration.inputs.STREAMS", 8)
    monkeypatch.setattr("pruner.calibration.inputs.STEPS", 64)
    app = go(_own_model(app), "calibrate")
    app = set_to(app, inputs_from=source, consumers=["head.weight"], task="softmax")
    app = work(app, "Calibrate", "calibrating")
    assert not app.error
    calibration = app.session_state.gathered.calibration
    assert (calibration.source, calibration.embedding) == (source, "embed.weight" if source == "sampled" else None)
    told = next(text.value for text in app.markdown if "time steps" in text.value)
    assert ("not real inputs" in told) == (source == "gaussian")
    words = texts(app)
    assert ("These inputs are random" in words) == ("Lesson 3 measures both" not in words) == (source == "gaussian")


def test_inputs_from_a_file_are_read_and_the_upload_let_go(app: AppTest) -> None:
    app = set_to(go(_own_model(app), "calibrate"), inputs_from="file")
    values = np.random.default_rng(0).normal(size=(40, 6, 3)).astype(np.float32)
    app.file_uploader[0].upload("inputs.npy", npy(values))
    app = work(set_to(checked(app.run()), time_major=True), "Calibrate", "calibrating")
    assert not app.error
    calibration = app.session_state.gathered.calibration
    assert torch.equal(calibration.sequences["rnn"][0], torch.from_numpy(values).transpose(0, 1))
    assert app.session_state.inputs_upload == 1
    app = set_to(app, consumers=["head.weight"])
    assert "Calibrate again" in app.warning[0].value
    app = work(app, "Calibrate", "calibrating")
    assert app.session_state.gathered.calibration is calibration
    assert not app.warning and not app.error


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("inputs.npy", b"junk"),
        ("inputs.npy", npy(np.zeros((4, 5, 7), np.float32))),
        ("inputs.npy", npy(np.full((4, 5, 3), np.nan, np.float32))),
        ("inputs.csv", b"a,b\n1,x\n"),
        ("inputs.pt", b"\x80\x04cposix\nsystem\n(S'touch stolen'\ntR."),
    ],
    ids=["junk", "width", "nan", "csv", "pickle"],
)
def test_a_bad_file_of_inputs_gets_one_message(app: AppTest, name: str, content: bytes) -> None:
    app = set_to(go(_own_model(app), "calibrate"), inputs_from="file")
    app.file_uploader[0].upload(name, content)
    app = work(checked(app.run()), "Calibrate", "calibrating")
    assert len(app.error) == 1
    assert "expected" in app.error[0].value
    assert app.session_state.gathered is None


def test_no_file_of_inputs_is_said(app: AppTest) -> None:
    app = set_to(go(_own_model(app), "calibrate"), inputs_from="file")
    assert "found none" in work(app, "Calibrate", "calibrating").error[0].value


def test_sampling_refuses_what_it_cannot_read() -> None:
    checkpoint = examples.named("embedded-reber").open()
    with pytest.raises(PrunerError, match="embedding"):
        gathering.gather(checkpoint, None, gathering.Wanted("sampled"), Recipe(criterion="fisher"), lambda *_: None)
