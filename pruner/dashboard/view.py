"""Which part of the model is shown, chosen once for all pages that show one: LSTM, layer, direction, side, gate, unit."""

from dataclasses import dataclass

import streamlit as st

from pruner.dashboard.session import DIRECTIONS, Session, session
from pruner.files.checkpoint import Checkpoint
from pruner.lstm.gates import BLOCKS, GATE_TITLES, GATES, SIDE_TITLES, SIDES
from pruner.lstm.lstm import LSTM
from pruner.views.scale import Scale

SCALE_TITLES = {
    "relative": "Relative to the median",
    "shared": "One scale for the four gates",
    "clipped": "Clip outliers",
}


@dataclass(frozen=True)
class View:
    """The block that is shown: a gate of a packed weight."""

    lstm: LSTM
    layer: int
    direction: int
    side: str
    gate: str

    @property
    def tensor(self) -> str:
        """The packed weight."""
        return self.lstm.weight_names()[self.layer, self.direction, self.side]

    @property
    def block(self) -> str:
        return BLOCKS[self.side][GATES.index(self.gate)]

    @property
    def place(self) -> str:
        """Layer and direction in words."""
        return f"layer {self.layer}" + (f", {DIRECTIONS[self.direction]}" if self.lstm.bidirectional else "")


def choose_view(checkpoint: Checkpoint) -> View:
    """Controls for LSTM, layer and direction; each only where there is a choice."""
    with st.container(horizontal=True, vertical_alignment="bottom", width="content"):
        _choose_place(checkpoint)
    return _view(checkpoint)


def choose_shown(checkpoint: Checkpoint) -> View:
    """The bar of the pages of the group Look: all that they show is chosen here, and the scale that they share."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        lstm = _choose_place(checkpoint)
        choose_side(brief=True)
        st.segmented_control(
            "Gate",
            GATES,
            key=Session.shown_gate.key,
            required=True,
            persist_state="session",
            on_change=_to_the_block,
            help=", ".join(f"{gate}: {title}" for gate, title in GATE_TITLES.items()) + ".",
        )
        _choose_unit(lstm)
        with st.popover("Scale", icon=":material/palette:"):
            choose_scale()
    return _view(checkpoint)


def choose_side(brief: bool = False) -> None:
    """Which of the two packed weights of a layer."""
    st.segmented_control(
        "Packed weight",
        SIDES,
        format_func=lambda side: side if brief else f"{SIDE_TITLES[side]} (weight_{side})",
        key=Session.side.key,
        required=True,
        persist_state="session",
        wrap=True,
        on_change=_to_the_block,
        help="; ".join(f"{side}: weight_{side}, {SIDE_TITLES[side]}" for side in SIDES) + "." if brief else None,
    )


def choose_scale() -> None:
    """How values become colours, and places on an axis, wherever rows and weights are drawn."""
    st.pills(
        "Colours",
        list(SCALE_TITLES),
        format_func=SCALE_TITLES.__getitem__,
        selection_mode="multi",
        key=Session.grid_options.key,
        persist_state="session",
        wrap=True,
        help="For rows, for weights and for the axes of histograms, wherever they are drawn; medians are those of rows.",
    )


def scale() -> Scale:
    """The scale that was chosen."""
    return Scale(**{option: option in session.grid_options for option in SCALE_TITLES})


def show(lstm: str, layer: int, direction: str, side: str, gate: str) -> None:
    """Choose a block; another LSTM has other units."""
    if lstm != session.lstm:
        session.unit = None
    session.lstm, session.layer, session.direction = lstm, layer, direction
    session.side, session.shown_gate = side, gate
    _to_the_block()


def _choose_place(checkpoint: Checkpoint) -> LSTM:
    if len(checkpoint.lstms) > 1:
        titles = {lstm.name: lstm.title for lstm in checkpoint.lstms}
        st.selectbox(
            "LSTM",
            list(titles),
            format_func=titles.__getitem__,
            key=Session.lstm.key,
            persist_state="session",
            width=200,
            on_change=_back_to_first_layer,
        )
    lstm = checkpoint.select([session.lstm])[0]
    if lstm.num_layers > 1:
        st.segmented_control(
            "Layer",
            list(range(lstm.num_layers)),
            key=Session.layer.key,
            required=True,
            persist_state="session",
            on_change=_to_the_block,
        )
    if lstm.bidirectional:
        st.segmented_control(
            "Direction",
            DIRECTIONS,
            key=Session.direction.key,
            required=True,
            persist_state="session",
            on_change=_to_the_block,
        )
    return lstm


def _choose_unit(lstm: LSTM) -> None:
    if session.unit is not None:
        session.unit = min(session.unit, lstm.hidden_size - 1)
    st.number_input(
        f"Hidden unit, 0 to {lstm.hidden_size - 1}",
        min_value=0,
        max_value=lstm.hidden_size - 1,
        value=None,
        step=1,
        key=Session.unit.key,
        persist_state="session",
        placeholder="none",
        width=170,
    )


def _view(checkpoint: Checkpoint) -> View:
    lstm = checkpoint.select([session.lstm])[0]
    return View(lstm, session.layer, DIRECTIONS.index(session.direction), session.side, session.shown_gate)


def _to_the_block() -> None:
    """Whoever chooses a block wants to see that, in place of another tensor of the file."""
    session.shown_tensor = ""


def _back_to_first_layer() -> None:
    session.layer, session.direction, session.unit = 0, "forward", None
    _to_the_block()
