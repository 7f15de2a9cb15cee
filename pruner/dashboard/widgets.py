"""Controls and messages that stand on more than one page."""

from dataclasses import dataclass
from typing import NoReturn

import streamlit as st

from pruner import PrunerError
from pruner.checkpoint import Checkpoint
from pruner.dashboard import state
from pruner.dashboard.text import plain
from pruner.gates import SIDE_TITLES, SIDES
from pruner.lstm import LSTM
from pruner.saliency import ROW_NORMS, row_norm

CRITERION_TITLES = {"l1": "L1 norm", "l2": "L2 norm", "group": "Group norm"}


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


def choose_view(checkpoint: Checkpoint) -> View:
    """Controls for LSTM, layer, direction and matrix, each only where there is a choice."""
    session = st.session_state
    with st.container(horizontal=True, vertical_alignment="bottom"):
        if len(checkpoint.lstms) > 1:
            titles = {lstm.name: lstm.title for lstm in checkpoint.lstms}
            st.selectbox(
                "LSTM",
                list(titles),
                format_func=titles.__getitem__,
                key="lstm",
                persist_state="session",
                width=260,
                on_change=_back_to_first_layer,
            )
        lstm = checkpoint.select([session.lstm])[0]
        if lstm.num_layers > 1:
            st.segmented_control(
                "Layer", list(range(lstm.num_layers)), key="layer", required=True, persist_state="session"
            )
        if lstm.bidirectional:
            st.segmented_control("Direction", state.DIRECTIONS, key="direction", required=True, persist_state="session")
        st.segmented_control(
            "Packed weight",
            SIDES,
            format_func=lambda side: f"{SIDE_TITLES[side]} (weight_{side})",
            key="side",
            required=True,
            persist_state="session",
            wrap=True,
        )
    return View(lstm, session.layer, state.DIRECTIONS.index(session.direction), session.side)


def _back_to_first_layer() -> None:
    st.session_state.layer, st.session_state.direction = 0, "forward"


def choose_criterion() -> None:
    """The norm that rows are scored by, and with whole units what their score is made of."""
    units = st.session_state.granularity == "units"
    if not units:
        st.session_state.criterion = row_norm(st.session_state.criterion)
    about_units = " The group norm of a unit counts the columns that read it, too." if units else ""
    st.segmented_control(
        "Saliency of a unit" if units else "Saliency of a row",
        [name for name in CRITERION_TITLES if units or name in ROW_NORMS],
        format_func=CRITERION_TITLES.__getitem__,
        key="criterion",
        required=True,
        persist_state="session",
        help=f"The norm of a row over all its columns. torch.ao.pruning ranks rows by the L1 norm.{about_units}",
    )


def stop_with(error: PrunerError, title: str) -> NoReturn:
    """Say what is wrong and end the page there."""
    st.error(plain(str(error)), title=title, icon=":material/error:")
    st.stop()
