"""What a hidden unit does over time as a figure: its gates and states, all units of its layer, and below them what was read.

All parts stand on one axis of time. Whoever points at a step, or at the symbol that was read there, sees it in all of them.
"""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from torch import Tensor

from pruner.lstm.gates import GATE_TITLES, GATES
from pruner.views.colours import DROPPED, LINE_COLORS
from pruner.views.unit_trace import TRACED

TITLES = {"h": "output h", "c": "cell state c", **{gate: f"{GATE_TITLES[gate]} gate {gate}" for gate in GATES}}
LINE, UNITS, READ, GAP = 84, 170, 26, 24  # heights in pixels, of the parts and between them
NAMES = {" ": "a space", "\n": "a line break", "\t": "a tab"}  # of symbols that show nothing
SIGNS = {"\n": "↵", "\t": "⇥"}


@dataclass(frozen=True)
class OverTime:
    """Some steps of a unit: tables of `unit_trace`, whose indices are the steps; the outputs (T, U) of the `units` that are
    shown beside it; the `symbols` that were read, if they are known; and at which steps a condition holds, if there is one.
    """

    unit: int
    dense: pd.DataFrame
    pruned: pd.DataFrame
    outputs: Tensor
    units: Sequence[int]
    symbols: Sequence[str] | None = None
    holds: np.ndarray | None = None


def trace_figure(found: OverTime, marked: str | None = None) -> go.Figure:
    """Output, cell state and gates of the unit, dense and pruned; the outputs of the other units; the symbols. The title of
    the `marked` gate points at it."""
    heights = [*[LINE] * len(TRACED), UNITS, *([READ] if found.symbols is not None else [])]
    tops = np.cumsum([0, *(height + GAP for height in heights[:-1])])
    total = sum(heights) + GAP * (len(heights) - 1)
    figure = go.Figure()
    for row, what in enumerate(TRACED):
        _add_lines(figure, found, what, _axis(row))
    _add_units(figure, found, _axis(len(TRACED)))
    if found.symbols is not None:
        _add_symbols(figure, found, found.symbols, _axis(len(TRACED) + 1))
    if found.holds is not None:
        _shade(figure, found, found.holds)
    titles = [f"{'▸ ' if what == marked else ''}{TITLES[what]}" for what in TRACED] + ["output h of all units shown"]
    for row, (top, height) in enumerate(zip(tops.tolist(), heights, strict=True)):
        name = _axis(row).replace("y", "yaxis")
        low, high = max(1 - (top + height) / total, 0.0), 1 - top / total
        figure.update_layout({name: {"domain": [low, high], "anchor": "x", "fixedrange": True, "nticks": 4}})
        if row < len(titles):
            place = {"x": 0, "xref": "paper", "xanchor": "left", "y": high, "yref": "paper", "yanchor": "bottom"}
            figure.add_annotation(text=titles[row], showarrow=False, font={"size": 13}, **place)
    for what in ("i", "f", "o"):
        figure.update_layout({_axis(TRACED.index(what)).replace("y", "yaxis"): {"range": [-0.05, 1.05]}})
    figure.update_layout(**_layout(found, total, _axis(len(heights) - 1)))
    return figure


def _axis(row: int) -> str:
    return f"y{row + 1}" if row else "y"


def _layout(found: OverTime, total: int, last_axis: str) -> dict[str, Any]:
    steps = found.dense.index
    return {
        "height": total + 110,
        "margin": {"l": 0, "r": 0, "t": 60, "b": 50},
        "hovermode": "x unified",
        "hoversubplots": "axis",
        "dragmode": False,  # so that a finger scrolls the page
        "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.03, "yanchor": "bottom"},
        "coloraxis": {"autocolorscale": True, "cmin": -_reach(found), "cmax": _reach(found), "showscale": False},
        "xaxis": {
            "anchor": last_axis,
            "range": [steps[0] - 0.5, steps[-1] + 0.5],
            "title": {"text": "time step"},
            "unifiedhovertitle": {"text": "step %{x}"},
            "fixedrange": True,
            "showgrid": False,
            "zeroline": False,
            "showspikes": True,
            "spikemode": "across",
            "spikesnap": "data",
            "spikedash": "solid",
            "spikethickness": 9,
            "spikecolor": "rgba(230, 159, 0, 0.35)",
        },
    }


