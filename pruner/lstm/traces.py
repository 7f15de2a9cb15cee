"""What one layer and direction of an LSTM does at every step, and the gradients that come back through it.

`nn.LSTM` keeps its gates to itself; statistics and refits need them. Everything here is time-major, in the order in
which the layer reads: that of a reverse direction is turned around by the caller, as `run_layers` does.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from pruner.lstm.gates import GATES
from pruner.lstm.lstm import LSTM


@dataclass(frozen=True)
class Weights:
    """One layer and direction: `ih` (4H, I), `hh` (4H, R), `bias` (4H,), the sum of both biases (zeros without), and with a
    projection `hr` (P, H)."""

    ih: Tensor
    hh: Tensor
    bias: Tensor
    hr: Tensor | None = None

    @property
    def hidden_size(self) -> int:
        return len(self.bias) // len(GATES)


Layers = list[list[Weights]]  # by layer and direction


def layers_of(lstm: LSTM, tensors: Mapping[str, Tensor], device: str = "cpu") -> Layers:
    """The weights of an LSTM in float32, from tensors keyed by the names in the file."""

    def taken(standard: str) -> Tensor | None:
        name = lstm.tensors.get(standard)
        return None if name is None else tensors[name].to(device, torch.float32)

    layers: Layers = []
    for layer in range(lstm.num_layers):
        layers.append([])
        for direction in range(lstm.directions):
            suffix = lstm.suffix(layer, direction)
            ih, hh = taken(f"weight_ih{suffix}"), taken(f"weight_hh{suffix}")
            assert ih is not None and hh is not None  # noqa: S101 - every LSTM has them
            biases = taken(f"bias_ih{suffix}"), taken(f"bias_hh{suffix}")
            bias = ih.new_zeros(len(ih)) if biases[0] is None or biases[1] is None else biases[0] + biases[1]
            layers[-1].append(Weights(ih, hh, bias, taken(f"weight_hr{suffix}")))
    return layers


@dataclass(frozen=True)
class Trace:
    """All steps of one layer and direction, time-major. Index 0 of `cells` and `outputs` is the zero state before the
    first."""

    inputs: Tensor  # (T, B, I)
    gates: Tensor  # (T, B, 4H), activated, in the order of `GATES`
    cells: Tensor  # (T + 1, B, H)
    outputs: Tensor  # (T + 1, B, R), after the projection if there is one
    units: Tensor  # (T, B, H), the hidden units, before it

    def split(self) -> tuple[Tensor, ...]:
        """The gates i, f, g, o, each (T, B, H)."""
        return self.gates.chunk(len(GATES), -1)


@torch.no_grad()
def trace(weights: Weights, inputs: Tensor) -> Trace:
    """Run one layer and direction on (T, B, I) inputs from a zero state."""
    steps, batch, _ = inputs.shape
    hidden_size = weights.hidden_size
    gates = F.linear(inputs, weights.ih, weights.bias)
    cells = inputs.new_zeros(steps + 1, batch, hidden_size)
    outputs = inputs.new_zeros(steps + 1, batch, weights.hh.shape[1])
    units = inputs.new_empty(steps, batch, hidden_size)
    recurrent = weights.hh.t()
    for step in range(steps):
        activated = gates[step].addmm_(outputs[step], recurrent)
        cell_gate = activated[:, 2 * hidden_size : 3 * hidden_size].tanh()
        activated.sigmoid_()
        activated[:, 2 * hidden_size : 3 * hidden_size] = cell_gate
        i, f, g, o = activated.chunk(len(GATES), 1)
        torch.addcmul(f * cells[step], i, g, out=cells[step + 1])
        torch.mul(o, cells[step + 1].tanh(), out=units[step])
        outputs[step + 1] = units[step] if weights.hr is None else units[step] @ weights.hr.t()
    return Trace(inputs, gates, cells, outputs, units)


@torch.no_grad()
def run_layers(layers: Layers, inputs: Tensor) -> tuple[list[list[Trace]], Tensor]:
    """Traces of every layer and direction on (T, B, I) inputs, and the output (T, B, D*R) of the last layer."""
    traces = []
    for directions in layers:
        traces.append([trace(weights, turned(inputs, each)) for each, weights in enumerate(directions)])
        inputs = torch.cat([turned(each.outputs[1:], direction) for direction, each in enumerate(traces[-1])], -1)
    return traces, inputs


def turned(steps: Tensor, direction: int) -> Tensor:
    """Time-major steps in the order in which a direction reads them, or back."""
    return steps.flip(0) if direction else steps


def unit_derivatives(traced: Trace) -> Tensor:
    """(T, B, 4H): the derivative of each hidden unit by each of its own four pre-activations at the same step."""
    i, f, g, o = traced.split()
    cell = traced.cells[1:].tanh()
    through_cell = o * (1 - cell * cell)
    return torch.cat(
        [
            through_cell * g * i * (1 - i),
            through_cell * traced.cells[:-1] * f * (1 - f),
            through_cell * i * (1 - g * g),
            cell * o * (1 - o),
        ],
        -1,
    )


@torch.no_grad()
def gradients(weights: Weights, traced: Trace, of_outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Back through time: (gradients by the pre-activations (T, B, 4H), by the hidden units (T, B, H)).

    `of_outputs` (T, B, R) is the gradient that reaches each output from above; what reaches it through the next step is
    added here. Those of the inputs are the first result times `weights.ih`.
    """
    steps, batch, hidden_size = traced.units.shape
    of_pre_activations, of_units = torch.empty_like(traced.gates), torch.empty_like(traced.units)
    later, of_cell = traced.gates.new_zeros(batch, len(GATES) * hidden_size), traced.units.new_zeros(batch, hidden_size)
    for step in reversed(range(steps)):
        i, f, g, o = traced.gates[step].chunk(len(GATES), 1)
        of_output = torch.addmm(of_outputs[step], later, weights.hh)
        of_unit = of_output if weights.hr is None else of_output @ weights.hr
        of_units[step] = of_unit
        cell = traced.cells[step + 1].tanh()
        of_cell = of_cell + of_unit * o * (1 - cell * cell)
        later = of_pre_activations[step]
        torch.cat(
            [
                of_cell * g * i * (1 - i),
                of_cell * traced.cells[step] * f * (1 - f),
                of_cell * i * (1 - g * g),
                of_unit * cell * o * (1 - o),
            ],
            1,
            out=later,
        )
        of_cell = of_cell * f
    return of_pre_activations, of_units
