"""Pages that are made anew by themselves, when work that they watch has ended."""

from typing import NoReturn

import streamlit as st


def make_anew() -> NoReturn:
    """Make the whole page anew, unless its visitor has just left it.

    What a script asks for goes before a click on another page that came first, and Streamlit looks for such clicks only when
    something is drawn.
    """
    st.empty()
    st.rerun()
