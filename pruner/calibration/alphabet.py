"""The symbols that an LSTM reads, as people type and read them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from pruner.errors import PrunerError, shown

Kind = Literal["text", "grammar", "tokens"]  # of what people type


@dataclass(frozen=True)
class Alphabet:
    """The symbols of an LSTM's inputs in the order of their numbers: characters, those of a grammar, or, where nobody says
    what they stand for, the token numbers themselves. They are read through an `embedding` of the file, or one-hot.

    `begin` is something to read.
    """

    kind: Kind
    symbols: tuple[str, ...]
    embedding: str | None
    begin: str

    def numbers(self, typed: str) -> Tensor:
        """(T,) int64: what was typed as numbers. Raises PrunerError for a symbol that there is not, and for none at all."""
        if self.kind == "grammar":
            typed = "".join(typed.split()).upper()
        symbols = [part for part in re.split(r"[\s,]+", typed) if part] if self.kind == "tokens" else list(typed)
        if not symbols:
            raise PrunerError(f"expected {self._expected()}, found nothing; type some")
        known = {symbol: number for number, symbol in enumerate(self.symbols)}
        for place, symbol in enumerate(symbols, start=1):
            if symbol not in known:
                raise PrunerError(
                    f"expected {self._expected()}, found {shown(symbol)} at place {place}; replace it or leave it out"
                )
        return torch.tensor([known[symbol] for symbol in symbols])

    def inputs(self, numbers: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
        """Numbers (..., T) as the LSTM reads them: (..., T, I) float32; `tensors` are those of the checkpoint."""
        if self.embedding is None:
            return F.one_hot(numbers, len(self.symbols)).float()
        return F.embedding(numbers, tensors[self.embedding].detach()).float()

    def read(self, sequences: Tensor) -> list[list[str]]:
        """The symbols of sequences as calibration has them: (N, T) numbers, or (N, T, V) one-hot inputs."""
        numbers = sequences.argmax(-1) if sequences.dim() == 3 else sequences
        return [[self.symbols[number] for number in line] for line in numbers.tolist()]

    def _expected(self) -> str:
        if self.kind == "tokens":
            return f"token numbers from 0 to {len(self.symbols) - 1}, with spaces between them"
        return f"symbols of {''.join(self.symbols)}" if self.kind == "grammar" else "characters that the model knows"


def tokens(count: int, embedding: str) -> Alphabet:
    """The alphabet of a model of which only the embedding, of `count` rows, is known."""
    symbols = tuple(map(str, range(count)))
    return Alphabet("tokens", symbols, embedding, " ".join(symbols[:: max(1, count // 12)][:12]))
