"""Figures of blocks, of one hidden unit and of single weights. As in `figures`, colours follow the theme that they are shown
in: sequential scales and, for what has a sign, diverging ones are left to the Plotly template."""

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots
from torch import Tensor

from pruner.lstm.gates import ALL_BLOCKS, GATE_TITLES, GATES
from pruner.views.colours import CELL_TEXT, DROPPED, GATE_COLORS
from pruner.views.scale import Scale
from pruner.views.weight_view import Cells, clip_limit

HISTOGRAM_BINS = 40  # at most; a small layer has one for four of its rows
FEW_ROWS = 8  # of cells: they are drawn as a low strip
LABELLED_ROWS = 16  # a heatmap of more rows is drawn closer, without numbers in its cells


def block_heatmap(
    rows: list[str],
    values: np.ndarray,
    value_title: str,
    percent: bool = False,
    shared: bool = True,
    marked: tuple[int, str] | None = None,
) -> go.Figure:
    """One figure of every block: a row a layer and direction, a column each of the eight blocks; `values` is (rows, 8).

    Colours are on one `shared` scale, or each column has one of its own, from its lowest to its highest value. The block
    that is chosen, a row and a block, is `marked` by a frame.
    """
    labelled = len(rows) <= LABELLED_ROWS
    shades = values if shared else _spread(values)
    finite = shades[np.isfinite(shades)]  # a block whose median is zero has no highest over it
    low = 0.0 if percent or not finite.size else float(finite.min())
    high = float(finite.max(initial=low))
    form, exact = (".0%", ".1%") if percent else (".2g", ".4g")
    figure = go.Figure()
    figure.add_heatmap(
        z=shades.astype(np.float32),
        x=[f"<b>{block}</b>" for block in ALL_BLOCKS],
        text=[[format(value, form) if np.isfinite(value) else "" for value in row] for row in values],
        customdata=[[[GATE_TITLES[block[1]], row[at]] for at, block in enumerate(ALL_BLOCKS)] for row in values],
        y=rows,
        coloraxis="coloraxis",
        texttemplate="%{text}" if labelled else None,
        textfont=CELL_TEXT,
        xgap=2 if labelled else 1,
        ygap=2 if labelled else 1,
        hovertemplate=(
            f"%{{y}}<br>gate %{{x}} (%{{customdata[0]}})<br>{value_title} %{{customdata[1]:{exact}}}<extra></extra>"
        ),
    )
    if marked:
        row, column = marked[0], ALL_BLOCKS.index(marked[1])
        figure.add_shape(
            x0=column - 0.5,
            x1=column + 0.5,
            y0=row - 0.5,
            y1=row + 0.5,
            type="rect",
            line={"color": DROPPED, "width": 3},
        )
    figure.update_xaxes(fixedrange=True, side="top", tickangle=0)
    figure.update_yaxes(autorange="reversed", fixedrange=True, automargin=True)
    figure.update_layout(
        height=90 + (34 if labelled else 14) * len(rows),
        margin={"l": 0, "r": 0, "t": 30, "b": 40},
        coloraxis={
            "cmin": low,
            "cmax": high if high > low else low + 0.01,
            "showscale": shared,
            "colorbar": {
                "orientation": "h",
                "y": 0,
                "yanchor": "top",
                "thickness": 10,
                "outlinewidth": 0,
                "tickformat": ".0%" if percent else None,
            },
        },
    )
    return figure


def _spread(values: np.ndarray) -> np.ndarray:
    """Every column from 0, its lowest finite value, to 1, its highest."""
    known = np.where(np.isfinite(values), values, np.nan)
    low, high = np.nanmin(known, axis=0, initial=np.inf), np.nanmax(known, axis=0, initial=-np.inf)
    spread: np.ndarray = (known - low) / np.where(high > low, high - low, 1.0)
    return spread


