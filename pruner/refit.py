"""The gates of a shrunk LSTM fitted to those of the dense one by reweighted least squares, layer by layer."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from pruner.calibration import Calibration
from pruner.gates import GATES, split_gates
from pruner.lstm import LSTM
from pruner.statistics import Head, settled, windows
from pruner.trace import Layers, Trace, Weights, gate_derivatives, pre_activations, run_layers, turned, unit_derivatives

RIDGE = 1e-2  # of the weighted mean square of the regressors, towards the weights before
PASSES, ITERATIONS = 3, 6
FLOOR = 0.3  # of plain least squares, in units of a row's mean weight
LEAST_SLOPE = 1e-6  # of a gate, below which it counts as saturated
MAX_ELEMENTS = 2**27  # of gates, in all layers; refits look at no more steps than fit into this


class Sample:
    """The calibration inputs that refits look at, with what the dense model does on them."""

    def __init__(
        self,
        lstm: LSTM,
        tensors: Mapping[str, Tensor],
        calibration: Calibration,
        dense: Layers,
        heads: list[Head],
        device: str,
    ) -> None:
        self.burn_in = calibration.burn_in
        self.inputs: list[Tensor] = []
        self.traces: list[list[list[Trace]]] = []
        outputs, room = [], MAX_ELEMENTS
        for batch in windows(calibration, lstm, tensors, device):
            inputs = batch()
            room -= (
                inputs.shape[0] * inputs.shape[1] * len(GATES) * lstm.hidden_size * lstm.num_layers * lstm.directions
            )
            if room < 0 and self.inputs:
                break
            traces, output = run_layers(dense, inputs)
            self.inputs.append(inputs)
            self.traces.append(traces)
            outputs.append(settled(output, 0, self.burn_in))
        self.scores = [head(torch.cat(outputs)) for head in heads]

    def outputs_of(self, layers: Layers) -> Tensor:
        """(N, D*R): the output of the last layer at every step that counts."""
        return torch.cat([settled(run_layers(layers, inputs)[1], 0, self.burn_in) for inputs in self.inputs])


def refit_layers(
    layers: Layers,
    dense: Layers,
    sample: Sample,
    kept: list[list[Tensor]] | None,
    allowed: list[list[Tensor]] | None,
    bias: bool,
    progress: Callable[[float], None],
) -> Layers:
    """Fit each kept row to the dense model's gate, from the states that the shrunk model really produces.

    Layers from below, three times; the target is taken on the dense model's own states. A gate is a generalized
    linear model of its inputs, so each pass is one round of iteratively reweighted least squares (Nelder & Wedderburn
    1972): a step of a row counts by how far its gate still moves the unit, squared, and asks for what is missing from
    the gate's value. A saturated gate asks for nothing more, whatever its pre-activation; a floor of plain least
    squares holds the rest.
    """
    count = sum(map(len, layers)) * PASSES
    done = 0
    for _ in range(PASSES):
        reading = sample.inputs
        for layer, sides in enumerate(layers):
            fitted = []
            for side, weights in enumerate(sides):
                progress(done / count)
                rows = torch.arange(len(dense[layer][side].bias), device=weights.bias.device)
                if kept is not None:
                    rows = split_gates(rows)[:, kept[layer][side]].flatten()
                fitted.append(
                    _refit_side(
                        weights,
                        dense[layer][side],
                        reading,
                        [traces[layer][side] for traces in sample.traces],
                        rows,
                        None if allowed is None else allowed[layer][side].to(rows.device),
                        bias,
                        side,
                        sample.burn_in,
                        partial(_report, progress, done, count),
                    )
                )
                done += 1
            layers = [*layers[:layer], fitted, *layers[layer + 1 :]]
            reading = [run_layers([fitted], inputs)[1] for inputs in reading]
    return layers


def _report(progress: Callable[[float], None], done: int, count: int, part: float) -> None:
    progress((done + part) / count)


def _refit_side(
    weights: Weights,
    dense: Weights,
    reading: list[Tensor],
    traces: list[Trace],
    rows: Tensor,
    allowed: Tensor | None,
    bias: bool,
    side: int,
    burn_in: int,
    progress: Callable[[float], None],
) -> Weights:
    """`refit_layers` for one layer and direction; `reading` (T, B, I) are the inputs that it gets in the shrunk model."""
    regressors, residuals, effects, bends = [], [], [], []
    for inputs, wanted in zip(reading, traces, strict=True):
        here = run_layers([[weights]], turned(inputs, side))[0][0][0]
        terms = [here.inputs, here.outputs[:-1]] + ([torch.ones_like(here.inputs[..., :1])] if bias else [])
        regressors.append(settled(torch.cat(terms, -1), side, burn_in))
        missing = pre_activations(dense, wanted)[..., rows] - pre_activations(weights, here)
        residuals.append(settled(missing, side, burn_in))
        # How far a unit moves with each of its gates at the dense model's state; by the chain rule from its pre-activations.
        slope = gate_derivatives(wanted)[..., rows].clamp(min=LEAST_SLOPE)
        effect = (unit_derivatives(wanted)[..., rows] / slope).square()
        now = gate_derivatives(here)
        effects.append(settled(effect * now * (wanted.gates[..., rows] - here.gates), side, burn_in))
        bends.append(settled(effect * now.square(), side, burn_in))
    missing, pull, counts = torch.cat(residuals), torch.cat(effects), torch.cat(bends)
    mean = counts.mean(0).clamp(min=torch.finfo(counts.dtype).tiny)
    counts = counts / mean + FLOOR
    missing = (pull / mean + FLOOR * missing) / counts
    change = weighted_least_squares(
        torch.cat(regressors),
        missing,
        counts,
        allowed if allowed is None or bias else allowed[:, :-1],
        progress,
    )
    inputs_size = weights.ih.shape[1]
    outputs_size = weights.hh.shape[1]
    return replace(
        weights,
        ih=weights.ih + change[:, :inputs_size],
        hh=weights.hh + change[:, inputs_size : inputs_size + outputs_size],
        bias=weights.bias + change[:, -1] if bias else weights.bias,
    )


def weighted_least_squares(
    regressors: Tensor,
    residuals: Tensor,
    counts: Tensor,
    allowed: Tensor | None = None,
    progress: Callable[[float], None] = lambda _: None,
) -> Tensor:
    """The change (M, W) of M rows of weights that best gives residuals (N, M) from regressors (N, W), each row with its own
    weights of the steps `counts` (N, M) and a ridge towards no change; None: every weight may change, else `allowed` (M, W).

    A few steps of conjugate gradients, preconditioned by the diagonal, over all rows at once: stopping early regularizes,
    too.
    """
    tiny = torch.finfo(regressors.dtype).tiny  # where there is nothing to fit, 0 / tiny leaves no change
    ridge = RIDGE * (counts.t() @ regressors.square().mean(1))[:, None]
    diagonal = (counts.t() @ regressors.square() + ridge).clamp(min=tiny)
    free = torch.ones_like(diagonal) if allowed is None else allowed.to(diagonal.dtype)
    remaining = (counts * residuals).t() @ regressors * free
    change = torch.zeros_like(remaining)
    direction = scaled = remaining / diagonal
    size = (remaining * scaled).sum(1, keepdim=True)
    for iteration in range(ITERATIONS):
        progress(iteration / ITERATIONS)
        curved = ((counts * (regressors @ direction.t())).t() @ regressors + ridge * direction) * free
        length = size / (direction * curved).sum(1, keepdim=True).clamp(min=tiny)
        change = change + length * direction
        remaining = remaining - length * curved
        scaled = remaining / diagonal
        new = (remaining * scaled).sum(1, keepdim=True)
        direction = scaled + new / size.clamp(min=tiny) * direction
        size = new
    return change
