"""Recipes side by side -> Plotly figures: all that was tried, what shrinking tries, the sensitivity of each part."""

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
STAR = {"symbol": "star", "size": 16, "color": DROPPED, "line": {"color": "#555555", "width": 1}}
BENEATH = ("", "random")  # what the rest is compared with
ACROSS = {"macs": "multiply-accumulates left (%)", "sparsity": "sparsity (%)"}


def experiments(table: pd.DataFrame, over: str, measure: str, dense: float) -> go.Figure:
    """What was tried, its value over the share of multiply-accumulates left (`over` "macs") or over its "sparsity".

    A line of `table` is an experiment: its `key` for whom it is chosen by, the `way` that it shares with others and what it
    is in words (`what`, `when`), `criterion` and `compensation`, which it has not if no recipe made it, `sparsity`, `macs`
    and `value`, whether it is on the `front`, and whether it is what is set `now`. Seeds of `random` are drawn as a band
    from the least to the most, `dense` as a dotted line.
    """
    figure = go.Figure()
    shown = table.dropna(subset=[over, "value"]).sort_values(over).fillna({"criterion": "", "compensation": ""})
    groups = sorted(shown.groupby("way", sort=False), key=lambda each: each[1]["criterion"].iloc[0] not in BENEATH)
    for way, group in groups:
        criterion, compensation = group["criterion"].iloc[0], group["compensation"].iloc[0]
        if criterion == "random":
            figure.add_scatter(**_band(group, over, way))
        figure.add_scatter(**_points(group, over, way, criterion, compensation))
    if over == "macs":
        best = shown[shown["front"]]
        figure.add_scatter(
            x=100 * best["macs"].to_numpy(),
            y=best["value"].to_numpy(),
            mode="lines",
            name="nothing beats these",
            line={"color": "#777777", "width": 1, "shape": "hv"},
            hoverinfo="skip",
        )
    if len(now := shown[shown["now"]]):
        figure.add_scatter(**_points(now, over, "your recipe now") | {"mode": "markers", "marker": STAR})
    figure.add_hline(dense, line={"dash": "dot", "color": "#999999"}, annotation={"text": "dense", "xanchor": "right"})
    figure.update_layout(
        height=360 + 16 * len(groups),  # on a phone each takes a line of the legend
        margin={"l": 0, "r": 0, "t": 10, "b": 0},
        xaxis={"title": ACROSS[over], "range": [0, 102]},
        yaxis_title=measure,
        legend={"orientation": "h", "y": -0.22, "yanchor": "top"},
        showlegend=True,
    )
    return figure


def _band(group: pd.DataFrame, over: str, way: str) -> dict[str, object]:
    band = group.groupby(over)["value"].agg(["min", "max"])
    across = 100 * band.index.to_numpy()
    return {
        "x": np.concatenate([across, across[::-1]]),
        "y": np.concatenate([band["max"], band["min"][::-1]]),
        "fill": "toself",
        "mode": "lines",
        "line": {"width": 0},
        "fillcolor": "rgba(153, 153, 153, 0.25)",
        "hoverinfo": "skip",
        "showlegend": False,
        "name": f"{way}, band",
    }


def _points(group: pd.DataFrame, over: str, way: str, criterion: str = "", compensation: str = "") -> dict[str, object]:
    looks = {"color": CRITERION_COLORS.get(criterion, "#555555"), "size": 9}
    return {
        "x": 100 * group[over].to_numpy(dtype=float),
        "y": group["value"].to_numpy(dtype=float),
        "mode": "lines+markers" if over == "sparsity" and criterion not in BENEATH else "markers",
        "name": way,
        "line": {"color": looks["color"], "dash": COMPENSATION_DASHES.get(compensation, "solid"), "width": 2},
        "marker": looks | {"symbol": COMPENSATION_SYMBOLS.get(compensation, "x")},
        "customdata": group[["key", "what", "macs", "when"]].to_numpy(),
        "hovertemplate": "%{customdata[1]}<br>%{y:.4g}, %{customdata[2]:.0%} of the multiply-accumulates<br>"
        "%{customdata[3]}<extra></extra>",
    }


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
