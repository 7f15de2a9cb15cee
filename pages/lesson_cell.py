"""Lesson 0: one step of an LSTM."""

import streamlit as st

from pruner.dashboard import frame, lesson
from pruner.dashboard.cell_canvas import cell_canvas
from pruner.dashboard.session import session
from pruner.lessons import cell

frame.stand_in_app()

KEY = "cell"


def take_over() -> None:
    """Write what was set in the picture into the link, from which the page is made."""
    for name, value in (session.set_in(KEY) or {}).items():
        if value:
            st.query_params[name] = value
        else:
            st.query_params.pop(name, None)


at, frozen, removed = cell.settings(*(st.query_params.get(name, "") for name in ("at", "frozen", "removed")))
picture = lesson.begin_wide(cell.LESSON)
found = lesson.measured(cell.walk, cell.READ, frozen, removed)
with picture:
    cell_canvas(KEY, found, at, take_over)
lesson.finish(cell.LESSON, cell.notice(found))
