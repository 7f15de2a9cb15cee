"""The weights behind a grid: a whole block, and a window of it at full resolution."""

import pandas as pd
import streamlit as st
import torch
from torch import Tensor

from pruner.dashboard import frame, model, tensors
from pruner.dashboard.downloads import csv_button, png_button
from pruner.dashboard.session import Session, session
from pruner.dashboard.text import plain
from pruner.dashboard.view import choose_shown, scale
from pruner.lstm.gates import BLOCKS, GATE_TITLES, GATES
from pruner.views import unit_figures
from pruner.views.weight_view import REDUCTIONS, Cells, clip_limit, cut_window, reduce_block, weight_block

frame.stand_in_app()

SIZES = (64, 128, 256)
ENOUGH = 2**20  # weights that tell how large the others are
REDUCTION_TITLES = {"mean absolute": "Absolute value", "signed mean": "Signed value"}

st.title("Weights")
checkpoint = model.required_checkpoint()
view = choose_shown(checkpoint)
tensors.show_all(checkpoint)
with st.container(horizontal=True, vertical_alignment="bottom"):
    st.segmented_control(
        "Colour by",
        REDUCTIONS,
        format_func=REDUCTION_TITLES.__getitem__,
        key=Session.reduction.key,
        required=True,
        persist_state="session",
        wrap=True,
    )
gate, reduction = view.gate, session.reduction
if session.shown_tensor:
    tensors.show_one(checkpoint, session.shown_tensor, reduction, scale())
    st.stop()
titles = {gate: f"{block} ({GATE_TITLES[gate]})" for gate, block in zip(GATES, BLOCKS[view.side], strict=True)}
block = weight_block(view.lstm, checkpoint.tensors, view.layer, view.direction, view.side, gate)
hidden_size, width = block.shape


def column_name() -> str:
    """What a column of the block is: an input, or something of the layer below or of the step before."""
    if view.side == "ih" and view.layer == 0:
        return "input"
    return "projected output" if view.lstm.proj_size else "unit read"


def as_csv(cells: Cells) -> pd.DataFrame:
    """A line a row of cells, headed by the first weight of each column of them."""
    rows, columns = cells.values.shape
    table = pd.DataFrame(
        cells.values.numpy(),
        columns=range(cells.first_column, cells.first_column + columns * cells.per_cell, cells.per_cell),
    )
    table.insert(0, "unit", range(cells.first_row, cells.first_row + rows * cells.per_cell, cells.per_cell))
    return table


@st.cache_resource(scope="session", max_entries=16, show_spinner="Reading the weights")
def reduced(sha256: str, tensor: str, gate: str, reduction: str, _block: Tensor) -> Cells:
    return reduce_block(_block, reduction)


def scale_of_all() -> float:
    """Where the colours of the whole block stop, or, on a shared scale, those of all four gates."""
    shown = [whole] if not scale().shared else [reduced_gate(each) for each in GATES]
    return clip_limit(torch.cat([cells.values.flatten() for cells in shown]), scale().quantile)


def scale_of_weights() -> float:
    """The same of single weights, of which so many are looked at as tell enough."""
    behind = checkpoint.tensors[view.tensor].detach() if scale().shared else block
    weights = behind.reshape(-1)
    return clip_limit(weights[:: max(1, len(weights) // ENOUGH)].float(), scale().quantile)


def reduced_gate(each: str) -> Cells:
    found = weight_block(view.lstm, checkpoint.tensors, view.layer, view.direction, view.side, each)
    return reduced(checkpoint.sha256, view.tensor, each, reduction, found)


columns = column_name()
whole = reduced_gate(gate)
two_directions = view.side == "ih" and view.layer > 0 and view.lstm.bidirectional
st.markdown(
    f"Gate **{titles[gate]}** of **{plain(view.tensor)}**: {hidden_size:,} × {width:,} weights, a row for each hidden unit, "
    f"a column for each {columns}"
    + (
        f"; those of the forward direction come first, the reverse ones from {view.lstm.output_size}."
        if two_directions
        else "."
    )
)
st.caption(
    (
        f"Every cell is one weight{', without its sign' if reduction == REDUCTIONS[0] else ''}."
        if whole.per_cell == 1
        else f"Every cell is the {reduction} of {whole.per_cell} × {whole.per_cell} weights: {whole.values.numel():,} cells."
    )
    + " The frame is the window below."
)
first_row = session.unit or 0 if session.window_row is None else session.window_row
session.window_row = min(first_row, hidden_size - 1)
session.window_column = min(session.window_column, width - 1)
window = cut_window(block, session.window_row, session.window_column, session.window_size)
st.plotly_chart(
    unit_figures.weight_heatmap(whole, columns, session.unit, window, scale_of_all()),
    key="whole",
    config=png_button(f"weights-{titles[gate][:2]}"),
    alt=f"Heatmap of all weights of gate {titles[gate]} of {view.tensor}, with the outline of the window below",
)
csv_button(as_csv(whole), "weights")

st.subheader("A window at full resolution")
with st.container(horizontal=True, vertical_alignment="bottom"):
    st.number_input(
        "First row (unit)", 0, hidden_size - 1, key=Session.window_row.key, persist_state="session", width=180
    )
    st.number_input("First column", 0, width - 1, key=Session.window_column.key, persist_state="session", width=180)
    st.segmented_control(
        "Size",
        SIZES,
        format_func=lambda size: f"{size} × {size}",
        key=Session.window_size.key,
        required=True,
        persist_state="session",
    )
rows_shown, columns_shown = window.values.shape
st.caption(
    f"Units {window.first_row} to {window.first_row + rows_shown - 1}, columns {window.first_column} to "
    f"{window.first_column + columns_shown - 1}, every weight as it is."
    + (" The colour scale is clipped: one weight in 200 lies beyond it." if scale().clipped else "")
)
st.plotly_chart(
    unit_figures.weight_heatmap(window, columns, session.unit, limit=scale_of_weights()),
    key="window",
    config=png_button(f"weights-{titles[gate][:2]}-window"),
    alt=f"Heatmap of {rows_shown} × {columns_shown} single weights of gate {titles[gate]} of {view.tensor}",
)
csv_button(as_csv(window), "window")
