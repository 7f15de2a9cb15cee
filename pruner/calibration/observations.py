"""What is known of an LSTM once it has read calibration inputs: moments, activations, importance."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pruner.lstm.lstm import Place


@dataclass(frozen=True)
class Moments:
    """Mean (N,) and covariance (N, N), in float64."""

    mean: Tensor
    covariance: Tensor

    def through_origin(self) -> Tensor:
        """The second moments (N, N), which a fit without a constant term needs."""
        return self.covariance + torch.outer(self.mean, self.mean)


@dataclass(frozen=True)
class LayerStatistics:
    """One layer and direction of H units, in float64.

    `units` are the moments of the hidden units; `activation` (H,) is their mean absolute value. `parts` holds, for the
    product of each packed weight, mean and variance (4H,), and `variance` (4H,) that of the pre-activations, their sum.

    `reading` (H, H) says how an error in the units is read: by the consumers' weights, scaled by how far the gates that they
    feed move their units.
    `importance` (H, H) says what it costs: with a task, the expected outer product of the loss's
    gradient by the units, its labels drawn from the model's own output, so that it is the Fisher information; else it is
    `reading`. `sensitivity` (4H,) is the importance of each pre-activation by itself. The two `taylor` scores, mean
    |value * gradient|, are there with a task only.
    """

    units: Moments
    activation: Tensor
    parts: dict[str, tuple[Tensor, Tensor]]
    variance: Tensor
    reading: Tensor
    importance: Tensor
    sensitivity: Tensor
    taylor_units: Tensor | None
    taylor_rows: dict[str, Tensor] | None


@dataclass(frozen=True)
class Statistics:
    """All layers of one LSTM: `layers` by (layer, direction), and `outputs`, the moments of each layer's output with both
    directions side by side (None with a projection, whose width nothing changes)."""

    layers: dict[Place, LayerStatistics]
    outputs: list[Moments | None]
    steps: int
