"""What the session holds is declared, and read and set under its declared names only."""

import re
from collections import Counter

import pytest
from streamlit.testing.v1 import AppTest

from pruner.dashboard.controls import CONTROLS, Controls, controls
from pruner.dashboard.session import Kept, session
from pruner.dashboard.work import work
from tests.helpers.pages import click, go, set_to
from tests.helpers.project import PROJECT

SOURCES = [PROJECT / "app.py", *(PROJECT / "pages").glob("*.py"), *(PROJECT / "pruner" / "dashboard").glob("*.py")]


@pytest.mark.parametrize("holder", [session, controls, work], ids=["session", "controls", "work"])
def test_a_name_that_is_not_declared_is_refused(holder: object) -> None:
    with pytest.raises(AttributeError):
        holder.chekpoint  # type: ignore[attr-defined]  # noqa: B018
    with pytest.raises(AttributeError):
        holder.chekpoint = None  # type: ignore[attr-defined]


def test_every_value_has_a_key_of_its_own() -> None:
    assert [key for key, count in Counter(kept.key for kept in Kept.every).items() if count > 1] == []


def test_nothing_but_the_declarations_knows_where_streamlit_keeps_values() -> None:
    assert [path.name for path in SOURCES if "session_state" in path.read_text()] == ["session.py"]


def test_widgets_take_the_keys_of_declared_values_from_their_declaration() -> None:
    declared = {kept.key for kept in Kept.every}
    literal = {key for path in SOURCES for key in re.findall(r'key="(\w+)"', path.read_text())}
    assert literal & declared == set()


def test_values_begin_as_declared_and_lists_are_nobody_elses(example: AppTest, app: AppTest) -> None:
    for kept in Kept.every:
        if kept.lives == "visitor" and kept.key not in ("checkpoint", "example"):
            assert example.session_state[kept.key] == kept.first, kept.key
            if isinstance(kept.first, list | dict):
                assert example.session_state[kept.key] is not kept.first


def test_what_is_of_a_model_goes_with_it_and_the_rest_stays(example: AppTest) -> None:
    example = set_to(go(example, "masks"), sparsity=0.7, unit=3, grid_order="saliency", sweep_count=7)
    example = click(go(example, "open"), "open_pydocs-chars")
    found = example.session_state
    assert (found.sparsity, found.unit) == (Controls.sparsity.first, None)
    assert (found.grid_order, found.sweep_count) == ("saliency", 7)
    assert all(found[control.key] == control.first for control in CONTROLS)
