"""The pages Overview, Unit and Weights, run in process through `app.py`."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from streamlit.testing.v1 import AppTest

from pruner import examples
from pruner.lstm.gates import ALL_BLOCKS
from tests.helpers.models import named, random_lstm
from tests.helpers.project import PROJECT
from tests.helpers.real_files import real_checkpoints

PAGES = ("overview", "unit", "weights")
FORMS: dict[str, dict[str, Any]] = {
    "both directions": {"num_layers": 2, "bidirectional": True},
    "projection": {"num_layers": 2, "bidirectional": True, "proj_size": 2},
    "no bias": {"bias": False},
    "bfloat16": {"dtype": torch.bfloat16},
}


@pytest.fixture
def app() -> AppTest:
    return AppTest.from_file(str(PROJECT / "app.py"), default_timeout=60)


@pytest.fixture
def example(app: AppTest) -> AppTest:
    """The dashboard with the grammar example open."""
    app.query_params["example"] = "embedded-reber"
    return _checked(app.run())


def _checked(app: AppTest) -> AppTest:
    assert not app.exception, app.exception[0].stack_trace
    return app


def _go(app: AppTest, page: str) -> AppTest:
    return _checked(app.switch_page(f"pages/{page}.py").run())


def _opened(app: AppTest, tensors: dict[str, Any], path: Path) -> AppTest:
    torch.save(tensors, path)
    app.run().file_uploader[0].upload("model.pt", path.read_bytes())
    return _checked(app.run())


def _texts(app: AppTest) -> str:
    return "\n".join(element.value for element in [*app.markdown, *app.caption])


def _figure(app: AppTest, index: int = 0) -> dict[str, Any]:
    return json.loads(app.get("plotly_chart")[index].proto.spec)


@pytest.mark.parametrize("page", PAGES)
def test_without_a_model_a_page_says_what_to_do(app: AppTest, page: str) -> None:
    assert "Open an example" in _go(app.run(), page).info[0].value


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_lstm_can_be_seen(app: AppTest, tmp_path: Path, form: str) -> None:
    app = _opened(app, named(random_lstm(**FORMS[form]), "net."), tmp_path / "model.pt")
    settings = FORMS[form]
    directions = 2 if settings.get("bidirectional") else 1
    app = _go(app, "overview")
    assert len(app.dataframe[1].value) == settings.get("num_layers", 1) * directions * 8
    app = _go(app, "unit")
    app.number_input(key="unit").set_value(3)
    assert len(_checked(app.run()).metric) == 4
    assert len(_figure(_go(app, "weights"))["data"]) == 1


def test_a_cell_beside_an_lstm_can_be_seen(app: AppTest, tmp_path: Path) -> None:
    tensors = named(random_lstm(num_layers=2), "encoder.") | named(torch.nn.LSTMCell(5, 6), "decoder.")
    app = _go(_opened(app, tensors, tmp_path / "model.pt"), "overview")
    assert set(app.dataframe[1].value["lstm"]) == {"encoder", "decoder"}
    assert len(app.dataframe[0].value) == 3
    assert len(_checked(_go(app, "weights")).get("plotly_chart")) == 2


def test_overview_shows_the_median_of_every_block(example: AppTest) -> None:
    table = _go(example, "overview").dataframe[1].value
    weight = examples.named("embedded-reber").open().tensors["lstm.weight_hh_l0"]
    sums = weight[64:96].double().abs().sum(1).sort().values  # the third gate of 32 units
    line = table[table["block"] == "hg"].iloc[0]
    assert line["median"] == pytest.approx(float(sums[15]))
    assert sum(line["distribution"]) == 32
    assert example.get("plotly_chart")[0].proto.spec


def test_overview_goes_by_the_chosen_norm_of_rows(example: AppTest) -> None:
    example.session_state.granularity, example.session_state.criterion = "units", "group"
    table = _go(example, "overview").dataframe[1].value
    weight = examples.named("embedded-reber").open().tensors["lstm.weight_ih_l0"]
    assert table.iloc[0]["highest"] == pytest.approx(float(weight[:32].double().norm(dim=1).max()))
    assert "L2 norm" in _texts(example)


def test_a_unit_is_selected_by_number_and_cleared(example: AppTest) -> None:
    example = _go(example, "unit")
    assert list(example.dataframe[0].value["unit"]) == list(range(32))
    assert set(ALL_BLOCKS) < set(example.dataframe[0].value)
    example.number_input(key="unit").set_value(7)
    example = _checked(example.run())
    assert "7" in example.query_params["unit"]
    standings = example.dataframe[1].value
    kept = int(standings["kept"].sum())
    assert f"keeps **{kept} of its 8 rows**" in _texts(example)
    next(button for button in example.button if button.label == "Clear selection").click()
    example = _checked(example.run())
    assert example.session_state.unit is None and "unit" not in example.query_params
    assert "select a unit" in example.info[0].value


def test_a_link_opens_the_same_unit_on_another_page(app: AppTest) -> None:
    app.query_params.update({"example": "pydocs-chars", "unit": "200", "layer": "1"})
    app = _go(app.run(), "unit")
    assert app.number_input(key="unit").value == 200
    assert "**Unit 200** of lstm, layer 1" in _texts(app)


def test_a_unit_that_another_lstm_does_not_have_is_not_shown(app: AppTest, tmp_path: Path) -> None:
    tensors = named(random_lstm(hidden_size=8), "a.") | named(random_lstm(hidden_size=4), "b.")
    app = _opened(app, tensors, tmp_path / "model.pt")
    app.session_state.unit = 7
    app = _go(app, "unit")
    app.selectbox(key="lstm").set_value("b")
    app = _checked(app.run())
    assert app.session_state.unit is None


def test_a_unit_is_traced_on_a_sequence_that_was_held_back(example: AppTest) -> None:
    example = _go(example, "calibrate")
    next(button for button in example.button if button.label == "Gather").click()
    example.run()
    while example.session_state.gathering.status.state == "running":
        time.sleep(0.05)
    example = _go(_checked(example.run()), "unit")
    example.number_input(key="unit").set_value(4)
    example = _checked(example.run())
    figure = _figure(example, 1)
    assert [trace["name"] for trace in figure["data"]] == ["dense", "pruned"] * 6
    example.session_state.sparsity = 0.0
    figure = _figure(_checked(example.run()), 1)
    assert all(
        dense["y"] == pruned["y"] for dense, pruned in zip(figure["data"][::2], figure["data"][1::2], strict=True)
    )


def test_without_inputs_the_page_leads_to_them(example: AppTest) -> None:
    example = _go(example, "unit")
    example.number_input(key="unit").set_value(0)
    assert "None were gathered yet" in _checked(example.run()).info[0].value


def test_weights_that_are_not_finite_are_told_and_still_shown(app: AppTest, tmp_path: Path) -> None:
    tensors = named(random_lstm())
    tensors["weight_hh_l0"][0, 0] = float("nan")
    app = _opened(app, tensors, tmp_path / "model.pt")
    for page in ("overview", "unit"):
        assert "expected finite weights" in _go(app, page).error[0].value.replace("\\", "")
    app.session_state.side = "hh"
    assert len(_go(app, "weights").get("plotly_chart")) == 2


def test_a_large_block_is_reduced_and_says_so(app: AppTest, tmp_path: Path) -> None:
    app = _opened(app, named(random_lstm(input_size=2, hidden_size=600)), tmp_path / "model.pt")
    app.session_state.side = "hh"
    app = _go(app, "weights")
    assert "the mean absolute of 2 × 2 weights: 90,000 cells" in _texts(app)
    app.number_input(key="window_row").set_value(599)
    app.number_input(key="window_column").set_value(100)
    assert "Units 536 to 599, columns 100 to 163" in _texts(_checked(app.run()))


def test_names_from_a_file_are_shown_as_they_are(app: AppTest, tmp_path: Path) -> None:
    app = _opened(app, named(random_lstm(), "a*b_[x](http://c)_."), tmp_path / "model.pt")
    app.session_state.unit = 1
    for page in ("unit", "weights"):
        assert "[x](http" not in _texts(_go(app, page))


@pytest.mark.parametrize("name", [entry["name"] for entry in real_checkpoints()])
def test_every_lstm_of_real_checkpoints_can_be_seen(app: AppTest, checkpoints: Path, name: str) -> None:
    app.run().file_uploader[0].upload(name, (checkpoints / name).read_bytes())
    opened = _checked(app.run()).session_state.checkpoint
    if opened is None or not opened.lstms:
        assert all(_go(app, page).info or app.warning for page in PAGES)
        return
    table = _go(app, "overview").dataframe[1].value
    assert len(table) == sum(8 * lstm.num_layers * lstm.directions for lstm in opened.lstms)
    for lstm in opened.lstms:
        app.session_state.lstm, app.session_state.unit = lstm.name, lstm.hidden_size - 1
        assert len(_go(app, "unit").metric) == 4
        assert len(_go(app, "weights").get("plotly_chart")) == 2


def test_the_readers_of_the_last_layer_are_shown_once_they_are_named(example: AppTest) -> None:
    example.session_state.unit = 3
    example = _go(example, "unit")
    assert "behind the LSTM" not in _texts(example)
    example.session_state.consumers = ["linear.weight"]
    example = _checked(example.run())
    assert "behind the LSTM" in _texts(example)
    weight = examples.named("embedded-reber").open().tensors["linear.weight"]
    table = next(each.value for each in example.dataframe if "output" in each.value)
    assert table["weight"].tolist() == [float(weight[output, 3]) for output in table["output"]]
