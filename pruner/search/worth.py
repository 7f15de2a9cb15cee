"""What a model is worth, and what that is called: its quality; else how much worse its answers are than the dense model's on
held-back inputs; else how far its output drifts on random ones."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from pruner.calibration.calibration import Calibration
from pruner.calibration.drift import held_back_loss, measure_drift
from pruner.exports.verdict import Verdict, by_answers, by_quality, unknown
from pruner.files.checkpoint import Checkpoint
from pruner.lstm.measure import Quality, Rate
from pruner.lstm.module import build
from pruner.recipe import Recipe


@dataclass(frozen=True)
class Measure:
    """What models are compared by: a quality where there is one, else inputs, else neither."""

    quality: Quality | None = None
    calibration: Calibration | None = None

    @property
    def by_answers(self) -> bool:
        return self.quality is None and self.calibration is not None and self.calibration.is_real

    @property
    def name(self) -> str:
        if self.quality is not None:
            return self.quality.name
        return "difference of the answers on held-back inputs" if self.by_answers else "output drift on random inputs"

    @property
    def higher_is_better(self) -> bool:
        return self.quality is not None and self.quality.higher_is_better

    def verdict(self, recipe: Recipe, value: float, dense: float) -> Verdict:
        """What a model that a recipe made is worth, and the dense one, as `value_of` gives it."""
        if self.quality is not None:
            return by_quality(self.name, self.higher_is_better, dense, value)
        return by_answers(value, recipe.task == "softmax") if self.by_answers else unknown(value)


def value_of(
    checkpoint: Checkpoint,
    recipe: Recipe,
    calibration: Calibration | None,
    quality: Rate | None,
    tensors: Mapping[str, Tensor],
    modules: Mapping[str, nn.Module],
) -> float:
    """What a model is worth whose tensors, at full size, and LSTMs these are: its quality; where that is unknown, how much
    worse its answers are on the held-back part of `calibration` (`drift.held_back_loss`); without real inputs the relative
    drift of the output on random ones, the largest of all pruned LSTMs."""
    if quality is not None:
        return quality(tensors, modules)
    dense = {lstm.name: build(lstm, checkpoint.tensors) for lstm in checkpoint.select(recipe.lstms)}
    if calibration is not None and calibration.is_real:
        return held_back_loss(checkpoint, recipe, calibration, dense, modules, tensors)
    moved = measure_drift(checkpoint, recipe, None, dense, modules)
    return max(drift.relative for drift in moved.values())


def dense_value(checkpoint: Checkpoint, quality: Rate | None) -> float:
    """The quality of the dense model; its distance from itself, 0, where there is none."""
    if quality is None:
        return 0.0
    return quality(checkpoint.tensors, {lstm.name: build(lstm, checkpoint.tensors) for lstm in checkpoint.lstms})