def standing_histograms(
    saliency: Tensor,
    unit: int,
    unit_of_measure: str = "saliency",
    scale: Scale = Scale(clipped=False),  # noqa: B008 - it never changes
    marked: str | None = None,
) -> go.Figure:
    """How the rows of each of the eight blocks (8, H) are distributed, with a line where the row of one unit stands.

    The scale is that of the grids: values may be relative, axes shared by the four gates, and outliers beyond them. The
    `marked` block is drawn darker.
    """
    values = scale.taken(saliency.double().cpu().numpy())
    ranges = scale.ranges(values)
    bins = max(8, min(HISTOGRAM_BINS, values.shape[1] // 4))
    figure = make_subplots(
        2,
        len(GATES),
        horizontal_spacing=0.04,
        vertical_spacing=0.2,
        subplot_titles=[
            f"{'▸ ' if block == marked else ''}<b>{block}</b> {GATE_TITLES[block[1]]}" for block in ALL_BLOCKS
        ],
    )
    for index, block in enumerate(ALL_BLOCKS):
        place = {"row": index // len(GATES) + 1, "col": index % len(GATES) + 1}
        low, high = ranges[index]
        counts, edges = np.histogram(np.minimum(values[index], high), bins, (low, high))
        own = float(values[index, unit])
        margin = 0.03 * (max(high, own) - low)
        figure.add_bar(
            x=((edges[:-1] + edges[1:]) / 2).astype(np.float32),
            y=counts.astype(np.int32),
            width=float(edges[1] - edges[0]),
            name=block,
            marker={"color": GATE_COLORS[block[1]], "opacity": 0.75 if block == marked else 0.45, "line": {"width": 0}},
            hovertemplate=f"gate {block}<br>{unit_of_measure} about %{{x:.4g}}<br>%{{y}} rows<extra></extra>",
            **place,
        )
        figure.add_scatter(
            x=[own, own],
            y=[0, int(counts.max())],
            mode="lines",
            name=f"unit {unit} in {block}",
            line={"color": GATE_COLORS[block[1]], "width": 3},
            hovertemplate=f"unit {unit}, gate {block}<br>{unit_of_measure} {own:.4g}<extra></extra>",
            **place,
        )
        if high > low:
            figure.update_xaxes(range=[low - margin, max(high, own) + margin], **place)
    figure.update_yaxes(showticklabels=False, showgrid=False)
    figure.update_xaxes(nticks=3)
    figure.update_layout(height=340, margin={"l": 0, "r": 0, "t": 30, "b": 0}, bargap=0, showlegend=False)
    return figure


def weight_heatmap(
    cells: Cells,
    columns: str,
    unit: int | None = None,
    window: Cells | None = None,
    limit: float | None = None,
    rows: str = "unit",
) -> go.Figure:
    """Weights as cells, a hidden unit from top to bottom, what it reads from left to right; of other tensors `rows` says
    what a row is.

    Weights with a sign are coloured from red to blue around zero, as far as `limit`, or as far as a few outliers cannot
    flatten the scale. `columns` says what a column is. The row of `unit` and the outline of `window` are marked where they
    lie inside.
    """
    values, size = cells.values.numpy(), cells.per_cell
    limit = limit or clip_limit(cells.values)
    middle = (size - 1) / 2
    several = size > 1
    figure = go.Figure()
    figure.add_heatmap(
        z=values,
        x0=cells.first_column + middle,
        dx=size,
        y0=cells.first_row + middle,
        dy=size,
        coloraxis="coloraxis",
        hovertemplate=(
            f"mean of {size} × {size} around {rows} %{{y:.0f}}, {columns} %{{x:.0f}}<br>%{{z:.4g}}<extra></extra>"
            if several
            else f"{rows} %{{y}}<br>{columns} %{{x}}<br>weight %{{z:.5g}}<extra></extra>"
        ),
    )
    top, left = cells.first_row - 0.5, cells.first_column - 0.5
    bottom, right = top + size * values.shape[0], left + size * values.shape[1]
    if window is not None:
        height, width = window.values.shape
        figure.add_shape(
            type="rect",
            x0=window.first_column - 0.5,
            x1=window.first_column - 0.5 + width,
            y0=window.first_row - 0.5,
            y1=window.first_row - 0.5 + height,
            line={"color": DROPPED, "width": 2},
        )
    if unit is not None and top < unit < bottom:
        figure.add_annotation(
            x=0, xref="paper", xanchor="right", y=unit, text=f"unit {unit} ▶", showarrow=False, font={"color": DROPPED}
        )
    figure.update_xaxes(title=columns, range=[left, right], showgrid=False, zeroline=False)
    few = len(values) < FEW_ROWS
    figure.update_yaxes(title=rows, range=[bottom, top], showgrid=False, zeroline=False, dtick=size if few else None)
    figure.update_layout(
        height=200 if few else 520,
        margin={"l": 0, "r": 0, "t": 10, "b": 0},
        coloraxis={
            "autocolorscale": True,  # a range on both sides of zero takes the diverging scale
            "cmin": -limit if cells.signed else 0,
            "cmax": limit,
            "colorbar": {"thickness": 10, "outlinewidth": 0},
        },
    )
    return figure
