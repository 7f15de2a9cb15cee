"""What the pages of the group Look share, and the tensors of the whole file, in process through `app.py`."""

from typing import Any

import pytest
import torch
from streamlit.testing.v1 import AppTest

from tests.helpers.files import saved
from tests.helpers.models import named, random_lstm
from tests.helpers.pages import (
    checked,
    choose,
    click_line,
    figure_of,
    go,
    metrics,
    press,
    sent_to_the_canvas,
    set_to,
    texts,
    upload,
)

LOOK = ("overview", "saliency", "unit", "weights")


@pytest.fixture
def several(app: AppTest) -> AppTest:
    """Two LSTMs, one of them of two layers and directions."""
    tensors = named(random_lstm(num_layers=2, bidirectional=True), "a.") | named(random_lstm(hidden_size=6), "b.")
    return upload(app.run(), "model.pt", saved(tensors))


@pytest.mark.parametrize("chosen_on", LOOK)
def test_what_is_chosen_on_one_page_is_shown_on_the_others(several: AppTest, chosen_on: str) -> None:
    several = go(several, chosen_on)
    for label, value in {"Layer": 1, "Direction": "reverse", "Packed weight": "hh", "Gate": "o"}.items():
        several = choose(several, label, value)
    several.number_input(key="unit").set_value(2)
    several = checked(several.run())
    link = {key: several.query_params[key] for key in ("layer", "direction", "side", "shown_gate", "unit")}
    for page in LOOK:
        several = go(several, page)
        shown = {each.label: each.value for each in several.get("button_group")}
        wanted = {"Layer": 1, "Direction": "reverse", "Packed weight": "hh", "Gate": "o"}
        assert {label: shown[label] for label in wanted} == wanted
        assert several.number_input(key="unit").value == 2
        assert {key: several.query_params[key] for key in link} == link
    assert "Gate **ho (output)** of **a\\.weight\\_hh\\_l1\\_reverse**" in texts(several)


@pytest.mark.parametrize("page", LOOK)
def test_the_bar_is_the_first_thing_below_the_title(several: AppTest, page: str) -> None:
    several = go(several, page)
    assert [each.label for each in several.get("button_group")][:4] == ["Layer", "Direction", "Packed weight", "Gate"]
    assert several.selectbox(key="lstm").label == "LSTM"


@pytest.mark.parametrize("chosen_on", LOOK)
def test_the_scale_that_is_chosen_on_one_page_holds_for_the_others(example: AppTest, chosen_on: str) -> None:
    example = set_to(go(example, "weights"), unit=3, side="hh")
    before = _scales(example)
    example = go(example, chosen_on)
    control = next(each for each in example.get("button_group") if each.label == "Colours")
    control.set_value(["relative"])
    after = _scales(checked(example.run()))
    assert all(after[page] != before[page] for page in LOOK)


def _scales(app: AppTest) -> dict[str, Any]:
    """What tells the scale of each page."""
    overview = figure_of(go(app, "overview"))["layout"]["coloraxis"]["showscale"]
    rows = sent_to_the_canvas(go(app, "saliency"))[0]["ranges"]
    unit = figure_of(go(app, "unit"), 1)["layout"]["xaxis"]["range"]
    weights = figure_of(go(app, "weights"))["layout"]["coloraxis"]["cmax"]
    return {"overview": overview, "saliency": rows, "unit": unit, "weights": weights}


def test_gates_share_the_colours_of_their_weights(example: AppTest) -> None:
    example = go(example, "weights")
    limits = {figure_of(choose(example, "Gate", gate))["layout"]["coloraxis"]["cmax"] for gate in "ifgo"}
    assert len(limits) == 1
    example = set_to(example, grid_options=["clipped"])
    limits = {figure_of(choose(example, "Gate", gate))["layout"]["coloraxis"]["cmax"] for gate in "ifgo"}
    assert len(limits) == 4


TENSORS = {
    "scalar": torch.tensor(7),
    "list": torch.arange(5.0),
    "matrix": torch.randn(4, 3),
    "folded": torch.randn(2, 3, 4),
    "whole": torch.tensor([[1, -2], [3, 4]]),
    "truth": torch.tensor([True, False]),
    "nothing": torch.zeros(0, 3),
    "broken": torch.full((3, 3), float("nan")),
    "half": torch.randn(3, 3).half(),
    "a*b_[x](http://c)_": torch.randn(3, 3),
}


@pytest.mark.parametrize("name", TENSORS)
def test_every_tensor_of_the_file_can_be_shown(app: AppTest, name: str) -> None:
    app = go(upload(app.run(), "model.pt", saved(named(random_lstm(), "net.") | TENSORS)), "weights")
    table = app.dataframe[0].value
    assert set(table["tensor"]) >= set(TENSORS)
    app = click_line(app, "choose_tensor", table["tensor"].tolist().index(name))
    assert app.session_state.shown_tensor == name
    assert "[x](http" not in texts(app)
    figures = len(app.get("plotly_chart"))
    if name == "nothing":
        assert "no numbers" in app.info[0].value
    else:
        assert figures == {"scalar": 1, "broken": 1}.get(name, 2)
        expected = "–" if name == "broken" else f"{TENSORS[name].float().mean().item():.4g}"
        assert metrics(app)["Mean"] == expected


def test_a_tensor_is_left_by_its_button_or_by_choosing_a_block(example: AppTest) -> None:
    example = set_to(go(example, "weights"), shown_tensor="linear.weight")
    assert "**linear\\.weight**" in texts(example)
    assert "linear.weight" in example.query_params["shown_tensor"]
    example = press(example, "Back to the block")
    assert example.session_state.shown_tensor == "" and "Gate **ii (input)**" in texts(example)
    example = set_to(example, shown_tensor="linear.weight")
    example = go(choose(go(example, "saliency"), "Gate", "f"), "weights")
    assert "Gate **if (forget)**" in texts(example)


@pytest.mark.parametrize(("name", "shown"), [("linear.bias", True), ("no.such", False)])
def test_a_link_opens_a_tensor_of_the_file(app: AppTest, name: str, shown: bool) -> None:
    app.query_params.update({"example": "embedded-reber", "shown_tensor": name})
    app = go(app.run(), "weights")
    assert ("linear\\.bias" in texts(app)) is shown
