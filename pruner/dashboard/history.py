"""What the controls said before: undo and redo, one step a change of the recipe."""

import streamlit as st

from pruner.dashboard import tuning
from pruner.dashboard.controls import controls
from pruner.dashboard.session import session


def record() -> None:
    """Remember the present recipe if it is not the one remembered last; what was undone is then forgotten."""
    now = controls.recipe()
    if session.past and session.past[session.at] == now:
        return
    session.past = [*session.past[: session.at + 1], now]
    session.at = len(session.past) - 1


def undo() -> None:
    _go(-1)


def redo() -> None:
    _go(1)


def _go(step: int) -> None:
    tuning.catch_up()
    record()  # a slider may have moved since, and not yet have come to rest
    at = session.at + step
    if 0 <= at < len(session.past):
        controls.apply(session.past[at])
        # What the controls make of it stands for it, so that no new step is recorded.
        session.past, session.at = [*session.past[:at], controls.recipe(), *session.past[at + 1 :]], at
        tuning.say()


def buttons() -> None:
    """Undo and redo, by click or by key."""
    with st.container(horizontal=True, width="content", gap="xsmall"):  # so that they wrap together
        st.button(
            "Undo",
            type="tertiary",  # the narrowest: one line of a phone holds both, and the recipe
            icon=":material/undo:",
            on_click=undo,
            disabled=session.at < 1,
            shortcut="Mod+Z",
        )
        st.button(
            "Redo",
            type="tertiary",
            icon=":material/redo:",
            on_click=redo,
            disabled=session.at >= len(session.past) - 1,
            shortcut="Mod+Shift+Z",
        )
