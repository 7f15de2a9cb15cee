"""Rows -> Plotly figures: gate grids, agreement, sorted curves; for the dashboard and for notebooks alike."""

import math

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots
from torch import Tensor

from pruner.lstm.gates import BLOCKS, GATE_TITLES, GATES, split_gates
from pruner.views.colours import AGREEMENT, CLIP_QUANTILE, CURVE_POINTS, DROPPED, GATE_COLORS

MAX_CELLS = 250_000


def grid_shape(units: int) -> tuple[int, int]:
    """(rows, columns) of the nearly square grid that shows every unit as one cell."""
    columns = math.ceil(math.sqrt(units))
    return math.ceil(units / columns), columns


def gate_grids(saliency: Tensor, side: str, mask: Tensor | None = None, unit_of_measure: str = "saliency") -> go.Figure:
    """Four grids side by side, one a gate, every unit a cell, on one colour scale.

    `saliency` and `mask` are (4H,) for one packed weight; `side` is "ih" or "hh". Units run from left to right, then down.
    Larger layers than `MAX_CELLS` / 4 units are averaged over blocks of neighbouring units, and the axis says so.
    """
    values = split_gates(saliency).cpu().numpy().astype(np.float32)
    dropped = None if mask is None else ~split_gates(mask).cpu().numpy()
    per_cell = math.ceil(values.size / MAX_CELLS)
    shape = grid_shape(math.ceil(values.shape[1] / per_cell))
    units = np.arange(shape[0] * shape[1], dtype=np.int32).reshape(shape) * per_cell
    figure = make_subplots(
        1,
        len(GATES),
        horizontal_spacing=0.02,
        subplot_titles=[f"<b>{block}</b> {GATE_TITLES[gate]}" for gate, block in zip(GATES, BLOCKS[side], strict=True)],
    )
    for index, block in enumerate(BLOCKS[side]):
        figure.add_heatmap(
            z=_grid(values[index], shape, per_cell),
            customdata=units,
            name=block,
            coloraxis="coloraxis",
            hoverongaps=False,
            xgap=0.5,
            ygap=0.5,
            hovertemplate=f"gate {block}<br>unit %{{customdata}}<br>{unit_of_measure} %{{z:.4g}}<extra></extra>",
            row=1,
            col=index + 1,
        )
        if dropped is not None:
            fallen = _grid(dropped[index].astype(np.float32), shape, per_cell)
            figure.add_heatmap(
                z=np.where(fallen >= 0.5, np.float32(1), np.float32(np.nan)),
                name=f"{block} dropped",
                colorscale=[[0, DROPPED], [1, DROPPED]],
                showscale=False,
                hoverinfo="skip",
                xgap=0.5,
                ygap=0.5,
                row=1,
                col=index + 1,
            )
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False, autorange="reversed")
    low, high = float(values.min()), float(np.quantile(values, CLIP_QUANTILE))
    figure.update_layout(
        height=340,
        margin={"l": 0, "r": 0, "t": 30, "b": 0},
        coloraxis={
            "cmin": low,
            "cmax": max(high, np.nextafter(low, np.inf)),
            "colorbar": {
                "orientation": "h",
                "y": -0.02,
                "yanchor": "top",
                "thickness": 10,
                "outlinewidth": 0,
                "title": {"text": unit_of_measure, "side": "bottom"},
            },
        },
    )
    if per_cell > 1:
        figure.add_annotation(
            text=f"each cell is the mean of {per_cell} units", showarrow=False, x=0, y=-0.05, xref="paper", yref="paper"
        )
    return figure


