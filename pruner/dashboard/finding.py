"""Units found by what they do: a condition over what is read, and the units that follow it most closely."""

import math

import streamlit as st

from pruner.calibration.alphabet import Alphabet
from pruner.calibration.calibration import Calibration
from pruner.dashboard.downloads import csv_button
from pruner.dashboard.gathering import told
from pruner.dashboard.session import Session, session
from pruner.dashboard.text import plain
from pruner.dashboard.view import View
from pruner.errors import PrunerError
from pruner.files.checkpoint import Checkpoint
from pruner.views.conditions import ONE_OF, Condition, conditions_of, one_of
from pruner.views.found_units import FOLLOWED, Found, find_units

BY_TITLES = {"h": "Output h", "c": "Cell state c"}
TABLE = "choose_found"


def chosen_condition(alphabet: Alphabet) -> Condition | None:
    """The condition that is chosen, if one is. Raises PrunerError for typed symbols that the model does not read."""
    if session.condition == ONE_OF:
        numbers = alphabet.numbers(session.typed_symbols)
        return one_of({alphabet.symbols[number] for number in numbers.tolist()})
    return conditions_of(alphabet).get(session.condition or "")


def show_finder(checkpoint: Checkpoint, view: View, alphabet: Alphabet | None, calibration: Calibration | None) -> None:
    """Choose a condition, and see which units of the viewed layer follow it on inputs of known symbols."""
    with st.expander(
        "Find units by what they do", icon=":material/manage_search:", key=Session.finding.key, on_change="rerun"
    ):
        if alphabet is None or calibration is None:
            st.caption(
                "This needs token numbers that your model reads in use, and the embedding that turns them into inputs: of "
                "random numbers nobody can say what a unit follows."
            )
            st.page_link("pages/calibrate.py", label="Give inputs", icon=":material/arrow_forward:")
            return
        _choose(alphabet)
        if session.condition is None:
            st.caption(
                "Units are ranked by how closely they follow what you choose, on inputs that the model was made for."
            )
            return
        try:
            condition = chosen_condition(alphabet)
            if condition is None:
                return
            _show(_find(checkpoint, view, calibration, alphabet, condition), calibration)
        except PrunerError as error:
            st.error(plain(str(error)), icon=":material/error:")


def _choose(alphabet: Alphabet) -> None:
    offered = [*conditions_of(alphabet), ONE_OF]
    if session.condition not in offered:
        session.condition = None
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.selectbox(
            "Units that follow this",
            offered,
            index=None,
            key=Session.condition.key,
            persist_state="session",
            placeholder="Choose a condition",
            width=330,
        )
        if session.condition == ONE_OF:
            st.text_input("Symbols", key=Session.typed_symbols.key, persist_state="session", width=200)
        st.segmented_control(
            "Measured by",
            FOLLOWED,
            format_func=BY_TITLES.__getitem__,
            key=Session.followed_by.key,
            required=True,
            persist_state="session",
        )


def _find(
    checkpoint: Checkpoint, view: View, calibration: Calibration, alphabet: Alphabet, condition: Condition
) -> Found:
    """Raises PrunerError as `find_units` does."""
    typed = session.typed_symbols if session.condition == ONE_OF else ""
    of = f"{checkpoint.sha256} {calibration.sha256} {calibration.embedding} {view.lstm.name}"
    key = f"{of} {view.layer} {view.direction} {session.condition} {typed}"
    return _found(key, checkpoint, view, calibration, alphabet, condition)


@st.cache_resource(scope="session", max_entries=16, show_spinner="Running the layers up to this one")
def _found(
    key: str,
    _checkpoint: Checkpoint,
    _view: View,
    _calibration: Calibration,
    _alphabet: Alphabet,
    _condition: Condition,
) -> Found:
    place = _view.layer, _view.direction
    return find_units(_view.lstm, _checkpoint.tensors, *place, _calibration, _alphabet, _condition)


def _show(found: Found, calibration: Calibration) -> None:
    by = session.followed_by
    ranked = found.ranked(by)

    def choose() -> None:
        session.unit = int(ranked["unit"].iloc[session.clicked_line(TABLE)])
        session.finding = False  # which shows the unit

    holds = f"; it holds at {found.share:.1%} of them" if found.share is not None else ""
    chance = found.chance[by]
    by_chance = (
        ""
        if math.isnan(chance)
        else f" With the condition of another sequence, which no unit can know, the largest is {chance:.2f}: what is not "
        "clearly above that says nothing."
    )
    st.caption(
        f"Correlation with the condition, 1 or −1 at most, on {found.steps:,} steps of "
        f"{told(calibration.source, calibration.name)}{holds}.{by_chance} It does not say what the unit is for. "
        "Select one to see it."
    )
    st.dataframe(
        ranked.assign(select=":material/target:"),
        hide_index=True,
        column_order=["select", "unit", by, *(each for each in FOLLOWED if each != by), *ranked.columns[3:]],
        column_config={
            "select": st.column_config.ButtonColumn(
                "", width=50, pinned=True, type="tertiary", on_click=choose, key=TABLE
            ),
            "unit": st.column_config.NumberColumn(pinned=True, width=60),
            **{each: st.column_config.NumberColumn(f"correlation of {each}", format="%.3f") for each in FOLLOWED},
            "where it holds": st.column_config.NumberColumn("mean h where it holds", format="%.3f"),
            "elsewhere": st.column_config.NumberColumn("mean h elsewhere", format="%.3f"),
        },
        height=300,
        alt="Every hidden unit of the layer with its correlation with the condition, the closest first",
    )
    csv_button(ranked, "found-units")
