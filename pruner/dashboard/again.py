"""Pages that are made anew by themselves: when work that they watch has ended, when a part of them changed what all show."""

from typing import NoReturn

import streamlit as st

from pruner.dashboard.session import session


def make_anew() -> NoReturn:
    """Make the whole page anew, unless its visitor has just left it.

    What a script asks for goes before a click on another page that came first, and Streamlit looks for such clicks only when
    something is drawn.
    """
    st.empty()
    st.rerun()


def ask_for_all() -> None:
    """Have the whole page made anew by the part of it whose callback asks; the callback itself could not draw before."""
    session.asked_for_all = True


def heed() -> None:
    """Make the whole page anew if this part of it has been asked to."""
    if session.asked_for_all:
        session.asked_for_all = False
        make_anew()


def all_is_made() -> None:
    """What all of the page was asked for is answered by this run of it."""
    session.asked_for_all = False
