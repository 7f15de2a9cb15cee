"""The pages Run and Export, in process through `app.py`."""

import io
import json
import zipfile

import pytest
import torch
from streamlit.testing.v1 import AppTest

from pruner.dashboard.jobs import Job
from pruner.exports.export import pack
from pruner.lstm.measure import Latency
from tests.helpers.files import saved
from tests.helpers.keras_models import dense_weights, layer, lstm_layer, lstm_weights, saved_keras, sequential
from tests.helpers.models import named, random_lstm
from tests.helpers.pages import (
    UNITS,
    button,
    checked,
    click,
    compute_here,
    endless,
    failing,
    go,
    press,
    run_to_the_end,
    set_to,
    slide,
    upload,
    wait,
    work,
)
from tests.helpers.speeds import tell


def test_a_run_shows_before_and_after_and_can_be_exported(example: AppTest) -> None:
    example = run_to_the_end(example)
    result = example.session_state.run.status.result
    table = example.dataframe[0].value.set_index("figure")
    for form, cost in result.costs.items():
        assert table.loc["Zeros in the LSTMs", form] == f"{cost.zeros:,}"
        assert table.loc["Parameters", form] == f"{cost.parameters:,}"
    assert table.loc["Strings wholly right", "dense"] == "1.0000"
    assert table.loc["Strings wholly right", "masked"] == table.loc["Strings wholly right", "compact"]
    assert table.loc["Milliseconds, batch 32", "compact"] == str(result.latency[32]["compact"])
    example = go(example, "export")
    assert "largest difference is 0" in example.success[0].value
    labels = [button.label for button in example.get("download_button")]
    assert {"manifest.json", "masks.safetensors", "pruned.safetensors", "load_pruned.py"} <= set(labels)


def test_a_layer_that_no_chosen_lstm_has_is_no_part_of_the_recipe(app: AppTest) -> None:
    tensors = named(random_lstm(), "flat.") | named(random_lstm(num_layers=2), "deep.")
    app = slide(go(upload(app.run(), "two.pt", saved(tensors)), "masks"), layers={"1": 0.2})
    app.session_state.lstms = ["flat"]
    app = run_to_the_end(checked(app.run()))
    assert app.session_state.run.status.result.recipe.layer_sparsity == {}


def test_the_code_to_load_an_export_finds_a_nested_state_dict(app: AppTest) -> None:
    data = saved({"epoch": 3, "state_dict": named(random_lstm())})
    app = go(run_to_the_end(upload(app.run(), "nested.pt", data)), "export")
    assert 'torch.load("pruned.pt", weights_only=True)["state_dict"]' in app.code[0].value


def test_units_are_exported_compact_with_their_certificate(units: AppTest) -> None:
    units = go(run_to_the_end(units), "export")
    assert "in float64" in units.success[0].value
    folder = units.session_state.export[1]["compact", None, False]
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["form"] == "compact" and manifest["certificate"]["holds"]
    assert "load_pruned" in units.code[0].value


def test_a_folded_consumer_is_named_and_the_file_loads_into_ones_own_class(app: AppTest) -> None:
    app.query_params.update({**UNITS, "consumers": "linear.weight"})
    app = checked(go(run_to_the_end(app.run()), "export"))
    assert "your own class, with hidden size 16" in app.code[0].value


def test_the_export_of_one_model_is_let_go_with_it(example: AppTest) -> None:
    example = go(run_to_the_end(example), "export")
    assert example.session_state.export is not None
    assert click(go(example, "open"), "open_pydocs-chars").session_state.export is None


def test_settings_changed_after_a_run_are_told(example: AppTest) -> None:
    example = go(run_to_the_end(example), "masks")
    example = slide(example, overall=0.1)
    for page in ("run", "export"):
        assert "changed since" in go(example, page).warning[0].value


def test_another_model_takes_the_old_result_away(example: AppTest) -> None:
    example = go(run_to_the_end(example), "open")
    example = go(click(example, "open_pydocs-chars"), "export")
    assert "nothing to export" in example.info[0].value


def test_every_cuda_device_is_offered(example: AppTest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"GPU {index}")
    example = go(example, "run")
    device = next(control for control in example.get("button_group") if control.label == "Device")
    assert [option.content for option in device.proto.options] == ["CPU", "GPU 0", "GPU 1"]


