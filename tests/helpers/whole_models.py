"""Models with all that stands around LSTMs, as people write them, and batches that they read."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

WIDTH, HIDDEN, STEPS, SEQUENCES, BATCHES = 4, 16, 12, 8, 10


class Labels(nn.Module):
    """Scores of categories at every step."""

    def __init__(self, hidden_size: int = HIDDEN, width: int = WIDTH, categories: int = 3) -> None:
        super().__init__()
        self.lstm = nn.LSTM(width, hidden_size, batch_first=True)
        self.linear = nn.Linear(hidden_size, categories)

    def forward(self, steps: Tensor) -> Tensor:
        output, _ = self.lstm(steps)
        return self.linear(output)


class Tagger(nn.Module):
    """Both directions over packed sequences of token ids."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, WIDTH)
        self.lstm = nn.LSTM(WIDTH, HIDDEN, 2, bidirectional=True, batch_first=True, dropout=0.2)
        self.head = nn.Linear(2 * HIDDEN, 5)

    def forward(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        ids, lengths = batch
        packed = pack_padded_sequence(self.embedding(ids), lengths, batch_first=True, enforce_sorted=False)
        output, _ = self.lstm(packed)
        padded, _ = pad_packed_sequence(output, batch_first=True)
        return self.head(padded)


class EncoderDecoder(nn.Module):
    """An encoder that hands its state to a decoder, time first."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.LSTM(WIDTH, HIDDEN), nn.LSTM(WIDTH, HIDDEN)
        self.head = nn.Linear(HIDDEN, WIDTH)

    def forward(self, steps: Tensor) -> Tensor:
        _, state = self.encoder(steps)
        output, _ = self.decoder(steps.flip(0), state)
        return self.head(output)


class Chain(nn.Module):
    """Two LSTMs in a row, of which the last step is read."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.LSTM(WIDTH, HIDDEN, batch_first=True)
        self.second = nn.LSTM(HIDDEN, 12, batch_first=True)
        self.head = nn.Linear(12, WIDTH)

    def forward(self, steps: Tensor) -> Tensor:
        between, _ = self.first(steps)
        output, _ = self.second(between)
        return self.head(output[:, -1])


class Loop(nn.Module):
    """An LSTMCell in a loop, whose last state is given away, too."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.LSTMCell(WIDTH, HIDDEN), nn.Linear(HIDDEN, WIDTH)

    def forward(self, steps: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        h = c = steps.new_zeros(len(steps), HIDDEN)
        answers = []
        for step in steps.unbind(1):
            h, c = self.cell(step, (h, c))
            answers.append(self.head(h))
        return torch.stack(answers, 1), (h, c)


class Normed(nn.Module):
    """A head tied to the embedding, behind a norm, and a second LSTM that nobody calls; scores and states come out."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, HIDDEN)
        self.lstm, self.unused = nn.LSTM(HIDDEN, HIDDEN, batch_first=True), nn.LSTM(3, 3)
        self.norm, self.head = nn.LayerNorm(HIDDEN), nn.Linear(HIDDEN, 20)
        self.head.weight = self.embedding.weight
        self.lstm.weight_hh_l0.requires_grad_(False)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Any]:
        output, state = self.lstm(self.embedding(batch["ids"]))
        return {"scores": self.head(self.norm(output)), "state": state}


@dataclass(frozen=True)
class Case:
    """A model, how its batches are made, and the LSTMs whose readers are trimmed along."""

    model: Callable[[], nn.Module]
    batch: Callable[[torch.Generator], Any]
    trimmed: dict[str, tuple[str, ...]]


def numbers(*shape: int) -> Callable[[torch.Generator], Tensor]:
    return lambda generator: torch.randn(shape, generator=generator)


def ids(generator: torch.Generator) -> Tensor:
    return torch.randint(20, (SEQUENCES, STEPS), generator=generator)


def tagged(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    lengths = torch.randint(3, STEPS + 1, (SEQUENCES,), generator=generator)
    return ids(generator), lengths.index_fill(0, torch.tensor([0]), STEPS)


CASES = {
    "labels": Case(Labels, numbers(SEQUENCES, STEPS, WIDTH), {"lstm": ("linear.weight",)}),
    "tagger": Case(Tagger, tagged, {"lstm": ("head.weight",)}),
    "encoder and decoder": Case(EncoderDecoder, numbers(STEPS, SEQUENCES, WIDTH), {"encoder": (), "decoder": ()}),
    "chain": Case(
        Chain, numbers(SEQUENCES, STEPS, WIDTH), {"first": ("second.weight_ih_l0",), "second": ("head.weight",)}
    ),
    "loop": Case(Loop, numbers(SEQUENCES, STEPS, WIDTH), {"cell": ()}),
    "normed": Case(Normed, lambda generator: {"ids": ids(generator)}, {"lstm": ()}),
}


def made(name: str = "labels") -> nn.Module:
    """A model with weights so large that removing units hurts."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = CASES[name].model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    return model


def loader(name: str = "labels", count: int = BATCHES) -> list[Any]:
    """Batches as the model reads them, the same every time."""
    generator = torch.Generator().manual_seed(1)
    return [CASES[name].batch(generator) for _ in range(count)]
