"""What the lessons show -> Plotly figures, coloured as in `figures`: one hue a gate, orange for what is dropped."""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots
from torch import Tensor

from pruner.lessons.frozen import Watched
from pruner.lessons.healing import STAGES
from pruner.lessons.moment import Moment
from pruner.lessons.packed import Reshaped
from pruner.lessons.repair import Repaired
from pruner.lessons.together import WAYS
from pruner.lstm.gates import GATE_TITLES, GATES, split_gates
from pruner.views.colours import AGREEMENT, DROPPED, GATE_COLORS, LINE_COLORS

BITS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5)  # marks of a logarithmic axis
GREY = "#999999"  # readable on white and on black
GATE_NAMES = [f"{gate} {GATE_TITLES[gate]}" for gate in GATES]
TOP = {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}


def packed_rows(weight: Tensor, row: int | None = None) -> go.Figure:
    """The absolute weights of a packed tensor (4H, I), one line a row, with one row framed."""
    values = weight.abs().numpy().astype(np.float32)
    rows, columns = values.shape
    block = rows // len(GATES)
    figure = go.Figure()
    figure.add_heatmap(
        z=values, coloraxis="coloraxis", hovertemplate="row %{y}, column %{x}<br>|weight| %{z:.3g}<extra></extra>"
    )
    for gate in range(1, len(GATES)):
        figure.add_hline(gate * block - 0.5, line={"color": GREY, "width": 2})
    if row is not None:
        figure.add_shape(
            type="rect",
            x0=-0.5,
            x1=columns - 0.5,
            y0=row - 0.5,
            y1=row + 0.5,
            line={"color": DROPPED, "width": 3},
        )
    figure.update_xaxes(visible=False, fixedrange=True)
    figure.update_yaxes(
        autorange="reversed",
        fixedrange=True,
        tickvals=[(gate + 0.5) * block - 0.5 for gate in range(len(GATES))],
        ticktext=GATE_NAMES,
        showgrid=False,
    )
    return _sized(figure, 230, coloraxis={"showscale": False}, margin={"l": 0, "r": 0, "t": 5, "b": 0})


def split_rows(weight: Tensor) -> go.Figure:
    """The same weights as four blocks of H rows, side by side."""
    blocks = split_gates(weight).abs().numpy().astype(np.float32)
    figure = make_subplots(1, len(GATES), horizontal_spacing=0.03, subplot_titles=GATE_NAMES)
    for index, block in enumerate(blocks):
        figure.add_heatmap(
            z=block,
            coloraxis="coloraxis",
            hovertemplate=f"gate {GATES[index]}, unit %{{y}}, column %{{x}}<br>|weight| %{{z:.3g}}<extra></extra>",
            row=1,
            col=index + 1,
        )
    figure.update_xaxes(visible=False, fixedrange=True)
    figure.update_yaxes(autorange="reversed", fixedrange=True, showgrid=False, showticklabels=False)
    return _sized(figure, 360, coloraxis={"showscale": False})


