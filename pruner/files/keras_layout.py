"""The weights of one Keras LSTM as PyTorch has them, and where each array of a Keras file comes from.

Keras packs the gates into columns, in the order i, f, c, o: `kernel` (I, 4H), `recurrent_kernel` (H, 4H) and one `bias`
(4H,). That is PyTorch's order, transposed.
"""

from dataclasses import dataclass

import numpy as np

Weights = dict[str, np.ndarray]  # by their roles

SAME, TRANSPOSED, SUM, JOINED = "same", "transposed", "sum", "joined"
CUDNN_KERNEL, CUDNN_RECURRENT = "cuDNN's kernel", "cuDNN's recurrent kernel"


class NotAnLSTM(Exception):
    """A recurrent layer that `nn.LSTM` cannot be; the message says why."""


@dataclass(frozen=True)
class Place:
    """What an array of a Keras file is made of: tensors, by their names in the checkpoint, and what is done with them."""

    tensors: tuple[str, ...]
    how: str


def lstm_tensors(cell: Weights, suffix: str, cudnn: bool) -> Weights:
    """One LSTM in one direction. Raises NotAnLSTM for weights of other shapes."""
    kernel, recurrent, bias = cell["kernel"], cell["recurrent_kernel"], cell.get("bias")
    shapes = ", ".join(f"{role} {array.shape}" for role, array in cell.items())
    if kernel.ndim != 2 or recurrent.ndim != 2 or 0 in (*kernel.shape, *recurrent.shape):
        raise NotAnLSTM(f"expected a kernel (I, 4H) and a recurrent_kernel (H, 4H), found {shapes}")
    hidden_size, packed = recurrent.shape
    if packed == 3 * hidden_size:
        raise NotAnLSTM("a GRU: 3 gates, an LSTM has 4")
    if packed == hidden_size:
        raise NotAnLSTM("a plain RNN: no gates, an LSTM has 4")
    biases = [] if bias is None else [bias]
    if (
        packed != 4 * hidden_size
        or kernel.shape[1] != packed
        or any(array.shape != ((8 if cudnn else 4) * hidden_size,) for array in biases)
    ):
        raise NotAnLSTM(f"expected a kernel (I, 4H), a recurrent_kernel (H, 4H) and a bias (4H,), found {shapes}")
    tensors = {f"weight_ih{suffix}": kernel.T, f"weight_hh{suffix}": recurrent.T}
    for array in biases:
        zero = np.zeros_like(array[: 4 * hidden_size])
        tensors[f"bias_ih{suffix}"] = array[: 4 * hidden_size]
        tensors[f"bias_hh{suffix}"] = array[4 * hidden_size :] if cudnn else zero
    if cudnn:
        tensors |= _cudnn_weights(kernel, recurrent, suffix)
    return tensors


def lstm_places(name: str, suffix: str, cudnn: bool) -> dict[str, Place]:
    """{role: what it is made of} of one LSTM in one direction."""
    own = {kind: f"{name}.{kind}{suffix}" for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
    return {
        "kernel": Place((own["weight_ih"],), CUDNN_KERNEL if cudnn else TRANSPOSED),
        "recurrent_kernel": Place((own["weight_hh"],), CUDNN_RECURRENT if cudnn else TRANSPOSED),
        "bias": Place((own["bias_ih"], own["bias_hh"]), JOINED if cudnn else SUM),
    }


def _cudnn_weights(kernel: np.ndarray, recurrent: np.ndarray, suffix: str) -> Weights:
    """CuDNNLSTM keeps each gate as cuDNN does: its columns hold a matrix that is already (H, I), row after row."""
    hidden_size = recurrent.shape[0]
    inputs = [gate.reshape(hidden_size, -1) for gate in np.split(np.ascontiguousarray(kernel), 4, axis=1)]
    return {
        f"weight_ih{suffix}": np.concatenate(inputs),
        f"weight_hh{suffix}": np.concatenate(np.split(recurrent, 4, axis=1)),
    }
