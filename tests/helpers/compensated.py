"""Models to be compensated, the ways to do it, and what must hold of the result."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pruner import Checkpoint, Recipe
from pruner.calibration.calibration import Calibration
from pruner.compact.load_pruned import load_lstms
from pruner.compact.masked_and_compact import FORMS
from pruner.exports.opened import read_export
from pruner.exports.verify import verify
from pruner.lstm.lstm import LSTM
from pruner.lstm.module import build
from pruner.result import Result
from tests.helpers.models import named, random_lstm, random_steps

HIDDEN, BURN_IN = 6, 2


def model(head: bool = False, gain: float = 3.0, **settings: Any) -> dict[str, Tensor]:
    """An LSTM called rnn, its weights large enough that removing units hurts, and, if wanted, a linear layer after it."""
    tensors = named(random_lstm(hidden_size=HIDDEN, **settings), "rnn.")
    tensors = {name: gain * tensor for name, tensor in tensors.items()}
    if head:
        width = HIDDEN * (2 if settings.get("bidirectional") else 1)
        tensors["linear.weight"] = random_steps(4, width, seed=7, dtype=torch.float32)
        tensors["linear.bias"] = random_steps(4, seed=8, dtype=torch.float32)
    return tensors


def calibration(*names: str, count: int = 30, steps: int = 16, width: int = 3, burn_in: int = BURN_IN) -> Calibration:
    """Random sequences (N, T, I) from a file, for each of the LSTMs named."""
    groups = {name: [random_steps(count, steps, width, seed=3, dtype=torch.float32)] for name in names or ("rnn",)}
    return Calibration("file", groups, burn_in=burn_in, name="inputs.npy")


@dataclass(frozen=True)
class Way:
    """How an LSTM is compensated."""

    compensation: str = "fold"
    task: str | None = None
    head: bool = False
    steps: int | None = None

    def recipe(self, sparsity: float = 0.4, **settings: Any) -> Recipe:
        consumers = ("linear.weight",) if self.head else ()
        return Recipe(
            sparsity, consumers=consumers, compensation=self.compensation, task=self.task, steps=self.steps, **settings
        )


WAYS = {
    "fold": Way(),
    "fold, head": Way(head=True),
    "heal": Way("heal", steps=40),
    "heal softmax": Way("heal", "softmax", head=True, steps=40),
    "heal regression": Way("heal", "regression", head=True, steps=40),
}
STEPS = {"fold": [], "heal": ["heal"]}


def dropped_columns(result: Result, lstm: LSTM, layer: int) -> Tensor:
    """(D * H,) bool: the units of one layer that are gone, both directions side by side."""
    masks = [
        result.masks[lstm.weight_names()[layer, side, "ih"]][: lstm.hidden_size] for side in range(lstm.directions)
    ]
    return ~torch.cat(masks)


def check_zeros(result: Result) -> None:
    """What masks drop is zero in the masked file, and so is what reads it."""
    (lstm,) = result.checkpoint.lstms
    tensors = result.forms["masked"].tensors(result.checkpoint)
    for name, mask in result.masks.items():
        assert not tensors[name][~mask].any(), name
    if result.recipe.granularity == "rows":
        return
    for layer in range(lstm.num_layers):
        gone = dropped_columns(result, lstm, layer)
        for side, own in enumerate(gone.chunk(lstm.directions)):
            back = "hr" if lstm.proj_size else "hh"
            assert not tensors[lstm.tensors[f"weight_{back}{lstm.suffix(layer, side)}"]][:, own].any()
            if layer + 1 < lstm.num_layers and not lstm.proj_size:
                assert not tensors[lstm.tensors[f"weight_ih{lstm.suffix(layer + 1, side)}"]][:, gone].any()
    for name in result.recipe.consumers:
        assert not tensors[name][:, dropped_columns(result, lstm, lstm.num_layers - 1)].any()


def scores(tensors: Mapping[str, Tensor], output: Tensor, head: bool) -> Tensor:
    """What a loss is taken of: outputs after the burn-in, or what the linear layer makes of them."""
    found = output[:, BURN_IN:].flatten(0, 1)
    return F.linear(found, tensors["linear.weight"], tensors.get("linear.bias")) if head else found


def held_back_loss(result: Result, way: Way, inputs: Tensor) -> float:
    """How far the masked model is from the dense one on sequences that nothing was fitted to, run by PyTorch."""
    tensors = result.forms["masked"].tensors(result.checkpoint)
    dense, masked = (
        scores(values, module(inputs)[0], way.head)
        for values, module in (
            (result.checkpoint.tensors, dense_module(result.checkpoint)),
            (tensors, result.forms["masked"].modules(result.checkpoint)["rnn"]),
        )
    )
    if way.task == "softmax":
        return float(F.kl_div(masked.log_softmax(-1), dense.softmax(-1), reduction="batchmean"))
    return float((masked - dense).square().sum() / dense.square().sum())


def dense_module(checkpoint: Checkpoint, name: str = "rnn") -> nn.LSTM:
    """The LSTM as it was before pruning."""
    (lstm,) = [lstm for lstm in checkpoint.lstms if lstm.name == name]
    return build(lstm, checkpoint.tensors)


def check_exports(result: Result, folder: Path, tolerance: float = 1e-5) -> None:
    """Both forms are certified, verified and load without this project, and compute what the masked modules do."""
    sequences = random_steps(3, 9, result.checkpoint.lstms[0].input_size, seed=11, dtype=torch.float32)
    masked = result.forms["masked"].modules(result.checkpoint)
    for form in FORMS:
        saved = result.save(folder / form, form)
        manifest = json.loads((saved / "manifest.json").read_text())
        certificate = manifest["certificate"]
        assert certificate["holds"]
        assert certificate["max_abs_difference"] <= 1e-9 * certificate["max_abs_output"]
        assert "compensation" in manifest
        verify(saved)
        assert any("all but those that compensation may change" in line for line in verify(saved, result.checkpoint))
        for name, module in load_lstms(saved, batch_first=True).items():
            if hasattr(module, "num_layers"):  # cells are stepped elsewhere
                found, wanted = module.float()(sequences)[0], masked[name].float()(sequences)[0]
                torch.testing.assert_close(found, wanted, rtol=0, atol=tolerance)
        opened = read_export(saved).masked
        for lstm in result.checkpoint.lstms:
            assert [each for each in opened.lstms if each.name == lstm.name] == [lstm]


def steps_of(result: Result, lstm: int = 0) -> list[dict[str, Any]]:
    """What the manifest says of each step of the compensation of one LSTM."""
    found: list[dict[str, Any]] = result.compensation.facts["lstms"][lstm]["steps"]
    return found


def check_steps(result: Result, way: Way, inputs: Tensor) -> None:
    """Each step that was kept lowered the loss on what was held back, which is what a bare run of the model finds."""
    steps = steps_of(result)
    first = "fold" if result.recipe.granularity == "units" else "mean into bias"
    assert [step["name"] for step in steps] == [first, *STEPS[way.compensation]]
    best = steps[0]["before"]
    for step in steps:
        assert step["before"] == best
        assert step["kept"] == (step["after"] < step["before"])
        best = min(best, step["after"])
    assert held_back_loss(result, way, inputs) == pytest.approx(best, rel=1e-3, abs=1e-6)
