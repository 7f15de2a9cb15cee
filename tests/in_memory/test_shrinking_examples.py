"""shrink(model, loader) of the examples as plain classes: as small and as good as their files become."""

import re
from collections.abc import Iterator

import joblib
import pytest
import torch
from torch import Tensor, nn

from pruner import Recipe, shrink
from pruner.calibration.calibration import BURN_IN, Calibration
from pruner.examples import embedded_reber, named, pydocs_chars
from pruner.pipeline import prune
from tests.helpers.whole_models import Labels

PIECES, WINDOW, STEPS = 4, 128, 3  # of text, and updates


@pytest.fixture(autouse=True)
def in_this_process() -> Iterator[None]:
    with joblib.parallel_config(backend="sequential"):
        yield


class Characters(nn.Module):
    """The Python-docs example as somebody would write it."""

    def __init__(self, characters: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(characters, 64)
        self.lstm = nn.LSTM(64, 256, 2, batch_first=True)
        self.linear = nn.Linear(256, characters)

    def forward(self, ids: Tensor) -> Tensor:
        return self.linear(self.lstm(self.embedding(ids))[0])


def test_the_python_docs_example_becomes_what_its_file_becomes() -> None:
    """As many units less and as many updates on the same text: the same bits within 0.01."""
    example = named("pydocs-chars")
    checkpoint, alphabet = example.open(), "".join(example.alphabet().symbols)
    pieces = pydocs_chars.training_pieces(alphabet)[:PIECES]
    model = Characters(len(alphabet))
    model.load_state_dict({name: tensor.clone() for name, tensor in checkpoint.tensors.items()})
    windows = pieces.reshape(-1, WINDOW)
    order = torch.randperm(len(windows), generator=torch.Generator().manual_seed(0))
    small = shrink(model, windows[order].split(32), target={"macs": 0.7}, task="softmax", steps=STEPS)
    assert small.report.macs[1] <= 0.7 * small.report.macs[0]
    gone = re.search(r"(\d+)% of the units, (all layers|of every layer)", str(small.report))
    assert gone is not None
    recipe = Recipe(
        int(gone[1]) / 100,
        "units",
        "obs",
        allocation="global" if gone[2] == "all layers" else "uniform",
        compensation="heal",
        steps=STEPS,
    )
    calibration = Calibration("example", {"lstm": [pieces]}, "embedding.weight", BURN_IN)
    pruned = prune(checkpoint, example.complete(recipe), calibration)
    bits = [
        pydocs_chars.bits_per_character(tensors, lstm, alphabet, WINDOW)
        for tensors, lstm in (
            (small.state_dict(), small.lstm),
            (pruned.tensors(), pruned.modules("compact")["lstm"]),
        )
    ]
    assert bits[0] == pytest.approx(bits[1], abs=0.01)


def test_reber_strings_stay_right_at_a_quarter_of_the_arithmetic() -> None:
    model = Labels(32, 7, 7)
    model.load_state_dict({name: tensor.clone() for name, tensor in named("embedded-reber").open().tensors.items()})
    by_length: dict[int, list[str]] = {}
    for text, _ in embedded_reber.strings()[0]:
        by_length.setdefault(len(text), []).append(text)
    batches = [batch for texts in by_length.values() for batch in embedded_reber.encode(texts)[0].split(32)]
    order = torch.randperm(len(batches), generator=torch.Generator().manual_seed(0))
    small = shrink(model, [batches[place] for place in order], target={"macs": 0.25}, task="softmax", steps=200)
    assert small.report.macs[1] <= 0.25 * small.report.macs[0]
    assert embedded_reber.strings_right(small.state_dict(), small.lstm) == 1.0
