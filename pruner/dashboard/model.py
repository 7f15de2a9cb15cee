"""The open model: an example or a file of the visitor's own, until another is opened."""

from collections.abc import Mapping
from typing import Any, NoReturn

import streamlit as st

from pruner import examples
from pruner.dashboard.jobs import Job
from pruner.dashboard.session import Kept, Session, session
from pruner.dashboard.text import plain
from pruner.files.checkpoint import Checkpoint
from pruner.files.opening import open_checkpoint

HASH_LENGTH = 16  # of a file's hash in a link


def begin() -> bool:
    """Prepare the session on its first run; True then."""
    if Session.checkpoint.is_set:
        return False
    for kept in Kept.every:
        if kept.lives != "widget":
            kept.forget()
    return True


def open_example(name: str) -> None:
    _opened(example_checkpoint(name), name)


def open_file(source: str | bytes, name: str | None = None, mapping: Mapping[str, Any] | None = None) -> None:
    """Open a path, or bytes with their file's name. Raises PrunerError; the model that was open then stays open."""
    _opened(open_checkpoint(source, name, isolated=True, mapping=mapping, own=True), None)


def _opened(new: Checkpoint, example: str | None) -> None:
    """Stop all work on the model that was open, and forget what was made of it and said about it."""
    for kept in Kept.every:
        if kept.lives == "model":
            if isinstance(kept.value, Job):
                kept.value.cancel()
            kept.forget()
    session.checkpoint, session.example = new, example
    session.lstm = new.lstms[0].name if new.lstms else ""


def name_of_open() -> str | None:
    """The name of the open model, as a link has it: that of an example, the beginning of a file's hash."""
    opened = session.checkpoint
    return session.example or (opened.sha256[:HASH_LENGTH] if opened else None)


@st.cache_resource
def example_checkpoint(name: str) -> Checkpoint:
    return examples.named(name).open()


def required_checkpoint() -> Checkpoint:
    """The open checkpoint. Where there is none with an LSTM, the page says what to do and stops."""
    opened = session.checkpoint
    if opened is None:
        _lead_to_open(
            "No model is open yet: begin with a trained example, or a checkpoint of your own.", "Open a model"
        )
    if not opened.lstms:
        said = plain(f"{opened.name} holds no LSTM to look at. It holds {opened.contents()}.")
        _lead_to_open(said, "Open another model")
    return opened


def _lead_to_open(said: str, label: str) -> NoReturn:
    st.info(said, icon=":material/folder_open:")
    if st.button(label, type="primary", icon=":material/arrow_back:"):
        st.switch_page("pages/open.py")
    st.stop()
