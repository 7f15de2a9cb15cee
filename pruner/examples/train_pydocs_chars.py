"""Trains the Python-docs character model and writes its file, in about ten minutes on two cores:

python -m pruner.examples.train_pydocs_chars
"""

import json
import math
import platform
import time

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from pruner.examples.pydocs_chars import FILE, UNKNOWN, bits_per_character, corpus, corpus_sha256, encode

SEED = 0
EMBEDDING_SIZE, HIDDEN_SIZE, NUM_LAYERS, DROPOUT = 64, 256, 2, 0.4
BATCH_SIZE, SEQUENCE_LENGTH, EPOCHS, LEARNING_RATE = 32, 128, 40, 4e-3


class CharacterModel(nn.Module):
    def __init__(self, characters: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(characters, EMBEDDING_SIZE)
        self.lstm = nn.LSTM(EMBEDDING_SIZE, HIDDEN_SIZE, NUM_LAYERS, batch_first=True, dropout=DROPOUT)
        self.linear = nn.Linear(HIDDEN_SIZE, characters)

    def forward(self, ids: Tensor, state: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        embedded = F.dropout(self.embedding(ids), DROPOUT / 4, self.training)
        hidden, state = self.lstm(embedded, state)
        return self.linear(F.dropout(hidden, DROPOUT, self.training)), state


def train() -> None:
    """Train from `SEED` and write `FILE`."""
    torch.manual_seed(SEED)
    training_text, _ = corpus()
    alphabet = UNKNOWN + "".join(sorted(set(training_text)))
    ids = encode(training_text, alphabet)
    model = CharacterModel(len(alphabet))
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=0.02)
    stream = (len(ids) - SEQUENCE_LENGTH - 1) // BATCH_SIZE
    steps_per_epoch = stream // SEQUENCE_LENGTH
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=EPOCHS * steps_per_epoch, pct_start=0.1
    )
    started = time.monotonic()
    for epoch in range(EPOCHS):
        # Each epoch cuts the text at other places, so that no boundary is learned.
        offset = int(torch.randint(SEQUENCE_LENGTH, ()))
        streams = ids[offset : offset + BATCH_SIZE * stream + 1]
        state, total = None, 0.0
        for step in range(steps_per_epoch):
            start = torch.arange(BATCH_SIZE)[:, None] * stream + step * SEQUENCE_LENGTH
            at = start + torch.arange(SEQUENCE_LENGTH)
            logits, state = model(streams[at], state)
            state = (state[0].detach(), state[1].detach())
            loss = F.cross_entropy(logits.flatten(0, 1), streams[at + 1].flatten())
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += loss.item()
        bits = total / steps_per_epoch / math.log(2)
        print(f"epoch {epoch + 1}/{EPOCHS}: training {bits:.3f} bits, {time.monotonic() - started:.0f} s", flush=True)
    model.eval()
    tensors = {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
    quality = bits_per_character(tensors, model.lstm, alphabet)
    print(f"held out: {quality:.4f} bits per character")
    metadata = {
        "example": "pydocs-chars",
        "alphabet": json.dumps(alphabet),
        "corpus_sha256": corpus_sha256(),
        "python": platform.python_version(),
        "bits_per_character": f"{quality:.4f}",
        "seed": str(SEED),
    }
    save_file(tensors, FILE, metadata=metadata)


if __name__ == "__main__":
    train()
