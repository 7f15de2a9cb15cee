"""Models as their authors write them: a tagger, an encoder, a pair of LSTMs of which one reads the other."""

from typing import Any

import torch
from torch import Tensor, nn

HIDDEN = 8


class Tagger(nn.Module):
    """A label for every step, of batches first."""

    def __init__(self, hidden_size: int = HIDDEN) -> None:
        super().__init__()
        self.rnn = nn.LSTM(3, hidden_size, num_layers=2, batch_first=True, bidirectional=True, dropout=0.25)
        self.head = nn.Linear(2 * hidden_size, 5)

    def forward(self, inputs: Tensor) -> Tensor:
        output, _ = self.rnn(inputs)
        return self.head(output)


class Encoder(nn.Module):
    """One vector a sequence, of time steps first: the last hidden state."""

    def __init__(self, hidden_size: int = HIDDEN) -> None:
        super().__init__()
        self.body = nn.ModuleDict({"rnn": nn.LSTM(3, hidden_size)})
        self.head = nn.Linear(hidden_size, 4, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        _, (h, _) = self.body["rnn"](inputs.transpose(0, 1))
        return self.head(h[-1])


class Pair(nn.Module):
    """A second LSTM that reads the first."""

    def __init__(self, first: int = HIDDEN, second: int = HIDDEN - 2) -> None:
        super().__init__()
        self.first = nn.LSTM(3, first, batch_first=True)
        self.second = nn.LSTM(first, second, batch_first=True)
        self.head = nn.Linear(second, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        output, _ = self.first(inputs)
        output, _ = self.second(output)
        return self.head(output[:, -1])


AUTHORS: dict[str, type[nn.Module]] = {"tagger": Tagger, "encoder": Encoder, "pair": Pair}


def trained(name: str) -> Any:
    """A model of one of the classes, with weights from a seed, large enough that every unit says something."""
    torch.manual_seed(3)
    model = AUTHORS[name]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    return model
