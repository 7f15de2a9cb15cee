"""Whole models as people save them: modules, scripts, quantized ones."""

import io
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from tests.helpers.models import random_lstm


class Tagger(nn.Module):
    """A model of a person's own: an embedding, a bidirectional LSTM and a head, with things beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.encoder = nn.ModuleDict(
            {"lstm": random_lstm(bidirectional=True, batch_first=True, num_layers=2, dropout=0.25)}
        )
        self.head = nn.Linear(8, 2)
        self.register_buffer("steps", torch.tensor(7))
        self.register_buffer("scratch", torch.zeros(3), persistent=False)
        self.vocabulary = {"a": 0, "b": 1}
        self.extra = torch.ones(2)  # no parameter and no buffer

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder["lstm"](self.embedding(x))[0])


def scripted(model: nn.Module) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", (DeprecationWarning, FutureWarning))
        torch.jit.save(torch.jit.script(model.eval()), file)
    return file.getvalue()


def quantized(model: nn.Module, dtype: torch.dtype = torch.qint8) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(model.eval(), {nn.LSTM, nn.LSTMCell, nn.Linear}, dtype=dtype)


def model(**settings: Any) -> nn.ModuleDict:
    return nn.ModuleDict({"lstm": random_lstm(**settings), "cell": nn.LSTMCell(3, 4), "fc": nn.Linear(4, 2)})
