"""What links say and open, in process through `app.py`."""

from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from pruner.dashboard.text import plain
from tests.helpers.files import saved
from tests.helpers.models import named, random_lstm
from tests.helpers.pages import (
    UNITS,
    checked,
    go,
    said,
    set_to,
    slide,
    standing,
    upload,
)


def test_a_link_opens_example_recipe_and_view(app: AppTest) -> None:
    app.query_params.update(
        {"example": "pydocs-chars", "sparsity": "0.3", "gates": "hf:0.1", "layers": "1:0.4", "layer": "1", "side": "hh"}
    )
    app = go(app.run(), "masks")
    assert standing(app) == {"overall": 0.3, "layers": {"1": 0.4}, "gates": {"hf": 0.1}}
    assert said(app).items() >= standing(app).items()
    assert any(plain("lstm.weight_hh_l1") in caption.value for caption in app.caption)
    assert list(app.dataframe[0].value["gate"]) == ["hi (input)", "hf (forget)", "hg (cell)", "ho (output)"]


def test_a_link_opens_the_weights_of_its_gate(app: AppTest) -> None:
    app.query_params.update({"example": "embedded-reber", "side": "hh", "shown_gate": "o"})
    app = go(app.run(), "weights")
    assert any("Gate **ho (output)**" in text.value for text in app.markdown)
    app.session_state.shown_gate = "i"
    app = checked(app.run())
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
    app = checked(app.run())
    assert app.session_state.sparsity == 0.5


def test_the_link_follows_the_controls(example: AppTest) -> None:
    assert dict(example.query_params) == {"example": "embedded-reber", "sparsity": "0.5"}
    example = slide(go(example, "masks"), overall=0.3, gates={"hf": 0.1})
    assert dict(example.query_params) == {"example": "embedded-reber", "sparsity": "0.3", "gates": "hf:0.1"}


def test_a_link_opens_a_recipe_of_units(app: AppTest) -> None:
    recipe = {"allocation": "global", "criterion": "group", "consumers": "linear.weight", "round_to": "8"}
    app.query_params.update({**UNITS, **recipe})
    app = go(app.run(), "masks")
    found = app.session_state
    assert (found.granularity, found.allocation, found.criterion, found.round_to) == ("units", "global", "group", 8)
    for key, value in recipe.items():
        assert app.query_params[key] in (value, [value]), key


def test_the_link_says_all_that_a_recipe_with_inputs_needs(calibrated: AppTest) -> None:
    calibrated = set_to(go(calibrated, "masks"), criterion="fisher", compensation="fold", allocation="global")
    params = {key: calibrated.query_params[key] for key in calibrated.query_params}
    wanted = {"criterion": "fisher", "compensation": "fold", "allocation": "global", "task": "softmax"}
    for key, value in {**wanted, "consumers": "linear.weight"}.items():
        assert params[key] in (value, [value]), key
    calibrated = set_to(calibrated, criterion="random", seed=7, compensation="none")
    assert calibrated.query_params["seed"] in ("7", ["7"])
    assert "task" not in calibrated.query_params


@pytest.mark.parametrize(
    "params",
    [{"compensation": "much"}, {"task": "softmax"}, {"task": "chess", "consumers": "linear.weight"}, {"seed": "-1"}],
    ids=lambda params: ",".join(params),
)
def test_a_link_with_strange_settings_is_harmless(app: AppTest, params: dict[str, str]) -> None:
    app.query_params.update({"example": "embedded-reber", "sparsity": "0.2", **params})
    app = checked(app.run())
    assert (app.session_state.sparsity, app.session_state.compensation) == (0.5, "none")


def test_a_link_waits_for_its_file_and_says_if_it_is_another(app: AppTest) -> None:
    app.query_params.update({"file": "mine.pt", "sha256": "0123456789abcdef", "sparsity": "0.3", "unit": "3"})
    page = checked(app.run())
    assert "mine\\.pt" in page.info[0].value
    page = upload(page, "other.pt", saved(named(random_lstm(hidden_size=8), "lstm.")))
    assert "another one" in page.warning[0].value
    assert (page.session_state.sparsity, page.session_state.unit) == (0.3, 3)