def agreement_grid(keeping: Tensor, blocks: int = 8) -> go.Figure:
    """One grid, every unit a cell: kept by all blocks, dropped by all, or mixed.

    `keeping` (H,) says how many of a unit's `blocks` rows are kept. Units run from left to right, then down.
    """
    counts = keeping.cpu().numpy()
    rows, columns = grid_shape(len(counts))
    state = np.full(rows * columns, np.nan, dtype=np.float32)
    state[: len(counts)] = np.where(counts == 0, 0, np.where(counts == blocks, 2, 1))
    shown = np.zeros(rows * columns, dtype=np.int32)
    shown[: len(counts)] = counts
    units = np.arange(rows * columns, dtype=np.int32)
    heatmap = go.Heatmap(
        z=state.reshape(rows, columns),
        customdata=np.stack([units, shown], axis=1).reshape(rows, columns, 2),
        zmin=-0.5,
        zmax=2.5,
        colorscale=[
            [edge, color] for index, color in enumerate(AGREEMENT.values()) for edge in (index / 3, (index + 1) / 3)
        ],
        showscale=False,
        hoverongaps=False,
        xgap=0.5,
        ygap=0.5,
        hovertemplate=f"unit %{{customdata[0]}}<br>kept by %{{customdata[1]}} of {blocks} blocks<extra></extra>",
    )
    legend = [
        go.Scatter(
            x=[None],
            y=[None],
            mode="markers",
            name=f"{title}: {int((state == value).sum()):,}",
            marker={"symbol": "square", "size": 12, "color": color},
        )
        for value, (title, color) in enumerate(AGREEMENT.items())
    ]
    # Made at once, as `sorted_curves` is.
    return go.Figure(
        [heatmap, *legend],
        {
            "height": 320,
            "margin": {"l": 0, "r": 0, "t": 10, "b": 0},
            "xaxis": {"visible": False, "range": [-0.5, columns - 0.5]},
            "yaxis": {"visible": False, "range": [rows - 0.5, -0.5], "scaleanchor": "x"},
            "legend": {"orientation": "h", "y": 1, "yanchor": "bottom"},
        },
    )


def _grid(values: np.ndarray, shape: tuple[int, int], per_cell: int) -> np.ndarray:
    """(H,) -> the grid of means over `per_cell` neighbours; cells behind the last unit are NaN."""
    padded = np.full(shape[0] * shape[1] * per_cell, np.nan, dtype=np.float32)
    padded[: len(values)] = values
    cells = padded.reshape(-1, per_cell)
    counts = (~np.isnan(cells)).sum(1)
    sums = np.nansum(cells, axis=1, dtype=np.float32)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan).astype(np.float32).reshape(shape)


def sorted_curves(
    saliency: Tensor, side: str, dropped: tuple[int, ...] | None = None, marked: str | None = None
) -> go.Figure:
    """The rows of each gate sorted by saliency, lowest first, with a dot where each gate is cut.

    `saliency` is (4H,); `dropped` holds the number of rows that each of the four gates loses. The curve of the `marked` gate
    is drawn thicker.
    """
    values = np.sort(split_gates(saliency).cpu().numpy().astype(np.float32), axis=1)
    hidden_size = values.shape[1]
    shown = np.unique(np.linspace(0, hidden_size - 1, min(hidden_size, CURVE_POINTS)).astype(int))
    curves = []
    for index, (gate, block) in enumerate(zip(GATES, BLOCKS[side], strict=True)):
        curves.append(
            go.Scatter(
                x=(100 * (shown + 0.5) / hidden_size).astype(np.float32),
                y=values[index, shown],
                name=block,
                mode="lines",
                line={"color": GATE_COLORS[gate], "width": 4 if gate == marked else 2},
                hovertemplate=f"gate {block}<br>%{{x:.1f}} % of rows<br>saliency %{{y:.4g}}<extra></extra>",
            )
        )
        if dropped and dropped[index]:
            cut = min(dropped[index], hidden_size - 1)
            curves.append(
                go.Scatter(
                    x=[100 * dropped[index] / hidden_size],
                    y=[values[index, cut]],
                    mode="markers",
                    marker={"color": GATE_COLORS[gate], "size": 11, "line": {"color": DROPPED, "width": 3}},
                    name=f"cut of {block}",
                    showlegend=False,
                    hovertemplate=f"cut of {block}<br>{dropped[index]} of {hidden_size} rows fall, left of here"
                    "<extra></extra>",
                )
            )
    fallen_everywhere = go.layout.Shape(
        x0=0,
        x1=100 * min(dropped or [0]) / hidden_size,
        y0=0,
        y1=1,
        yref="y domain",
        fillcolor=DROPPED,
        opacity=0.12,
        line_width=0,
    )
    # Made at once, because every move of a slider draws it: growing it call by call takes thrice as long.
    return go.Figure(
        curves,
        {
            "height": 300,
            "margin": {"l": 0, "r": 16, "t": 10, "b": 0},  # room for half of the last label
            "xaxis": {"title": {"text": "rows of the gate, lowest saliency first (%)"}, "range": [0, 100]},
            "yaxis": {"title": {"text": "saliency"}, "rangemode": "tozero"},
            "legend": {"orientation": "h", "y": 1.18},
            "shapes": [fallen_everywhere] if dropped and any(dropped) else [],
        },
    )
