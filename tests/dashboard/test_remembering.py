"""What a reload finds again, and who does not, in process: the secret of a browser stands in for its cookie."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from pruner.dashboard import remembering
from pruner.dashboard.gathered import Gathered
from pruner.dashboard.jobs import Job
from pruner.dashboard.session import Kept
from tests.helpers.files import saved
from tests.helpers.models import named, random_lstm
from tests.helpers.pages import button, checked, click, endless, go, new_app, press, set_to, texts, upload, wait, work

MINE, YOURS = "m" * 43, "y" * 43
Opened = Callable[..., AppTest]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[Opened]:
    """Opens the dashboard in a new tab of the browser with a secret, at a link."""
    st.cache_resource.clear()

    def tab(secret: object, **link: Any) -> AppTest:
        monkeypatch.setattr(remembering, "_in_cookie", lambda: secret)
        app = new_app()
        app.query_params.update(link)
        return checked(app.run())

    yield tab


def link_of(app: AppTest) -> dict[str, Any]:
    return dict(app.query_params)


def test_a_reload_finds_the_file_its_inputs_what_runs_and_what_came_of_it(opened: Opened, gathered: Gathered) -> None:
    app = upload(opened(MINE), "marked.pt", saved(named(random_lstm(), "marked.")))
    app = set_to(go(app, "masks"), sparsity=0.3, unit=2, gathered=gathered, run=Job(endless), grid_order="saliency")
    before, job = app.session_state, app.session_state.run
    for link in (link_of(app), {}):  # a reload, and the bare address
        again = opened(MINE, **link)
        assert "**marked.pt**" in texts(again).replace("\\", "")
        for key in ("checkpoint", "gathered", "run"):
            assert again.session_state[key] is before[key]
        assert (again.session_state.sparsity, again.session_state.unit) == (0.3, 2)
        assert again.session_state.grid_order == "saliency"
    assert again.session_state.past == before.past
    job.cancel()


def test_another_browser_with_the_same_link_sees_none_of_it(opened: Opened) -> None:
    app = upload(opened(MINE), "own.pt", saved(named(random_lstm(), "marked.")))
    for secret in (YOURS, None, MINE + "m", 7):
        other = opened(secret, **link_of(app))
        assert other.session_state.checkpoint is None
        assert "marked" not in texts(other)
        assert opened(secret).session_state.checkpoint is None
    assert opened(MINE).session_state.checkpoint is app.session_state.checkpoint


def test_the_secret_is_in_no_address_and_the_browser_is_given_it(opened: Opened) -> None:
    app = opened(None, example="embedded-reber")
    secret = app.session_state.secret
    assert remembering.SECRET.fullmatch(secret) and secret not in str(link_of(app))
    assert opened(None).session_state.secret != secret
    assert opened(MINE).session_state.secret == MINE
    assert secret in app.get("bidi_component")[-1].proto.json


def test_a_link_to_another_model_opens_that_and_takes_nothing_away(opened: Opened) -> None:
    app = upload(opened(MINE), "own.pt", saved(named(random_lstm())))
    job = app.session_state.run = Job(endless)
    app = checked(app.run())
    assert opened(MINE, example="embedded-reber").session_state.example == "embedded-reber"
    assert job.status.state == "running"
    assert opened(MINE, **link_of(app)).session_state.checkpoint is app.session_state.checkpoint
    job.cancel()


def test_a_link_to_the_same_model_brings_its_own_recipe(opened: Opened) -> None:
    app = set_to(opened(MINE, example="embedded-reber"), run=Job(endless), layer_sparsity={0: 0.1})
    again = opened(MINE, example="embedded-reber", sparsity="0.2")
    assert again.session_state.run is app.session_state.run
    assert (again.session_state.sparsity, again.session_state.layer_sparsity) == (0.2, {})
    app.session_state.run.cancel()


def test_a_reload_finds_what_was_tried(opened: Opened, gathered: Gathered) -> None:
    app = set_to(opened(MINE, example="embedded-reber"), gathered=gathered, sweep_criteria=["l1"], sweep_count=2)
    app = work(go(set_to(app, sweep_compensations=["none"]), "experiments"), "Try sizes", "sweep")
    again = go(opened(MINE, **link_of(app)), "experiments")
    assert again.session_state.history is app.session_state.history
    assert len(again.dataframe[0].value) == len(again.session_state.history) > 0
    press(again, "Forget all of it")
    assert "Nothing was tried" in texts(checked(app.run()))


def test_two_tabs_show_one_workspace(opened: Opened) -> None:
    first = go(opened(MINE, example="embedded-reber"), "masks")
    second = go(opened(MINE, **link_of(first)), "masks")
    first = set_to(first, sparsity=0.7)
    second = set_to(second, criterion="l2")
    assert (second.session_state.sparsity, second.session_state.criterion) == (0.7, "l2")
    job = first.session_state.sweep = Job(endless)
    first = checked(first.run())
    assert first.session_state.criterion == "l2"
    second = checked(second.run())
    assert second.session_state.sweep is job
    press(second, "Undo")
    assert checked(first.run()).session_state.criterion == "l1"
    job.cancel()


def test_a_model_that_was_left_for_another_is_not_found_again(opened: Opened) -> None:
    app = set_to(opened(MINE, example="embedded-reber"), sparsity=0.9)
    app = click(go(app, "open"), "open_pydocs-chars")
    assert opened(MINE, example="embedded-reber").session_state.sparsity == 0.5
    app = click(go(app, "open"), "open_embedded-reber")
    assert app.session_state.sparsity == 0.5


def test_tabs_opened_together_agree_on_the_secret_that_the_browser_holds(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = upload(opened(None), "own.pt", saved(named(random_lstm())))
    monkeypatch.setattr("pruner.dashboard.session.Session.held", lambda self, key: MINE)
    monkeypatch.setattr(remembering, "hold_secret", remembering._take_held)  # as if the browser had told it
    checked(app.run())
    assert opened(MINE).session_state.checkpoint is app.session_state.checkpoint
    monkeypatch.setattr("pruner.dashboard.session.Session.held", lambda self, key: {"no": "secret"})
    assert checked(app.run()).session_state.secret == MINE


@pytest.mark.parametrize("page", ["open", "masks", "learn", "lesson_packed", "export"])
def test_long_work_is_seen_and_cancelled_from_every_page(opened: Opened, page: str) -> None:
    app = set_to(opened(MINE, example="embedded-reber"), sweep=Job(endless))
    app = go(app, page)
    app.button(key="cancel_Sweep").click()
    app.run()
    wait(app.session_state.sweep)
    app = checked(app.run())
    assert not [each for each in app.sidebar.button if each.label == "Cancel"]


@pytest.mark.parametrize("key", ["calibrating", "shrink", "run", "sweep", "sensitivity"])
def test_every_kind_of_long_work_is_said(opened: Opened, key: str) -> None:
    app = set_to(opened(MINE, example="embedded-reber"), **{key: Job(endless)})
    assert button(app, "Cancel").key == f"cancel_{key.capitalize()}"
    app.session_state[key].cancel()


def test_every_job_is_of_the_model_and_so_stopped_with_it() -> None:
    jobs = {"calibrating", "shrink", "run", "sweep", "sensitivity"}
    assert {kept.lives for kept in Kept.every if kept.key in jobs} == {"model"}
