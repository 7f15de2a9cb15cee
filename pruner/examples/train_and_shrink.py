"""Train a model under a growing mask, make it smaller, train on, and export it: the whole way in one script.

python -m pruner.examples.train_and_shrink FOLDER

On one core it takes about half a minute. It trains the embedded Reber model with the cubic schedule of Zhu & Gupta 2017,
takes the masked units out, lets the same optimizer go on with the smaller model, and writes an export.
"""

import random
import sys
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from pruner.errors import PrunerError
from pruner.examples.embedded_reber import PADDING, SEED, encode, strings, strings_right
from pruner.examples.train_embedded_reber import BATCH_SIZE, LEARNING_RATE, GrammarModel
from pruner.files.learned import with_batch_first
from pruner.files.opening import open_checkpoint
from pruner.in_memory.lstm_saliency_pruner import LSTMSaliencyPruner
from pruner.in_memory.saving import save_pruned
from pruner.recipe import Recipe
from pruner.result import run

SPARSITY, DENSE_SHARE, MASKED_SHARE = 0.75, 0.3, 0.4  # of the units; of the steps, before and under growing masks


def train_and_shrink(folder: Path, steps: int = 4000) -> dict[str, float]:
    """Write `model.pt` and the export `smaller/` into a folder; {what: share of held-out strings predicted wholly right}.

    Raises PrunerError where they cannot be written.
    """
    torch.manual_seed(SEED)
    model = GrammarModel()
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE)
    rates = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    batches = random.Random(SEED)
    texts = [text for text, _ in strings()[0]]

    def train(count: int, pruner: LSTMSaliencyPruner | None = None) -> None:
        for _ in range(count):
            inputs, targets = encode(batches.sample(texts, BATCH_SIZE))
            loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten(), ignore_index=PADDING)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            rates.step()
            if pruner is not None:
                pruner.step()

    def right() -> float:
        with torch.no_grad():
            return strings_right({name: tensor.detach() for name, tensor in model.named_parameters()}, model.lstm)

    found: dict[str, float] = {}
    dense, masked = int(steps * DENSE_SHARE), int(steps * MASKED_SHARE)
    train(dense)
    found["dense"] = right()

    pruner = LSTMSaliencyPruner({"sparsity_level": SPARSITY}, granularity="units", criterion="group")
    pruner.prepare(model)
    pruner.schedule("cubic", steps=masked, every=10)  # slower and slower, up to three quarters of the units
    train(masked, pruner)
    found["masked"] = right()

    pruner.prune(optimizer)  # the LSTM and what reads it are smaller, and the optimizer goes on with both
    train(steps - dense - masked)
    found["smaller"] = right()

    folder.mkdir(parents=True, exist_ok=True)
    save_pruned(model, folder / "model.pt")
    checkpoint = with_batch_first(open_checkpoint(folder / "model.pt"), True)
    run(checkpoint, Recipe(sparsity=0.0, granularity="units")).save(folder / "smaller")
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    try:
        for what, share in train_and_shrink(Path(sys.argv[1] if len(sys.argv) > 1 else "reber")).items():
            print(f"{what}: {share:.1%} of strings wholly right")
    except PrunerError as error:
        sys.exit(f"error: {error}")
