"""How far pruning moved the outputs of a checkpoint's LSTMs, on inputs that nothing was fitted to."""

from torch import Tensor

from pruner.calibration.calibration import Calibration
from pruner.files.checkpoint import Checkpoint
from pruner.lstm.lstm import LSTM
from pruner.lstm.measure import Drift, Modules, difference, outputs, random_input
from pruner.progress import Progress, silent, split
from pruner.recipe import Recipe


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
        inputs = random_input(lstm) if calibration is None else _held_back(lstm, checkpoint, calibration)
        reference, _, _ = outputs(before[lstm.name], inputs)
        part(0.5, f"Measuring the drift of {lstm.title}")
        moved, _, _ = outputs(after[lstm.name], inputs)
        found[lstm.name] = difference([reference], [moved])
    return found


def _held_back(lstm: LSTM, checkpoint: Checkpoint, calibration: Calibration) -> Tensor:
    """A batch (B, T, I) of the calibration inputs that are held back."""
    return next(calibration.split()[1].inputs(lstm, checkpoint.tensors))
