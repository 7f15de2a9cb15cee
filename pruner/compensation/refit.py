"""The gates of a shrunk LSTM fitted to those of the dense one by reweighted least squares, layer by layer."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from pruner.calibration.calibration import Calibration
from pruner.calibration.gathering import settled, windows
from pruner.compensation.conjugate_gradients import conjugate_gradients
from pruner.files.consumers import Consumer
from pruner.lstm.gates import split_gates
from pruner.lstm.kept import Kept
from pruner.lstm.lstm import LSTM
from pruner.lstm.traces import (
    Layers,
    Weights,
    gate_derivatives,
    pre_activations,
    run_layers,
    trace,
    turned,
    unit_derivatives,
)

RIDGE = 1e-3  # of the weighted mean square of the regressors, towards the weights before
PASSES, ITERATIONS = 3, 4
FLOOR = 0.3  # of plain least squares, in units of a row's mean weight
LEAST_SLOPE = 1e-6  # of a gate, below which it counts as saturated
LEAST = 1e-30  # what the ridge counts as where there is nothing to read
MAX_ELEMENTS = 2**29  # numbers that a refit may hold at once; it looks at no more steps than fit into them
CHUNK = 4096  # steps whose products are formed at once: what they need stays small, and is used again


class Sample:
    """The calibration inputs that refits look at: what every layer of the dense model reads there, and what its heads say.

    `read[layer]` holds batches (T, B, I) of that layer's inputs, `scores` (N, V) the output of each head.
    """

    def __init__(
        self,
        lstm: LSTM,
        tensors: Mapping[str, Tensor],
        calibration: Calibration,
        dense: Layers,
        heads: list[Consumer],
        device: str,
    ) -> None:
        self.burn_in = calibration.burn_in
        self.read: list[list[Tensor]] = [[] for _ in dense]
        widest = max(side.ih.shape[1] + side.hh.shape[1] + len(side.bias) for sides in dense for side in sides)
        outputs: list[Tensor] = []
        room = MAX_ELEMENTS // (widest + 1)
        for batch in windows(calibration, lstm, tensors, device):
            inputs = batch()
            room -= inputs.shape[0] * inputs.shape[1]
            if room < 0 and outputs:
                break
            for layer, sides in enumerate(dense):
                self.read[layer].append(inputs)
                inputs = run_layers([sides], inputs)[1]
            outputs.append(settled(inputs, 0, self.burn_in))
        self.scores = [head(torch.cat(outputs)) for head in heads]

    def outputs_of(self, layers: Layers) -> Tensor:
        """(N, D*R): the output of the last layer at every step that counts."""
        return torch.cat([settled(run_layers(layers, inputs)[1], 0, self.burn_in) for inputs in self.read[0]])


def refit_layers(
    layers: Layers,
    dense: Layers,
    sample: Sample,
    kept: Kept | None,
    allowed: Kept | None,
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
        reading = sample.read[0]
        for layer, sides in enumerate(layers):
            fitted = []
            for side, weights in enumerate(sides):
                progress(done / count)
                rows = torch.arange(len(dense[layer][side].bias), device=weights.bias.device)
                if kept is not None:
                    rows = split_gates(rows)[:, kept[layer, side]].flatten()
                fitted.append(
                    _refit_side(
                        weights,
                        dense[layer][side],
                        reading,
                        sample.read[layer],
                        rows,
                        None if allowed is None else allowed[layer, side].to(rows.device),
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
    dense_reading: list[Tensor],
    rows: Tensor,
    allowed: Tensor | None,
    bias: bool,
    side: int,
    burn_in: int,
    progress: Callable[[float], None],
) -> Weights:
    """`refit_layers` for one layer and direction; `reading` (T, B, I) are the inputs that it gets in the shrunk model,
    `dense_reading` those of the dense one."""
    inputs_size, outputs_size = weights.ih.shape[1], weights.hh.shape[1]
    steps = sum((len(inputs) - burn_in) * inputs.shape[1] for inputs in reading)
    regressors = weights.ih.new_empty(steps, inputs_size + outputs_size + bias)
    counts = weights.ih.new_empty(steps, len(rows))
    pull, plain = (regressors.new_zeros(len(rows), regressors.shape[1]) for _ in range(2))
    done = 0
    for inputs, dense_inputs in zip(reading, dense_reading, strict=True):
        progress(0.3 * done / steps)
        here, wanted = trace(weights, turned(inputs, side)), trace(dense, turned(dense_inputs, side))
        terms = [here.inputs, here.outputs[:-1]] + ([torch.ones_like(here.inputs[..., :1])] if bias else [])
        own = settled(torch.cat(terms, -1), side, burn_in)
        part = slice(done, done + len(own))
        missing = pre_activations(dense, wanted)[..., rows] - pre_activations(weights, here)
        # How far a unit moves with each of its gates at the dense model's state; by the chain rule from its pre-activations.
        slope = gate_derivatives(wanted)[..., rows].clamp(min=LEAST_SLOPE)
        effect = (unit_derivatives(wanted)[..., rows] / slope).square()
        now = gate_derivatives(here)
        pull += settled(effect * now * (wanted.gates[..., rows] - here.gates), side, burn_in).t() @ own
        plain += settled(missing, side, burn_in).t() @ own
        regressors[part], counts[part] = own, settled(effect * now.square(), side, burn_in)
        done = part.stop
    mean = counts.mean(0).clamp(min=torch.finfo(counts.dtype).tiny)
    counts.div_(mean).add_(FLOOR)
    change = weighted_least_squares(
        regressors,
        counts,
        pull / mean[:, None] + FLOOR * plain,
        allowed if allowed is None or bias else allowed[:, :-1],
        lambda part: progress(0.3 + 0.7 * part),
    )
    return replace(
        weights,
        ih=weights.ih + change[:, :inputs_size],
        hh=weights.hh + change[:, inputs_size : inputs_size + outputs_size],
        bias=weights.bias + change[:, -1] if bias else weights.bias,
    )


def weighted_least_squares(
    regressors: Tensor,
    counts: Tensor,
    pull: Tensor,
    allowed: Tensor | None = None,
    progress: Callable[[float], None] = lambda _: None,
) -> Tensor:
    """The change (M, W) of M rows of weights that best gives residuals (N, M) from regressors (N, W), each row with its own
    weights of the steps `counts` (N, M) and a ridge towards no change; None: every weight may change, else `allowed` (M, W).

    Of the residuals only `pull` (M, W) is needed, `(counts * residuals)' regressors`. A few steps of conjugate gradients
    over all rows at once, preconditioned by what the rows have in common, the regressors' products weighted by the mean
    of the counts: hidden units go together, so that a diagonal would say little.
    """
    chunks = list(zip(regressors.split(CHUNK), counts.split(CHUNK), strict=True))
    width = regressors.shape[1]
    common = regressors.new_zeros(width, width, dtype=torch.float64)
    squares = torch.zeros_like(pull)
    for steps, count in chunks:
        common += (steps * count.mean(1, keepdim=True)).t().double() @ steps.double()
        squares += count.t() @ steps.square()
    ridge = RIDGE * squares.mean(1, keepdim=True)
    common.diagonal().add_(ridge.double().mean().clamp(min=LEAST))
    inverse = torch.linalg.inv(common).to(pull.dtype)
    free = torch.ones_like(pull) if allowed is None else allowed.to(pull.dtype)

    def curve(step: int, direction: Tensor) -> Tensor:
        curved = ridge * direction
        for index, (steps, count) in enumerate(chunks):
            progress((step + index / len(chunks)) / ITERATIONS)
            curved += (count * (steps @ direction.t())).t() @ steps
        return curved * free

    return conjugate_gradients(
        curve, pull * free, lambda remaining: remaining @ inverse * free, ITERATIONS, by_rows=True
    )
