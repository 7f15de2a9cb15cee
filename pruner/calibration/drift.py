"""How far pruning moved the outputs of a checkpoint's LSTMs, on inputs that nothing was fitted to."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pruner.calibration.calibration import Calibration
from pruner.files.checkpoint import Checkpoint
from pruner.files.consumer_choice import along, consumers_of, feeders, outside_of_lstms, task_of
from pruner.files.consumers import Consumer, load_consumers
from pruner.lstm.lstm import LSTM
from pruner.lstm.measure import Drift, ForwardPass, Modules, difference, outputs, sample_of
from pruner.progress import Progress, silent, split
from pruner.recipe import Recipe

AT_ONCE = 64  # sequences
ENOUGH_ANSWERS = 2**14  # numbers of steps, or of sequences, of a whole model that are compared


def measure_drift(
    checkpoint: Checkpoint,
    recipe: Recipe,
    calibration: Calibration | None,
    before: Modules,
    after: Modules,
    progress: Progress = silent,
) -> dict[str, Drift]:
    """How far the output of every LSTM of a recipe moved, on the held-back part of `calibration`, or on random inputs where
    there is none."""
    lstms = checkpoint.select(recipe.lstms)
    found = {}
    for lstm, part in zip(lstms, split(progress, *[1] * len(lstms)), strict=True):
        part(0.0, f"Measuring the drift of {lstm.title}")
        inputs = sample_of(lstm) if calibration is None else _batch(lstm, checkpoint, calibration.split()[1])
        reference, _, _ = outputs(before[lstm.name], inputs)
        part(0.5, f"Measuring the drift of {lstm.title}")
        moved, _, _ = outputs(after[lstm.name], inputs)
        found[lstm.name] = difference([reference], [moved])
    return found


def _batch(lstm: LSTM, checkpoint: Checkpoint, held_back: Calibration) -> Tensor:
    """A batch (B, T, I) of the calibration inputs that are held back."""
    return next(held_back.inputs(lstm, checkpoint.tensors))


def held_back_loss(
    checkpoint: Checkpoint,
    recipe: Recipe,
    calibration: Calibration,
    before: Modules,
    after: Modules,
    tensors: Mapping[str, Tensor],
    forward: ForwardPass | None = None,
) -> float:
    """How much worse the answers are on inputs that nothing was fitted to, as a share: 0 for none, the largest of all LSTMs.

    `tensors` are those of the pruned model at full size. With the task `softmax` it is the divergence of the consumers'
    distributions over the entropy of the dense ones, the share by which the model's loss grows; else the squared error of
    what the consumers give, or without consumers of the output itself, over the square of what it should be. An LSTM that
    another one feeds reads what that gives, dense or pruned; one that only feeds others is judged by these. A `forward` pass
    of the whole model answers in place of the consumers.
    """
    return loss_on(calibration.split()[1], checkpoint, recipe, before, after, tensors, forward)


@torch.no_grad()
def loss_on(
    held_back: Calibration,
    checkpoint: Checkpoint,
    recipe: Recipe,
    before: Modules,
    after: Modules,
    tensors: Mapping[str, Tensor],
    forward: ForwardPass | None = None,
) -> float:
    """The same on inputs that are all held back."""
    consumers, worst = consumers_of(checkpoint, recipe), 0.0
    passed_on: dict[str, tuple[Tensor, Tensor]] = {}  # outputs, before and after
    for lstm in along(held_back.fed, checkpoint.select(recipe.lstms)):
        if forward is not None:
            if lstm.name in held_back.fed:
                continue
            batches = held_back.read_by_models(lstm, AT_ONCE)
            worst = max(worst, _of_answers(forward, batches, (checkpoint.tensors, before), (tensors, after)))
            if held_back.batches is not None:
                break  # the same for all LSTMs
            continue
        own = _batch(lstm, checkpoint, held_back)
        read = passed_on.get(held_back.fed.get(lstm.name, ""), (own, own))
        wanted, found = outputs(before[lstm.name], read[0])[0], outputs(after[lstm.name], read[1])[0]
        passed_on[lstm.name] = wanted, found
        names, read_by = consumers[lstm.name], feeders(checkpoint, {lstm.name: consumers[lstm.name]})
        if read_by and all(held_back.fed.get(name) == lstm.name for name in read_by):
            names = outside_of_lstms(checkpoint, names)
            if not names:
                continue
        pairs = [(wanted.float().cpu(), found.float().cpu())]
        if names:
            inside = set(names) - set(outside_of_lstms(checkpoint, names))
            both = zip(load_consumers(checkpoint.tensors, names), load_consumers(tensors, names), strict=True)
            pairs = [
                _as_read(one, other, *pairs[0]) if one.name in inside else (one(pairs[0][0]), other(pairs[0][1]))
                for one, other in both
            ]
        task = task_of(checkpoint, recipe, names)
        for one, other in pairs:
            worst = max(worst, _divergence(one, other) if task == "softmax" else _squared(one, other))
    return worst


def _as_read(dense: Consumer, pruned: Consumer, wanted: Tensor, found: Tensor) -> tuple[Tensor, Tensor]:
    """What the input of an LSTM makes of outputs in the rows of units that stay, but for constants: its bias is its own."""
    rows = pruned.weight.any(1)
    one, other = (
        replace(each, weight=each.weight[rows], bias=None)(outputs).flatten(0, -2)
        for each, outputs in ((dense, wanted), (pruned, found))
    )
    return one - one.mean(0), other - other.mean(0)


def _of_answers(
    forward: ForwardPass,
    batches: Sequence[Any],
    dense: tuple[Mapping[str, Tensor], Modules],
    pruned: tuple[Mapping[str, Tensor], Modules],
) -> float:
    """The loss of the answers to as many batches as tell enough; where a model gives several, of the worst."""
    wanted, found, seen = list[list[Tensor]](), list[list[Tensor]](), 0
    for batch in batches:
        if seen >= ENOUGH_ANSWERS:
            break
        for model, answers in ((dense, wanted), (pruned, found)):
            answers.append([each.float().cpu().reshape(-1, each.shape[-1]) for each in forward(*model, batch)])
        seen += max(map(len, wanted[-1]))
    rated = _divergence if forward.task == "softmax" else _squared
    pairs = zip(zip(*wanted, strict=True), zip(*found, strict=True), strict=True)
    return max(rated(torch.cat(one), torch.cat(other)) for one, other in pairs)


def _divergence(wanted: Tensor, found: Tensor) -> float:
    shares, logarithms = wanted.softmax(-1), wanted.log_softmax(-1)
    entropy = -(shares * logarithms).sum(-1).mean()
    lost = (shares * (logarithms - found.log_softmax(-1))).sum(-1).mean()
    return _or_infinite(lost / entropy.clamp(min=torch.finfo(entropy.dtype).tiny))


def _squared(wanted: Tensor, found: Tensor) -> float:
    least = torch.finfo(wanted.dtype).tiny  # a model that says nothing has nothing to lose
    return _or_infinite((found - wanted).square().sum() / wanted.square().sum().clamp(min=least))


def _or_infinite(loss: Tensor) -> float:
    """A loss, infinite where it is not a number: `max` would take that for none."""
    return float(torch.where(loss.isnan(), torch.inf, loss))
