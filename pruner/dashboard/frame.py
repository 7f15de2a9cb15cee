"""Pages stand in a frame, which `app.py` draws; a page that is run without it has it drawn first."""

import runpy
from contextvars import ContextVar
from pathlib import Path

import streamlit as st

APP = Path(__file__).parents[2] / "app.py"
_drawn = ContextVar("drawn", default=False)


def run(page: st.Page) -> None:
    """Run a page inside the frame that was just drawn."""
    outside = _drawn.set(True)
    try:
        page.run()
    finally:
        _drawn.reset(outside)


def stand_in_app() -> None:
    """Go on if `app.py` runs this page. If not, run it, so that it draws the frame with this page inside, and stop.

    Streamlit runs a script of `pages/` by itself if a link to it is the first request that a new server gets.
    """
    if not _drawn.get():
        runpy.run_path(str(APP))
        st.stop()