def _reach(found: OverTime) -> float:
    """The colours of outputs go to the largest of them on both sides of zero."""
    sizes = found.outputs[found.outputs.isfinite()].abs()
    return max(float(sizes.max()), 1e-6) if len(sizes) else 1.0


def _add_lines(figure: go.Figure, found: OverTime, what: str, axis: str) -> None:
    looks = (("dense", found.dense, {"color": LINE_COLORS[0]}), ("pruned", found.pruned, {"color": LINE_COLORS[1]}))
    for name, table, line in looks:
        figure.add_scatter(
            x=table.index.to_numpy(np.int32),
            y=table[what].to_numpy(np.float32),
            mode="lines",
            name=name,
            legendgroup=name,
            showlegend=what == TRACED[0],
            line={"width": 1.8, "dash": "dot" if name == "pruned" else "solid", **line},
            hovertemplate=f"{what} {name} %{{y:.3f}}<extra></extra>",
            yaxis=axis,
        )


def _add_units(figure: go.Figure, found: OverTime, axis: str) -> None:
    figure.add_heatmap(
        x=found.dense.index.to_numpy(np.int32),
        z=found.outputs.T.numpy().astype(np.float32),
        customdata=np.tile(np.asarray(found.units, dtype=np.int32)[:, None], (1, len(found.dense))),
        coloraxis="coloraxis",
        name="units",
        hovertemplate="h of unit %{customdata}: %{z:.3f}<extra></extra>",
        yaxis=axis,
    )
    name = axis.replace("y", "yaxis")
    figure.update_layout(
        {name: {"showticklabels": False, "ticks": "", "showgrid": False, "zeroline": False, "autorange": "reversed"}}
    )
    if found.unit in found.units:
        place = {"x": 0, "xref": "paper", "xanchor": "right", "y": list(found.units).index(found.unit), "yref": axis}
        figure.add_annotation(text=f"{found.unit} ▶", showarrow=False, font={"color": DROPPED}, **place)


def _add_symbols(figure: go.Figure, found: OverTime, symbols: Sequence[str], axis: str) -> None:
    figure.add_scatter(
        x=found.dense.index.to_numpy(np.int32),
        y=np.zeros(len(symbols), dtype=np.int32),
        mode="text",
        name="read",
        showlegend=False,
        text=[html.escape(SIGNS.get(symbol, symbol), quote=False) for symbol in symbols],
        customdata=[html.escape(NAMES.get(symbol, symbol), quote=False) for symbol in symbols],
        textfont={"family": "monospace", "size": 11},
        hovertemplate="reads <b>%{customdata}</b><extra></extra>",
        yaxis=axis,
    )
    name = axis.replace("y", "yaxis")
    figure.update_layout({name: {"range": [-1, 1], "visible": False}})


def _shade(figure: go.Figure, found: OverTime, holds: np.ndarray) -> None:
    """The steps at which a condition holds, behind all parts."""
    steps = found.dense.index.to_numpy()
    edges = np.flatnonzero(np.diff(np.concatenate([[False], holds, [False]]).astype(np.int8)))
    for begin, end in edges.reshape(-1, 2):
        figure.add_shape(
            type="rect",
            x0=steps[begin] - 0.5,
            x1=steps[end - 1] + 0.5,
            y0=0,
            y1=1,
            yref="paper",
            fillcolor=LINE_COLORS[2],
            opacity=0.16,
            line_width=0,
            layer="below",
        )