def test_a_compensated_run_shows_every_step_and_its_inputs(calibrated: AppTest) -> None:
    calibrated = set_to(go(calibrated, "masks"), granularity="units")
    calibrated = set_to(calibrated, criterion="obs", compensation="fold", round_to=1)
    calibrated = work(go(calibrated, "run"), "Run", "run")
    sentence = next(text.value for text in calibrated.markdown if text.value.startswith("Drop"))
    assert "brain surgeon score" in sentence and "takes over" in sentence
    steps = calibrated.session_state.run.status.result.compensation.facts["lstms"][0]["steps"]
    table = next(frame.value for frame in calibrated.dataframe if "step" in frame.value)
    assert list(table["step"]) == [step["name"] for step in steps] == ["fold"]
    assert list(table["loss after"]) == [step["after"] for step in steps]
    assert list(table["kept"]) == [True]
    assert any("held back" not in text.value and "training strings" in text.value for text in calibrated.caption)
    assert any("Loss on inputs that were held back" in text.value for text in calibrated.caption)
    calibrated = go(calibrated, "export")
    assert any("Compensated with the example’s own inputs" in text.value for text in calibrated.markdown)


def test_a_run_without_inputs_drifts_on_random_ones(example: AppTest) -> None:
    example = work(go(example, "run"), "Run", "run")
    assert any("Output drift on random inputs" in text.value for text in example.caption)
    assert not any("Compensated" in text.value for text in go(example, "export").markdown)


def test_a_ruined_model_is_called_so_before_anyone_takes_it_away(units: AppTest) -> None:
    units = run_to_the_end(units)
    assert units.error[0].proto.title == "Ruined"
    assert (
        "Strings wholly right 1 before" in units.error[0].value
        or "strings wholly right 1 before" in units.error[0].value
    )
    units = go(units, "export")
    assert units.error[0].proto.title == "Ruined"


def test_what_nobody_can_judge_is_called_unknown(app: AppTest) -> None:
    app = run_to_the_end(upload(app.run(), "model.pt", saved(named(random_lstm()))))
    assert app.info[0].proto.title == "Unknown"


def test_a_model_that_answers_as_before_is_kept(app: AppTest) -> None:
    app.query_params.update({**UNITS, "sparsity": "0"})
    app = run_to_the_end(app.run())
    assert app.success[0].proto.title == "Kept"


def test_what_the_file_does_not_say_the_visitor_can(app: AppTest) -> None:
    app = go(run_to_the_end(upload(app.run(), "model.pt", saved(named(random_lstm(), "rnn.")))), "export")
    asked = next(control for control in app.get("button_group") if control.label == "How rnn reads inputs")
    assert [option.content for option in asked.proto.options] == [
        "Batches first (N, T, I)",
        "Time steps first (T, N, I)",
    ]
    assert any("batch_first=False)  # True, if yours" in code.value for code in app.code)
    app = set_to(app, batch_first=True)
    assert not any("batch_first" in code.value for code in app.code)
    folder = app.session_state.export[1]["masked", True, False]
    assert json.loads((folder / "manifest.json").read_text())["learned"] == {"rnn": {"batch_first": True}}
    assert not any(
        control.label.startswith("How")
        for control in go(click(go(app, "open"), "open_embedded-reber"), "export").get("button_group")
    )


def test_the_page_shows_the_lines_of_the_readme(units: AppTest) -> None:
    units = go(run_to_the_end(units), "export")
    (folder,) = units.session_state.export[1].values()
    text = (folder / "README.md").read_text()
    assert all(f"```python\n{code.value}\n```" in text for code in units.code[:-1])
    labels = [button.label for button in units.get("download_button")]
    assert {"README.md", "example.py"} <= set(labels)


def test_onnx_files_are_added_on_demand(units: AppTest) -> None:
    units = go(run_to_the_end(units), "export")
    assert not any(".onnx" in label for label in downloads(units))
    units = switch(units, "ONNX files, too")
    assert {"pruned.onnx", "pruned.int8.onnx"} < set(downloads(units))
    told = next(each.value for each in units.info if "ONNX Runtime" in each.value)
    assert told.count("differs from the pruned model by at most") == 2 and told.count("strings wholly right") == 2
    folder = units.session_state.export[1]["compact", None, True]
    with zipfile.ZipFile(io.BytesIO(pack(folder))) as archive:
        assert {"pruned.onnx", "pruned.int8.onnx", "pruned.safetensors"} < set(archive.namelist())
    assert "load_pruned" in units.code[0].value
    assert any("pruned.int8.onnx" in code.value for code in units.code)


