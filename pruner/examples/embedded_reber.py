"""Embedded Reber grammar: a 1-layer LSTM of 32 units that must remember one symbol across a whole string.

The task is experiment 1 of Hochreiter & Schmidhuber 1997, "Long Short-Term Memory": a string begins with B and then T or
P, goes through a Reber grammar, and must end with the same T or P and E. `train_embedded_reber` made the file.

Architecture: one-hot symbols (7) -> LSTM(7 -> 32) -> Linear(32 -> 7).
Quality: share of held-out strings in which every step gives all legal next symbols more than any illegal one.
"""

import random
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FILE = Path(__file__).with_name("embedded_reber.safetensors")
SEED = 0
SYMBOLS = "BTSXPVE"
BEGIN = "BTBTSSXXTVPSETE"  # a string to begin with, which visits every state
TRAINING_STRINGS, HELD_OUT_STRINGS = 2000, 500
PADDING = -100  # the index that cross entropy ignores

# State -> the symbols that may follow and the states they lead to; state 5 only ends.
GRAMMAR: dict[int, dict[str, int]] = {
    0: {"T": 1, "P": 2},
    1: {"S": 1, "X": 3},
    2: {"T": 2, "V": 4},
    3: {"X": 2, "S": 5},
    4: {"P": 3, "V": 5},
}


def reber_string(rng: random.Random) -> tuple[str, list[str]]:
    """A string of the embedded grammar, and for each of its steps but the last the symbols that may follow."""
    outer = rng.choice("TP")
    text, legal = f"B{outer}B", ["TP", "B", "TP"]
    state = 0
    while state != 5:
        symbol = rng.choice(sorted(GRAMMAR[state]))
        state = GRAMMAR[state][symbol]
        text += symbol
        legal.append("".join(sorted(GRAMMAR[state])) if state != 5 else "E")
    return text + f"E{outer}E", [*legal, outer, "E"]


@cache
def strings() -> tuple[list[tuple[str, list[str]]], list[tuple[str, list[str]]]]:
    """Distinct strings from `SEED`: (training, held out); no string is in both."""
    rng, distinct = random.Random(SEED), dict[str, list[str]]()
    while len(distinct) < TRAINING_STRINGS + HELD_OUT_STRINGS:
        text, legal = reber_string(rng)
        distinct[text] = legal
    drawn = list(distinct.items())
    rng.shuffle(drawn)
    return drawn[:TRAINING_STRINGS], drawn[TRAINING_STRINGS:]


def encode(texts: list[str]) -> tuple[Tensor, Tensor]:
    """Strings -> one-hot inputs (batch, time, 7) and the indices of the next symbols (batch, time), padded."""
    length = max(map(len, texts)) - 1
    inputs, targets = torch.zeros(len(texts), length, len(SYMBOLS)), torch.full((len(texts), length), PADDING)
    for row, text in enumerate(texts):
        ids = torch.tensor([SYMBOLS.index(symbol) for symbol in text])
        inputs[row, : len(ids) - 1] = F.one_hot(ids[:-1], len(SYMBOLS)).float()
        targets[row, : len(ids) - 1] = ids[1:]
    return inputs, targets


def strings_right(tensors: Mapping[str, Tensor], lstm: nn.Module, count: int | None = None) -> float:
    """Share of the held-out strings, or of so many first ones, predicted wholly right, from the model's own output layer."""
    held_out = strings()[1][:count]
    inputs, _ = encode([text for text, _ in held_out])
    weight = tensors["linear.weight"]
    with torch.inference_mode():
        hidden, _ = lstm(inputs.to(weight.device, weight.dtype))
        logits = F.linear(hidden, weight, tensors["linear.bias"]).cpu()
    right = 0
    for row, (_, legal_steps) in enumerate(held_out):
        legal = torch.tensor([[symbol in step for symbol in SYMBOLS] for step in legal_steps])
        values = logits[row, : len(legal_steps)]
        lowest_legal = values.masked_fill(~legal, torch.inf).amin(1)
        highest_illegal = values.masked_fill(legal, -torch.inf).amax(1)
        right += bool((lowest_legal > highest_illegal).all())
    return right / len(held_out)


def quality(tensors: Mapping[str, Tensor], lstms: Mapping[str, nn.Module], metadata: Mapping[str, str]) -> float:
    """The share of strings that a model gets wholly right, from its tensors and its LSTMs; nothing else need be known."""
    return strings_right(tensors, lstms["lstm"])
