"""Models with consumers, and wide LSTMs, for compact forms."""

from typing import Any

import torch
from torch import Tensor, nn

from tests.helpers.models import named, random_lstm


def wide(prefix: str = "rnn.", **settings: Any) -> dict[str, Tensor]:
    """An LSTM of 6 units under a prefix."""
    return named(random_lstm(hidden_size=6, **settings), prefix)


INPUTS = torch.randn(5, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Tagger(nn.Module):
    """What a user's own model looks like."""

    def __init__(self, hidden_size: int, **settings: Any) -> None:
        super().__init__()
        self.rnn = nn.LSTM(3, hidden_size, batch_first=True, **settings)
        self.width = hidden_size * (2 if settings.get("bidirectional") else 1)
        self.head = nn.Linear(self.width, 5)
        self.conv = nn.Conv1d(self.width, 2, 3)

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        output, _ = self.rnn(inputs)
        return self.head(output), self.conv(output.transpose(1, 2))


FOLDED = ("head.weight", "conv.weight")
