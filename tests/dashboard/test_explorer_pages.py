"""The pages Overview, Unit and Weights, in process through `app.py`."""

from pathlib import Path
from typing import Any

import pytest
import torch
from streamlit.testing.v1 import AppTest

from pruner import examples
from pruner.lstm.gates import ALL_BLOCKS
from tests.helpers.files import saved
from tests.helpers.models import named, random_lstm
from tests.helpers.pages import checked, figure_of, go, press, texts, upload
from tests.helpers.real_files import real_checkpoints

FORMS: dict[str, dict[str, Any]] = {
    "both directions": {"num_layers": 2, "bidirectional": True},
    "projection": {"num_layers": 2, "bidirectional": True, "proj_size": 2},
    "no bias": {"bias": False},
    "bfloat16": {"dtype": torch.bfloat16},
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_lstm_can_be_seen(app: AppTest, form: str) -> None:
    app = upload(app.run(), "model.pt", saved(named(random_lstm(**FORMS[form]), "net.")))
    settings = FORMS[form]
    directions = 2 if settings.get("bidirectional") else 1
    app = go(app, "overview")
    assert len(app.dataframe[-1].value) == settings.get("num_layers", 1) * directions * 8
    app = go(app, "unit")
    app.number_input(key="unit").set_value(3)
    assert len(checked(app.run()).metric) == 4
    assert len(figure_of(go(app, "weights"))["data"]) == 1


def test_a_cell_beside_an_lstm_can_be_seen(app: AppTest) -> None:
    tensors = named(random_lstm(num_layers=2), "encoder.") | named(torch.nn.LSTMCell(5, 6), "decoder.")
    app = go(upload(app.run(), "model.pt", saved(tensors)), "overview")
    assert set(app.dataframe[-1].value["lstm"]) == {"encoder", "decoder"}
    assert len(app.dataframe[0].value) == 3
    assert len(go(app, "weights").get("plotly_chart")) == 2


def test_overview_shows_the_median_of_every_block(example: AppTest) -> None:
    table = go(example, "overview").dataframe[-1].value
    weight = examples.named("embedded-reber").open().tensors["lstm.weight_hh_l0"]
    sums = weight[64:96].double().abs().sum(1).sort().values  # the third gate of 32 units
    line = table[table["block"] == "hg"].iloc[0]
    assert line["median"] == pytest.approx(float(sums[15]))
    assert sum(line["distribution"]) == 32
    assert example.get("plotly_chart")[0].proto.spec


@pytest.mark.parametrize(("forget", "said"), [(1.0, None), (-4.0, "far below"), (9.0, "far above")])
def test_overview_shows_the_biases_and_remarks_on_strange_ones(app: AppTest, forget: float, said: str | None) -> None:
    tensors = named(random_lstm(num_layers=2))
    tensors["bias_ih_l1"][4:8], tensors["bias_hh_l1"][4:8] = forget, 0.0
    app = go(upload(app.run(), "model.pt", saved(tensors)), "overview")
    table = next(each.value for each in app.dataframe if "mean f" in each.value)
    assert table["mean f"][1] == pytest.approx(forget)
    assert [said in warning.value for warning in app.warning] == ([True] if said else [])


def test_an_lstm_without_biases_is_said_to_have_none(app: AppTest) -> None:
    app = go(upload(app.run(), "model.pt", saved(named(random_lstm(bias=False)))), "overview")
    assert "has none" in texts(app)


def test_overview_goes_by_the_chosen_norm_of_rows(example: AppTest) -> None:
    example.session_state.granularity, example.session_state.criterion = "units", "group"
    table = go(example, "overview").dataframe[-1].value
    weight = examples.named("embedded-reber").open().tensors["lstm.weight_ih_l0"]
    assert table.iloc[0]["highest"] == pytest.approx(float(weight[:32].double().norm(dim=1).max()))
    assert "L2 norm" in texts(example)


def test_a_unit_is_selected_by_number_and_cleared(example: AppTest) -> None:
    example = go(example, "unit")
    assert list(example.dataframe[0].value["unit"]) == list(range(32))
    assert set(ALL_BLOCKS) < set(example.dataframe[0].value)
    example.number_input(key="unit").set_value(7)
    example = checked(example.run())
    assert "7" in example.query_params["unit"]
    standings = example.dataframe[1].value
    kept = int(standings["kept"].sum())
    assert f"keeps **{kept} of its 8 rows**" in texts(example)
    example = press(example, "Clear selection")
    assert example.session_state.unit is None and "unit" not in example.query_params
    assert "Find a unit by what it does" in example.info[0].value


def test_a_link_opens_the_same_unit_on_another_page(app: AppTest) -> None:
    app.query_params.update({"example": "pydocs-chars", "unit": "200", "layer": "1"})
    app = go(app.run(), "unit")
    assert app.number_input(key="unit").value == 200
    assert "**Unit 200** of lstm, layer 1" in texts(app)


def test_a_unit_that_another_lstm_does_not_have_is_not_shown(app: AppTest) -> None:
    tensors = named(random_lstm(hidden_size=8), "a.") | named(random_lstm(hidden_size=4), "b.")
    app = upload(app.run(), "model.pt", saved(tensors))
    app.session_state.unit = 7
    app = go(app, "unit")
    app.selectbox(key="lstm").set_value("b")
    app = checked(app.run())
    assert app.session_state.unit is None


def test_weights_that_are_not_finite_are_told_and_still_shown(app: AppTest) -> None:
    tensors = named(random_lstm())
    tensors["weight_hh_l0"][0, 0] = float("nan")
    app = upload(app.run(), "model.pt", saved(tensors))
    for page in ("overview", "unit"):
        assert "expected finite weights" in go(app, page).error[0].value.replace("\\", "")
    app.session_state.side = "hh"
    assert len(go(app, "weights").get("plotly_chart")) == 2


def test_a_large_block_is_reduced_and_says_so(app: AppTest) -> None:
    app = upload(app.run(), "model.pt", saved(named(random_lstm(input_size=2, hidden_size=600))))
    app.session_state.side = "hh"
    app = go(app, "weights")
    assert "the mean absolute of 2 × 2 weights: 90,000 cells" in texts(app)
    app.number_input(key="window_row").set_value(599)
    app.number_input(key="window_column").set_value(100)
    assert "Units 536 to 599, columns 100 to 163" in texts(checked(app.run()))


def test_names_from_a_file_are_shown_as_they_are(app: AppTest) -> None:
    app = upload(app.run(), "model.pt", saved(named(random_lstm(), "a*b_[x](http://c)_.")))
    app.session_state.unit = 1
    for page in ("unit", "weights"):
        assert "[x](http" not in texts(go(app, page))


@pytest.mark.parametrize("name", [entry["name"] for entry in real_checkpoints()])
def test_every_lstm_of_real_checkpoints_can_be_seen(app: AppTest, checkpoints: Path, name: str) -> None:
    app.run().file_uploader[0].upload(name, (checkpoints / name).read_bytes())
    opened = checked(app.run()).session_state.checkpoint
    if opened is None or not opened.lstms:
        assert all(go(app, page).info or app.warning for page in ("overview", "unit", "weights"))
        return
    table = go(app, "overview").dataframe[-1].value
    assert len(table) == sum(8 * lstm.num_layers * lstm.directions for lstm in opened.lstms)
    for lstm in opened.lstms:
        app.session_state.lstm, app.session_state.unit = lstm.name, lstm.hidden_size - 1
        assert len(go(app, "unit").metric) == 4
        assert len(go(app, "weights").get("plotly_chart")) == 2


def test_the_consumers_of_the_last_layer_are_shown_once_they_are_named(example: AppTest) -> None:
    example.session_state.unit = 3
    example = go(example, "unit")
    assert "behind the LSTM" not in texts(example)
    example.session_state.consumers = ["linear.weight"]
    example = checked(example.run())
    assert "behind the LSTM" in texts(example)
    weight = examples.named("embedded-reber").open().tensors["linear.weight"]
    table = next(each.value for each in example.dataframe if "output" in each.value)
    assert table["weight"].tolist() == [float(weight[output, 3]) for output in table["output"]]
