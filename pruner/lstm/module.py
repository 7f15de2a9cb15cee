"""An LSTM -> a real `nn.LSTM`, and back to what is known of it."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from pruner.errors import PrunerError
from pruner.lstm.lstm import LSTM
from pruner.lstm.sizes import parameters_in

ALIGNMENT = 64  # bytes, of what torch allocates


def build(lstm: LSTM, tensors: Mapping[str, Tensor], device: str = "cpu") -> nn.LSTM:
    """A real `nn.LSTM` (batch first, evaluation mode) that computes with the given tensors.

    `tensors` is keyed by the names in the file. An `LSTMCell` becomes the one-layer LSTM that applies it step by step.
    Raises PrunerError if a tensor does not have the shape that `lstm` says: unequal layers inside one `nn.LSTM` can
    return garbage or abort the process, so nothing unchecked reaches a forward pass.
    """
    with torch.device("meta"):
        module = nn.LSTM(
            lstm.input_size,
            lstm.hidden_size,
            lstm.num_layers,
            bias=lstm.bias,
            batch_first=True,
            bidirectional=lstm.bidirectional,
            proj_size=lstm.proj_size,
            dtype=getattr(torch, lstm.dtype),
        )
    state = {}
    for standard, name in lstm.tensors.items():
        layered = standard if lstm.kind == "LSTM" else f"{standard}_l0"
        expected = getattr(module, layered).shape
        if tensors[name].shape != expected:
            raise PrunerError(
                f"expected {name} of shape {tuple(expected)}, found {tuple(tensors[name].shape)}; "
                "an LSTM whose layers do not fit together cannot be run"
            )
        state[layered] = aligned(tensors[name].detach()).to(device)
    module.load_state_dict(state, assign=True)
    return module.eval().requires_grad_(False)


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


def aligned(tensor: Tensor) -> Tensor:
    """The tensor where kernels like it: those that are views of a file lie where the file has them, and are computed with
    slower and rounded differently there."""
    return tensor.clone() if tensor.data_ptr() % ALIGNMENT else tensor
