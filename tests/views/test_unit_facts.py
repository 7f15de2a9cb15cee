"""What is said of a hidden unit agrees with the LSTM that it is a part of."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pruner import Recipe
from pruner.calibration.calibration import LEAST_STEPS, Calibration
from pruner.errors import PrunerError
from pruner.importance.scores import score_lstm
from pruner.lstm.find import find_lstms
from pruner.lstm.gates import ALL_BLOCKS, GATES
from pruner.lstm.lstm import LSTM
from pruner.lstm.module import build
from pruner.views.unit_facts import (
    at_rest,
    inputs_of,
    predecessors,
    ranks_from_top,
    read_by_heads,
    standings,
    successors,
    unit_table,
)
from pruner.views.unit_trace import (
    MOST_STEPS,
    TRACED,
    held_back,
    layer_trace,
    masked,
    most_moved,
    steps_to_trace,
    unit_trace,
)
from tests.helpers.models import found_in, random_lstm

FORMS: dict[str, dict[str, Any]] = {
    "plain": {"num_layers": 2},
    "both directions": {"num_layers": 3, "bidirectional": True},
    "projection": {"num_layers": 2, "proj_size": 2},
    "projection, both directions": {"num_layers": 2, "bidirectional": True, "proj_size": 3},
    "no bias": {"num_layers": 2, "bias": False},
    "bfloat16": {"num_layers": 2, "bidirectional": True, "dtype": torch.bfloat16},
}


def made(form: str) -> tuple[LSTM, dict[str, Tensor]]:
    return found_in(random_lstm(**FORMS[form]), "net.")


@pytest.fixture(params=FORMS)
def model(request: pytest.FixtureRequest) -> tuple[LSTM, dict[str, Tensor]]:
    return made(request.param)


def test_ranks_count_from_the_highest_and_the_lower_unit_falls_first() -> None:
    assert ranks_from_top(torch.tensor([3.0, 1.0, 2.0, 1.0])).tolist() == [1, 4, 2, 3]


def test_a_unit_stands_among_the_rows_of_its_own_blocks(model: tuple[LSTM, dict[str, Tensor]]) -> None:
    lstm, tensors = model
    scored, recipe = score_lstm(lstm, tensors, "l1"), Recipe(sparsity=0.5, gate_sparsity={"hg": 0.25})
    masks = scored.masks(lstm, recipe)
    direction = lstm.directions - 1
    table = standings(lstm, 1, direction, 2, scored, masks)
    assert table["block"].tolist() == list(ALL_BLOCKS)
    for index, line in table.iterrows():
        side, gate = ("ih", "hh")[index // 4], index % 4
        weight = tensors[f"net.weight_{side}_l1{'_reverse' if direction else ''}"].double()
        sums = weight[4 * gate : 4 * gate + 4].abs().sum(1).tolist()
        assert line["saliency"] == pytest.approx(sums[2])
        assert line["over median"] == pytest.approx(sums[2] / sorted(sums)[1])
        assert line["rank"] == 1 + sum(other > sums[2] for other in sums)
        assert line["kept"] == (line["rank"] <= (3 if line["block"] == "hg" else 2))


def test_the_table_of_units_agrees_with_what_is_said_of_each(model: tuple[LSTM, dict[str, Tensor]]) -> None:
    lstm, tensors = model
    scored = score_lstm(lstm, tensors, "l1")
    masks = scored.masks(lstm, Recipe(sparsity=0.5))
    table = unit_table(lstm, 0, 0, scored, masks)
    assert table["unit"].tolist() == [0, 1, 2, 3]
    assert sorted(table["rank"]) == [1, 2, 3, 4]
    for unit in range(4):
        own = standings(lstm, 0, 0, unit, scored, masks)
        assert table.loc[unit, "score"] == pytest.approx(own["saliency"].sum())
        assert table.loc[unit, list(ALL_BLOCKS)].tolist() == own["kept"].tolist()
        assert table.loc[unit, "blocks that keep it"] == own["kept"].sum()


def test_without_a_mask_every_row_is_kept() -> None:
    lstm, tensors = made("plain")
    table = unit_table(lstm, 0, 0, score_lstm(lstm, tensors, "l1"), {})
    assert table["blocks that keep it"].tolist() == [8] * 4


def test_at_rest_the_gates_are_what_the_lstm_does_with_nothing(model: tuple[LSTM, dict[str, Tensor]]) -> None:
    lstm, tensors = model
    rest = at_rest(lstm, tensors, 0, 0, 1)
    module = build(lstm, {name: tensor.float() for name, tensor in tensors.items()}).float()
    _, (_, cells) = module(torch.zeros(1, 1, lstm.input_size))
    gates = rest.gates
    assert gates["i"] * gates["g"] == pytest.approx(float(cells[0, 0, 1]), abs=1e-6)
    if not lstm.bias:
        assert gates == {"i": 0.5, "f": 0.5, "g": 0.0, "o": 0.5} and rest.half_life == 1


def test_the_half_life_is_when_half_of_the_memory_is_left() -> None:
    lstm, tensors = made("plain")
    tensors["net.bias_ih_l0"][4:8], tensors["net.bias_hh_l0"][4:8] = 1.5, 0.5
    rest = at_rest(lstm, tensors, 0, 0, 3)
    assert rest.biases["f"] == 2
    assert rest.gates["f"] == pytest.approx(1 / (1 + math.exp(-2)))
    assert rest.gates["f"] ** rest.half_life == pytest.approx(0.5)
    tensors["net.bias_ih_l0"][4:8] = 1000
    assert at_rest(lstm, tensors, 0, 0, 3).half_life == math.inf
    tensors["net.bias_ih_l0"][4:8] = -1000
    assert at_rest(lstm, tensors, 0, 0, 3).half_life == 0


def test_inputs_of_the_first_layer_are_columns_of_weight_ih(model: tuple[LSTM, dict[str, Tensor]]) -> None:
    lstm, tensors = model
    table = inputs_of(lstm, tensors, 0, 0, 2)
    weight = tensors["net.weight_ih_l0"].float()
    assert sorted(table["input"]) == [0, 1, 2]
    for _, line in table.iterrows():
        expected = [float(weight[4 * gate + 2, int(line["input"])]) for gate in range(4)]
        assert line[list(GATES)].tolist() == pytest.approx(expected)
        assert line["strength"] == pytest.approx(sum(map(abs, expected)))
    assert table["strength"].is_monotonic_decreasing


def between(
    tensors: dict[str, Tensor], reads: str, gate: int, unit: int, columns: slice, written: str, other: int
) -> float:
    """The weight from one unit to a gate of another, by way of a projection where there is one, number by number."""
    row = tensors[f"net.{reads}"].float()[4 * gate + unit, columns]
    projection = tensors.get(f"net.weight_hr{written}")
    through = torch.eye(4) if projection is None else projection.float()
    return sum(float(row[index]) * float(through[index, other]) for index in range(len(row)))


def test_neighbours_are_named_by_layer_direction_and_unit(model: tuple[LSTM, dict[str, Tensor]]) -> None:
    lstm, tensors = model
    last, width = lstm.directions - 1, lstm.output_size
    end = "_reverse" if last else ""
    read = inputs_of(lstm, tensors, 1, last, 3)
    assert len(read) == 4 * lstm.directions and read["strength"].is_monotonic_decreasing
    for _, line in read.iterrows():
        side = int(line["direction"] == "reverse")
        columns = slice(side * width, (side + 1) * width)
        below = f"_l0{'_reverse' if side else ''}"
        for gate, name in enumerate(GATES):
            expected = between(tensors, f"weight_ih_l1{end}", gate, 3, columns, below, int(line["unit"]))
            assert line["layer"] == 0 and line[name] == pytest.approx(expected, rel=1e-4, abs=1e-6)
    for _, line in predecessors(lstm, tensors, 1, last, 3).iterrows():
        for gate, name in enumerate(GATES):
            expected = between(tensors, f"weight_hh_l1{end}", gate, 3, slice(None), f"_l1{end}", int(line["unit"]))
            assert (line["layer"], line["direction"]) == (1, "reverse" if last else "forward")
            assert line[name] == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_who_reads_a_unit_is_who_says_that_it_reads_it(model: tuple[LSTM, dict[str, Tensor]]) -> None:
    lstm, tensors = model
    last = lstm.directions - 1
    readers = successors(lstm, tensors, 0, last, 1)
    assert len(readers) == 4 + 4 * lstm.directions and readers["strength"].is_monotonic_decreasing
    for _, line in readers.iterrows():
        layer, direction, unit = int(line["layer"]), int(line["direction"] == "reverse"), int(line["unit"])
        told = (predecessors if layer == 0 else inputs_of)(lstm, tensors, layer, direction, unit)
        mine = told[(told["unit"] == 1) & (told["direction"] == ("reverse" if last else "forward"))].iloc[0]
        assert line[list(GATES)].tolist() == pytest.approx(mine[list(GATES)].tolist(), rel=1e-4, abs=1e-6)
    assert set(successors(lstm, tensors, lstm.num_layers - 1, 0, 1)["layer"]) == {lstm.num_layers - 1}


def test_heads_read_a_unit_with_its_column() -> None:
    lstm, tensors = made("plain")
    size = lstm.hidden_size * lstm.directions
    tensors["head.weight"] = torch.arange(3.0 * size).view(3, size) - 10
    tensors["conv.weight"] = torch.randn(2, size, 5, generator=torch.Generator().manual_seed(0))
    found = read_by_heads(lstm, tensors, 0, 1, ["head.weight", "conv.weight"])
    assert len(found) == 5 and found["strength"].is_monotonic_decreasing
    for _, line in found.iterrows():
        read = tensors[line["tensor"]][int(line["output"]), 1]
        assert line["weight"] == pytest.approx(float(read.sum()), abs=1e-5)
        assert line["strength"] == pytest.approx(float(read.abs().sum()), abs=1e-5)
    assert read_by_heads(lstm, tensors, 0, 1, []).empty


def test_an_lstm_cell_has_the_same_facts() -> None:
    lstm, tensors = found_in(torch.nn.LSTMCell(3, 4), "decoder.")
    assert len(inputs_of(lstm, tensors, 0, 0, 0)) == 3 and len(successors(lstm, tensors, 0, 0, 0)) == 4
    assert set(at_rest(lstm, tensors, 0, 0, 0).gates) == set(GATES)


def test_a_trace_is_what_the_lstm_computes(model: tuple[LSTM, dict[str, Tensor]]) -> None:
    lstm, tensors = model
    wide = {name: tensor.float() for name, tensor in tensors.items()}
    inputs = torch.randn(1, 12, lstm.input_size, generator=torch.Generator().manual_seed(5))
    last = lstm.num_layers - 1
    output, (_, cells) = build(lstm, wide).float()(inputs)
    for direction in range(lstm.directions):
        table = unit_trace(layer_trace(lstm, tensors, last, direction, inputs), 2)
        assert list(table) == list(TRACED) and len(table) == 12
        if not lstm.proj_size:
            expected = output[0, :, 4 * direction + 2].tolist()
            assert table["h"].tolist() == pytest.approx(expected, abs=1e-5)
        final = table["c"].iloc[0 if direction else -1]  # a reverse direction ends at the first step
        assert final == pytest.approx(float(cells[lstm.directions * last + direction, 0, 2]), abs=1e-5)
        assert table["h"].tolist() == pytest.approx(
            [o * math.tanh(c) for o, c in zip(table["o"], table["c"], strict=True)], abs=1e-5
        )


def test_a_masked_trace_is_that_of_the_lstm_with_those_rows_at_zero() -> None:
    lstm, tensors = made("plain")
    masks = score_lstm(lstm, tensors, "l1").masks(lstm, Recipe(sparsity=0.5))
    zeroed = {name: tensor.clone() for name, tensor in tensors.items()}
    for name, mask in masks.items():
        for row in range(16):
            if not mask[row]:
                zeroed[name][row] = 0
    inputs = torch.randn(1, 6, 3, generator=torch.Generator().manual_seed(6))
    expected = build(lstm, zeroed)(inputs)[0][0, :, 1].tolist()
    found = unit_trace(layer_trace(lstm, masked(tensors, masks), 1, 0, inputs), 1)["h"].tolist()
    assert found == pytest.approx(expected, abs=1e-6)
    assert found != pytest.approx(unit_trace(layer_trace(lstm, tensors, 1, 0, inputs), 1)["h"].tolist(), abs=1e-3)


def test_traced_sequences_are_the_last_fifth() -> None:
    lstm, _ = made("plain")
    groups = [torch.arange(6 * 20 * 3.0).view(6, 20, 3), torch.zeros(4, 30, 3)]
    found = held_back(Calibration("file", {"net": groups}), lstm)
    assert [tuple(sequence.shape) for sequence in found] == [(1, 30, 3)] * 2
    with pytest.raises(PrunerError, match="time steps"):
        held_back(Calibration("file", {"net": [torch.zeros(2, 3, 3)]}), lstm)


def test_a_trace_of_a_large_lstm_is_shorter() -> None:
    small, _ = made("plain")
    with torch.device("meta"):
        large = find_lstms(dict(torch.nn.LSTM(1024, 4096, 4, bidirectional=True).state_dict()))[0][0]
    assert steps_to_trace(small, 1) == MOST_STEPS
    assert LEAST_STEPS <= steps_to_trace(large, 3) < steps_to_trace(large, 0) < MOST_STEPS


def test_the_units_that_move_most_are_shown_in_order() -> None:
    outputs = torch.tensor([[0.0, 1.0, 5.0, -1.0], [0.0, 2.0, 5.0, 1.0]])
    assert most_moved(outputs, 2).tolist() == [1, 3]
    assert most_moved(outputs, 9).tolist() == [0, 1, 2, 3]
