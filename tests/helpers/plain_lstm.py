"""An LSTM written out step by step, for autograd and for comparison."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pruner.lstm.traces import Layers, Weights, layers_of
from tests.helpers.models import found_in, random_lstm


def all_layers(dtype: torch.dtype = torch.float64, seed: int = 0, **settings: Any) -> Layers:
    """The weights of a random LSTM, in float64 for comparisons that rounding would blur."""
    lstm, tensors = found_in(random_lstm(seed, **settings))
    return [[as_type(side, dtype) for side in sides] for sides in layers_of(lstm, tensors)]


def as_type(weights: Weights, dtype: torch.dtype) -> Weights:
    """The same weights in another precision."""
    hr = None if weights.hr is None else weights.hr.to(dtype)
    return Weights(weights.ih.to(dtype), weights.hh.to(dtype), weights.bias.to(dtype), hr)


@dataclass(frozen=True)
class Plain:
    """An LSTM written out step by step for autograd, each list by time in the order in which the direction reads."""

    pre: list[Tensor]
    units: list[Tensor]
    outputs: list[Tensor]


def plain(weights: Weights, inputs: Tensor) -> Plain:
    """One layer and direction over inputs (T, N, I) in the order in which it reads, from a zero state."""
    size = weights.hidden_size
    hidden, cell = inputs.new_zeros(inputs.shape[1], weights.hh.shape[1]), inputs.new_zeros(inputs.shape[1], size)
    found = Plain([], [], [])
    for step in inputs:
        pre = step @ weights.ih.t() + hidden @ weights.hh.t() + weights.bias
        pre.requires_grad_().retain_grad()
        i, f, g, o = (pre[:, gate * size : (gate + 1) * size] for gate in range(4))
        cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
        unit = o.sigmoid() * cell.tanh()
        unit.retain_grad()
        hidden = unit if weights.hr is None else unit @ weights.hr.t()
        found.pre.append(pre)
        found.units.append(unit)
        found.outputs.append(hidden)
    return found


def plain_layers(layers: Layers, inputs: Tensor) -> tuple[list[list[Plain]], Tensor]:
    """All layers and directions, and the output of the last, in the time of the data."""
    found = []
    for sides in layers:
        found.append([plain(side, inputs.flip(0) if index else inputs) for index, side in enumerate(sides)])
        turned = [own.outputs[::-1] if index else own.outputs for index, own in enumerate(found[-1])]
        inputs = torch.cat([torch.stack(list(own)) for own in turned], -1)
    return found, inputs
