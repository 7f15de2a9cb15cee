"""Small LSTMs made on the spot."""

from typing import Any

import torch
from torch import Tensor, nn


def random_lstm(seed: int = 0, dtype: torch.dtype = torch.float32, **settings: Any) -> nn.LSTM:
    """An `nn.LSTM(3 -> 4)`, or of other settings, with weights from a seed."""
    torch.manual_seed(seed)
    return nn.LSTM(**{"input_size": 3, "hidden_size": 4, "dtype": dtype, **settings})


def named(module: nn.Module, prefix: str = "") -> dict[str, Tensor]:
    """The state dict of a module under a prefix, as a checkpoint of a larger model would name it."""
    return {f"{prefix}{name}": tensor.clone() for name, tensor in module.state_dict().items()}
