"""Pruned LSTMs of every kind, their ONNX graphs, and what ONNX Runtime computes with them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from pruner import Recipe, open_checkpoint
from pruner.compact import load_pruned
from pruner.compact.layout import Layout
from pruner.compact.masked_and_compact import NO_COMPENSATION, Compensation, pruned_by
from pruner.exports.onnx.building import model_of
from pruner.exports.onnx.parts import parts_of
from pruner.lstm.kept import unit_masks
from pruner.pipeline import choose_masks
from tests.helpers.files import saved
from tests.helpers.models import named, random_steps

INPUT, HIDDEN, CONSUMER = 3, 6, "linear.weight"
# How an LSTM can be pruned and stored: granularity, form, whether layers keep different numbers of units, whether removed
# units are reconstructed.
WAYS = {
    "rows masked": ("rows", "masked", False, False),
    "rows compact": ("rows", "compact", False, False),
    "units masked": ("units", "masked", False, False),
    "units compact": ("units", "compact", False, False),
    "unequal layers": ("units", "compact", True, False),
    "reconstructed masked": ("units", "masked", False, True),
    "reconstructed compact": ("units", "compact", True, True),
}


@dataclass(frozen=True)
class Case:
    """An LSTM called `lstm` in one form, with the tensors of its file and with those of full size."""

    layout: Layout
    tensors: dict[str, Tensor]
    whole: dict[str, Tensor]

    def module(self) -> nn.Module:
        """As load_pruned.py gives it, batch first; a state of removed units is dropped, since a graph cannot refuse it."""
        state = {name: self.tensors[stored] for name, stored in self.layout.tensors.items()}
        module = load_pruned.assemble(self.layout.describe(), state, batch_first=True).eval()
        for part in module.modules():
            if hasattr(part, "on_lost_state"):
                part.on_lost_state = "ignore"
        return module

    def consumer(self, output: Tensor) -> Tensor:
        """What the linear layer makes of an output of full width."""
        return nn.functional.linear(output, self.whole[CONSUMER], self.whole["linear.bias"])

    def graph(self, **settings: Any) -> onnx.ModelProto:
        return model_of(parts_of([self.layout], self.tensors, {"lstm": [CONSUMER]}), {}, **settings)


def case(way: str, module: nn.LSTM | nn.LSTMCell, recipe: dict[str, Any] | None = None) -> Case:
    """A module pruned in one of `WAYS`."""
    granularity, form, unequal, reconstructed = WAYS[way]
    width = module.hidden_size * (2 if getattr(module, "bidirectional", False) else 1)
    linear = nn.Linear(width, 4, dtype=next(module.parameters()).dtype)
    checkpoint = open_checkpoint(saved({**named(module, "lstm."), **named(linear, "linear.")}), "model.pt")
    layers = {0: 0.2} if unequal and getattr(module, "num_layers", 1) > 1 else {}
    settings = {"granularity": granularity, "layer_sparsity": layers, **(recipe or {})}
    masks = choose_masks(checkpoint, Recipe(0.5, **settings))
    compensation = NO_COMPENSATION
    if reconstructed:
        (lstm,) = checkpoint.lstms
        last = list(unit_masks(lstm, masks).values())[-lstm.directions :]
        filled = [(torch.randn(int((~own).sum()), int(own.sum())), torch.randn(int((~own).sum()))) for own in last]
        compensation = Compensation({}, {"lstm": filled}, {})
    pruned = pruned_by(checkpoint, Recipe(0.5, **settings), masks, compensation)
    chosen = pruned.forms[form]
    return Case(chosen.layouts[0], chosen.tensors(checkpoint), pruned.tensors())


def session_of(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(session: onnxruntime.InferenceSession, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All outputs of a session by their names."""
    fed = {name: tensor.detach().float().numpy() for name, tensor in given.items()}
    names = [output.name for output in session.get_outputs()]
    return {name: torch.from_numpy(np.array(found)) for name, found in zip(names, session.run(names, fed), strict=True)}


def steps(*shape: int, seed: int = 1) -> Tensor:
    return random_steps(*shape, seed=seed, dtype=torch.float32)
