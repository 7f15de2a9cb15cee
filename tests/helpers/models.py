"""Small LSTMs made on the spot, and random numbers for them."""

from typing import Any

import torch
from torch import Tensor, nn

from pruner.lstm.find import find_lstms
from pruner.lstm.lstm import LSTM
from pruner.lstm.traces import Layers, layers_of


def random_lstm(seed: int = 0, dtype: torch.dtype = torch.float32, **settings: Any) -> nn.LSTM:
    """An `nn.LSTM(3 -> 4)`, or of other settings, with weights from a seed."""
    torch.manual_seed(seed)
    return nn.LSTM(**{"input_size": 3, "hidden_size": 4, "dtype": dtype, **settings})


def named(module: nn.Module, prefix: str = "") -> dict[str, Tensor]:
    """The state dict of a module under a prefix, as a checkpoint of a larger model would name it."""
    return {f"{prefix}{name}": tensor.clone() for name, tensor in module.state_dict().items()}


def random_steps(*shape: int, seed: int = 1, dtype: torch.dtype = torch.float64) -> Tensor:
    """Random numbers of a shape, the same for every seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def found_in(module: nn.Module, prefix: str = "") -> tuple[LSTM, dict[str, Tensor]]:
    """The one LSTM of a module under a prefix, and all tensors there."""
    tensors = named(module, prefix)
    (lstm,), _ = find_lstms(tensors)
    return lstm, tensors


def with_twins(**settings: int | bool) -> tuple[LSTM, dict[str, Tensor], Layers]:
    """An LSTM and its head; units 4 to 7 do what units 0 to 3 do, in its second layer what units 3 to 0 do."""
    lstm, tensors = found_in(random_lstm(hidden_size=8, **settings), "rnn.")
    for standard, name in lstm.tensors.items():
        if "_hr" not in standard:
            twins = [0, 1, 2, 3, 3, 2, 1, 0] if "_l1" in standard else [0, 1, 2, 3, 0, 1, 2, 3]
            tensors[name] = tensors[name].unflatten(0, (4, 8))[:, twins].flatten(0, 1)
    tensors["head.weight"] = random_steps(5, lstm.directions * lstm.output_size, dtype=torch.float32)
    tensors["head.bias"] = random_steps(5, dtype=torch.float32)
    return lstm, tensors, layers_of(lstm, tensors)
