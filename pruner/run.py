"""Checkpoint + recipe -> result, with progress and cancellation."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from pruner import export
from pruner.checkpoint import Checkpoint
from pruner.errors import PrunerError
from pruner.lstm import build
from pruner.masks import check_layers, drop_rows, make_masks, row_ranks
from pruner.measure import Cost, Drift, cost, difference, outputs, random_input
from pruner.recipe import Recipe
from pruner.saliency import score

Progress = Callable[[float, str], None]
Quality = Callable[[Mapping[str, Tensor], Mapping[str, nn.Module]], float]


@dataclass(frozen=True)
class Result:
    """A pruned checkpoint, with what it was made from and what was measured. Immutable."""

    checkpoint: Checkpoint
    recipe: Recipe
    device: str
    masks: dict[str, Tensor]  # (4H,) bool by the names in the file, True = kept
    changed: dict[str, Tensor]  # the tensors that pruning replaced, by the names in the file
    before: Cost
    after: Cost
    drift: dict[str, Drift]  # by LSTM name: the output, masked against dense, on random inputs
    quality: tuple[float, float] | None  # before and after, where a quality was given

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the export folder. Raises PrunerError if the folder is in use or cannot be written."""
        return export.save(folder, self.checkpoint, self.recipe, self.masks, self.changed, (self.before, self.after))


def available_devices() -> dict[str, str]:
    """{device: what it is called}, the CPU first, then each CUDA device found."""
    devices = {"cpu": "CPU"}
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            devices[f"cuda:{index}"] = torch.cuda.get_device_name(index)
    return devices


def choose_masks(checkpoint: Checkpoint, recipe: Recipe, progress: Progress = lambda *_: None) -> dict[str, Tensor]:
    """The masks of a recipe, always from the checkpoint's own weights: {name in the file: (4H,) bool}.

    Raises PrunerError if the recipe does not fit the checkpoint or a weight is not finite.
    """
    lstms = checkpoint.select(recipe.lstms)
    check_layers(recipe, lstms)
    masks = {}
    for index, lstm in enumerate(lstms):
        progress(index / len(lstms), f"Scoring {lstm.title}")
        scores = score(lstm, checkpoint.tensors, recipe.criterion)
        masks.update(make_masks(lstm, {name: row_ranks(saliency) for name, saliency in scores.items()}, recipe))
    return masks


def run(
    checkpoint: Checkpoint,
    recipe: Recipe,
    device: str = "cpu",
    progress: Progress = lambda *_: None,
    quality: Quality | None = None,
) -> Result:
    """Prune a checkpoint in memory and measure what came of it.

    `progress(fraction, what)` is called between steps; raise `Cancelled` in it to stop. `quality(tensors, lstms)` rates
    the whole model from its tensors and its runnable LSTMs, both keyed by name. Masks are chosen on the CPU and are the
    same for every device; the models run on `device`. Raises PrunerError for a device that is not there.
    """
    devices = available_devices()
    device = "cuda:0" if device == "cuda" else device
    if device not in devices:
        raise PrunerError(f"expected a device among {', '.join(devices)}; found {device!r}; run on cpu instead")
    masks = choose_masks(checkpoint, recipe, lambda done, what: progress(0.3 * done, what))
    changed = {}
    for index, (name, mask) in enumerate(masks.items()):
        progress(0.3 + 0.1 * index / len(masks), f"Masking {name}")
        changed[name] = drop_rows(checkpoint.tensors[name], mask)
    pruned = {**checkpoint.tensors, **changed}
    drift = {}
    lstms = checkpoint.select(recipe.lstms)
    for index, lstm in enumerate(lstms):
        progress(0.4 + 0.3 * index / len(lstms), f"Measuring the drift of {lstm.title}")
        inputs = random_input(lstm)
        dense, _, _ = outputs(build(lstm, checkpoint.tensors, device), inputs)
        progress(0.4 + 0.3 * (index + 0.5) / len(lstms), f"Measuring the drift of {lstm.title}")
        masked, _, _ = outputs(build(lstm, pruned, device), inputs)
        drift[lstm.name] = difference([dense], [masked])
    rated = None
    if quality is not None:
        progress(0.7, "Measuring the quality before")
        dense_quality = _rate(quality, checkpoint, checkpoint.tensors, device)
        progress(0.8, "Measuring the quality after")
        rated = dense_quality, _rate(quality, checkpoint, pruned, device)
    progress(0.9, "Measuring the size")
    result = Result(
        checkpoint, recipe, device, masks, changed, cost(checkpoint), cost(checkpoint, changed), drift, rated
    )
    progress(1.0, "Done")
    return result


def _rate(quality: Quality, checkpoint: Checkpoint, tensors: Mapping[str, Tensor], device: str) -> float:
    moved = {name: tensor.to(device) for name, tensor in tensors.items()}
    return quality(moved, {lstm.name: build(lstm, moved, device) for lstm in checkpoint.lstms})