def reshapes(reshaped: Reshaped, row: int) -> go.Figure:
    """Which gate's row each of the two reshapes puts at each gate and unit, and where they put one row."""
    size = reshaped.hidden_size
    figure = make_subplots(
        2, 1, vertical_spacing=0.2, subplot_titles=[f"right: view(4, {size}, -1)", f"wrong: view({size}, 4, -1)"]
    )
    for index, rows in enumerate((reshaped.right, reshaped.wrong), 1):
        figure.add_heatmap(
            z=(rows // size).numpy().astype(np.uint8),
            customdata=rows.numpy(),
            colorscale=_steps(list(GATE_COLORS.values())),
            zmin=-0.5,
            zmax=len(GATES) - 0.5,
            showscale=False,
            xgap=1,
            ygap=1,
            hovertemplate="taken for gate %{y} of unit %{x}<br>row %{customdata}<extra></extra>",
            row=index,
            col=1,
        )
        gate, unit = ((rows == row).nonzero()[0]).tolist()
        figure.add_shape(
            type="rect",
            x0=unit - 0.5,
            x1=unit + 0.5,
            y0=gate - 0.5,
            y1=gate + 0.5,
            line={"color": "#000000", "width": 3},
            fillcolor="#ffffff",
            row=index,
            col=1,
        )
    for gate, color in GATE_COLORS.items():
        figure.add_scatter(
            x=[None],
            y=[None],
            mode="markers",
            name=f"rows of {gate}",
            marker={"symbol": "square", "size": 12, "color": color},
        )
    figure.update_xaxes(fixedrange=True, title="taken for unit", title_standoff=10, row=2, col=1)
    figure.update_xaxes(fixedrange=True, showticklabels=False, row=1, col=1)
    figure.update_yaxes(
        autorange="reversed", fixedrange=True, tickvals=list(range(len(GATES))), ticktext=list(GATES), showgrid=False
    )
    return _sized(figure, 285, legend=TOP | {"y": 1.16}, margin={"l": 0, "r": 0, "t": 75, "b": 0})


def norm_bars(saliency: Tensor, ranks: Tensor | None = None, dropped: int = 0) -> go.Figure:
    """The saliency (4, H) of every row, gate by gate; with ranks (4, H) the lowest in orange, below the cut."""
    values = saliency.numpy().astype(np.float32)
    figure = make_subplots(1, len(GATES), shared_yaxes=True, horizontal_spacing=0.02, subplot_titles=GATE_NAMES)
    for index, gate in enumerate(GATES):
        falls = np.zeros(values.shape[1], dtype=bool) if ranks is None else ranks[index].numpy() < dropped
        figure.add_bar(
            x=np.arange(values.shape[1]),
            y=values[index],
            marker_color=[DROPPED if fallen else GATE_COLORS[gate] for fallen in falls],
            showlegend=False,
            hovertemplate=f"gate {gate}, unit %{{x}}<br>L1 norm %{{y:.3g}}<extra></extra>",
            row=1,
            col=index + 1,
        )
        if falls.any():
            cut = float(values[index][falls].max())
            figure.add_hline(cut, line={"color": GREY, "dash": "dot", "width": 2}, row=1, col=index + 1)
    figure.update_xaxes(fixedrange=True, title="unit", showgrid=False, nticks=5)
    figure.update_yaxes(fixedrange=True, rangemode="tozero")
    figure.update_yaxes(title="L1 norm", row=1, col=1)
    figure.update_layout(bargap=0.15)
    return _sized(figure, 240)


def mask_grid(mask: Tensor) -> go.Figure:
    """A mask (4H,) as one line a gate and one cell a unit."""
    kept = split_gates(mask).numpy().astype(np.uint8)
    figure = go.Figure()
    figure.add_heatmap(
        z=kept,
        y=GATE_NAMES,
        colorscale=_steps([DROPPED, AGREEMENT["kept by all"]]),
        zmin=-0.5,
        zmax=1.5,
        showscale=False,
        xgap=1,
        ygap=2,
        hovertemplate="%{y}, unit %{x}<extra></extra>",
    )
    for name, color in (("kept", AGREEMENT["kept by all"]), ("dropped", DROPPED)):
        figure.add_scatter(
            x=[None], y=[None], mode="markers", name=name, marker={"symbol": "square", "size": 12, "color": color}
        )
    figure.update_xaxes(fixedrange=True, title="unit")
    figure.update_yaxes(autorange="reversed", fixedrange=True, showgrid=False)
    return _sized(figure, 260, legend=TOP)


def parts(kept: Mapping[str, Tensor]) -> go.Figure:
    """The rows that are left, (4,) by gate, in the order of the tensor, under each way of ranking; dotted where a split in
    four equal parts would cut."""
    figure = go.Figure()
    names = [WAYS[way] for way in kept]
    for index, gate in enumerate(GATES):
        counts = [int(each[index]) for each in kept.values()]
        figure.add_bar(
            x=counts,
            y=names,
            orientation="h",
            name=f"{gate} {GATE_TITLES[gate]}",
            marker_color=GATE_COLORS[gate],
            text=counts,
            textposition="inside",
            insidetextfont_color="#ffffff" if gate == "i" else "#000000",  # whichever can be read on its colour
            insidetextanchor="middle",
            textangle=0,
            hovertemplate=f"%{{y}}<br>{gate}: %{{x}} rows left<extra></extra>",
        )
    total = int(next(iter(kept.values())).sum())
    for part in range(1, len(GATES)):
        figure.add_vline(part * total / len(GATES), line={"color": GREY, "dash": "dot", "width": 3})
    figure.update_layout(barmode="stack", bargap=0.35)
    figure.update_xaxes(fixedrange=True, title="rows left, dotted: a split in four", range=[0, total], showgrid=False)
    figure.update_yaxes(fixedrange=True, autorange="reversed", ticklabelstandoff=5)
    return _sized(figure, 240, legend=TOP | {"traceorder": "normal"})


def quality_curves(
    shares: Sequence[float], lines: Mapping[str, Sequence[float]], share: float, title: str
) -> go.Figure:
    """Quality (0 to 1) over the share that is dropped, one line a way, with the present share marked."""
    figure = go.Figure()
    for index, (name, values) in enumerate(lines.items()):
        color = LINE_COLORS[index]
        figure.add_scatter(
            x=[100 * each for each in shares],
            y=[100 * each for each in values],
            name=name,
            mode="lines+markers",
            line={"color": color, "width": 2, "dash": ("solid", "dash")[index % 2]},
            marker={"size": [13 if each == share else 5 for each in shares]},
            hovertemplate=f"{name}<br>%{{x:.0f}} % dropped: %{{y:.1f}} %<extra></extra>",
        )
    figure.add_vline(100 * share, line={"color": GREY, "dash": "dot", "width": 1})
    figure.update_xaxes(fixedrange=True, title=title)
    figure.update_yaxes(fixedrange=True, title="strings wholly right (%)", range=[-4, 104])
    return _sized(figure, 220, legend=TOP)


def falling_loss(moments: Sequence[Moment], seconds: float) -> go.Figure:
    """The loss before and while a model heals, on an axis as long as it may take."""
    figure = go.Figure()
    learnt = [moment for moment in moments if moment.stage != STAGES[0]]
    figure.add_scatter(
        x=[moment.seconds for moment in learnt],
        y=[moment.loss for moment in learnt],
        mode="lines+markers",
        name="compensated, then healing",
        line={"color": LINE_COLORS[0], "width": 3},
        hovertemplate="%{x:.1f} s: %{y:.3f}<extra></extra>",
    )
    figure.add_scatter(
        x=[0, seconds],
        y=[moments[0].loss] * 2,
        mode="lines",
        name="nothing done",
        line={"color": GREY, "dash": "dot", "width": 2},
        hovertemplate="nothing done: %{y:.3f}<extra></extra>",
    )
    longest = max(seconds, moments[-1].seconds)
    figure.update_xaxes(fixedrange=True, title="seconds of learning", range=[-0.5, longest + 0.5])
    figure.update_yaxes(fixedrange=True, title="bits lost a character", type="log", tickvals=BITS)
    return _sized(figure, 240, legend=TOP)


def watched(found: Watched) -> go.Figure:
    """A gate and the cell state of its unit at every symbol of a string, whole and masked."""
    steps = list(range(len(found.text) - 1))
    figure = make_subplots(
        2,
        1,
        shared_xaxes=True,
        vertical_spacing=0.14,
        subplot_titles=[f"{GATE_TITLES[found.gate]} gate of unit {found.unit}", f"cell state of unit {found.unit}"],
    )
    looks = {"whole": {"color": LINE_COLORS[0]}, "masked": {"color": DROPPED, "dash": "dash"}}
    for index, series in enumerate((found.values, found.cells), 1):
        for name, values in series.items():
            figure.add_scatter(
                x=steps,
                y=values.numpy().astype(np.float32),
                name=name,
                mode="lines+markers",
                line={"width": 3, **looks[name]},
                showlegend=index == 1,
                hovertemplate=f"{name}<br>%{{y:.3f}}<extra></extra>",
                row=index,
                col=1,
            )
    figure.add_hline(found.constant, line={"color": GREY, "dash": "dot"}, row=1, col=1)
    low = -1.08 if found.gate == "g" else -0.08
    figure.update_yaxes(fixedrange=True)
    figure.update_yaxes(range=[low, 1.08], row=1, col=1)
    figure.update_xaxes(fixedrange=True, tickvals=steps, ticktext=list(found.text[:-1]), tickangle=0)
    figure.update_xaxes(title="symbol that is read", row=2, col=1)
    return _sized(figure, 355, legend=TOP | {"y": 1.1}, margin={"l": 0, "r": 0, "t": 65, "b": 0})


def quality_by_unit(quality: Tensor, unit: int) -> go.Figure:
    """Quality (H,) when one gate of each unit is frozen, one unit at a time; one unit marked."""
    figure = go.Figure()
    figure.add_bar(
        x=list(range(len(quality))),
        y=100 * quality.numpy(),
        marker_color=[DROPPED if each == unit else LINE_COLORS[0] for each in range(len(quality))],
        hovertemplate="unit %{x}<br>%{y:.1f} % of strings right<extra></extra>",
    )
    figure.update_xaxes(fixedrange=True, title="frozen unit", showgrid=False)
    figure.update_yaxes(fixedrange=True, title="strings right (%)", range=[0, 104])
    return _sized(figure, 180)


def correlations(found: Repaired) -> go.Figure:
    """How closely hidden units go together, the removed ones first; a line parts them from the kept ones."""
    order = [*found.removed.tolist(), *found.kept.tolist()]
    names = [str(unit) for unit in order]
    figure = go.Figure()
    figure.add_heatmap(
        z=found.correlation[order][:, order].numpy().astype(np.float32),
        x=names,
        y=names,
        coloraxis="coloraxis",
        hovertemplate="units %{y} and %{x}<br>correlation %{z:.2f}<extra></extra>",
    )
    edge = len(found.removed) - 0.5
    figure.add_hline(edge, line={"color": DROPPED, "width": 2})
    figure.add_vline(edge, line={"color": DROPPED, "width": 2})
    figure.update_xaxes(
        type="category", fixedrange=True, showticklabels=False, title="unit: removed | kept", constrain="domain"
    )
    figure.update_yaxes(
        type="category",
        fixedrange=True,
        showticklabels=False,
        title="unit: kept | removed",
        autorange="reversed",
        scaleanchor="x",
        constrain="domain",
    )
    bar = {"thickness": 10, "outlinewidth": 0, "orientation": "h", "y": -0.2, "yanchor": "top"}
    bar["title"] = {"text": "correlation", "side": "bottom"}
    return _sized(figure, 320, coloraxis={"cmin": -1, "cmax": 1, "autocolorscale": True, "colorbar": bar})


def explained_bars(found: Repaired) -> go.Figure:
    """Of each removed unit, how much the kept ones tell."""
    figure = go.Figure()
    figure.add_bar(
        x=[str(unit) for unit in found.removed.tolist()],
        y=100 * found.explained.numpy(),
        marker_color=LINE_COLORS[2],
        hovertemplate="unit %{x}<br>%{y:.1f} % told by those kept<extra></extra>",
    )
    figure.update_xaxes(type="category", fixedrange=True, title="removed unit", showgrid=False)
    figure.update_yaxes(fixedrange=True, title="told by those kept (%)", range=[0, 104])
    return _sized(figure, 320)


def _steps(colors: list[str]) -> list[list[object]]:
    """A colour scale of flat steps, one a whole number."""
    count = len(colors)
    return [[edge, color] for index, color in enumerate(colors) for edge in (index / count, (index + 1) / count)]


def _sized(figure: go.Figure, height: int, **layout: object) -> go.Figure:
    figure.update_layout(**{"height": height, "margin": {"l": 0, "r": 0, "t": 30, "b": 0}, **layout})
    return figure
