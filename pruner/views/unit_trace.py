"""What one hidden unit does over time, on a sequence that was held back."""

from collections.abc import Mapping

import pandas as pd
import torch
from torch import Tensor

from pruner.calibration.calibration import Calibration
from pruner.importance.masks import drop_rows
from pruner.lstm.gates import GATES
from pruner.lstm.lstm import LSTM
from pruner.lstm.sizes import macs_per_step
from pruner.lstm.traces import layers_of, run_layers, turned

TRACED = ("h", "c", *GATES)  # its output (before a projection), its cell state, and its four gates
MOST_STEPS, LEAST_STEPS = 200, 16
MAX_MACS = 20e9  # multiply-accumulates of a trace: some seconds on one core


def steps_to_trace(lstm: LSTM, layer: int) -> int:
    """How many time steps are traced: `MOST_STEPS`, fewer where running the layers up to this one takes too long."""
    macs = lstm.directions * sum(macs_per_step(lstm.place_shapes(below).values()) for below in range(layer + 1))
    return max(LEAST_STEPS, min(MOST_STEPS, int(MAX_MACS / macs)))


def held_back(calibration: Calibration, lstm: LSTM) -> list[Tensor]:
    """The sequences of an LSTM that are kept to judge by, each (1, T) token ids or (1, T, I) inputs.

    Raises PrunerError where there are too few to hold any back.
    """
    _, held = calibration.split()
    return [sequence for group in held.sequences[lstm.name] for sequence in group.split(1)]


def masked(tensors: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with the rows that their masks drop set to zero."""
    return {name: drop_rows(tensor, masks[name]) if name in masks else tensor for name, tensor in tensors.items()}


@torch.no_grad()
def layer_trace(lstm: LSTM, tensors: Mapping[str, Tensor], layer: int, direction: int, inputs: Tensor) -> Tensor:
    """What all units of a layer and direction do at each of the T steps of inputs (1, T, I), from a zero state, in the order
    of time: float32 (6, T, H), one each of `TRACED`."""
    traces, _ = run_layers(layers_of(lstm, tensors)[: layer + 1], inputs.transpose(0, 1))
    found = traces[layer][direction]
    values = [found.units, found.cells[1:], *found.split()]
    return torch.stack([turned(value[:, 0], direction) for value in values])


def unit_trace(traced: Tensor, unit: int) -> pd.DataFrame:
    """What one unit of `layer_trace` does: a line a step, a column each of `TRACED`."""
    return pd.DataFrame(dict(zip(TRACED, traced[:, :, unit].numpy(), strict=True)))


def most_moved(outputs: Tensor, most: int) -> Tensor:
    """The units whose outputs (T, H) vary most, at most so many, in the order of their numbers."""
    order = outputs.var(0, correction=0).argsort(descending=True, stable=True)
    return order[:most].sort().values
