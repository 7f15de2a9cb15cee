"""Parts of a page that are made anew by themselves, and change what all of it shows."""

import streamlit as st

from pruner.dashboard.session import session


def ask_for_all() -> None:
    """Have the whole page made anew by the part of it whose callback asks; the callback itself could not draw before."""
    session.asked_for_all = True


def heed() -> None:
    """Make the whole page anew if this part of it, which begins here, has been asked to.

    Something is drawn either way, so that Streamlit looks for clicks on other pages, and never in the place of what follows:
    that would be gone from the page for a moment, and begin from nothing when it comes back.
    """
    st.empty()
    if session.asked_for_all:
        session.asked_for_all = False
        st.rerun()


def all_is_made() -> None:
    """What all of the page was asked for is answered by this run of it."""
    session.asked_for_all = False
