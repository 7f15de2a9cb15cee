"""Small models with calibration inputs for them."""

from typing import Any

import torch
from torch import Tensor

from pruner.calibration.calibration import Calibration
from pruner.lstm.lstm import LSTM
from tests.helpers.models import found_in, random_lstm, random_steps


def lstm_and_head(**settings: Any) -> tuple[LSTM, dict[str, Tensor]]:
    """A random LSTM called rnn and a linear layer of five outputs that reads it."""
    lstm, tensors = found_in(random_lstm(**settings), "rnn.")
    width = lstm.directions * lstm.output_size
    tensors["head.weight"] = random_steps(5, width, seed=7, dtype=torch.float32)
    tensors["head.bias"] = random_steps(5, seed=8, dtype=torch.float32)
    return lstm, tensors


def random_data(*shapes: tuple[int, int], burn_in: int = 0) -> Calibration:
    """Groups of random sequences (N, T) of width 3 for the LSTM called rnn."""
    groups = [random_steps(*shape, 3, seed=index, dtype=torch.float32) for index, shape in enumerate(shapes)]
    return Calibration("file", {"rnn": groups}, burn_in=burn_in)