def test_why_there_are_no_onnx_files_is_told(app: AppTest) -> None:
    app = upload(app.run(), "model.pt", saved(named(random_lstm(proj_size=2), "encoder.")))
    app = switch(go(run_to_the_end(app), "export"), "ONNX files, too")
    assert any("without projection" in each.value and "encoder" in each.value for each in app.info)
    assert "pruned.pt" in downloads(app) and not any(".onnx" in label for label in downloads(app))


def test_a_keras_model_comes_back_as_one(app: AppTest) -> None:
    model = sequential(lstm_layer("rec", 8, return_sequences=False), layer("Dense", "head", units=2))
    weights = {"layers/lstm/cell": lstm_weights(3, 8), "layers/dense": dense_weights(8, 2)}
    app = upload(app.run(), "model.keras", saved_keras(model, weights))
    app = checked(go(run_to_the_end(set_to(go(app, "masks"), granularity="units")), "export"))
    assert {"pruned.keras", "pruned.pt"} <= set(downloads(app))
    assert any('keras.saving.load_model("pruned.keras")' in code.value for code in app.code)
    assert any(each.value.endswith("the pruned model, as Keras saves it") for each in app.caption)
    assert any("the states of the optimizer" in each.value for each in app.info)


def downloads(app: AppTest) -> list[str]:
    return [button.label for button in app.get("download_button")]


def switch(app: AppTest, label: str) -> AppTest:
    next(each for each in app.toggle if each.label == label).set_value(True)
    return checked(app.run())


def test_a_run_is_timed_when_it_is_asked_for(units: AppTest, monkeypatch: pytest.MonkeyPatch) -> None:
    compute_here(monkeypatch)
    timed = tell(monkeypatch)
    units = run_to_the_end(units)
    assert timed == [] and not any("model" in frame.value for frame in units.dataframe)
    units = work(units, "Time it", "timing")
    table = next(frame.value for frame in units.dataframe if "model" in frame.value).set_index("model")
    assert list(table.index) == timed and len(timed) == 6
    assert list(table["batch 32, 2 threads"]) == ["1.0×", "2.0×", "4.0×", "2.0×", "4.0×", "8.0×"]
    assert table.loc["dense, PyTorch", "strings wholly right"] == "1.0000"
    units = run_to_the_end(units)
    assert units.session_state.timing is None and not any("model" in frame.value for frame in units.dataframe)


def test_a_busy_machine_is_told_in_place_of_figures(units: AppTest, monkeypatch: pytest.MonkeyPatch) -> None:
    compute_here(monkeypatch)
    tell(monkeypatch, busy=True)
    units = work(run_to_the_end(units), "Time it", "timing")
    table = next(frame.value for frame in units.dataframe if "model" in frame.value).set_index("model")
    assert table.loc["compact, PyTorch", "batch 1, 1 thread"] == "too noisy to tell"
    assert any("other work on this machine" in text.value for text in units.caption)


def test_timing_that_fails_or_is_cancelled_leaves_the_rest_of_the_page(units: AppTest) -> None:
    units = run_to_the_end(units)
    units.session_state.timing = wait(Job(failing))
    units = checked(units.run())
    assert units.error[-1].proto.title == "The time could not be measured"
    units.session_state.timing = Job(endless)
    units = checked(units.run())
    assert any("Export it" in link.proto.label for link in units.get("page_link"))
    units = press(units, "Cancel")
    wait(units.session_state.timing)
    assert not button(checked(units.run()), "Time it").disabled


@pytest.mark.parametrize(("faster", "value", "delta"), [(3.14, "3.1×", ""), (None, "–", "too noisy to tell")])
def test_the_speed_of_a_run_is_a_figure_or_words(units: AppTest, faster: float | None, value: str, delta: str) -> None:
    units = run_to_the_end(units)
    result = units.session_state.run.status.result
    result.latency[1]["compact"] = Latency(1.0, 0.9, 1.1, faster)
    speed = next(metric for metric in checked(units.run()).metric if metric.label == "Speed")
    assert (speed.value, speed.delta) == (value, delta)
