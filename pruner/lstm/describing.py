"""A module in memory -> what is known of it."""

from dataclasses import replace

from torch import nn

from pruner.lstm.lstm import LSTM
from pruner.lstm.sizes import parameters_in


def described(module: nn.LSTM | nn.LSTMCell, name: str = "") -> LSTM:
    """What is known of a module in memory; `tensors` has the names in a model where it is called `name`."""
    of_lstm = module if isinstance(module, nn.LSTM) else None
    prefix = f"{name}." if name else ""
    lstm = LSTM(
        name=name,
        kind="LSTM" if of_lstm else "LSTMCell",
        num_layers=of_lstm.num_layers if of_lstm else 1,
        bidirectional=bool(of_lstm and of_lstm.bidirectional),
        input_size=module.input_size,
        hidden_size=module.hidden_size,
        proj_size=of_lstm.proj_size if of_lstm else 0,
        bias=bool(module.bias),
        dtype=str(next(module.parameters()).dtype).removeprefix("torch."),
        parameters=0,
        tensors={},
    )
    shapes = lstm.shapes()
    return replace(
        lstm,
        parameters=parameters_in(shapes.values()),
        tensors={standard: prefix + standard for standard in shapes},
    )
