"""Python-docs characters: a 2-layer LSTM that predicts the next character of Python's own documentation.

The text is `pydoc_data.topics`, which ships with every CPython; its last tenth is held out. Some topics quote others, so
paragraphs that also stand in the held-out tenth are taken out of the training text. `train_pydocs_chars` made the file,
with the docstrings of the standard library as further training text.

Architecture: Embedding(V, 64) -> LSTM(64 -> 256, 2 layers) -> Linear(256 -> V), V characters.
Quality: bits per character on the held-out text (lower is better).
"""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from pydoc_data.topics import topics

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FILE = Path(__file__).with_name("pydocs_chars.safetensors")
STREAMS = 32  # the held-out text is read as this many parallel streams, each from a zero state
PIECE = 4096  # characters of a piece of training text: long, since the held-out text is read without a break, too
BEGIN = (
    'The "from" form of "raise" is new.\n\nChanged in version 3.12: see "PEP 695" (and 2 more).\n'  # to read at first
)
UNKNOWN = "\ufffd"  # stands for every character the training text does not hold


def corpus() -> tuple[str, str]:
    """The documentation topics in alphabetical order: (training text, held-out last tenth)."""
    text = "\n\n".join(topics[name] for name in sorted(topics))
    cut = len(text) * 9 // 10
    held_out = {paragraph.strip() for paragraph in text[cut:].split("\n\n")}
    training = (paragraph for paragraph in text[:cut].split("\n\n") if paragraph.strip() not in held_out)
    return "\n\n".join(training), text[cut:]


def corpus_sha256() -> str:
    """Identifies the text: it differs slightly between Python versions."""
    return hashlib.sha256("".join(corpus()).encode()).hexdigest()


def encode(text: str, alphabet: str) -> Tensor:
    """Characters -> (len(text),) int64 indices into `alphabet`; strangers become its first entry, `UNKNOWN`."""
    index = {character: i for i, character in enumerate(alphabet)}
    return torch.tensor([index.get(character, 0) for character in text])


def training_pieces(alphabet: str) -> Tensor:
    """All documentation topics of the training text as (N, `PIECE`) indices, each piece where the one before ended."""
    ids = encode(corpus()[0], alphabet)
    return ids[: len(ids) // PIECE * PIECE].view(-1, PIECE)


def bits_per_character(
    tensors: Mapping[str, Tensor], lstm: nn.Module, alphabet: str, characters: int | None = None
) -> float:
    """Mean -log2 p(next character) over the held-out text, or over so many first characters of each of its streams, from the
    model's own embedding and output layer."""
    ids = encode(corpus()[1], alphabet)
    length = len(ids) // STREAMS
    ids = ids[: STREAMS * length].view(STREAMS, length)[:, :characters]
    with torch.inference_mode():
        device = tensors["linear.weight"].device
        ids = ids.to(device)
        hidden, _ = lstm(F.embedding(ids[:, :-1], tensors["embedding.weight"]))
        logits = F.linear(hidden, tensors["linear.weight"], tensors["linear.bias"])
        nats = F.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten())
    return nats.item() / math.log(2)


def quality(tensors: Mapping[str, Tensor], lstms: Mapping[str, nn.Module], metadata: Mapping[str, str]) -> float:
    """The bits per character of a model, from its tensors, its LSTMs and what its file says beside them."""
    return bits_per_character(tensors, lstms["lstm"], json.loads(metadata["alphabet"]))
