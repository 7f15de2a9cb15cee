"""Data -> Plotly figures, for the dashboard and for notebooks alike.

Sequential colours are left to the Plotly template, so that a figure follows the theme it is shown in, light or dark. What
a mask drops is drawn in one colour that no sequential scale of the dashboard contains.
"""

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots
from torch import Tensor

from pruner.lstm.gates import BLOCKS, GATE_TITLES, GATES, split_gates
from pruner.search.parts import UNITS, Sensitivity

DROPPED = "#e69f00"
GATE_COLORS = {
    "i": "#0072b2",
    "f": "#d55e00",
    "g": "#009e73",
    "o": "#cc79a7",
}  # Okabe & Ito, safe for colour-blind eyes
CELL_TEXT = {"weight": 600}  # Plotly writes in dark grey or white, which is faint on the middle of a scale
CRITERION_COLORS = {
    "l1": "#0072b2",
    "l2": "#56b4e9",
    "group": "#cc79a7",
    "activation": "#999933",
    "outgoing": "#aa4499",
    "taylor": "#e69f00",
    "fisher": "#d55e00",
    "obs": "#009e73",
    "random": "#999999",
}
COMPENSATION_DASHES = {"none": "dash", "fold": "dashdot", "full": "solid"}
COMPENSATION_SYMBOLS = {"none": "circle-open", "fold": "diamond", "full": "square"}
LINE_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
AGREEMENT = {"dropped by all": DROPPED, "mixed": "#999999", "kept by all": "#0072b2"}
CLIP_QUANTILE = 0.995  # a few outliers would flatten the scale for all other rows
MAX_CELLS = 250_000
CURVE_POINTS = 500


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


def sorted_curves(saliency: Tensor, side: str, dropped: tuple[int, ...] | None = None) -> go.Figure:
    """The rows of each gate sorted by saliency, lowest first, with a dot where each gate is cut.

    `saliency` is (4H,); `dropped` holds the number of rows that each of the four gates loses.
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
                line={"color": GATE_COLORS[gate], "width": 2},
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
                    hovertemplate=f"gate {block} is cut here<br>{dropped[index]} of {hidden_size} rows fall<extra></extra>",
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


def activation_curves(activations: Mapping[str, Tensor]) -> go.Figure:
    """The units of each layer sorted by their mean absolute activation (H,), lowest first; one line a key."""
    figure = go.Figure()
    for index, (name, activation) in enumerate(activations.items()):
        values = np.sort(activation.cpu().numpy().astype(np.float32))
        shown = np.unique(np.linspace(0, len(values) - 1, min(len(values), CURVE_POINTS)).astype(int))
        figure.add_scatter(
            x=(100 * (shown + 0.5) / len(values)).astype(np.float32),
            y=values[shown],
            name=name,
            mode="lines",
            line={"color": LINE_COLORS[index % len(LINE_COLORS)], "width": 2},
            hovertemplate=f"{name}<br>%{{x:.1f}} % of units<br>mean |h| %{{y:.3g}}<extra></extra>",
        )
    figure.update_layout(
        height=300,
        margin={"l": 0, "r": 0, "t": 10, "b": 0},
        xaxis={"title": "units, least active first (%)", "range": [0, 100]},
        yaxis={"title": "mean absolute activation", "rangemode": "tozero"},
        legend={"orientation": "h", "y": 1.18},
        showlegend=True,
    )
    return figure


def block_shares(shares: Mapping[str, Mapping[str, float]]) -> go.Figure:
    """A heatmap of the share of each gate block's rows that falls: {layer: {block: 0 to 1}}."""
    layers = list(shares)
    blocks = list(next(iter(shares.values())))
    titles = dict(zip([*BLOCKS["ih"], *BLOCKS["hh"]], [GATE_TITLES[gate] for gate in GATES] * 2, strict=True))
    figure = go.Figure()
    figure.add_heatmap(
        z=np.array([[100 * shares[layer][block] for block in blocks] for layer in layers], dtype=np.float32),
        x=[f"{block}<br>{titles[block]}" for block in blocks],
        y=layers,
        coloraxis="coloraxis",
        texttemplate="%{z:.0f} %",
        textfont=CELL_TEXT,
        xgap=2,
        ygap=2,
        hovertemplate="%{y}<br>%{x}<br>%{z:.1f} % of its rows fall<extra></extra>",
    )
    figure.update_xaxes(fixedrange=True, side="top")
    figure.update_yaxes(autorange="reversed", fixedrange=True)
    figure.update_layout(
        height=70 + 44 * len(layers),
        margin={"l": 0, "r": 0, "t": 40, "b": 0},
        coloraxis={"cmin": 0, "cmax": 100, "showscale": False},
    )
    return figure


