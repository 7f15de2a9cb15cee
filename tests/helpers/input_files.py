"""Arrays of inputs in every format, and models that read them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from pruner.calibration.calibration import Calibration
from pruner.calibration.inputs import read_calibration
from pruner.files.checkpoint import Checkpoint
from pruner.files.opening import open_checkpoint
from tests.helpers.files import npz, saved
from tests.helpers.models import named, random_lstm


def checkpoint_of(**prefixed: nn.Module) -> Checkpoint:
    """A checkpoint of modules under their names."""
    return open_checkpoint(
        saved({k: v for name, module in prefixed.items() for k, v in named(module, f"{name}.").items()})
    )


def language_model(dtype: torch.dtype = torch.float32, bias: bool = True, **settings: Any) -> Checkpoint:
    """11 tokens -> vectors of 3 -> an LSTM of 4 units -> 11 logits."""
    lstm = random_lstm(dtype=dtype, **settings)
    width = settings.get("proj_size", 0) or 4
    head = nn.Linear(width, 11, bias, dtype=dtype)
    return checkpoint_of(embed=nn.Embedding(11, 3, dtype=dtype), lstm=lstm, head=head)


LANGUAGE_MODEL = language_model()
PAIR = checkpoint_of(encoder=random_lstm(), decoder=random_lstm(input_size=2))
INPUTS = np.arange(2 * 5 * 3, dtype=np.float32).reshape(2, 5, 3) / 7
IDS = np.arange(8).reshape(2, 4)


def read(data: bytes, name: str = "file.npy", checkpoint: Checkpoint = LANGUAGE_MODEL, **settings: Any) -> Calibration:
    """Calibration inputs for every LSTM of the checkpoint from the bytes of a file."""
    return read_calibration(data, name, checkpoint, checkpoint.lstms, **settings)


def only(found: Calibration) -> Tensor:
    """The one group of the one LSTM."""
    ((group,),) = found.sequences.values()
    return group


WRITERS: dict[str, Callable[[dict[str, np.ndarray]], bytes]] = {
    "npz": npz,
    "compressed.npz": lambda arrays: npz(arrays, compress=True),
    "safetensors": lambda arrays: safetensors.torch.save({k: torch.from_numpy(v.copy()) for k, v in arrays.items()}),
    "pt": lambda arrays: saved({k: torch.from_numpy(v.copy()) for k, v in arrays.items()}),
    "pth": lambda arrays: saved({k: nn.Parameter(torch.from_numpy(v.copy()), False) for k, v in arrays.items()}),
}
