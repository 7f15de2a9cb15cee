"""What was gathered on inputs -> Plotly figures: how active units are, which share of each gate would fall."""

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go
from torch import Tensor

from pruner.lstm.gates import BLOCKS, GATE_TITLES, GATES
from pruner.views.colours import CELL_TEXT, CURVE_POINTS, LINE_COLORS


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
