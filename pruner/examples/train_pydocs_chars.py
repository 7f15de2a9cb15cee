"""Trains the Python-docs character model and writes its file, in about half an hour on two cores:

python -m pruner.examples.train_pydocs_chars

The documentation topics alone are so little text that a model learns them by heart. The docstrings of the standard library
are read as well, and besides dropout between the layers some hidden units are hidden from the recurrence at every step of
the optimizer, the same for a whole batch: the structured form of DropConnect on the recurrent weights (Merity, Keskar &
Socher 2017, "Regularizing and optimizing LSTM language models").
"""

import ast
import json
import math
import platform
import sysconfig
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from pruner.examples.pydocs_chars import FILE, UNKNOWN, bits_per_character, corpus, corpus_sha256, encode

SEED = 0
EMBEDDING_SIZE, HIDDEN_SIZE, NUM_LAYERS, DROPOUT, RECURRENT_DROPOUT = 64, 256, 2, 0.25, 0.15
BATCH_SIZE, SEQUENCE_LENGTH, EPOCHS, LEARNING_RATE = 32, 128, 10, 3e-3
LEFT_OUT = {"site-packages", "test", "tests", "idlelib", "lib2to3", "pydoc_data"}  # folders of the standard library


class CharacterModel(nn.Module):
    def __init__(self, characters: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(characters, EMBEDDING_SIZE)
        self.lstm = nn.LSTM(EMBEDDING_SIZE, HIDDEN_SIZE, NUM_LAYERS, batch_first=True, dropout=DROPOUT)
        self.linear = nn.Linear(HIDDEN_SIZE, characters)

    def forward(self, ids: Tensor, state: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        embedded = F.dropout(self.embedding(ids), DROPOUT / 4, self.training)
        hidden, state = torch.func.functional_call(self.lstm, self._recurrent(), (embedded, state))
        return self.linear(F.dropout(hidden, DROPOUT, self.training)), state

    def _recurrent(self) -> dict[str, Tensor]:
        """The recurrent weights without the columns of the units that are hidden now."""
        found = {}
        for layer in range(NUM_LAYERS if self.training else 0):
            seen = (torch.rand(1, HIDDEN_SIZE) >= RECURRENT_DROPOUT) / (1 - RECURRENT_DROPOUT)
            found[f"weight_hh_l{layer}"] = self.lstm.get_parameter(f"weight_hh_l{layer}") * seen
        return found


def docstrings(characters: set[str], left_out: set[str]) -> str:
    """Every docstring of the standard library once, in the order of its files, of these characters only and without these
    paragraphs."""
    root, found = Path(sysconfig.get_path("stdlib")), dict[str, None]()
    for path in sorted(root.rglob("*.py")):
        if LEFT_OUT & set(path.relative_to(root).parts):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (text := ast.get_docstring(node)):
                found[text] = None
    text = "".join(character for character in "\n\n".join(found) if character in characters)
    return "\n\n".join(paragraph for paragraph in text.split("\n\n") if paragraph.strip() not in left_out)


def train() -> None:
    """Train from `SEED` and write `FILE`."""
    torch.manual_seed(SEED)
    topics, held_out = corpus()
    alphabet = UNKNOWN + "".join(sorted(set(topics)))
    left_out = {paragraph.strip() for paragraph in held_out.split("\n\n")}
    ids = encode(topics + "\n\n" + docstrings(set(topics), left_out), alphabet)
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
