"""LSTMs that PyTorch quantized: their weights are shown dequantized, and said to be so."""

import warnings
from typing import Any

import pytest
import torch
from torch import nn

from pruner import Recipe, open_checkpoint, run
from tests.helpers.files import saved, saved_legacy
from tests.helpers.models import random_lstm
from tests.helpers.modules import model, quantized

TOLD = "quantized by PyTorch; the weights are shown dequantized"


@pytest.mark.parametrize("whole", [False, True], ids=["state dict", "whole module"])
@pytest.mark.parametrize("save", [saved, saved_legacy], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    "settings",
    [{}, {"num_layers": 2}, {"bidirectional": True}, {"num_layers": 3, "bidirectional": True}],
    ids=str,
)
def test_weights_are_those_that_the_quantized_model_holds(settings: dict[str, Any], save: Any, whole: bool) -> None:
    dense = model(**settings)
    small = quantized(dense)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = save(small if whole else small.state_dict())
    checkpoint = open_checkpoint(data, "model.pt")
    assert checkpoint.notes[0] == TOLD
    assert not checkpoint.plain
    assert [lstm.name for lstm in checkpoint.lstms] == ["cell", "lstm"]
    assert set(checkpoint.tensors) == set(dense.state_dict())
    for name, tensor in dense.state_dict().items():
        found = checkpoint.tensors[name]
        assert found.dtype == torch.float32
        if "bias" in name:
            assert torch.equal(found, tensor), name
        else:
            assert (found - tensor).abs().max() <= tensor.abs().max() / 127, name
            assert len(found.unique()) <= 256
    if whole:
        assert checkpoint.learned["lstm"].batch_first is False


def test_half_precision_is_read_too() -> None:
    dense = model()
    checkpoint = open_checkpoint(saved(quantized(dense, torch.float16).state_dict()))
    assert checkpoint.notes == (TOLD,)
    for name, tensor in dense.state_dict().items():
        assert torch.allclose(checkpoint.tensors[name], tensor, atol=1e-3), name


def test_two_layers_that_could_be_two_directions_are_not_guessed() -> None:
    alike = quantized(nn.ModuleDict({"lstm": random_lstm(input_size=4, num_layers=2)}))
    checkpoint = open_checkpoint(saved(alike.state_dict()))
    assert checkpoint.lstms == []
    assert [skipped.name for skipped in checkpoint.skipped] == ["lstm"]
    assert "can be layers or directions" in checkpoint.skipped[0].reason
    assert [lstm.num_layers for lstm in open_checkpoint(saved(alike)).lstms] == [2]


@pytest.mark.parametrize("axis", [None, 0, 1])
def test_quantized_tensors_of_any_kind_are_dequantized(axis: int | None) -> None:
    weight = torch.randn(16, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if axis is None:
            small = torch.quantize_per_tensor(weight, 0.1, 3, torch.quint8)
        else:
            scales, zeros = torch.rand(weight.shape[axis]) + 0.1, torch.zeros(weight.shape[axis])
            small = torch.quantize_per_channel(weight, scales, zeros, axis, torch.qint8)
        checkpoint = open_checkpoint(saved({"rnn.weight_hh_l0": small, "rnn.weight_ih_l0": torch.ones(16, 3)}))
    assert torch.allclose(checkpoint.tensors["rnn.weight_hh_l0"], small.dequantize())
    assert checkpoint.notes == (TOLD,)


def test_a_quantized_lstm_is_pruned_as_any_other() -> None:
    checkpoint = open_checkpoint(saved(quantized(model()).state_dict()))
    result = run(checkpoint, Recipe(0.5, "units"))
    assert result.costs["compact"].parameters < result.costs["dense"].parameters
