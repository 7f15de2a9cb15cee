"""Undo and redo of what the controls say, one step a change of the recipe."""

import streamlit as st

from pruner.dashboard import state


def record() -> None:
    """Remember the present recipe if it is not the one remembered last; what was undone is then forgotten."""
    session, now = st.session_state, state.recipe()
    if session.past and session.past[session.at] == now:
        return
    session.past = [*session.past[: session.at + 1], now]
    session.at = len(session.past) - 1


def undo() -> None:
    _go(-1)


def redo() -> None:
    _go(1)


def _go(step: int) -> None:
    session = st.session_state
    at = session.at + step
    if 0 <= at < len(session.past):
        state.apply_recipe(session.past[at])
        # What the controls make of it stands for it, so that no new step is recorded.
        session.past[at], session.at = state.recipe(), at
    st.rerun()  # the buttons stand in a part of the page that is made anew by itself


def buttons() -> None:
    """Undo and redo, by click or by key."""
    session = st.session_state
    with st.container(horizontal=True, width="content"):  # so that they wrap together
        st.button(
            "Undo",
            icon=":material/undo:",
            on_click=undo,
            disabled=session.at < 1,
            shortcut="Mod+Z",
        )
        st.button(
            "Redo",
            icon=":material/redo:",
            on_click=redo,
            disabled=session.at >= len(session.past) - 1,
            shortcut="Mod+Shift+Z",
        )
