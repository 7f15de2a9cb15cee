"""The pages, run in process through `app.py`."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from streamlit.testing.v1 import AppTest

from pruner import PrunerError, Recipe, examples
from pruner.dashboard.jobs import Job
from pruner.dashboard.text import plain
from pruner.lessons import LESSONS
from pruner.result import choose_masks
from tests.helpers.models import named, random_lstm
from tests.helpers.project import PROJECT

STUDIO = [  # in the order of the journey, after the page that opens a model
    "overview",
    "saliency",
    "unit",
    "weights",
    "calibrate",
    "masks",
    "compare",
    "run",
    "sweep",
    "sensitivity",
    "export",
]
PAGES = {page: f"pages/{page}.py" for page in ("open", *STUDIO)}
LEARN = {"learn", *(lesson.path for lesson in LESSONS)}


@pytest.fixture
def app() -> AppTest:
    return AppTest.from_file(str(PROJECT / "app.py"), default_timeout=60)


@pytest.fixture
def example(app: AppTest) -> AppTest:
    """The dashboard with the grammar example open."""
    return _click(app.run(), "open_embedded-reber")


def _click(app: AppTest, key: str) -> AppTest:
    app.button(key=key).click()
    return _checked(app.run())


def _go(app: AppTest, page: str) -> AppTest:
    return _checked(app.switch_page(PAGES[page]).run())


def _in_detail(app: AppTest) -> AppTest:
    """The page Masks with the sliders and fields of layers and gates, which are made only while they are open."""
    return _kept_open(_go(app, "masks"))


def _kept_open(app: AppTest) -> AppTest:
    """Run the page Masks with its details open: `AppTest` does not send back that they are, as a browser does."""
    app.session_state.details = True
    return _checked(app.run())


def _checked(app: AppTest) -> AppTest:
    assert not app.exception, app.exception[0].stack_trace
    return app


def _upload(app: AppTest, name: str, data: bytes) -> AppTest:
    app.file_uploader[0].upload(name, data)
    return _checked(app.run())


def _saved(tensors: dict[str, Any], path: Path) -> bytes:
    torch.save(tensors, path)
    return path.read_bytes()


def _metrics(app: AppTest) -> dict[str, str]:
    return {metric.label: metric.value for metric in app.metric}


def _run_to_the_end(app: AppTest) -> AppTest:
    app = _go(app, "run")
    next(button for button in app.button if button.label == "Run").click()
    app.run()
    _wait(app.session_state.job)
    return _checked(app.run())


def test_there_is_a_page_for_every_step_of_the_journey_and_every_lesson() -> None:
    assert {page.stem for page in (PROJECT / "pages").glob("*.py")} == {*PAGES, *LEARN}
    assert not [entry for entry in (PROJECT / "pages").iterdir() if entry.is_dir() and entry.name != "__pycache__"]


@pytest.mark.parametrize("page", STUDIO)
def test_without_a_model_a_page_says_what_to_do(app: AppTest, page: str) -> None:
    app = _go(app.run(), page)
    assert "Open an example" in app.info[0].value


@pytest.mark.parametrize("name", examples.EXAMPLES)
def test_one_click_opens_an_example(app: AppTest, name: str) -> None:
    app = _click(app.run(), f"open_{name}")
    found = app.dataframe[0].value
    lstm = examples.named(name).open().lstms[0]
    assert list(found["hidden size"]) == [lstm.hidden_size]
    assert list(found["parameters"]) == [lstm.parameters]


def sent_to_the_canvas(app: AppTest) -> tuple[dict[str, Any], bytes]:
    """Header and arrays of the message to the gate canvas."""
    data = app.get("bidi_component")[0].proto.bytes
    length = int.from_bytes(data[:4], "little")
    return json.loads(data[4 : 4 + length]), data[4 + length :]


@pytest.mark.parametrize("page", ["saliency", "masks"])
def test_every_row_of_the_example_is_drawn(example: AppTest, page: str) -> None:
    header, arrays = sent_to_the_canvas(_go(example, page))
    assert header["blocks"] == ["ii", "if", "ig", "io", "hi", "hf", "hg", "ho"]
    weight = examples.named("embedded-reber").open().tensors["lstm.weight_ih_l0"]
    sent = np.frombuffer(arrays, np.float32, 4 * 32)
    assert np.allclose(sent, weight.abs().sum(1).numpy(), rtol=1e-6)


def test_masks_show_what_the_library_chooses(example: AppTest) -> None:
    example = _in_detail(example)
    example.slider(key="sparsity").set_value(0.3)
    example.number_input(key="gate_ig").set_value(0.75)
    example = _checked(example.run())
    checkpoint = examples.named("embedded-reber").open()
    masks = choose_masks(checkpoint, Recipe(sparsity=0.3, gate_sparsity={"ig": 0.75}))
    dropped = sum(int((~mask).sum()) for mask in masks.values())
    assert _metrics(example)["Rows dropped, of 256"] == f"{dropped:,}"
    assert list(example.dataframe[0].value["rows dropped"]) == [9, 9, 24, 9]


def test_lowering_the_sparsity_brings_rows_back(example: AppTest) -> None:
    example = _go(example, "masks")
    for sparsity in (0.9, 0.0):
        example.slider(key="sparsity").set_value(sparsity)
        example = _checked(example.run())
    assert _metrics(example)["Rows dropped, of 256"] == "0"


def test_overrides_are_reset_together(example: AppTest) -> None:
    example = _in_detail(example)
    example.number_input(key="gate_hf").set_value(0.1)
    example.number_input(key="layer_0").set_value(0.2)
    example = _kept_open(example)
    assert example.session_state.gate_hf == 0.1
    next(button for button in example.button if button.label.startswith("Reset")).click()
    example = _kept_open(example)
    assert example.session_state.gate_hf is None
    assert example.session_state.layer_0 is None


def test_settings_outlive_their_page(example: AppTest) -> None:
    example = _in_detail(example)
    example.slider(key="sparsity").set_value(0.25)
    example.number_input(key="gate_hf").set_value(0.1)
    example = _in_detail(_go(_checked(example.run()), "run"))
    assert example.slider(key="sparsity").value == 0.25
    assert example.number_input(key="gate_hf").value == 0.1


def test_a_link_opens_example_recipe_and_view(app: AppTest) -> None:
    app.query_params.update(
        {"example": "pydocs-chars", "sparsity": "0.3", "gates": "hf:0.1", "layers": "1:0.4", "layer": "1", "side": "hh"}
    )
    app = _in_detail(app.run())
    assert app.slider(key="sparsity").value == 0.3
    assert app.number_input(key="gate_hf").value == 0.1
    assert app.number_input(key="layer_1").value == 0.4
    assert any(plain("lstm.weight_hh_l1") in caption.value for caption in app.caption)
    assert list(app.dataframe[0].value["gate"]) == ["hi (input)", "hf (forget)", "hg (cell)", "ho (output)"]


def test_a_link_opens_the_weights_of_its_gate(app: AppTest) -> None:
    app.query_params.update({"example": "embedded-reber", "side": "hh", "shown_gate": "o"})
    app = _checked(_go(app.run(), "weights"))
    assert any("Gate **ho (output)**" in text.value for text in app.markdown)
    app.session_state.shown_gate = "i"
    app = _checked(app.run())
    assert "shown_gate" not in app.query_params


@pytest.mark.parametrize(
    "params",
    [
        {"example": "no-such"},
        {"example": "embedded-reber", "sparsity": "much"},
        {"example": "embedded-reber", "sparsity": "7"},
        {"example": "embedded-reber", "criterion": "best"},
        {"example": "embedded-reber", "gates": ["xx:1", "::"]},
        {"example": "embedded-reber", "layers": "9:0.1"},
        {
            "example": "embedded-reber",
            "lstm": "other",
            "layer": "7",
            "direction": "up",
            "side": "zz",
            "shown_gate": "x",
        },
        {"example": "embedded-reber", "lstms": ["none"]},
        {"example": "embedded-reber", "granularity": "whole"},
        {"example": "embedded-reber", "granularity": "units", "allocation": "fair"},
        {"example": "embedded-reber", "granularity": "units", "round_to": "-1"},
        {"example": "embedded-reber", "granularity": "units", "consumers": "linear.bias"},
        {"example": "embedded-reber", "round_to": "inf"},
        {"example": "embedded-reber", "round_to": "nan"},
    ],
    ids=lambda params: ",".join(params) + f"={list(params.values())[-1]}",
)
def test_a_link_that_fits_nothing_is_harmless(app: AppTest, params: dict[str, Any]) -> None:
    app.query_params.update(params)
    app = _checked(app.run())
    assert app.session_state.sparsity == 0.5


def test_the_link_follows_the_controls(example: AppTest) -> None:
    example = _in_detail(example)
    example.slider(key="sparsity").set_value(0.3)
    example.number_input(key="gate_hf").set_value(0.1)
    example = _checked(example.run())
    assert dict(example.query_params) == {"example": "embedded-reber", "sparsity": "0.3", "gates": "hf:0.1"}


def test_a_dropped_checkpoint_is_opened_and_the_upload_let_go(app: AppTest, tmp_path: Path) -> None:
    lstm = random_lstm(num_layers=2, bidirectional=True)
    app = _upload(app.run(), "encoder.bin", _saved(named(lstm, "encoder."), tmp_path / "any"))
    assert app.session_state.checkpoint.lstms[0].name == "encoder"
    assert app.session_state.upload == 1
    assert "example" not in app.query_params
    app = _go(app, "saliency")
    assert {control.label for control in app.get("button_group")} >= {"Layer", "Direction", "Packed weight"}


@pytest.mark.parametrize(
    "data", [b"", b"\x80\x04junk", b"<html>", b"PK\x03\x04"], ids=["empty", "pickle", "html", "zip"]
)
def test_a_file_that_cannot_be_read_gets_one_message_and_changes_nothing(example: AppTest, data: bytes) -> None:
    example = _upload(example, "model.pt", data)
    assert len(example.error) == 1
    assert "expected" in example.error[0].value
    assert example.session_state.example == "embedded-reber"


def test_a_file_without_an_lstm_says_what_it_holds(app: AppTest, tmp_path: Path) -> None:
    app = _upload(app.run(), "gru.pt", _saved(named(torch.nn.GRU(3, 4), "rnn."), tmp_path / "any"))
    assert "GRU" in app.warning[0].value
    assert "GRU" in _go(app, "masks").warning[0].value


def test_weights_that_are_not_finite_are_named(app: AppTest, tmp_path: Path) -> None:
    tensors = named(random_lstm(), "rnn.")
    tensors["rnn.weight_hh_l0"][2, 1] = float("nan")
    app = _upload(app.run(), "broken.pt", _saved(tensors, tmp_path / "any"))
    for page in ("saliency", "masks"):
        assert plain("rnn.weight_hh_l0") in _go(app, page).error[0].value


def test_paths_are_offered_only_when_started_for_local_use(app: AppTest, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not app.run().text_input
    monkeypatch.setattr("sys.argv", ["app.py", "--local-files"])
    app = _checked(app.run())
    app.text_input(key="path").set_value(str(examples.named("embedded-reber").file))
    app.form_submit_button[0].click()
    app = _checked(app.run())
    assert app.session_state.checkpoint.lstms[0].hidden_size == 32


def test_a_run_shows_before_and_after_and_can_be_exported(example: AppTest) -> None:
    example = _run_to_the_end(example)
    result = example.session_state.job.status.result
    table = example.dataframe[0].value.set_index("figure")
    for form, cost in result.costs.items():
        assert table.loc["Zeros in the LSTMs", form] == f"{cost.zeros:,}"
        assert table.loc["Parameters", form] == f"{cost.parameters:,}"
    assert table.loc["Strings wholly right", "dense"] == "1.0000"
    assert table.loc["Strings wholly right", "masked"] == table.loc["Strings wholly right", "compact"]
    assert float(table.loc["Milliseconds, batch 32", "compact"].partition(" ")[0]) > 0
    example = _go(example, "export")
    assert "largest difference is 0" in example.success[0].value
    labels = [button.label for button in example.get("download_button")]
    assert {"manifest.json", "masks.safetensors", "pruned.safetensors", "load_pruned.py"} <= set(labels)


def test_a_layer_that_no_chosen_lstm_has_is_no_part_of_the_recipe(app: AppTest, tmp_path: Path) -> None:
    tensors = named(random_lstm(), "flat.") | named(random_lstm(num_layers=2), "deep.")
    app = _in_detail(_upload(app.run(), "two.pt", _saved(tensors, tmp_path / "any")))
    app.number_input(key="layer_1").set_value(0.2)
    app = _checked(app.run())
    app.session_state.lstms = ["flat"]
    app = _run_to_the_end(_checked(app.run()))
    assert app.session_state.job.status.result.recipe.layer_sparsity == {}


def test_the_code_to_load_an_export_finds_a_nested_state_dict(app: AppTest, tmp_path: Path) -> None:
    data = _saved({"epoch": 3, "state_dict": named(random_lstm())}, tmp_path / "any")
    app = _go(_run_to_the_end(_upload(app.run(), "nested.pt", data)), "export")
    assert "torch.load(\"pruned.pt\", weights_only=True)['state_dict']" in app.code[0].value


UNITS = {"example": "embedded-reber", "granularity": "units", "sparsity": "0.5", "round_to": "1"}


@pytest.fixture
def units(app: AppTest) -> AppTest:
    app.query_params.update(UNITS)
    return _checked(app.run())


def test_a_link_opens_a_recipe_of_units(app: AppTest) -> None:
    recipe = {"allocation": "global", "criterion": "group", "consumers": "linear.weight", "round_to": "8"}
    app.query_params.update({**UNITS, **recipe})
    app = _checked(_go(app.run(), "masks"))
    found = app.session_state
    assert (found.granularity, found.allocation, found.criterion, found.round_to) == ("units", "global", "group", 8)
    for key, value in recipe.items():
        assert app.query_params[key] in (value, [value]), key


def test_whole_units_fall_and_agree(units: AppTest) -> None:
    units = _checked(_go(units, "masks"))
    assert _metrics(units)["Removable, of 32"] == "16"
    spec = json.loads(units.get("plotly_chart")[0].proto.spec)
    assert [trace["name"] for trace in spec["data"][1:]] == ["dropped by all: 16", "mixed: 0", "kept by all: 16"]
    assert any("**16 of 32** units" in text.value for text in units.markdown)


def test_agreement_counts_what_rows_would_leave(example: AppTest) -> None:
    example = _checked(_go(example, "masks"))
    masks = choose_masks(examples.named("embedded-reber").open(), Recipe(0.5))
    keeping = torch.stack([mask.view(4, 32).sum(0) for mask in masks.values()]).sum(0)
    spec = json.loads(example.get("plotly_chart")[1].proto.spec)
    names = [trace["name"] for trace in spec["data"][1:]]
    assert names[0] == f"dropped by all: {int((keeping == 0).sum())}"
    assert names[2] == f"kept by all: {int((keeping == 8).sum())}"


def test_units_are_rounded_as_suggested_when_first_chosen(example: AppTest) -> None:
    example = _go(example, "masks")
    example.slider(key="sparsity").set_value(0.6)
    example.session_state.granularity = "units"
    example = _checked(example.run())
    assert example.session_state.round_to == 16
    assert _metrics(example)["Removable, of 32"] == "16"


def test_units_are_exported_compact_with_their_certificate(units: AppTest) -> None:
    units = _checked(_go(_run_to_the_end(units), "export"))
    assert "in float64" in units.success[0].value
    folder = units.session_state.export[1]["compact"]
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["form"] == "compact" and manifest["certificate"]["holds"]
    assert "load_pruned" in units.code[0].value


def test_a_folded_consumer_is_named_and_the_file_loads_into_ones_own_class(app: AppTest) -> None:
    app.query_params.update({**UNITS, "consumers": "linear.weight"})
    app = _checked(_go(_run_to_the_end(app.run()), "export"))
    assert "your own class, with hidden size 16" in app.code[0].value


def test_the_export_of_one_model_is_let_go_with_it(example: AppTest) -> None:
    example = _go(_run_to_the_end(example), "export")
    assert example.session_state.export is not None
    assert _click(_go(example, "open"), "open_pydocs-chars").session_state.export is None


def test_a_run_can_be_cancelled_from_its_page(example: AppTest) -> None:
    example.session_state.job = Job(_endless)
    example = _go(example, "run")
    assert next(button for button in example.button if button.label == "Run").disabled
    next(button for button in example.button if button.label == "Cancel").click()
    example.run()
    _wait(example.session_state.job)
    assert "cancelled" in _checked(example.run()).info[0].value


def test_opening_another_model_ends_a_run(example: AppTest) -> None:
    job = example.session_state.job = Job(_endless)
    _click(example, "open_pydocs-chars")
    assert _wait(job).status.state == "cancelled"


def test_a_run_that_fails_says_why(example: AppTest) -> None:
    example.session_state.job = _wait(Job(_failing))
    assert _go(example, "run").error[0].value == "expected \\*more\\*"


def _endless(progress: Any) -> Any:
    while True:
        progress(0.5, "working")
        time.sleep(0.01)


def _failing(progress: Any) -> Any:
    raise PrunerError("expected *more*")


def test_names_in_a_file_are_no_markdown(app: AppTest, tmp_path: Path) -> None:
    picture = "![x](https://example.org/x.png)"
    app = _upload(app.run(), f"{picture}.pt", _saved(named(random_lstm(), f"{picture}."), tmp_path / "any"))
    texts = []
    for page in PAGES:
        app = _go(app, page)
        texts += [element.value for element in (*app.markdown, *app.caption, *app.subheader)]
    assert any("example" in text for text in texts)
    assert not any("](https" in text for text in texts)


def test_settings_changed_after_a_run_are_told(example: AppTest) -> None:
    example = _go(_run_to_the_end(example), "masks")
    example.slider(key="sparsity").set_value(0.1)
    example = _checked(example.run())
    for page in ("run", "export"):
        assert "changed since" in _go(example, page).warning[0].value


def test_another_model_takes_the_old_result_away(example: AppTest) -> None:
    example = _go(_run_to_the_end(example), "open")
    example = _go(_click(example, "open_pydocs-chars"), "export")
    assert "nothing to export" in example.info[0].value


def test_every_cuda_device_is_offered(example: AppTest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"GPU {index}")
    example = _go(example, "run")
    device = next(control for control in example.get("button_group") if control.label == "Device")
    assert [option.content for option in device.proto.options] == ["CPU", "GPU 0", "GPU 1"]


def test_a_recipe_is_loaded_into_the_controls(example: AppTest) -> None:
    recipe = Recipe(sparsity=0.2, criterion="l2", gate_sparsity={"hg": 0.4}, layer_sparsity={0: 0.1})
    example = _upload(_in_detail(example), "recipe.json", recipe.to_json().encode())
    example = _kept_open(example)
    assert example.slider(key="sparsity").value == 0.2
    assert example.number_input(key="gate_hg").value == 0.4
    assert example.number_input(key="layer_0").value == 0.1
    assert example.session_state.criterion == "l2"


@pytest.mark.parametrize(
    "text", ["no json", "[]", '{"sparsity": 2}', '{"layer_sparsity": {"5": 0.1}}', '{"lstms": ["other"]}']
)
def test_a_recipe_that_does_not_fit_changes_nothing(example: AppTest, text: str) -> None:
    example = _upload(_go(example, "masks"), "recipe.json", text.encode())
    assert len(example.error) == 1
    assert example.slider(key="sparsity").value == 0.5


def test_only_chosen_lstms_are_pruned(app: AppTest, tmp_path: Path) -> None:
    tensors = named(random_lstm(), "a.") | named(random_lstm(hidden_size=5), "b.")
    app = _go(_upload(app.run(), "two.pt", _saved(tensors, tmp_path / "any")), "masks")
    app.session_state.lstms = ["b"]
    app = _checked(app.run())
    assert _metrics(app)["Rows dropped, of 40"] == "16"
    assert "left as it is" in app.info[0].value


def test_a_job_tells_how_far_it_is() -> None:
    job = Job(_endless)
    while job.status.fraction == 0:
        time.sleep(0.01)
    assert (job.status.state, job.status.fraction, job.status.what) == ("running", 0.5, "working")
    job.cancel()
    assert _wait(job).status.state == "cancelled"


def _wait(job: Job) -> Job:
    deadline = time.monotonic() + 30
    while job.status.state == "running":
        assert time.monotonic() < deadline, "the job does not end"
        time.sleep(0.01)
    return job
