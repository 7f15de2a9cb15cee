"""Pages stand in a frame, which `app.py` draws; a page that is run without it has it drawn first."""

import gc
import runpy
import sys
from contextvars import ContextVar
from pathlib import Path

import streamlit as st

from pruner.dashboard.queueing import queue
from pruner.dashboard.text import stop_with
from pruner.dashboard.whole import all_is_made
from pruner.errors import NO_MEMORY, PrunerError, no_memory

APP = Path(__file__).parents[2] / "app.py"
ICON = Path(__file__).with_name("icon.svg")  # Streamlit would fetch one of its own from a foreign host
SWITCH_INTERVAL = 0.0005  # seconds; Python's own is ten times as long
_drawn = ContextVar("drawn", default=False)


def settle() -> None:
    """Make the server ready; where its limits cannot be read, say so and end the page there."""
    try:
        _settle()
    except PrunerError as error:
        stop_with(error, "This server is not set up")


@st.cache_resource
def _settle() -> None:
    """Once a server: let what a page has said go out while it computes on.

    Streamlit collects garbage after every run of a page. What was imported stays for good, and to look through it all
    again takes longer than most runs. And a thread that computes hands over to the one that sends only so often.
    Workers are imported before anybody waits for one.
    """
    queue().forks.begin()
    gc.collect()
    gc.freeze()
    sys.setswitchinterval(SWITCH_INTERVAL)


def run(page: st.Page) -> None:
    """Run a page inside the frame that was just drawn."""
    outside = _drawn.set(True)
    all_is_made()
    try:
        page.run()
    except (MemoryError, RuntimeError) as error:
        if not no_memory(error):
            raise
        st.error(NO_MEMORY.capitalize() + ".", title="Memory ran out", icon=":material/memory:")
    finally:
        _drawn.reset(outside)
    # Streamlit starts a page while the one before still computes, which would at its end take the fragments of the new one
    # for leftovers of its own. To speak up stops a page that was left before it comes to that.
    st.empty()


def stand_in_app() -> None:
    """Go on if `app.py` runs this page. If not, run it, so that it draws the frame with this page inside, and stop.

    Streamlit runs a script of `pages/` by itself if a link to it is the first request that a new server gets.
    """
    if not _drawn.get():
        runpy.run_path(str(APP))
        st.stop()
