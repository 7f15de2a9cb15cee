"""The biases of every gate at a glance."""

from dataclasses import replace

import pandas as pd
import streamlit as st

from pruner.dashboard.downloads import csv_button, png_button
from pruner.dashboard.session import session
from pruner.dashboard.text import plain
from pruner.dashboard.view import View, scale
from pruner.files.checkpoint import Checkpoint
from pruner.lstm.gates import GATES
from pruner.views.biases import bias_histograms, bias_table, far_from_trained, gate_biases

ROW_HEIGHT = 36  # of the small charts, in pixels


def show_biases(checkpoint: Checkpoint, view: View) -> None:
    """The biases of the chosen layer and direction as histograms, those of all layers as a table."""
    lstm = view.lstm
    st.subheader("Biases")
    if not lstm.bias:
        st.caption(f"{plain(lstm.title)} has none: without anything to read, its gates stand half open.")
        return
    st.caption(
        f"What is added to each gate, b_ih + b_hh, of the units of {view.place}; the line is the mean"
        + (f", the dotted one unit {session.unit}. " if session.unit is not None else ". ")
        + "The forget bias decides how long a unit remembers when nothing else is said: 0 leaves half of its state after a "
        "step, 1 leaves 73 %, 3 leaves 95 %."
    )
    st.plotly_chart(
        bias_histograms(
            gate_biases(lstm, checkpoint.tensors, view.layer, view.direction), session.unit, view.gate, scale().shared
        ),
        key="biases",
        config=png_button("biases"),
        alt=f"How the biases of the four gates of {view.place} are distributed, with their means",
    )
    table = bias_table(lstm, checkpoint.tensors)
    places = (replace(view, layer=layer, direction=direction).place for layer, direction in lstm.places)
    for sentence in far_from_trained(dict(zip(places, table["mean f"], strict=True))):
        st.warning(sentence, icon=":material/history_toggle_off:")
    _show_table(table, lstm.bidirectional)
    csv_button(table, "biases")


def _show_table(table: pd.DataFrame, two_directions: bool) -> None:
    means = {f"mean {gate}": st.column_config.NumberColumn(format="%.3f") for gate in GATES}
    st.dataframe(
        table,
        hide_index=True,
        row_height=ROW_HEIGHT,
        column_order=["layer", *(["direction"] if two_directions else []), *GATES, *means, "kept"],
        column_config={
            "layer": st.column_config.NumberColumn(width=50),
            "direction": st.column_config.TextColumn(width=70),
            **{gate: st.column_config.BarChartColumn(f"b_{gate}", width=85, y_min=0) for gate in GATES},
            **means,
            "kept": st.column_config.NumberColumn(
                "left after a step", format="percent", help="Of a cell state at rest, on average over the units."
            ),
        },
        alt="The biases of each gate of every layer and direction: distribution and mean",
    )
