"""An LSTM -> a real `nn.LSTM`."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pruner.errors import PrunerError
from pruner.lstm.lstm import LSTM
from pruner.lstm.rebuilt import fills, rebuilt_of

ALIGNMENT = 64  # bytes, of what torch allocates


def build(lstm: LSTM, tensors: Mapping[str, Tensor], device: str = "cpu") -> nn.LSTM:
    """A real `nn.LSTM` (batch first, evaluation mode) that computes with the given tensors.

    `tensors` is keyed by the names in the file; units that these rebuild come back in its output. An `LSTMCell` becomes the
    one-layer LSTM that applies it step by step.
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
    if (rebuilt := rebuilt_of(lstm, tensors)) is not None:
        fills(module, rebuilt)
    return module.eval().requires_grad_(False)


def aligned(tensor: Tensor) -> Tensor:
    """The tensor where kernels like it: those that are views of a file lie where the file has them, and are computed with
    slower and rounded differently there."""
    return tensor.clone() if tensor.data_ptr() % ALIGNMENT else tensor
