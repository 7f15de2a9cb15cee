"""All tensors of the open file, the embedding and the output layer too, and the one of them that is shown."""

import math

import streamlit as st
from torch import Tensor

from pruner.dashboard.downloads import csv_button, png_button
from pruner.dashboard.session import session
from pruner.dashboard.text import plain
from pruner.errors import label
from pruner.files.checkpoint import Checkpoint
from pruner.views import unit_figures
from pruner.views.scale import Scale
from pruner.views.tensors import Distribution, distribution, distribution_figure, picture, tensor_table
from pruner.views.weight_view import Cells, clip_limit

TABLE = "choose_tensor"


def show_all(checkpoint: Checkpoint) -> None:
    """The table of all tensors, each with a button that shows it."""

    def choose() -> None:
        session.shown_tensor = list(checkpoint.tensors)[session.clicked_line(TABLE)]

    with st.expander(f"All {len(checkpoint.tensors):,} tensors of the file", icon=":material/data_array:"):
        table = tensor_table(checkpoint.tensors, checkpoint.lstms)
        st.dataframe(
            table.assign(show=":material/visibility:"),
            hide_index=True,
            column_order=["show", *table.columns],
            column_config={
                "show": st.column_config.ButtonColumn(
                    "", width=50, pinned=True, type="tertiary", on_click=choose, key=TABLE
                ),
                "numbers": st.column_config.NumberColumn(format="localized"),
                "bytes": st.column_config.NumberColumn("size", format="bytes"),
                "LSTM": st.column_config.TextColumn("of the LSTM"),
            },
            alt="Every tensor of the file with its shape, its type, its size and the LSTM that it belongs to",
        )
        csv_button(table, "tensors")


def show_one(checkpoint: Checkpoint, name: str, reduction: str, scale: Scale) -> None:
    """A tensor of the file as a picture, and how its numbers are distributed."""
    tensor = checkpoint.tensors[name]
    shape = " × ".join(f"{size:,}" for size in tensor.shape) or "a single number"
    st.markdown(f"**{plain(label(name))}**: {shape}, {str(tensor.dtype).removeprefix('torch.')}")
    st.button("Back to the block", icon=":material/arrow_back:", on_click=_back)
    cells = _picture(checkpoint.sha256, name, reduction, tensor)
    if cells is None:
        st.info("This tensor holds no numbers.", icon=":material/data_array:")
        return
    found = _distribution(checkpoint.sha256, name, tensor)
    if cells.values.numel() > 1:
        st.caption(_said_of_cells(tensor, cells, reduction))
        st.plotly_chart(
            unit_figures.weight_heatmap(cells, "column", limit=clip_limit(cells.values, scale.quantile), rows="row"),
            key="cells",
            config=png_button("tensor"),
            alt=f"Heatmap of all numbers of the tensor {label(name)}",
        )
    _show_distribution(found, label(name))


def _back() -> None:
    session.shown_tensor = ""


def _said_of_cells(tensor: Tensor, cells: Cells, reduction: str) -> str:
    said = {1: "Its numbers side by side. "}.get(tensor.dim(), "")
    if tensor.dim() > 2:
        said = f"A row for each of the {tensor.shape[0]:,} entries of its first dimension; the others are folded into one. "
    if tensor.is_complex():
        said += "Of complex numbers, the size. "
    if cells.per_cell > 1:
        return f"{said}Every cell is the {reduction} of up to {cells.per_cell} × {cells.per_cell} numbers."
    return f"{said}Every cell is one number{', without its sign' if reduction == 'mean absolute' else ''}."


def _show_distribution(found: Distribution, name: str) -> None:
    with st.grid(4, min_column_width=150):
        for title, value in (
            ("Mean", found.mean),
            ("Standard deviation", found.deviation),
            ("Lowest", found.lowest),
            ("Highest", found.highest),
        ):
            st.metric(title, "–" if math.isnan(value) else f"{value:.4g}", border=True, height="stretch")
    told = [f"{found.zeros:,} of its numbers are zero"] if found.zeros else []
    told += [f"{found.not_finite:,} are NaN or infinity, and are left out"] if found.not_finite else []
    if told:
        st.caption("; ".join(told) + ".")
    if len(found.counts):
        st.plotly_chart(
            distribution_figure(found),
            key="distribution",
            config=png_button("tensor-distribution"),
            alt=f"How the numbers of the tensor {name} are distributed",
        )


@st.cache_resource(scope="session", max_entries=8, show_spinner="Reading the tensor")
def _picture(sha256: str, name: str, reduction: str, _tensor: Tensor) -> Cells | None:
    return picture(_tensor, reduction)


@st.cache_resource(scope="session", max_entries=8, show_spinner="Reading the tensor")
def _distribution(sha256: str, name: str, _tensor: Tensor) -> Distribution:
    return distribution(_tensor)
