"""The frame of the dashboard, and what holds for all its pages, in process through `app.py`."""

import pytest
import streamlit as st
from streamlit import config
from streamlit.testing.v1 import AppTest

from pruner import PrunerError
from tests.helpers.files import saved
from tests.helpers.models import named, random_lstm
from tests.helpers.pages import LEARN, STUDIO, button, checked, go, press, set_to, slide, standing, upload, wait
from tests.helpers.project import PROJECT


def test_there_is_a_page_for_every_step_of_the_journey_and_every_lesson() -> None:
    lead_on = {"compare", "sweep", "sensitivity"}  # links of before
    assert {page.stem for page in (PROJECT / "pages").glob("*.py")} == {"open", *STUDIO, *LEARN, *lead_on}
    assert not [entry for entry in (PROJECT / "pages").iterdir() if entry.is_dir() and entry.name != "__pycache__"]


@pytest.mark.parametrize("page", STUDIO)
def test_without_a_model_a_page_leads_on_by_one_sentence_and_one_button(app: AppTest, page: str) -> None:
    app = go(app.run(), page)
    assert len(app.info) == len(app.button) == 1 and "No model is open yet" in app.info[0].value
    assert press(app, "Open a model").title[0].value == "LSTM Saliency Pruner"


def test_settings_outlive_their_page(example: AppTest) -> None:
    example = slide(go(example, "masks"), overall=0.25, gates={"hf": 0.1})
    example = go(go(example, "run"), "masks")
    assert standing(example) == {"overall": 0.25, "layers": {}, "gates": {"hf": 0.1}}


def test_names_in_a_file_are_no_markdown(app: AppTest) -> None:
    picture = "![x](https://example.org/x.png)"
    app = upload(app.run(), f"{picture}.pt", saved(named(random_lstm(), f"{picture}.")))
    texts = []
    for page in ("open", *STUDIO):
        app = go(app, page)
        texts += [element.value for element in (*app.markdown, *app.caption, *app.subheader)]
    assert any("example" in text for text in texts)
    assert not any("](https" in text for text in texts)


@pytest.mark.parametrize("page", ["open", "saliency", "calibrate", "masks", "run", "experiments", "export"])
def test_a_link_that_needs_inputs_opens_every_page(app: AppTest, page: str) -> None:
    params = {"criterion": "obs", "compensation": "heal", "granularity": "units", "sparsity": "0.3"}
    app.query_params.update({"example": "embedded-reber", **params})
    app = checked(app.run())
    if page != "open":
        app = go(app, page)
    assert (app.session_state.criterion, app.session_state.compensation) == ("obs", "heal")
    assert app.session_state.consumers == ["linear.weight"]
    if page in ("masks", "run"):
        assert any("own inputs, once" in text.value for text in app.caption)
        if page == "run":
            assert button(app, "Run").disabled
        wait(app.session_state.calibrating)
        app = checked(app.run())
        assert app.session_state.gathered is not None and not app.info
        if page == "run":
            assert not button(app, "Run").disabled


def test_a_link_to_ones_own_model_that_needs_inputs_asks_for_them(app: AppTest) -> None:
    app = upload(app.run(), "own.pt", saved(named(random_lstm())))
    app = set_to(go(app, "run"), granularity="units", criterion="obs")
    assert "is not calibrated yet" in app.info[0].value
    assert button(app, "Run").disabled


@pytest.mark.parametrize("page", [*STUDIO, *LEARN])
def test_a_link_to_a_page_that_comes_first_opens_it_inside_the_app(app: AppTest, page: str) -> None:
    """A new server's first request: Streamlit's own discovery runs the page's script without `app.py`."""
    app.query_params.update({"example": "embedded-reber", "unit": "3"})
    app = go(app, page)
    assert [text.value for text in app.sidebar.markdown] == ["**embedded\\_reber\\.safetensors**"]
    assert len(app.title) == 1


def test_limits_that_cannot_be_read_are_told_on_the_page(app: AppTest, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise PrunerError("expected a whole number from 1 on in PRUNER_WORKERS, found *two*; set it anew")

    st.cache_resource.clear()
    monkeypatch.setattr("pruner.dashboard.frame.queue", refuse)
    app = checked(app.run())
    assert "found \\*two\\*" in app.error[0].value and not app.title
    monkeypatch.undo()
    assert checked(app.run()).title


def test_the_grids_of_four_thousand_units_are_sent_whole() -> None:
    assert config.get_option("global.minCachedMessageSize") > 8 * 4096 * (4 + 4) + 4096 * 4
