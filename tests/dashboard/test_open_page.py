"""The page Open, in process through `app.py`."""

import json

import numpy as np
import pytest
import torch
from streamlit.testing.v1 import AppTest

from pruner import PrunerError, examples, open_checkpoint
from pruner.dashboard import declined
from pruner.dashboard.text import plain
from tests.helpers.files import saved
from tests.helpers.keras_models import layer, lstm_layer, lstm_weights, saved_h5, sequential
from tests.helpers.models import named, random_lstm
from tests.helpers.pages import checked, click, go, press, sent_to_the_canvas, texts, upload

ONE_LAYER = saved_h5(
    sequential(layer("InputLayer", "in", batch_shape=[None, 7, 3]), lstm_layer("lstm", 4, return_sequences=False)),
    {"lstm/lstm": lstm_weights(3, 4)},
)


def test_the_door_shows_an_example_until_a_model_is_open(app: AppTest) -> None:
    header, arrays = sent_to_the_canvas(app.run())
    assert (header["hidden"], header["sliders"]["heard"], app.session_state.checkpoint) == (32, False, None)
    weight = examples.named("embedded-reber").open().tensors["lstm.weight_ih_l0"]
    assert np.allclose(np.frombuffer(arrays, np.float32, 4 * 32), weight.abs().sum(1).numpy(), rtol=1e-6)
    assert [counts[0] for counts in header["counts"][:101:25]] == [0, 8, 16, 24, 32]
    app = click(app, "open_pydocs-chars")
    assert sent_to_the_canvas(app)[0]["hidden"] == 256


@pytest.mark.parametrize(("door", "title"), [("Look inside", "Overview"), ("Make it smaller", "Shrink")])
def test_doors_lead_into_the_model_that_is_shown(app: AppTest, door: str, title: str) -> None:
    app = press(app.run(), door)
    assert (app.title[0].value, app.session_state.example) == (title, "embedded-reber")


def test_doors_keep_the_model_that_is_open(app: AppTest) -> None:
    app = press(upload(app.run(), "own.pt", saved(named(random_lstm()))), "Look inside")
    assert (app.title[0].value, app.session_state.checkpoint.name) == ("Overview", "own.pt")


@pytest.mark.parametrize("name", examples.EXAMPLES)
def test_one_click_opens_an_example(app: AppTest, name: str) -> None:
    app = click(app.run(), f"open_{name}")
    found = app.dataframe[0].value
    lstm = examples.named(name).open().lstms[0]
    assert list(found["hidden size"]) == [lstm.hidden_size]
    assert list(found["parameters"]) == [lstm.parameters]


def test_a_dropped_checkpoint_is_opened_and_the_upload_let_go(app: AppTest) -> None:
    lstm = random_lstm(num_layers=2, bidirectional=True)
    app = upload(app.run(), "encoder.bin", saved(named(lstm, "encoder.")))
    assert app.session_state.checkpoint.lstms[0].name == "encoder"
    assert app.session_state.model_upload == 1
    assert "example" not in app.query_params
    app = go(app, "saliency")
    assert {control.label for control in app.get("button_group")} >= {"Layer", "Direction", "Packed weight"}


@pytest.mark.parametrize(
    "data", [b"", b"\x80\x04junk", b"<html>", b"PK\x03\x04"], ids=["empty", "pickle", "html", "zip"]
)
def test_a_file_that_cannot_be_read_gets_one_message_and_changes_nothing(example: AppTest, data: bytes) -> None:
    example = upload(example, "model.pt", data)
    assert len(example.error) == 1
    assert "expected" in example.error[0].value
    assert example.code[0].value == 'torch.save(model.state_dict(), "weights.pt")'
    assert example.session_state.example == "embedded-reber"


@pytest.mark.parametrize(
    ("beginning", "line", "language"),
    [
        (b"\x93NUMPY", "numpy.savez(", "python"),
        (b"version https://git-lfs", "git lfs pull", "bash"),
        (b"\x1f\x8b", "tar -xf", "bash"),
        (b"    TFL3", "model.save(", "python"),
        (b"nothing known", "torch.save(", "python"),
    ],
    ids=["array", "pointer", "archive", "lite", "unknown"],
)
def test_a_declined_file_comes_with_the_line_that_its_message_recommends(
    beginning: bytes, line: str, language: str
) -> None:
    with pytest.raises(PrunerError) as declining:
        open_checkpoint(beginning + bytes(64), "model.bin")
    found = declined.to_open_it(str(declining.value))
    assert found[0].startswith(line) and found[1] == language


def test_a_command_to_copy_is_safe_whatever_a_file_is_called() -> None:
    assert declined.to_see_what_is_in_it("a.pt") == "python -m pruner inspect a.pt --tensors"
    assert "'$(touch x); a.pt'" in declined.to_see_what_is_in_it("$(touch x); a.pt")


def test_a_file_without_an_lstm_says_what_it_holds_and_how_to_see_it(app: AppTest) -> None:
    app = upload(app.run(), "gru.pt", saved(named(torch.nn.GRU(3, 4), "rnn.")))
    assert "GRU" in app.warning[0].value
    assert app.code[0].value == "python -m pruner inspect gru.pt --tensors"
    assert "GRU" in go(app, "masks").info[0].value


def test_weights_that_are_not_finite_are_named(app: AppTest) -> None:
    tensors = named(random_lstm(), "rnn.")
    tensors["rnn.weight_hh_l0"][2, 1] = float("nan")
    app = upload(app.run(), "broken.pt", saved(tensors))
    assert plain("rnn.weight_hh_l0") in app.warning[0].value
    for page in ("saliency", "masks"):
        assert plain("rnn.weight_hh_l0") in go(app, page).error[0].value


def test_paths_are_offered_only_when_started_for_local_use(app: AppTest, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not app.run().text_input
    monkeypatch.setattr("sys.argv", ["app.py", "--local-files"])
    app = checked(app.run())
    app.text_input(key="path").set_value(str(examples.named("embedded-reber").file))
    app.form_submit_button[0].click()
    app = checked(app.run())
    assert app.session_state.checkpoint.lstms[0].hidden_size == 32


def test_an_lstm_by_hand_is_opened_with_a_mapping(app: AppTest) -> None:
    weights = dict(random_lstm().state_dict())
    by_hand = {
        f"cell.{name}": weights[f"weight_{side}_l0"] for name, side in (("x2h.weight", "ih"), ("h2h.weight", "hh"))
    }
    app = upload(app.run(), "model.pt", saved(by_hand))
    assert "Written by hand?" in texts(app)
    app.text_area(key="mapping").set_value("{}")
    app = checked(press(app, "Open with this mapping"))
    assert "expected an object of names in a mapping" in app.error[0].value
    right = {"lstm.weight_ih_l0": "cell.x2h.weight", "lstm.weight_hh_l0": "cell.h2h.weight"}
    app.text_area(key="mapping").set_value(json.dumps(right))
    app = checked(press(app, "Open with this mapping"))
    (lstm,) = app.session_state.checkpoint.lstms
    assert (lstm.name, lstm.input_size, lstm.hidden_size) == ("lstm", 3, 4)
    assert "Written by hand?" not in texts(app)


def test_what_a_file_says_beside_its_weights_is_shown(app: AppTest) -> None:
    app = upload(app.run(), "model.h5", ONE_LAYER)
    assert "Its last output is used" in texts(app)
