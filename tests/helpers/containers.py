"""State dicts as people and tools leave them: nested, views of one storage, pruned."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from pruner.files.opening import open_checkpoint
from tests.helpers.models import named, random_lstm

STATE = named(random_lstm(), "rnn.")
NAME = "rnn.weight_hh_l0"
NESTINGS = [
    (),
    ("state_dict",),
    ("model",),
    ("model_state",),
    ("model_state_dict",),
    ("net",),
    ("anything", "inside"),
    ("model", "model"),
]


def nested(value: Any, keys: tuple[str, ...]) -> dict[str, Any]:
    """The value under these keys, with other things beside it at each step."""
    for key in reversed(keys):
        value = {"epoch": 3, key: value, "losses": [0.5, 0.25]}
    return value


def prune_norms(model: nn.ModuleDict) -> None:
    """Prune rows, weights and a bias of the LSTM called rnn with the tools of PyTorch."""
    prune.ln_structured(model["rnn"], "weight_hh_l0", 0.5, n=1, dim=0)
    prune.l1_unstructured(model["rnn"], "weight_ih_l0", 0.5)
    prune.random_unstructured(model["rnn"], "bias_ih_l0", 0.5)


def views_of_one_storage(spare: int = 1000) -> dict[str, Tensor]:
    """An LSTM as cuDNN keeps it: all weights in one buffer, which has room to spare."""
    flat = torch.cat([tensor.flatten() for tensor in STATE.values()] + [torch.zeros(spare)])
    sizes = [tensor.numel() for tensor in STATE.values()]
    pieces = flat[: sum(sizes)].split(sizes)
    return {name: piece.view_as(STATE[name]) for name, piece in zip(STATE, pieces, strict=True)}


ODD_DTYPES = [torch.float8_e4m3fn, torch.bits8, torch.uint16, torch.bool, torch.int64, torch.complex64]


def names_of(source: bytes) -> list[str]:
    """The names of the LSTMs in a file."""
    return [lstm.name for lstm in open_checkpoint(source).lstms]
