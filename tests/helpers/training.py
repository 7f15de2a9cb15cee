"""A small model to train in memory, its data, and training steps of it."""

from typing import Any

import torch
from torch import Tensor, nn

from pruner import LSTMSaliencyPruner

H, STEPS, BATCH, INPUT_SIZE = 8, 5, 4, 3


class Tagger(nn.Module):
    """An LSTM whose every output a Linear reads."""

    def __init__(self, layers: int = 1) -> None:
        super().__init__()
        self.lstm = nn.LSTM(INPUT_SIZE, H, layers, batch_first=True)
        self.head = nn.Linear(H, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.lstm(inputs)[0])


class Opaque(Tagger):
    """The same, in a way that no trace can follow: what reads the LSTM is not known."""

    def forward(self, inputs: Tensor) -> Tensor:
        output = self.lstm(inputs)[0]
        return self.head(output if bool(output.isfinite().all()) else output * 0)


def seeded(kind: type[nn.Module] = Tagger, seed: int = 0, **settings: Any) -> Any:
    """A model with weights from a seed."""
    torch.manual_seed(seed)
    return kind(**settings)


def batch(number: int = 0) -> tuple[Tensor, Tensor]:
    """The inputs and targets of one training step."""
    generator = torch.Generator().manual_seed(100 + number)
    return torch.randn(BATCH, STEPS, INPUT_SIZE, generator=generator), torch.randn(BATCH, STEPS, 2, generator=generator)


def loss_of(model: nn.Module, number: int = 0) -> Tensor:
    inputs, targets = batch(number)
    return (model(inputs) - targets).square().mean()


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 3, first: int = 0, pruner: Any = None
) -> list[float]:
    """The losses of some steps, on the batches from `first` on."""
    losses = []
    for number in range(first, first + steps):
        loss = loss_of(model, number)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if pruner is not None:
            pruner.step()
        losses.append(loss.item())
    return losses


def stepped(model: nn.Module, granularity: str = "units", sparsity: float = 0.5, **settings: Any) -> LSTMSaliencyPruner:
    """A pruner that has put masks on a model and chosen them once."""
    pruner = LSTMSaliencyPruner({"sparsity_level": sparsity}, granularity, **settings)
    pruner.prepare(model)
    pruner.step()
    return pruner


def rows_of(lstm: nn.LSTM, mask: Tensor) -> int:
    """How many numbers of the rows that a mask drops are not zero."""
    return int(lstm.weight_hh_l0[~mask].count_nonzero())
