"""Refit what is left of an LSTM from calibration inputs, without training.

A chain of steps, each a room of its own: `fold`, `refit`, `readout`. Each is kept only where it helps on calibration
data that was held back, and `Step` says so.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from pruner.calibration.calibration import Calibration
from pruner.calibration.observations import Statistics
from pruner.compact.masked_and_compact import NO_COMPENSATION, Compensation
from pruner.compensation import fold, readout, refit
from pruner.compensation.fold import Shrunk, shrunk_units, without_rows
from pruner.compensation.judge import Judge
from pruner.compensation.readout import divergence_readout, least_squares_readout
from pruner.compensation.refit import Sample, refit_layers
from pruner.errors import PrunerError
from pruner.files.checkpoint import Checkpoint
from pruner.files.consumer_choice import consumers_of
from pruner.files.consumers import Consumer, load_consumers
from pruner.lstm.kept import Kept, Part, Reconstruction, consumer_part, counts, row_masks, unit_masks, unit_parts
from pruner.lstm.lstm import LSTM
from pruner.lstm.traces import layers_of
from pruner.progress import Progress, silent, split
from pruner.recipe import Recipe


@dataclass(frozen=True)
class Step:
    """One step of the chain: the loss on held-back calibration data without and with it, and whether it was kept."""

    name: str
    before: float
    after: float

    @property
    def kept(self) -> bool:
        return self.after < self.before


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
    without = [name for name, consumers in consumers_of(checkpoint, recipe).items() if not consumers]
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
    progress: Progress = silent,
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
    for lstm, part in zip(lstms, split(progress, *[1] * len(lstms)), strict=True):
        tensors, reconstruction, steps = compensate_lstm(
            lstm,
            checkpoint.tensors,
            masks,
            recipe,
            consumers[lstm.name],
            statistics[lstm.name],
            calibration,
            device,
            part,
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
    progress: Progress = silent,
) -> tuple[dict[str, Tensor], Reconstruction | None, list[Step]]:
    """Refit one pruned LSTM and its consumers: (new tensors of full size, reconstruction of the removed units, steps).

    `masks` are the recipe's; `statistics` are those of the dense LSTM on the part of `calibration` to fit on. What
    masks drop is zero in the new tensors, and so are the columns that read dropped units. `progress` as in
    `gathering.gather`.
    """
    fit_on, held_back = calibration.split()
    dense, loaded = layers_of(lstm, tensors, device), load_consumers(tensors, consumers, device)
    pairs = row_masks(lstm, masks)
    kept: Kept | None = None
    if recipe.granularity == "units":
        kept = {place: mask.nonzero().flatten().to(device) for place, mask in unit_masks(lstm, masks).items()}
        if 0 in counts(kept.values()):
            raise PrunerError(
                f"expected units left in every layer of {lstm.title} to take over from those removed, found a layer "
                "without; lower its sparsity, or choose compensation 'none'"
            )
        now = shrunk_units(dense, loaded, kept, lstm, statistics, by_fold=False)
        first = shrunk_units(dense, loaded, kept, lstm, statistics, by_fold=True)
    else:
        now = Shrunk(without_rows(dense, pairs, None), loaded)
        first = Shrunk(without_rows(dense, pairs, statistics if lstm.bias else None), loaded)
    progress(0.05, f"Compensating {lstm.title}: what is held back")
    judge = Judge(lstm, tensors, held_back, dense, loaded, kept, recipe.task, device)
    steps: list[Step] = []

    def offer(name: str, candidate: Shrunk, before: Shrunk) -> Shrunk:
        steps.append(Step(name, judge.loss(before) if not steps else _best(steps), judge.loss(candidate)))
        return candidate if steps[-1].kept else before

    now = offer("fold" if kept else "mean into bias", first, now)
    if recipe.compensation == "full":
        sample = Sample(lstm, tensors, fit_on, dense, loaded, device)
        allowed = None if kept else {place: _allowed(*pair, lstm, place[0]) for place, pair in pairs.items()}
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
            replace(now, consumers=_each(least_squares_readout, now.consumers, outputs, sample.scores)),
            now,
        )
        if recipe.task == "softmax":
            progress(0.8, f"Refitting what reads {lstm.title}")
            now = offer(
                "divergence readout",
                replace(now, consumers=_each(divergence_readout, now.consumers, outputs, sample.scores)),
                now,
            )
    progress(1.0, f"Compensated {lstm.title}")
    return _written(now, kept, lstm, tensors), now.reconstruction, steps


def _best(steps: list[Step]) -> float:
    return min(steps[-1].before, steps[-1].after)


def _each(
    step: Callable[[Consumer, Tensor, Tensor], Consumer],
    consumers: list[Consumer],
    outputs: Tensor,
    scores: list[Tensor],
) -> list[Consumer]:
    return [step(consumer, outputs, wanted) for consumer, wanted in zip(consumers, scores, strict=True)]


def _allowed(ih: Tensor, hh: Tensor, lstm: LSTM, layer: int) -> Tensor:
    """(4H, I + R + 1) bool: the weights that a refit may change, where rows were dropped. A row dropped in both keeps its
    mean."""
    inputs, outputs = lstm.layer_input_size(layer), lstm.output_size
    return torch.cat([ih[:, None].expand(-1, inputs), hh[:, None].expand(-1, outputs), (ih | hh)[:, None]], 1)


def _written(shrunk: Shrunk, kept: Kept | None, lstm: LSTM, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The shrunk model at full size, zeros where units were removed, under the names in the file and in their dtypes."""
    values: dict[str, Tensor] = {}  # by PyTorch's names
    for layer, direction in lstm.places:
        weights, suffix = shrunk.layers[layer][direction], lstm.suffix(layer, direction)
        values |= {f"weight_ih{suffix}": weights.ih, f"weight_hh{suffix}": weights.hh}
        values |= {f"bias_ih{suffix}": weights.bias, f"bias_hh{suffix}": torch.zeros_like(weights.bias)}
        if weights.hr is not None:
            values[f"weight_hr{suffix}"] = weights.hr
    parts = {} if kept is None else unit_parts(lstm, kept)
    changed = {}
    for standard, name in lstm.tensors.items():
        changed[name] = _widened(parts.get(standard, Part()), values[standard], tensors[name])
    trimmed = Part() if kept is None else consumer_part(lstm, kept)
    for consumer in shrunk.consumers:
        changed[consumer.name] = _widened(trimmed, consumer.weight, tensors[consumer.name])
        if consumer.bias_name is not None and consumer.bias is not None:
            changed[consumer.bias_name] = _widened(Part(), consumer.bias, tensors[consumer.bias_name])
    return changed


def _widened(part: Part, values: Tensor, like: Tensor) -> Tensor:
    return part.widen(values.cpu().to(like.dtype), like.shape)
