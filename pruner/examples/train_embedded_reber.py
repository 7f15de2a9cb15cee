"""Trains the embedded Reber grammar model and writes its file, in about 20 seconds:

python -m pruner.examples.train_embedded_reber
"""

import random

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from pruner.examples.embedded_reber import FILE, PADDING, SEED, SYMBOLS, encode, strings, strings_right
from pruner.lstm.gates import GATES, split_gates

HIDDEN_SIZE, STEPS, BATCH_SIZE, LEARNING_RATE = 32, 3000, 64, 1e-2


class GrammarModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(len(SYMBOLS), HIDDEN_SIZE, batch_first=True)
        self.linear = nn.Linear(HIDDEN_SIZE, len(SYMBOLS))
        # A forget gate that starts open lets the first symbol's error reach back to it (Gers et al. 2000).
        nn.init.constant_(split_gates(self.lstm.get_parameter("bias_ih_l0").data)[GATES.index("f")], 3.0)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden, _ = self.lstm(inputs)
        return self.linear(hidden)


def train() -> None:
    """Train from `SEED` and write `FILE`."""
    torch.set_num_threads(1)  # sums in one order: the same weights every time
    torch.manual_seed(SEED)
    rng = random.Random(SEED)
    training = [text for text, _ in strings()[0]]
    model = GrammarModel()
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for step in range(STEPS):
        inputs, targets = encode(rng.sample(training, BATCH_SIZE))
        loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten(), ignore_index=PADDING)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if (step + 1) % 500 == 0:
            print(f"step {step + 1}/{STEPS}: loss {loss.item():.4f}", flush=True)
    tensors = {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
    quality = strings_right(tensors, model.eval().lstm)
    print(f"held out: {quality:.4f} of strings wholly right")
    metadata = {"example": "embedded-reber", "strings_right": f"{quality:.4f}", "seed": str(SEED)}
    save_file(tensors, FILE, metadata=metadata)


if __name__ == "__main__":
    train()
