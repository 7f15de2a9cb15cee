"""Refit what is left of an LSTM from calibration inputs, without training.

A chain of steps, each a room of its own: `fold`, `refit`, `readout`. Each is kept only where it helps on calibration
data that was held back, and `Step` says so.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pruner.calibration.inputs import Calibration
from pruner.calibration.observations import Head, Progress, Statistics, heads_of, settled, windows
from pruner.compensation import fold, readout, refit
from pruner.compensation.fold import Shrunk, dropped, side_by_side, sliced
from pruner.compensation.readout import divergence, divergence_readout, least_squares_readout
from pruner.compensation.refit import Sample, refit_layers
from pruner.errors import PrunerError
from pruner.files.checkpoint import Checkpoint
from pruner.files.consumers import consumers_of
from pruner.lstm.gates import GATES, split_gates
from pruner.lstm.lstm import LSTM
from pruner.lstm.traces import Layers, layers_of, run_layers
from pruner.recipe import Recipe

HELD_BACK_STEPS = 8192  # enough to tell whether a step of the chain helps


@dataclass(frozen=True)
class Step:
    """One step of the chain: the loss on held-back calibration data without and with it, and whether it was kept."""

    name: str
    before: float
    after: float

    @property
    def kept(self) -> bool:
        return self.after < self.before


Reconstruction = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Compensation:
    """What compensation changes in a checkpoint: new values of full size by the names in the file, for each LSTM with
    unknown readers the weight (R, K) and bias (R,) that reconstruct the removed units of each direction of its last
    layer, and what was done, for the manifest."""

    tensors: dict[str, Tensor]
    reconstructions: dict[str, Reconstruction]
    facts: dict[str, Any]


NO_COMPENSATION = Compensation({}, {}, {})


def check_data(checkpoint: Checkpoint, recipe: Recipe, calibration: Calibration | None) -> None:
    """Raise PrunerError unless there is what the recipe's criterion and compensation need: calibration inputs, and
    for `full` a task, consumers for every LSTM, and inputs that are not random: gates fitted to those get worse on
    real ones."""
    if recipe.needs_data and calibration is None:
        raise PrunerError(
            "expected calibration inputs for this recipe, whose criterion or compensation needs them, found none; give "
            "some, or choose the criterion l1 without compensation"
        )
    if recipe.compensation != "full" or calibration is None:
        return
    if calibration.source == "gaussian":
        raise PrunerError(
            "expected real or sampled inputs for compensation 'full', found random ones, which would make the model "
            "worse on real ones; give inputs, or choose compensation 'fold'"
        )
    without = [name for name, readers in consumers_of(checkpoint, recipe).items() if not readers]
    if recipe.task is None or without:
        found = "no task" if recipe.task is None else f"no consumer of {without[0] or '(root)'}"
        raise PrunerError(
            "expected a task (softmax or regression) and the consumers that serve it with compensation 'full', found "
            f"{found}; name both, or choose compensation 'fold'"
        )


def compensate(
    checkpoint: Checkpoint,
    recipe: Recipe,
    masks: Mapping[str, Tensor],
    statistics: Mapping[str, Statistics],
    calibration: Calibration,
    device: str = "cpu",
    progress: Progress = lambda *_: None,
) -> Compensation:
    """Refit every pruned LSTM of a checkpoint as the recipe's `compensation` says.

    `masks` are the recipe's, `statistics` those of the dense LSTMs on the part of `calibration` to fit on, by LSTM name.
    Raises PrunerError where a layer is left without units, and as `check_data` does.
    """
    if recipe.compensation == "none":
        return NO_COMPENSATION
    check_data(checkpoint, recipe, calibration)
    consumers, lstms = consumers_of(checkpoint, recipe), checkpoint.select(recipe.lstms)
    changed, reconstructions, done = dict[str, Tensor](), dict[str, Reconstruction](), []
    for index, lstm in enumerate(lstms):

        def report(part: float, what: str, index: int = index) -> None:
            progress((index + part) / len(lstms), what)

        tensors, reconstruction, steps = compensate_lstm(
            lstm,
            checkpoint.tensors,
            masks,
            recipe,
            consumers[lstm.name],
            statistics[lstm.name],
            calibration,
            device,
            report,
        )
        changed |= tensors
        if reconstruction is not None:
            reconstructions[lstm.name] = reconstruction
        order = {"order_weighed_by": statistics[lstm.name].weighed_by} if recipe.criterion == "obs" else {}
        told = [asdict(step) | {"kept": step.kept} for step in steps]
        done.append({"name": lstm.name, **order, "steps": told})
    facts = {
        "calibration": {
            "source": calibration.source,
            "name": calibration.name,
            "sha256": calibration.sha256,
            "steps": calibration.steps(),
        },
        "ridges": {"fold": fold.RIDGE, "refit": refit.RIDGE, "readout": readout.RIDGE},
        "lstms": done,
    }
    return Compensation(changed, reconstructions, facts)


@torch.no_grad()
def compensate_lstm(
    lstm: LSTM,
    tensors: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    recipe: Recipe,
    consumers: list[str],
    statistics: Statistics,
    calibration: Calibration,
    device: str = "cpu",
    progress: Progress = lambda *_: None,
) -> tuple[dict[str, Tensor], Reconstruction | None, list[Step]]:
    """Refit one pruned LSTM and its consumers: (new tensors of full size, reconstruction of the removed units, steps).

    `masks` are the recipe's; `statistics` are those of the dense LSTM on the part of `calibration` to fit on. What
    masks drop is zero in the new tensors, and so are the columns that read dropped units. `progress` as in
    `statistics.gather`.
    """
    fit_on, held_back = calibration.split()
    dense, heads = layers_of(lstm, tensors, device), heads_of(tensors, consumers, device)
    pairs = _pairs(lstm, masks)
    kept: list[list[Tensor]] | None = None
    if recipe.granularity == "units":
        kept = [[split_gates(ih)[0].nonzero().flatten().to(device) for ih, _ in sides] for sides in pairs]
        if any(len(units) == 0 for sides in kept for units in sides):
            raise PrunerError(
                f"expected units left in every layer of {lstm.title} to take over from those removed, found a layer "
                "without; lower its sparsity, or choose compensation 'none'"
            )
        now = sliced(dense, heads, kept, lstm, statistics, by_fold=False)
        first = sliced(dense, heads, kept, lstm, statistics, by_fold=True)
    else:
        now = Shrunk(dropped(dense, pairs, None), heads)
        first = Shrunk(dropped(dense, pairs, statistics if lstm.bias else None), heads)
    progress(0.05, f"Compensating {lstm.title}: what is held back")
    judge = _Judge(lstm, tensors, held_back, dense, heads, kept, recipe.task, device)
    steps: list[Step] = []

    def offer(name: str, candidate: Shrunk, before: Shrunk) -> Shrunk:
        steps.append(Step(name, judge.loss(before) if not steps else _best(steps), judge.loss(candidate)))
        return candidate if steps[-1].kept else before

    now = offer("fold" if kept else "mean into bias", first, now)
    if recipe.compensation == "full":
        sample = Sample(lstm, tensors, fit_on, dense, heads, device)
        allowed = (
            None if kept else [[_allowed(*pair, lstm, layer) for pair in sides] for layer, sides in enumerate(pairs)]
        )
        layers = refit_layers(
            now.layers,
            dense,
            sample,
            kept,
            allowed,
            lstm.bias,
            lambda done: progress(0.1 + 0.6 * done, f"Refitting {lstm.title}"),
        )
        now = offer("refit", replace(now, layers=layers), now)
        progress(0.7, f"Refitting what reads {lstm.title}")
        outputs = sample.outputs_of(now.layers)
        now = offer(
            "least-squares readout",
            replace(now, heads=_each(least_squares_readout, now.heads, outputs, sample.scores)),
            now,
        )
        if recipe.task == "softmax":
            progress(0.8, f"Refitting what reads {lstm.title}")
            now = offer(
                "divergence readout",
                replace(now, heads=_each(divergence_readout, now.heads, outputs, sample.scores)),
                now,
            )
    progress(1.0, f"Compensated {lstm.title}")
    return _written(now, kept, lstm, tensors), now.reconstruction, steps


def _best(steps: list[Step]) -> float:
    return min(steps[-1].before, steps[-1].after)


def _each(
    step: Callable[[Head, Tensor, Tensor], Head], heads: list[Head], outputs: Tensor, scores: list[Tensor]
) -> list[Head]:
    return [step(head, outputs, wanted) for head, wanted in zip(heads, scores, strict=True)]


def _pairs(lstm: LSTM, masks: Mapping[str, Tensor]) -> list[list[tuple[Tensor, Tensor]]]:
    """The (4H,) masks of weight_ih and weight_hh by layer and direction."""
    names = lstm.weight_names()
    return [
        [(masks[names[layer, side, "ih"]], masks[names[layer, side, "hh"]]) for side in range(lstm.directions)]
        for layer in range(lstm.num_layers)
    ]


def _allowed(ih: Tensor, hh: Tensor, lstm: LSTM, layer: int) -> Tensor:
    """(4H, I + R + 1) bool: the weights that a refit may change, where rows were dropped. A row dropped on both sides keeps
    its mean."""
    inputs, outputs = lstm.layer_input_size(layer), lstm.output_size
    return torch.cat([ih[:, None].expand(-1, inputs), hh[:, None].expand(-1, outputs), (ih | hh)[:, None]], 1)


class _Judge:
    """The loss of a shrunk model on calibration data that was held back."""

    def __init__(
        self,
        lstm: LSTM,
        tensors: Mapping[str, Tensor],
        held_back: Calibration,
        dense: Layers,
        heads: list[Head],
        kept: list[list[Tensor]] | None,
        task: str | None,
        device: str,
    ) -> None:
        self._kept = None if kept is None or lstm.proj_size else kept[-1]
        self._hidden_size, self._task, self._burn_in = lstm.hidden_size, task, held_back.burn_in
        self._inputs: list[Tensor] = []
        for batch in windows(held_back, lstm, tensors, device):
            inputs = batch()
            self._inputs.append(inputs[:, : math.ceil(HELD_BACK_STEPS / len(inputs))])
            if sum(each.shape[0] * each.shape[1] for each in self._inputs) >= HELD_BACK_STEPS:
                break
        outputs = torch.cat([settled(run_layers(dense, inputs)[1], 0, self._burn_in) for inputs in self._inputs])
        self._wanted = [_scores(head, outputs) for head in heads] or [outputs]

    def loss(self, shrunk: Shrunk) -> float:
        """With the task softmax, the mean divergence in nats; else the squared error of what the heads give, or
        without heads of the output itself, over the square of what it should be. Infinite where it is not a number."""
        outputs = torch.cat(
            [settled(run_layers(shrunk.layers, inputs)[1], 0, self._burn_in) for inputs in self._inputs]
        )
        found = [_scores(head, outputs) for head in shrunk.heads] or [self._widened(outputs, shrunk.reconstruction)]
        pairs = list(zip(found, self._wanted, strict=True))
        if self._task == "softmax":
            total = sum(float(divergence(scores, wanted.softmax(-1))) for scores, wanted in pairs)
        else:
            total = sum(_relative_error(scores, wanted) for scores, wanted in pairs)
        return total if total == total else float("inf")

    def _widened(self, outputs: Tensor, reconstruction: Reconstruction | None) -> Tensor:
        """(N, D*K) -> (N, D*H): removed units as zeros, or reconstructed."""
        if self._kept is None:
            return outputs
        parts = []
        for side, own in enumerate(outputs.split([len(units) for units in self._kept], -1)):
            wide = own.new_zeros(len(own), self._hidden_size)
            rest = torch.ones(self._hidden_size, dtype=torch.bool, device=own.device)
            rest[self._kept[side]] = False
            wide[:, self._kept[side]] = own
            if reconstruction is not None:
                weight, bias = reconstruction[side]
                wide[:, rest] = own @ weight.t() + bias
            parts.append(wide)
        return torch.cat(parts, -1)


def _relative_error(found: Tensor, wanted: Tensor) -> float:
    tiny = torch.finfo(wanted.dtype).tiny  # a model that says nothing has nothing to lose
    return float((found - wanted).square().sum() / wanted.square().sum().clamp(min=tiny))


def _scores(head: Head, outputs: Tensor) -> Tensor:
    """What a head gives, or, where it is not linear (a convolution over time), what each of its rows adds to that."""
    return head(outputs) if head.weight.dim() == 2 else outputs @ head.matrix.t()


def _written(
    shrunk: Shrunk, kept: list[list[Tensor]] | None, lstm: LSTM, tensors: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The shrunk model at full size, zeros where units were removed, under the names in the file and in their dtypes."""
    changed: dict[str, Tensor] = {}

    def put(name: str, values: Tensor, rows: Tensor | None, columns: Tensor | None) -> None:
        wide = tensors[name].new_zeros(tensors[name].shape)
        values = values.cpu().to(wide.dtype)
        rows = torch.arange(wide.shape[0]) if rows is None else rows.cpu()
        if wide.dim() == 1:
            wide[rows] = values
        else:
            columns = torch.arange(wide.shape[1]) if columns is None else columns.cpu()
            wide[rows[:, None], columns] = values
        changed[name] = wide

    for layer, sides in enumerate(shrunk.layers):
        for side, weights in enumerate(sides):
            suffix = lstm.suffix(layer, side)
            units = None if kept is None else kept[layer][side]
            rows = None if units is None else torch.cat([gate * lstm.hidden_size + units for gate in range(len(GATES))])
            below = None if kept is None or not layer or lstm.proj_size else side_by_side(kept[layer - 1], lstm)
            put(lstm.tensors[f"weight_ih{suffix}"], weights.ih, rows, below)
            put(lstm.tensors[f"weight_hh{suffix}"], weights.hh, rows, None if lstm.proj_size else units)
            if weights.hr is not None:
                put(lstm.tensors[f"weight_hr{suffix}"], weights.hr, None, units)
            if lstm.bias:
                put(lstm.tensors[f"bias_ih{suffix}"], weights.bias, rows, None)
                put(lstm.tensors[f"bias_hh{suffix}"], torch.zeros_like(weights.bias), rows, None)
    columns = None if kept is None or lstm.proj_size else side_by_side(kept[-1], lstm)
    for head in shrunk.heads:
        put(head.name, head.weight, None, columns)
        if head.bias_name is not None and head.bias is not None:
            put(head.bias_name, head.bias, None, None)
    return changed
