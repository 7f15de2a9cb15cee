"""Consumers: the tensors that read the output of an LSTM, with the biases beside them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from pruner.files.computed_weights import beside
from pruner.lstm.gates import parse_standard_name
from pruner.lstm.lstm import DTYPES


@dataclass(frozen=True)
class Consumer:
    """A tensor that reads an LSTM's output: weight (V, D*R, ...) and bias (V,), under their names in the file."""

    name: str
    weight: Tensor
    bias_name: str | None
    bias: Tensor | None

    @property
    def matrix(self) -> Tensor:
        """The weight as (.., D*R), a row for each way in which it reads one output; of a linear layer, the weight itself."""
        return self.weight.movedim(1, -1).flatten(0, -2)

    def __call__(self, outputs: Tensor) -> Tensor:
        """(..., D*R) -> (..., V), as `read` has it."""
        return read(outputs, self.weight, self.bias)


def read(outputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """What a consumer makes of outputs (..., D*R): (..., V), or, where it is not linear (a convolution over time), what each
    of its rows adds to that."""
    if weight.dim() == 2:
        return F.linear(outputs, weight, bias)
    return outputs @ weight.movedim(1, -1).flatten(0, -2).t()


def load_consumers(tensors: Mapping[str, Tensor], names: Iterable[str], device: str = "cpu") -> list[Consumer]:
    """The consumers of these names in float32, with the biases beside them."""
    found = []
    for name in names:
        weight, bias = tensors[name].to(device, torch.float32), bias_beside(tensors, name)
        found.append(Consumer(name, weight, bias, None if bias is None else tensors[bias].to(device, torch.float32)))
    return found


def bias_beside(tensors: Mapping[str, Tensor], consumer: str) -> str | None:
    """The name of the bias that belongs to a consumer, of one number an output: `linear.bias` beside `linear.weight`,
    `lstm.bias_ih_l0` beside `lstm.weight_ih_l0`."""
    shape, own = tensors[consumer].shape[:1], parse_standard_name(consumer.rpartition(".")[2])
    bias = "bias" if own is None else str(replace(own, kind="bias"))
    return next(
        (
            name
            for name in beside(consumer, bias)
            if name in tensors and tensors[name].shape == shape and tensors[name].dtype in DTYPES
        ),
        None,
    )
