"""Words from files and of errors, shown as they are."""

import re
from typing import NoReturn

import streamlit as st

from pruner.errors import PrunerError


def plain(text: str) -> str:
    """Escape what Markdown would take for formatting: a file may hold any name, links and pictures included."""
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", text)


def stop_with(error: PrunerError, title: str) -> NoReturn:
    """Say what is wrong and end the page there."""
    st.error(plain(str(error)), title=title, icon=":material/error:")
    st.stop()
