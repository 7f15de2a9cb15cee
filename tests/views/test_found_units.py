"""Units are found by what they do: conditions over symbols, and a unit that provably follows one."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pruner import examples
from pruner.calibration.alphabet import Alphabet
from pruner.calibration.calibration import Calibration
from pruner.errors import PrunerError
from pruner.examples.embedded_reber import strings
from pruner.lstm.find import find_lstms
from pruner.lstm.lstm import LSTM
from pruner.lstm.traces import layers_of, run_layers
from pruner.views.conditions import (
    STRINGS,
    TEXT,
    began_with,
    column,
    conditions_of,
    grammar_states,
    inside_brackets,
    inside_quotes,
    is_binary,
    one_of,
)
from pruner.views.found_units import correlate, find_units
from tests.helpers.models import found_in, random_lstm, random_steps


@pytest.mark.parametrize(
    ("condition", "text", "wanted"),
    [
        (inside_quotes, 'a"bc"d', "011100"),
        (inside_quotes, '"a\n\nb', "11100"),
        (inside_quotes, '"a\nb"', "11110"),
        (inside_brackets, "a(b[c]d)e", "011111100"),
        (inside_brackets, "a)b(c", "00011"),
        (inside_brackets, "(a\n\nb", "11100"),
        (column, "ab\ncd\n", "120120"),
        (TEXT["A digit"], "a1 2B", "01010"),
        (TEXT["A space"], "a1 2B", "00100"),
        (TEXT["An upper-case letter"], "a1 2B", "00001"),
        (TEXT["A lower-case letter"], "a1 2B", "10000"),
        (TEXT["A line break"], "a\nb", "010"),
        (one_of({"a", "2"}), "a1 2B", "10010"),
        (began_with("T"), "BTBT", "0111"),
        (began_with("T"), "BPBT", "0000"),
        (began_with("T"), "B", "0"),
        (STRINGS["The grammar is in state 1"], "BTBTSSXSETE", "00011100000"),
        (STRINGS["V was read"], "BTBPVV", "000011"),
    ],
)
def test_a_condition_says_of_each_symbol_whether_it_holds(condition: object, text: str, wanted: str) -> None:
    assert condition(list(text)).tolist() == [float(digit) for digit in wanted]  # type: ignore[operator]


@pytest.mark.parametrize("text", ["", "B", "XYZ", "BTX", "BTBEEE", "BTBTSSX"])
def test_no_string_is_too_strange_for_a_condition(text: str) -> None:
    for condition in [*STRINGS.values(), *TEXT.values(), one_of(set())]:
        assert len(condition(list(text))) == len(text)
    assert len(grammar_states(text)) == len(text)


def test_every_string_of_the_grammar_goes_through_its_states() -> None:
    for text, _ in strings()[1][:50]:
        states = grammar_states(text)
        assert states[:2] == [None, None] and states[2] == 0
        assert states[-4] == 5 and states[-3:] == [None] * 3


def keeper() -> tuple[LSTM, dict[str, Tensor], Alphabet]:
    """An LSTM that reads "ab()" one-hot and of whose units number 2 remembers whether a bracket is open: an opening one sets
    its cell state, a closing one clears it. The others do something else."""
    torch.manual_seed(3)
    module = torch.nn.LSTM(4, 5, batch_first=True)
    weights = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
    unit, large = 2, 20.0
    for name, tensor in weights.items():
        for gate in range(4):
            tensor[gate * 5 + unit] = 0.0
        if name == "weight_ih_l0":
            tensor[0 * 5 + unit] = torch.tensor([-large, -large, large, -large])  # lets in at "("
            tensor[1 * 5 + unit] = torch.tensor([large, large, -large, -large])  # forgets at either
            tensor[2 * 5 + unit, 2] = large
            tensor[3 * 5 + unit] = large  # always shows
    (lstm,), _ = find_lstms(weights)
    return lstm, weights, Alphabet("text", tuple("ab()"), None, "a")


def read_at_random(count: int, steps: int, alphabet: Alphabet) -> Calibration:
    numbers = torch.randint(0, 4, (count, steps), generator=torch.Generator().manual_seed(0))
    return Calibration("file", {"": [alphabet.inputs(numbers, {})]})


def flat_brackets(read: list[str]) -> np.ndarray:
    """Whether the last bracket was an opening one."""
    found, is_open = [], 0.0
    for symbol in read:
        is_open = {"(": 1.0, ")": 0.0}.get(symbol, is_open)
        found.append(is_open)
    return np.array(found)


def test_the_unit_that_follows_a_condition_is_found() -> None:
    lstm, tensors, alphabet = keeper()
    found = find_units(lstm, tensors, 0, 0, read_at_random(6, 40, alphabet), alphabet, flat_brackets)
    for by in ("h", "c"):
        best = found.ranked(by).iloc[0]
        assert best["unit"] == 2 and best[by] > 0.999
        assert found.ranked(by).iloc[1][by] < 0.9 and found.chance[by] < 0.5
    assert found.table["where it holds"][2] == pytest.approx(np.tanh(1), abs=1e-3)
    assert found.table["elsewhere"][2] == pytest.approx(0, abs=1e-3)
    assert found.steps == 240 and 0 < (found.share or 0) < 1


def test_a_condition_that_never_changes_is_refused() -> None:
    lstm, tensors, alphabet = keeper()
    calibration = read_at_random(2, 10, alphabet)
    for condition in (one_of(set()), one_of(set("ab()"))):
        with pytest.raises(PrunerError, match="20 steps that are all alike"):
            find_units(lstm, tensors, 0, 0, calibration, alphabet, condition)


def test_a_unit_that_never_moves_follows_nothing() -> None:
    lstm, tensors, alphabet = keeper()
    for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"):
        tensors[name].view(4, 5, -1)[:, 4] = 0
    found = find_units(lstm, tensors, 0, 0, read_at_random(4, 30, alphabet), alphabet, flat_brackets)
    assert (found.table["h"][4], found.table["c"][4]) == (0, 0)


@pytest.mark.parametrize(("layer", "direction"), [(0, 0), (1, 1)])
@settings(max_examples=20)
@given(seed=st.integers(0, 20), burn_in=st.integers(0, 3))
def test_correlations_are_pearsons(layer: int, direction: int, seed: int, burn_in: int) -> None:
    lstm, tensors = found_in(random_lstm(num_layers=2, bidirectional=True))
    groups = []
    for count, steps in ((3, 7), (1, 9)):
        inputs = random_steps(count, steps, 3, seed=seed, dtype=torch.float32)
        groups.append((inputs, random_steps(count, steps, seed=seed + 1)))
    found = correlate(lstm, tensors, layer, direction, groups, burn_in)
    units, cells, wanted = [], [], []
    for inputs, aims in groups:
        traced = run_layers(layers_of(lstm, tensors), inputs.transpose(0, 1))[0][layer][direction]
        own = [traced.units, traced.cells[1:]]
        own = [each.flip(0) if direction else each for each in own]
        units.append(own[0][burn_in:].flatten(0, 1))
        cells.append(own[1][burn_in:].flatten(0, 1))
        wanted.append(aims.T[burn_in:].flatten())
    for by, values in (("h", torch.cat(units)), ("c", torch.cat(cells))):
        expected = [np.corrcoef(values[:, unit].numpy(), torch.cat(wanted).numpy())[0, 1] for unit in range(4)]
        assert found.table[by].tolist() == pytest.approx(expected, abs=1e-6)
    assert found.share is None and list(found.table) == ["unit", "h", "c"]


def test_of_a_single_sequence_nothing_is_said_of_chance() -> None:
    lstm, tensors, alphabet = keeper()
    found = find_units(lstm, tensors, 0, 0, read_at_random(1, 40, alphabet), alphabet, flat_brackets)
    assert np.isnan(found.chance["h"]) and abs(found.ranked("h")["h"][0]) > 0.9


def test_the_example_remembers_how_its_string_began() -> None:
    example = examples.named("embedded-reber")
    checkpoint, alphabet = example.open(), example.alphabet()
    conditions = conditions_of(alphabet)
    found = find_units(
        checkpoint.lstms[0],
        checkpoint.tensors,
        0,
        0,
        example.calibration(checkpoint),
        alphabet,
        conditions["The string began with T"],
    )
    best = found.ranked("h").iloc[0]
    assert abs(best["h"]) > 0.7 > 3 * found.chance["h"]


@pytest.mark.parametrize(("values", "expected"), [([0, 1, 1], True), ([0, 2], False), ([0.5], False), ([], True)])
def test_a_condition_holds_or_is_a_number(values: list[float], expected: bool) -> None:
    assert is_binary(np.array(values)) is expected
