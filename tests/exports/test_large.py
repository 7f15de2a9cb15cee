"""Large LSTMs: run layer by layer, certified on a bounded sample, which the export says, and never held twice."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pruner import Recipe, run
from pruner.compact.masked_and_compact import pruned_by
from pruner.exports.verify import verify
from pruner.lstm import measure
from pruner.lstm.measure import outputs, outputs_by_layer, random_input
from pruner.pipeline import choose_masks
from tests.helpers.allocations import Allocations
from tests.helpers.exports import read_manifest
from tests.helpers.files import saved_in
from tests.helpers.models import named, random_lstm

SHAPES: dict[str, dict[str, Any]] = {
    "one layer": {},
    "three layers": {"num_layers": 3},
    "both directions": {"num_layers": 2, "bidirectional": True},
    "a projection": {"num_layers": 2, "bidirectional": True, "proj_size": 2},
    "no bias": {"num_layers": 2, "bias": False},
    "half": {"num_layers": 2, "dtype": torch.bfloat16},
}
RECIPES = {
    "rows": Recipe(0.5),
    "units": Recipe(0.5, "units"),
    "unequal units": Recipe(0.5, "units", layer_sparsity={0: 0.25}),
}


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
@pytest.mark.parametrize("settings", SHAPES.values(), ids=SHAPES)
def test_layers_one_by_one_compute_what_the_whole_does(
    settings: dict[str, Any], recipe: Recipe, tmp_path: Path
) -> None:
    checkpoint = saved_in(tmp_path, named(random_lstm(hidden_size=8, **settings), "rnn."))
    (lstm,) = checkpoint.lstms
    pruned = pruned_by(checkpoint, recipe, choose_masks(checkpoint, recipe))
    inputs = random_input(lstm, length=5)
    for form in pruned.forms.values():
        (layout,), tensors = form.layouts, form.tensors(checkpoint)
        for make in (type(layout).module, type(layout).masked_twin):
            whole = outputs(copy.deepcopy(make(layout, tensors)).double(), inputs)
            _, (found) = outputs_by_layer(
                (make(layer, tensors) for layer in layout.layers), inputs, (None, torch.float64)
            )
            for one, other in zip(whole, found, strict=True):
                torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.fixture
def small_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bound on the sample that a small LSTM exceeds already."""
    monkeypatch.setattr(measure, "MOST_WEIGHTS_READ", 4000)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
@pytest.mark.usefixtures("small_bound")
def test_the_certificate_of_a_large_lstm_says_how_short_its_sample_is(recipe: Recipe, tmp_path: Path) -> None:
    checkpoint = saved_in(tmp_path, named(random_lstm(hidden_size=8, num_layers=2), "rnn."))
    folder = run(checkpoint, recipe).save(tmp_path / "export")
    certificate = read_manifest(folder)["certificate"]
    assert certificate["holds"] and certificate["sequence_length"] == 4000 // checkpoint.lstms[0].parameters
    told = f"4 random sequences of {certificate['sequence_length']} steps in place of 64"
    assert told in (folder / "README.md").read_text(encoding="utf-8")
    assert any("certificate holds" in sentence for sentence in verify(folder, checkpoint))
    assert verify(folder)


@pytest.fixture
def exported(tmp_path: Path) -> Iterator[Path]:
    checkpoint = saved_in(tmp_path, named(random_lstm(hidden_size=8), "rnn."))
    folder = run(checkpoint, Recipe(0.5)).save(tmp_path / "export")
    assert read_manifest(folder)["certificate"]["sequence_length"] == measure.SEQUENCE_LENGTH
    assert "in place of 64" not in (folder / "README.md").read_text(encoding="utf-8")
    yield folder


def test_a_certificate_on_more_steps_is_checked_on_as_many(exported: Path, small_bound: None) -> None:
    """As those of earlier versions are."""
    assert verify(exported)


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_nothing_larger_than_a_layer_in_float64_is_made(suffix: str, tmp_path: Path) -> None:
    """Nor two copies of the file's weights: its LSTM has four layers of equal size."""
    size = 96
    checkpoint = saved_in(tmp_path, named(nn.LSTM(size, size, 4), "rnn."), suffix)
    with Allocations() as allocations:
        folder = run(checkpoint, Recipe(0.5)).save(tmp_path / "export", "masked")
        verify(folder, checkpoint)
    assert 0 < allocations.largest <= 4 * size * size * 8  # one of the two weights of a layer
