"""How much a shrunk model loses on calibration data that was held back."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from pruner.calibration.calibration import Calibration
from pruner.calibration.gathering import settled, windows
from pruner.compensation.fold import Shrunk
from pruner.files.consumers import Consumer
from pruner.lstm.kept import Kept, Part, last_layer
from pruner.lstm.lstm import LSTM
from pruner.lstm.rebuilt import Rebuilt, Reconstruction, without
from pruner.lstm.traces import Layers, run_layers

HELD_BACK_STEPS = 8192  # enough to tell whether a step of the chain helps


class Judge:
    """The loss of a shrunk model on calibration data that was held back."""

    def __init__(
        self,
        lstm: LSTM,
        tensors: Mapping[str, Tensor],
        held_back: Calibration,
        dense: Layers,
        consumers: list[Consumer],
        kept: Kept | None,
        task: str | None,
        device: str,
        earlier: Rebuilt | None = None,
    ) -> None:
        self._earlier = earlier
        self._kept = None if kept is None or lstm.proj_size else last_layer(lstm, kept)
        self._hidden_size, self._task, self._burn_in = lstm.hidden_size, task, held_back.burn_in
        self._inputs: list[Tensor] = []
        for batch in windows(held_back, lstm, tensors, device):
            inputs = batch()
            self._inputs.append(inputs[:, : math.ceil(HELD_BACK_STEPS / len(inputs))])
            if sum(each.shape[0] * each.shape[1] for each in self._inputs) >= HELD_BACK_STEPS:
                break
        outputs = torch.cat([settled(run_layers(dense, inputs)[1], 0, self._burn_in) for inputs in self._inputs])
        self._wanted = [consumer(outputs) for consumer in consumers] or [self._filled(outputs)]

    @torch.no_grad()
    def loss(self, shrunk: Shrunk) -> float:
        """With the task softmax, the mean divergence in nats; else the squared error of what the consumers give, or
        without consumers of the output itself, over the square of what it should be. Infinite where it is not a number."""
        outputs = torch.cat(
            [settled(run_layers(shrunk.layers, inputs)[1], 0, self._burn_in) for inputs in self._inputs]
        )
        found = [consumer(outputs) for consumer in shrunk.consumers] or [
            self._filled(self._widened(outputs, shrunk.reconstruction))
        ]
        pairs = list(zip(found, self._wanted, strict=True))
        if self._task == "softmax":
            total = sum(float(divergence(scores, wanted.softmax(-1))) for scores, wanted in pairs)
        else:
            total = sum(_relative_error(scores, wanted) for scores, wanted in pairs)
        return total if total == total else float("inf")

    def _filled(self, outputs: Tensor) -> Tensor:
        """(N, D*H) with what went in an earlier round as that says."""
        return outputs if self._earlier is None else self._earlier.fill(outputs)

    def _widened(self, outputs: Tensor, reconstruction: Reconstruction | None) -> Tensor:
        """(N, D*K) -> (N, D*H): removed units as zeros, or reconstructed."""
        if self._kept is None:
            return outputs
        parts = []
        for direction, own in enumerate(outputs.split([len(units) for units in self._kept], -1)):
            units = self._kept[direction]
            wide = Part(None, units).widen(own, (len(own), self._hidden_size))
            if reconstruction is not None:
                weight, bias = reconstruction[direction]
                wide[:, without(units, self._hidden_size)] = own @ weight.t() + bias
            parts.append(wide)
        return torch.cat(parts, -1)


def divergence(scores: Tensor, shares: Tensor) -> Tensor:
    """Mean Kullback-Leibler divergence, in nats, of softmax(scores) (N, V) from the given shares (N, V)."""
    return (torch.special.xlogy(shares, shares) - shares * scores.log_softmax(-1)).sum(-1).mean()


def _relative_error(found: Tensor, wanted: Tensor) -> float:
    tiny = torch.finfo(wanted.dtype).tiny  # a model that says nothing has nothing to lose
    return float((found - wanted).square().sum() / wanted.square().sum().clamp(min=tiny))
