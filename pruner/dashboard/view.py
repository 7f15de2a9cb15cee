"""Which packed weight a page shows: LSTM, layer, direction and side."""

from dataclasses import dataclass

import streamlit as st

from pruner.dashboard.session import DIRECTIONS, Session, session
from pruner.files.checkpoint import Checkpoint
from pruner.lstm.gates import SIDE_TITLES, SIDES
from pruner.lstm.lstm import LSTM


@dataclass(frozen=True)
class View:
    """The packed weight that a page shows."""

    lstm: LSTM
    layer: int
    direction: int
    side: str

    @property
    def tensor(self) -> str:
        return self.lstm.weight_names()[self.layer, self.direction, self.side]

    @property
    def place(self) -> str:
        """Layer and direction in words."""
        return f"layer {self.layer}" + (f", {DIRECTIONS[self.direction]}" if self.lstm.bidirectional else "")


def choose_view(checkpoint: Checkpoint, sides: bool = True) -> View:
    """Controls for LSTM, layer, direction and, on pages that show one of both, matrix; each only where there is a choice."""
    with st.container(horizontal=True, vertical_alignment="bottom", width="content"):
        if len(checkpoint.lstms) > 1:
            titles = {lstm.name: lstm.title for lstm in checkpoint.lstms}
            st.selectbox(
                "LSTM",
                list(titles),
                format_func=titles.__getitem__,
                key=Session.lstm.key,
                persist_state="session",
                width=260,
                on_change=_back_to_first_layer,
            )
        lstm = checkpoint.select([session.lstm])[0]
        if lstm.num_layers > 1:
            st.segmented_control(
                "Layer", list(range(lstm.num_layers)), key=Session.layer.key, required=True, persist_state="session"
            )
        if lstm.bidirectional:
            st.segmented_control(
                "Direction", DIRECTIONS, key=Session.direction.key, required=True, persist_state="session"
            )
        if sides:
            choose_side()
    return View(lstm, session.layer, DIRECTIONS.index(session.direction), session.side)


def choose_side() -> None:
    """Which of the two packed weights of a layer."""
    st.segmented_control(
        "Packed weight",
        SIDES,
        format_func=lambda side: f"{SIDE_TITLES[side]} (weight_{side})",
        key=Session.side.key,
        required=True,
        persist_state="session",
        wrap=True,
    )


def _back_to_first_layer() -> None:
    session.layer, session.direction, session.unit = 0, "forward", None
