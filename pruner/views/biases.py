"""The biases of whole gates: what a gate does when there is nothing to read, the forget gate above all."""

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots
from torch import Tensor

from pruner.lstm.gates import GATE_TITLES, GATES, SIDES, split_gates
from pruner.lstm.lstm import LSTM
from pruner.views.colours import GATE_COLORS

BINS = 24
# The lowest and the highest mean forget bias among 42 layers and directions of 25 models: those of 23 files from public
# repositories, trained for their own ends, and of the two examples. PyTorch begins with a mean of 0, Keras with one of 1.
SEEN = (-0.25, 3.04)
FAR = 1.0  # beyond what was seen


def gate_biases(lstm: LSTM, tensors: Mapping[str, Tensor], layer: int, direction: int) -> Tensor:
    """(4, H) float64: the biases of `weight_ih` and `weight_hh` together, zeros for an LSTM without any."""
    total = torch.zeros(len(GATES), lstm.hidden_size, dtype=torch.float64)
    for side in SIDES:
        name = lstm.bias_name(layer, direction, side)
        if name is not None:
            total = total + split_gates(tensors[name].detach()).double().cpu()
    return total


def bias_table(lstm: LSTM, tensors: Mapping[str, Tensor]) -> pd.DataFrame:
    """A line a layer and direction: of each gate the `mean` bias and `BINS` counts of its finite ones, all from the lowest
    to the highest of the LSTM; and `kept`, the mean share of a cell state that is left after a step at rest."""
    found = {place: gate_biases(lstm, tensors, *place).numpy() for place in lstm.places}
    reach = _reach(list(found.values()))
    lines = []
    for (layer, direction), biases in found.items():
        line: dict[str, object] = {"layer": layer, "direction": "reverse" if direction else "forward"}
        line |= {gate: _counts(own, reach)[0].tolist() for gate, own in zip(GATES, biases, strict=True)}
        line |= {f"mean {gate}": float(own.mean()) for gate, own in zip(GATES, biases, strict=True)}
        lines.append(line | {"kept": float(torch.from_numpy(biases[GATES.index("f")]).sigmoid().mean())})
    return pd.DataFrame(lines)


def far_from_trained(means: Mapping[str, float]) -> list[str]:
    """A sentence if some of the mean forget biases, by the places that have them, lie far below those of trained LSTMs, and
    one if some lie far above."""
    low, high = SEEN
    known = sorted((mean, place) for place, mean in means.items() if not math.isnan(mean))
    seen = f"{low:g} to {high:g} in 42 layers of 25 models"
    said = []
    for mean, place in known[:1]:
        if mean < low - FAR:
            said.append(
                f"The mean forget bias of {place}, {mean:.3g}, is far below what trained LSTMs show ({seen}): such units "
                "lose most of their state within a step unless their inputs hold the gate open."
            )
    for mean, place in known[-1:]:
        if mean > high + FAR:
            said.append(
                f"The mean forget bias of {place}, {mean:.3g}, is far above what trained LSTMs show ({seen}): such units "
                "hardly ever forget unless their inputs close the gate."
            )
    return said


def bias_histograms(biases: Tensor, unit: int | None, marked: str, shared: bool = True) -> go.Figure:
    """How the biases (4, H) of each gate are distributed, with a line for their mean and a dotted one for that of a unit.

    The gates have one `shared` axis or each its own; the `marked` gate is drawn darker.
    """
    values = biases.numpy()
    figure = make_subplots(
        1,
        len(GATES),
        horizontal_spacing=0.04,
        subplot_titles=[f"{'▸ ' if gate == marked else ''}<b>b_{gate}</b> {GATE_TITLES[gate]}" for gate in GATES],
    )
    for column, (gate, own) in enumerate(zip(GATES, values, strict=True), start=1):
        reach = _reach([values] if shared else [own])
        counts, edges = _counts(own, reach)
        figure.add_bar(
            x=((edges[:-1] + edges[1:]) / 2).astype(np.float32),
            y=counts.astype(np.int32),
            width=float(edges[1] - edges[0]),
            marker={"color": GATE_COLORS[gate], "opacity": 0.75 if gate == marked else 0.45, "line": {"width": 0}},
            hovertemplate=f"b_{gate} about %{{x:.3g}}<br>%{{y}} units<extra></extra>",
            row=1,
            col=column,
        )
        lines = {"mean": (float(own.mean()), "solid")}
        if unit is not None:
            lines[f"unit {unit}"] = float(own[unit]), "dot"
        for name, (at, dash) in lines.items():
            if math.isfinite(at):
                figure.add_scatter(
                    x=[at, at],
                    y=[0, int(counts.max())],
                    mode="lines",
                    line={"color": GATE_COLORS[gate], "width": 3, "dash": dash},
                    hovertemplate=f"{name} of b_{gate}: {at:.3g}<extra></extra>",
                    row=1,
                    col=column,
                )
        figure.update_xaxes(range=reach, nticks=6, row=1, col=column)
    figure.update_yaxes(showticklabels=False, showgrid=False)
    figure.update_layout(height=200, margin={"l": 0, "r": 0, "t": 30, "b": 0}, bargap=0, showlegend=False)
    return figure


def _reach(parts: list[np.ndarray]) -> tuple[float, float]:
    """From the lowest to the highest finite bias, zero among them, and never nothing."""
    known = np.concatenate([part[np.isfinite(part)] for part in parts])
    low, high = float(known.min(initial=0.0)), float(known.max(initial=0.0))
    return (low, high) if high > low else (-1.0, 1.0)


def _counts(own: np.ndarray, reach: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    return np.histogram(own[np.isfinite(own)], BINS, reach)
