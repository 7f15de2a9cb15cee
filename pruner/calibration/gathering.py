"""Run an LSTM over calibration inputs and keep what pruning and compensation need of it.

One pass, whose memory grows with H², never with the steps.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial

import torch
from torch import Tensor

from pruner.calibration.calibration import Calibration
from pruner.calibration.observations import LayerStatistics, Moments, Statistics
from pruner.errors import PrunerError
from pruner.files.consumers import Consumer, load_consumers
from pruner.lstm.gates import GATES, SIDES
from pruner.lstm.lstm import LSTM, Place
from pruner.lstm.traces import Layers, Trace, gradients, layers_of, run_layers, turned, unit_derivatives
from pruner.progress import Progress, silent

WINDOW = 512  # longer sequences are cut into pieces of at most this many steps, each read from a zero state
MAX_ELEMENTS = 2**27  # of gates at once, in all layers
ENOUGH_STEPS = 2**16  # of statistics; more steps change the order of removal and the fold no more
SEED = 0  # of the labels that are drawn from the model's own output


def check_task(task: str | None, consumers: list[Consumer], lstm: LSTM) -> None:
    """Raise PrunerError unless the loss of a task can be computed: it needs linear layers that read the output."""
    if task is None:
        return
    if not consumers or any(consumer.weight.dim() != 2 for consumer in consumers):
        found = ", ".join(consumer.name for consumer in consumers) or "none"
        raise PrunerError(
            f"expected the linear layers that read {lstm.title} for the task {task!r}, found {found}; name their weights as "
            "consumers (linear.weight, say)"
        )


def windows(
    calibration: Calibration, lstm: LSTM, tensors: Mapping[str, Tensor], device: str = "cpu"
) -> list[Callable[[], Tensor]]:
    """Time-major batches (T, B, I) of calibration inputs, each made when it is called for."""
    width = lstm.num_layers * lstm.directions * len(GATES) * lstm.hidden_size
    batch_size = max(1, min(64, MAX_ELEMENTS // (WINDOW * width)))
    made: list[Callable[[], Tensor]] = []
    for group in calibration.sequences[lstm.name]:
        pieces = math.ceil(group.shape[1] / WINDOW)
        length = math.ceil(group.shape[1] / pieces)
        for batch in group.split(batch_size):
            for piece in batch.split(length, 1):
                if piece.shape[1] > calibration.burn_in:
                    made.append(partial(_time_major, piece, calibration, tensors, device))
    return made


def _time_major(piece: Tensor, calibration: Calibration, tensors: Mapping[str, Tensor], device: str) -> Tensor:
    return calibration.looked_up(piece, tensors).to(device).transpose(0, 1)


class _Sums:
    """Running sums in float64. They take longest, so `tell` is called after each of them."""

    def __init__(self, tell: Callable[[], None]) -> None:
        self.count = 0
        self._sums: dict[str, Tensor] = {}
        self._tell = tell

    def add(self, name: str, value: Tensor) -> None:
        self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._tell()

    def add_moments(self, name: str, values: Tensor) -> None:
        """(N, W) values: their sum and that of their outer products."""
        wide = values.double()
        self.add(name, wide.sum(0))
        self.add(f"{name} squared", wide.t() @ wide)

    def mean(self, name: str) -> Tensor:
        return (self._sums[name] / self.count).cpu()

    def moments(self, name: str) -> Moments:
        mean = self.mean(name)
        return Moments(mean, self.mean(f"{name} squared") - torch.outer(mean, mean))

    def spread(self, name: str) -> tuple[Tensor, Tensor]:
        """Mean and variance of values that were added with their squares, column by column."""
        mean = self.mean(name)
        return mean, (self.mean(f"{name} squared") - mean * mean).clamp(min=0)

    def add_spread(self, name: str, values: Tensor) -> None:
        wide = values.double()
        self.add(name, wide.sum(0))
        self.add(f"{name} squared", wide.square_().sum(0))


@torch.no_grad()
def gather(
    lstm: LSTM,
    tensors: Mapping[str, Tensor],
    calibration: Calibration,
    consumers: Iterable[str] = (),
    task: str | None = None,
    device: str = "cpu",
    progress: Progress = silent,
) -> Statistics:
    """Run an LSTM over all calibration inputs and keep what pruning and compensation need.

    With a task (`softmax`: the consumers' outputs are scores of categories; `regression`: numbers with normal errors) its
    gradient runs back through time, too. `progress(fraction, what)` is called several times a batch; raise in it to stop.
    Of more than `ENOUGH_STEPS` steps, batches from all over the data are read. Raises PrunerError where a task lacks its
    linear layers.
    """
    layers, loaded = layers_of(lstm, tensors, device), load_consumers(tensors, consumers, device)
    check_task(task, loaded, lstm)
    generator = torch.Generator(device).manual_seed(SEED)
    done = 0.0  # batches

    def tell() -> None:
        progress(done / len(batches), f"Reading {lstm.title}, batch {int(done) + 1} of {len(batches)}")

    sums = {place: _Sums(tell) for place in lstm.places}
    outputs = [_Sums(tell) for _ in range(lstm.num_layers)]
    burn_in = calibration.burn_in
    batches = windows(calibration, lstm, tensors, device)
    if not batches:
        raise PrunerError(
            f"expected sequences longer than the burn-in of {calibration.burn_in} steps, found none for {lstm.title}; give "
            "longer sequences"
        )
    batches = _spread(batches, calibration.steps()[lstm.name])
    for index, batch in enumerate(batches):
        done = float(index)
        tell()
        traces, output = run_layers(layers, batch())
        done = index + 0.4
        for layer, directions in enumerate(traces):
            for direction, traced in enumerate(directions):
                _add_forward(
                    sums[layer, direction],
                    layers[layer][direction].ih,
                    layers[layer][direction].hh,
                    traced,
                    direction,
                    burn_in,
                )
            if not lstm.proj_size:
                both = [turned(traced.units, direction) for direction, traced in enumerate(directions)]
                kept = torch.cat(both, -1)[burn_in:].flatten(0, 1)
                outputs[layer].add_moments("output", kept)
                outputs[layer].count += len(kept)
        if task is None:
            continue
        reaching = _loss_gradient(output, loaded, task, generator)
        done = index + 0.7
        for layer in reversed(range(lstm.num_layers)):
            below = torch.zeros_like(traces[layer][0].inputs)
            for direction, traced in enumerate(traces[layer]):
                own = reaching[..., direction * lstm.output_size : (direction + 1) * lstm.output_size]
                of_rows, of_units = gradients(layers[layer][direction], traced, turned(own, direction))
                _add_backward(
                    sums[layer, direction],
                    layers[layer][direction].ih,
                    layers[layer][direction].hh,
                    traced,
                    of_rows,
                    of_units,
                    direction,
                    burn_in,
                )
                below += turned(of_rows @ layers[layer][direction].ih, direction)
            reaching = below
    reading = _readings(layers, loaded, sums, lstm)
    return Statistics(
        {place: _finished(each, reading[place], task is not None) for place, each in sums.items()},
        [None if lstm.proj_size else each.moments("output") for each in outputs],
        next(iter(sums.values())).count,
    )


def _spread(batches: list[Callable[[], Tensor]], steps: int) -> list[Callable[[], Tensor]]:
    """As many batches, evenly apart, as hold enough of all steps."""
    stride = max(1, steps // ENOUGH_STEPS)
    return batches[::stride]


def settled(steps: Tensor, direction: int, burn_in: int) -> Tensor:
    """(T, B, ...) -> (N, ...) without the burn-in, which is counted in the time of the data, not of the direction."""
    cut = steps[: len(steps) - burn_in] if direction else steps[burn_in:]
    return cut.flatten(0, 1)


def _products(ih: Tensor, hh: Tensor, traced: Trace) -> dict[str, Tensor]:
    """What each packed weight adds to the pre-activations, (T, B, 4H)."""
    return {"ih": traced.inputs @ ih.t(), "hh": traced.outputs[:-1] @ hh.t()}


def _add_forward(sums: _Sums, ih: Tensor, hh: Tensor, traced: Trace, direction: int, burn_in: int) -> None:
    units = settled(traced.units, direction, burn_in)
    sums.count += len(units)
    sums.add_moments("units", units)
    sums.add("activation", units.abs().double().sum(0))
    products = {name: settled(part, direction, burn_in) for name, part in _products(ih, hh, traced).items()}
    for name, part in products.items():
        sums.add_spread(name, part)
    sums.add_spread("both", products["ih"] + products["hh"])
    sums.add("derivatives squared", settled(unit_derivatives(traced), direction, burn_in).square().double().sum(0))


def _add_backward(
    sums: _Sums, ih: Tensor, hh: Tensor, traced: Trace, of_rows: Tensor, of_units: Tensor, direction: int, burn_in: int
) -> None:
    units, outer = settled(traced.units, direction, burn_in), settled(of_units, direction, burn_in)
    wide = outer.double()
    sums.add("importance", wide.t() @ wide)
    sums.add("taylor", (units * outer).abs().double().sum(0))
    rows = settled(of_rows, direction, burn_in)
    sums.add("sensitivity", rows.square().double().sum(0))
    for name, part in _products(ih, hh, traced).items():
        sums.add(f"taylor {name}", (settled(part, direction, burn_in) * rows).abs().double().sum(0))


def _loss_gradient(output: Tensor, consumers: list[Consumer], task: str, generator: torch.Generator) -> Tensor:
    """(T, B, D*R): the gradient of a log-likelihood whose labels are drawn from the model's own output."""
    total = torch.zeros_like(output)
    for consumer in consumers:
        scores = consumer(output)
        if task == "softmax":
            shares = scores.softmax(-1)
            labels = torch.multinomial(shares.flatten(0, 1), 1, generator=generator)
            errors = shares.flatten(0, 1).scatter_add_(1, labels, -torch.ones_like(labels, dtype=shares.dtype))
        else:
            errors = torch.randn(scores.flatten(0, 1).shape, generator=generator, device=scores.device)
        total += errors.view_as(scores) @ consumer.weight
    return total


def _readings(
    layers: Layers, consumers: list[Consumer], sums: Mapping[Place, _Sums], lstm: LSTM
) -> dict[Place, Tensor]:
    """How the units are read: {(layer, direction): (H, H)}, C'C of the reading rows, each row scaled by how far its gate
    moves its unit and how much that unit is read. Without known consumers of the last layer each of its outputs counts
    alike."""
    found: dict[Place, Tensor] = {}
    width = lstm.output_size
    for layer in reversed(range(lstm.num_layers)):
        for direction, weights in enumerate(layers[layer]):
            own = slice(direction * width, (direction + 1) * width)
            if layer + 1 < lstm.num_layers:
                above = [
                    _row_weights(sums[layer + 1, upper], found[layer + 1, upper]) * weights.ih[:, own].double().cpu()
                    for upper, weights in enumerate(layers[layer + 1])
                ]
            else:
                above = [consumer.matrix[:, own].double().cpu() for consumer in consumers]
            seen = torch.cat(above) if above else torch.eye(width, dtype=torch.float64)
            read = seen.t() @ seen
            back = None if weights.hr is None else weights.hr.double().cpu()

            def of_units(read: Tensor, back: Tensor | None = back) -> Tensor:
                return read if back is None else back.t() @ read @ back

            rows = _row_weights(sums[layer, direction], of_units(read)) * weights.hh.double().cpu()
            found[layer, direction] = of_units(read + rows.t() @ rows)
    return found


def _row_weights(sums: _Sums, importance: Tensor) -> Tensor:
    """(4H, 1): root mean square derivative of a row's unit by the row, times the root of that unit's importance."""
    return (sums.mean("derivatives squared") * importance.diagonal().repeat(len(GATES))).sqrt()[:, None]


def _finished(sums: _Sums, reading: Tensor, with_task: bool) -> LayerStatistics:
    return LayerStatistics(
        units=sums.moments("units"),
        activation=sums.mean("activation"),
        parts={side: sums.spread(side) for side in SIDES},
        variance=sums.spread("both")[1],
        reading=reading,
        importance=sums.mean("importance") if with_task else reading,
        sensitivity=sums.mean("sensitivity") if with_task else _row_weights(sums, reading).flatten().square(),
        taylor_units=sums.mean("taylor") if with_task else None,
        taylor_rows={side: sums.mean(f"taylor {side}") for side in SIDES} if with_task else None,
    )
