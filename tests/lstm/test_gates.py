"""Gates: which row belongs to which gate and unit, and what PyTorch's names of tensors say."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pruner.lstm.gates import GATES, StandardName, parse_standard_name, split_gates

NAMES = {
    "weight_ih_l0": StandardName("weight", "ih", 0, 0),
    "weight_hh_l1_reverse": StandardName("weight", "hh", 1, 1),
    "weight_hr_l2": StandardName("weight", "hr", 2, 0),
    "bias_ih_l10": StandardName("bias", "ih", 10, 0),
    "bias_hh_l9999_reverse": StandardName("bias", "hh", 9999, 1),
    "weight_ih": StandardName("weight", "ih", None, 0),
    "bias_hh": StandardName("bias", "hh", None, 0),
}
OTHER_NAMES = [
    "",
    "weight",
    "weight_ii_l0",
    "weight_ih_l",
    "weight_ih_l-1",
    "weight_ih_l00",
    "weight_ih_l01",
    "weight_ih_l10000",
    "weight_ih_l1\N{ARABIC-INDIC DIGIT THREE}",
    "weight_ih_l0_",
    "weight_ih_l0_orig",
    "weight_ih_l0_reversed",
    "weight_ih_l0\n",
    "weight_ih_reverse",
    "Weight_ih_l0",
    "my_weight_ih_l0",
    "rnn.weight_ih_l0",
]


@pytest.mark.parametrize("trailing", [(), (3,), (2, 5)], ids=["bias", "weight", "any dimensions"])
def test_gate_and_unit_stand_at_row_gate_times_hidden_size_plus_unit(trailing: tuple[int, ...]) -> None:
    hidden_size = 5
    packed = torch.empty(4 * hidden_size, *trailing)
    for gate in range(4):
        for unit in range(hidden_size):
            packed[gate * hidden_size + unit] = 10 * gate + unit
    gates = split_gates(packed)
    assert gates.shape == (len(GATES), hidden_size, *trailing)
    for gate in range(4):
        for unit in range(hidden_size):
            assert (gates[gate, unit] == 10 * gate + unit).all()


def test_split_gates_are_a_view() -> None:
    packed = torch.zeros(8, 2)
    split_gates(packed)[1, 0] = 1
    assert packed.sum(1).tolist() == [0, 0, 2, 0, 0, 0, 0, 0]


@pytest.mark.parametrize(("name", "meaning"), NAMES.items(), ids=NAMES)
def test_names_of_lstm_tensors_are_understood(name: str, meaning: StandardName) -> None:
    assert parse_standard_name(name) == meaning
    assert str(meaning) == name


@pytest.mark.parametrize("name", OTHER_NAMES, ids=ascii)
def test_other_names_are_not_those_of_lstm_tensors(name: str) -> None:
    assert parse_standard_name(name) is None


@given(st.from_regex(r"(weight|bias)_(ih|hh|hr)(_l\d{1,5}(_reverse)?)?") | st.text())
def test_a_name_that_is_understood_is_written_as_it_was_read(name: str) -> None:
    parsed = parse_standard_name(name)
    assert parsed is None or str(parsed) == name
