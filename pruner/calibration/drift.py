"""How far pruning moved the outputs of a checkpoint's LSTMs, on inputs that nothing was fitted to."""

from collections.abc import Mapping

import torch
from torch import Tensor

from pruner.calibration.calibration import Calibration
from pruner.files.checkpoint import Checkpoint
from pruner.files.consumer_choice import consumers_of
from pruner.files.consumers import load_consumers
from pruner.lstm.lstm import LSTM
from pruner.lstm.measure import Drift, Forward, Modules, difference, outputs, random_input
from pruner.progress import Progress, silent, split
from pruner.recipe import Recipe

MOST_AT_ONCE = 64  # sequences


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
        inputs = random_input(lstm) if calibration is None else _batch(lstm, checkpoint, calibration.split()[1])
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
    forward: Forward | None = None,
) -> float:
    """How much worse the answers are on inputs that nothing was fitted to, as a share: 0 for none, the largest of all LSTMs.

    `tensors` are those of the pruned model at full size. With the task `softmax` it is the divergence of the consumers'
    distributions over the entropy of the dense ones, the share by which the model's loss grows; else the squared error of
    what the consumers give, or without consumers of the output itself, over the square of what it should be. A `forward`
    pass of the whole model answers in place of the consumers.
    """
    return loss_on(calibration.split()[1], checkpoint, recipe, before, after, tensors, forward)


@torch.inference_mode()
def loss_on(
    held_back: Calibration,
    checkpoint: Checkpoint,
    recipe: Recipe,
    before: Modules,
    after: Modules,
    tensors: Mapping[str, Tensor],
    forward: Forward | None = None,
) -> float:
    """The same on inputs that are all held back."""
    consumers, worst = consumers_of(checkpoint, recipe), 0.0
    for lstm in checkpoint.select(recipe.lstms):
        if forward is not None:
            batch = next(iter(held_back.sequences[lstm.name]))[:MOST_AT_ONCE]
            one, other = forward(checkpoint.tensors, before, batch), forward(tensors, after, batch)
            worst = max(worst, (_divergence if recipe.task == "softmax" else _squared)(one.cpu(), other.cpu()))
            continue
        inputs, names = _batch(lstm, checkpoint, held_back), consumers[lstm.name]
        wanted, found = outputs(before[lstm.name], inputs)[0], outputs(after[lstm.name], inputs)[0]
        pairs = [(wanted.float().cpu(), found.float().cpu())]
        if names:
            dense, pruned = load_consumers(checkpoint.tensors, names), load_consumers(tensors, names)
            pairs = [(one(pairs[0][0]), other(pairs[0][1])) for one, other in zip(dense, pruned, strict=True)]
        for one, other in pairs:
            lost = _divergence(one, other) if recipe.task == "softmax" and names else _squared(one, other)
            worst = max(worst, lost)
    return worst


def _divergence(wanted: Tensor, found: Tensor) -> float:
    shares, logarithms = wanted.softmax(-1), wanted.log_softmax(-1)
    entropy = -(shares * logarithms).sum(-1).mean()
    lost = (shares * (logarithms - found.log_softmax(-1))).sum(-1).mean()
    return float(lost / entropy.clamp(min=torch.finfo(entropy.dtype).tiny))


def _squared(wanted: Tensor, found: Tensor) -> float:
    least = torch.finfo(wanted.dtype).tiny  # a model that says nothing has nothing to lose
    return float((found - wanted).square().sum() / wanted.square().sum().clamp(min=least))
