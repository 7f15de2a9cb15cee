"""Recipes side by side -> Plotly figures: sweeps and the sensitivity of each part."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from pruner.search.parts import UNITS, Sensitivity
from pruner.views.colours import CELL_TEXT, DROPPED

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
COMPENSATION_DASHES = {"none": "dash", "fold": "dashdot", "heal": "solid"}
COMPENSATION_SYMBOLS = {"none": "circle-open", "fold": "diamond", "heal": "square"}


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
        figure.add_scatter(**_star(100 * current[0], current[1], "%{x:.0f} %"))
    figure.update_layout(**_layout("sparsity (%)", value_title), xaxis_range=[0, 100])
    return figure


def _star(x: float, y: float, across: str) -> dict[str, object]:
    return {
        "x": [x],
        "y": [y],
        "mode": "markers",
        "name": "your recipe",
        "marker": {"symbol": "star", "size": 16, "color": DROPPED, "line": {"color": "#555555", "width": 1}},
        "hovertemplate": f"your recipe<br>{across}<br>%{{y:.4g}}<extra></extra>",
    }


def _layout(across: str, value_title: str) -> dict[str, object]:
    return {
        "height": 420,
        "margin": {"l": 0, "r": 0, "t": 10, "b": 0},
        "xaxis_title": across,
        "yaxis_title": value_title,
        "legend": {"orientation": "h", "y": -0.22, "yanchor": "top"},
        "showlegend": True,
    }


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


def sweep_sizes(
    table: pd.DataFrame,
    references: Mapping[str, Sequence[tuple[int, float]]],
    best: Sequence[tuple[int, float]],
    value_title: str = "value",
    current: tuple[float, float] | None = None,
    titles: Mapping[str, str] | None = None,
) -> go.Figure:
    """What is left over the multiply-accumulates that it takes: a dot a recipe, a line through those that nothing beats.

    `table` is that of `sweep.as_table`, `references` are by their names and `best` in order: (multiply-accumulates, value)
    each, and `current` is the one to mark. `titles` names criteria and compensations.
    """
    figure = go.Figure()
    for (criterion, compensation), group in table.groupby(["criterion", "compensation"], sort=False):
        name = f"{(titles or {}).get(criterion, criterion)}, {(titles or {}).get(compensation, compensation).lower()}"
        figure.add_scatter(
            x=group["macs_per_step"].to_numpy(),
            y=group["value"].to_numpy(),
            mode="markers",
            name=name,
            marker={"color": CRITERION_COLORS[criterion], "symbol": COMPENSATION_SYMBOLS[compensation], "size": 8},
            customdata=100 * group["sparsity"].to_numpy(),
            hovertemplate=f"{name}, %{{customdata:.0f}} %<br>%{{x:,}}<br>%{{y:.4g}}<extra></extra>",
        )
    for (name, points), symbol in zip(references.items(), ("star-diamond", "x"), strict=False):
        figure.add_scatter(
            x=[macs for macs, _ in points],
            y=[value for _, value in points],
            mode="markers",
            name=name,
            marker={"color": "#555555", "symbol": symbol, "size": 9},
            hovertemplate=f"{name}<br>%{{x:,}}<br>%{{y:.4g}}<extra></extra>",
        )
    figure.add_scatter(
        x=[macs for macs, _ in best],
        y=[value for _, value in best],
        mode="lines",
        name="front",
        line={"color": "#555555", "width": 1},
        hoverinfo="skip",
    )
    if current is not None:
        figure.add_scatter(**_star(*current, "%{x:,}"))
    figure.update_layout(**_layout("multiply-accumulates a step", value_title), xaxis_rangemode="tozero")
    return figure


def frontier(table: pd.DataFrame, measure: str, dense: float | None, worst: float | None = None) -> go.Figure:
    """Size against quality of all that was tried, the table of `candidates.frontier_of`: a dot a candidate, larger the
    longer it was healed, the chosen one filled.

    `dense` is a dotted line, `worst`, the least quality that is asked for, a dashed one.
    """
    shown = table.dropna(subset=["quality"])
    longest = max(shown["seconds"].max(), 1e-9) if len(shown) else 1.0
    figure = go.Figure()
    figure.add_scatter(
        x=100 * shown["macs"].to_numpy(),
        y=shown["quality"].to_numpy(),
        mode="markers",
        name="tried",
        marker={
            "size": (8 + 8 * shown["seconds"] / longest).to_numpy(),
            "color": [DROPPED if chosen else "rgba(0, 114, 178, 0.25)" for chosen in shown["chosen"]],
            "line": {"color": "#0072b2", "width": 2},
        },
        customdata=np.stack([100 * shown["sparsity"], shown["seconds"]], -1),
        hovertemplate="%{x:.0f} % of the multiply-accumulates<br>%{y:.4g}<br>%{customdata[0]:.0f} % of the units gone, "
        "healed for %{customdata[1]:.0f} s<extra></extra>",
    )
    if dense is not None:
        figure.add_hline(
            dense, line={"dash": "dot", "color": "#999999"}, annotation={"text": "dense", "xanchor": "right"}
        )
    if worst is not None:
        figure.add_hline(
            worst,
            line={"dash": "dash", "color": DROPPED},
            annotation={"text": "asked for", "x": 0, "xanchor": "left", "yanchor": "top"},
        )
    figure.update_layout(
        height=320,
        margin={"l": 0, "r": 0, "t": 10, "b": 0},
        xaxis={"title": "multiply-accumulates left (%)", "range": [0, 100]},
        yaxis={"title": measure},
        showlegend=False,
    )
    return figure


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