def sweep_curves(
    table: pd.DataFrame,
    dense: float,
    value_title: str = "value",
    current: tuple[float, float] | None = None,
    titles: Mapping[str, str] | None = None,
) -> go.Figure:
    """What is left over sparsity, one line a criterion and compensation.

    `table` is that of `sweep.as_table`; the seeds of `random` are drawn as a band from the least to the most, with a line at
    their mean. `dense` is a dotted line, `current` the (sparsity, value) to mark. `titles` names criteria and compensations.
    """

    def named(criterion: str, compensation: str) -> str:
        return f"{(titles or {}).get(criterion, criterion)}, {(titles or {}).get(compensation, compensation).lower()}"

    figure = go.Figure()
    drawn = table[table["criterion"] == "random"]
    for compensation, group in drawn.groupby("compensation", sort=False):
        band = group.groupby("sparsity")["value"].agg(["min", "max", "mean"])
        sparsities = 100 * band.index.to_numpy()
        figure.add_scatter(
            x=np.concatenate([sparsities, sparsities[::-1]]),
            y=np.concatenate([band["max"], band["min"][::-1]]),
            fill="toself",
            mode="lines",
            line={"width": 0},
            fillcolor="rgba(153, 153, 153, 0.25)",
            hoverinfo="skip",
            showlegend=False,
            name=f"{named('random', compensation)}, band",
        )
        figure.add_scatter(**_line(band.index, band["mean"], "random", compensation, named("random", compensation)))
    others = table[table["criterion"] != "random"]
    for (criterion, compensation), group in others.groupby(["criterion", "compensation"], sort=False):
        group = group.sort_values("sparsity")
        name = named(criterion, compensation)
        figure.add_scatter(**_line(group["sparsity"], group["value"], criterion, compensation, name))
    figure.add_hline(dense, line={"dash": "dot", "color": "#999999"}, annotation={"text": "dense", "xanchor": "right"})
    if current is not None:
        figure.add_scatter(
            x=[100 * current[0]],
            y=[current[1]],
            mode="markers",
            name="your recipe",
            marker={"symbol": "star", "size": 16, "color": DROPPED, "line": {"color": "#555555", "width": 1}},
            hovertemplate="your recipe<br>%{x:.0f} %<br>%{y:.4g}<extra></extra>",
        )
    figure.update_layout(
        height=420,
        margin={"l": 0, "r": 0, "t": 10, "b": 0},
        xaxis={"title": "sparsity (%)", "range": [0, 100]},
        yaxis={"title": value_title},
        legend={"orientation": "h", "y": -0.22, "yanchor": "top"},
        showlegend=True,
    )
    return figure


def _line(
    sparsities: pd.Series | pd.Index, values: pd.Series, criterion: str, compensation: str, name: str
) -> dict[str, object]:
    return {
        "x": 100 * sparsities.to_numpy(),
        "y": values.to_numpy(),
        "mode": "lines+markers",
        "name": name,
        "line": {"color": CRITERION_COLORS[criterion], "dash": COMPENSATION_DASHES[compensation], "width": 2},
        "marker": {"symbol": COMPENSATION_SYMBOLS[compensation], "size": 8},
        "hovertemplate": f"{name}<br>%{{x:.0f}} %<br>%{{y:.4g}}<extra></extra>",
    }


def sensitivity_heatmap(sensitivity: Sensitivity, value_title: str = "loss") -> go.Figure:
    """What the whole model loses when one part alone is pruned: a row a layer or gate block, a column a sparsity."""
    parts = list(sensitivity.values)
    figure = go.Figure()
    figure.add_heatmap(
        z=np.array([sensitivity.losses(part) for part in parts], dtype=np.float32),
        x=[f"{sparsity:.0%}" for sparsity in sensitivity.sparsities],
        y=[f"layer {layer}" if part == UNITS else f"layer {layer}, {part}" for layer, part in parts],
        coloraxis="coloraxis",
        texttemplate="%{z:.3~g}",
        textfont=CELL_TEXT,
        xgap=2,
        ygap=2,
        hovertemplate=f"%{{y}} at %{{x}}<br>{value_title} %{{z:.4g}}<extra></extra>",
    )
    figure.update_xaxes(fixedrange=True, side="top", type="category", title="sparsity of that part alone")
    figure.update_yaxes(autorange="reversed", fixedrange=True)
    figure.update_layout(
        height=100 + 30 * len(parts),
        margin={"l": 0, "r": 0, "t": 60, "b": 0},
        coloraxis={"cmin": 0, "showscale": False},
    )
    return figure
