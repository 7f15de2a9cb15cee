"""What the selected hidden unit does over time, dense and pruned, on a calibration sequence that was held back."""

from collections.abc import Mapping

import pandas as pd
import streamlit as st
from torch import Tensor

from pruner.dashboard.downloads import csv_button, png_button
from pruner.dashboard.gathered import Gathered
from pruner.dashboard.gathering import told
from pruner.dashboard.session import Session, session
from pruner.dashboard.text import stop_with
from pruner.dashboard.view import View
from pruner.errors import PrunerError
from pruner.files.checkpoint import Checkpoint
from pruner.recipe import Recipe
from pruner.views import unit_figures
from pruner.views.unit_trace import held_back, masked, steps_to_trace, unit_trace


def show_over_time(
    checkpoint: Checkpoint, view: View, unit: int, recipe: Recipe, masks: Mapping[str, Tensor], gathered: Gathered
) -> None:
    """Traces of a unit on the inputs, with and without the rows that the masks of the recipe drop."""
    calibration = gathered.calibration
    if view.lstm.name not in calibration.sequences:
        st.info(
            "No inputs were gathered for this LSTM: it is not among those to prune.", icon=":material/model_training:"
        )
        return
    try:
        sequences = held_back(calibration, view.lstm)
    except PrunerError as error:
        stop_with(error, "No sequence can be held back")
    session.sequence = min(session.sequence, len(sequences) - 1)
    st.number_input(
        f"Held-back sequence, 0 to {len(sequences) - 1}",
        0,
        len(sequences) - 1,
        key=Session.sequence.key,
        persist_state="session",
        width=220,
    )
    steps = steps_to_trace(view.lstm, view.layer)
    inputs = calibration.looked_up(sequences[session.sequence], checkpoint.tensors)[:, :steps]
    key = f"{checkpoint.sha256} {view.lstm.name} {view.layer} {view.direction} {gathered.key} {recipe.to_json()}"
    dense, pruned = _traces(key, session.sequence, unit, checkpoint, view, masks, inputs)
    st.caption(
        f"The first {len(dense)} steps of {told(calibration.source, calibration.name)}, held back when scores and "
        "compensation are fitted. Pruned: with the rows of the present recipe at zero in every layer, without compensation."
    )
    st.plotly_chart(
        unit_figures.unit_traces(dense, pruned),
        key="traces",
        config=png_button(f"unit-{unit}-traces"),
        alt=f"Output, cell state and gates of unit {unit} over {len(dense)} time steps, dense and pruned",
    )
    both = dense.add_suffix(" dense").join(pruned.add_suffix(" pruned"))
    csv_button(both.rename_axis("step").reset_index(), f"unit-{unit}-traces")


@st.cache_data(scope="session", max_entries=8, show_spinner="Running the layers up to this one")
def _traces(
    key: str,
    sequence: int,
    unit: int,
    _checkpoint: Checkpoint,
    _view: View,
    _masks: Mapping[str, Tensor],
    _inputs: Tensor,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    lstm, tensors, place = _view.lstm, _checkpoint.tensors, (_view.layer, _view.direction, unit)
    return unit_trace(lstm, tensors, *place, _inputs), unit_trace(lstm, masked(tensors, _masks), *place, _inputs)
