"""Sizes: parameters, multiply-accumulates and bytes by hand, from tensors and from shapes alone."""

from typing import Any

import pytest
import torch
from torch import nn

from pruner.lstm.describing import described
from pruner.lstm.sizes import Size, macs_per_step, parameters, parameters_in, size
from tests.helpers.models import random_lstm


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (nn.LSTM(3, 4), 16 * (3 + 4)),
        (nn.LSTM(3, 4, bias=False), 16 * (3 + 4)),
        (nn.LSTMCell(3, 4), 16 * (3 + 4)),
        (nn.LSTM(3, 4, num_layers=2), 16 * (3 + 4) + 16 * (4 + 4)),
        (nn.LSTM(3, 4, num_layers=2, bidirectional=True), 2 * 16 * (3 + 4) + 2 * 16 * (8 + 4)),
        (nn.LSTM(3, 4, proj_size=2), 16 * (3 + 2) + 2 * 4),
        (
            nn.LSTM(3, 4, num_layers=2, bidirectional=True, proj_size=2),
            2 * (16 * (3 + 2) + 2 * 4) + 2 * (16 * (4 + 2) + 2 * 4),
        ),
    ],
    ids=lambda value: str(value) if isinstance(value, nn.Module) else "",
)
def test_multiply_accumulates_by_hand(module: nn.Module, expected: int) -> None:
    tensors = module.state_dict()
    assert size(tensors, [tensors]).macs_per_step == expected
    shapes = described(module).shapes()
    assert shapes == {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    assert macs_per_step(shapes.values()) == expected
    assert parameters_in(shapes.values()) == parameters(tensors.values()) == described(module).parameters


def test_integers_are_no_parameters() -> None:
    tensors = {"weight": torch.ones(2, 3), "kept": torch.arange(5), "head": torch.zeros(4), "steps": torch.arange(2)}
    assert size(tensors, [["weight", "kept"]]) == Size(6 + 4, 6, 4 * 10 + 8 * 7)


def test_tensors_without_values_are_counted_like_any_others() -> None:
    tensors = {"weight": torch.empty(2, 3, device="meta"), "kept": torch.empty(5, dtype=torch.int64, device="meta")}
    assert size(tensors, [tensors]) == Size(6, 6, 24 + 40)


@pytest.mark.parametrize(
    "settings",
    [{}, {"num_layers": 2, "bidirectional": True}, {"num_layers": 2, "proj_size": 2}, {"num_layers": 3, "bias": False}],
    ids=str,
)
def test_shapes_with_fewer_units_are_those_of_a_smaller_lstm(settings: dict[str, Any]) -> None:
    lstm, small = described(random_lstm(hidden_size=6, **settings)), described(random_lstm(hidden_size=4, **settings))
    fewer = dict.fromkeys(lstm.places, 4)
    assert lstm.shapes(fewer) == small.shapes()
    assert lstm.macs_with_units(fewer) == macs_per_step(small.shapes().values())


def test_shapes_of_unequal_layers_follow_the_layer_below() -> None:
    lstm = described(random_lstm(num_layers=2, bidirectional=True))
    shapes = lstm.shapes({(0, 0): 1, (0, 1): 2, (1, 0): 3, (1, 1): 4})
    assert shapes["weight_ih_l1"] == (12, 3) and shapes["weight_ih_l1_reverse"] == (16, 3)
    assert shapes["weight_hh_l0_reverse"] == (8, 2) and shapes["bias_hh_l1_reverse"] == (16,)
