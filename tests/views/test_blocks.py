"""The figures of a block are those of its own rows."""

import pytest
import torch

from pruner.importance.weights import score
from pruner.lstm.find import find_lstms
from pruner.lstm.gates import ALL_BLOCKS
from pruner.views.blocks import BINS, NEAR_ZERO, block_table, distribution, near_zero
from tests.helpers.models import found_in, random_lstm


def test_every_block_of_every_layer_and_direction_has_a_line_of_its_own() -> None:
    lstm, tensors = found_in(random_lstm(num_layers=2, bidirectional=True), "encoder.")
    table = block_table(lstm, score(lstm, tensors))
    assert len(table) == 2 * 2 * 8
    line = table[(table["layer"] == 1) & (table["direction"] == "reverse") & (table["block"] == "hg")].iloc[0]
    rows = tensors["encoder.weight_hh_l1_reverse"][8:12].double().abs().sum(1)  # the third gate of four units
    assert (line["lstm"], line["gate"], line["rows"], line["columns"]) == ("encoder", "cell", 4, 4)
    assert line["lowest"] == pytest.approx(float(rows.min()))
    assert line["mean"] == pytest.approx(float(rows.mean()))
    assert line["highest"] == pytest.approx(float(rows.max()))
    assert line["median"] == pytest.approx(sorted(rows.tolist())[1])
    assert line["median per weight"] == pytest.approx(sorted(rows.tolist())[1] / 4)
    assert line["highest over median"] == pytest.approx(float(rows.max()) / sorted(rows.tolist())[1])


def test_columns_are_those_that_each_block_reads() -> None:
    lstm, tensors = found_in(random_lstm(num_layers=2, bidirectional=True, proj_size=2))
    table = block_table(lstm, score(lstm, tensors))
    read = {(layer, block): columns for layer, block, columns in table[["layer", "block", "columns"]].to_numpy()}
    assert [read[0, "ii"], read[0, "hi"], read[1, "ii"], read[1, "hi"]] == [3, 2, 4, 2]


def test_a_euclidean_norm_compares_by_the_root_of_the_width() -> None:
    tensors = {"weight_ih": torch.full((4, 9), 2.0), "weight_hh": torch.full((4, 1), 2.0)}
    lstm = find_lstms(tensors)[0][0]
    table = block_table(lstm, score(lstm, tensors, "l2"), "l2")
    assert table["median"].tolist() == [6.0] * 4 + [2.0] * 4
    assert table["median per weight"].tolist() == [2.0] * 8
    assert table["block"].tolist() == list(ALL_BLOCKS)


def test_near_zero_is_told_by_the_median_of_the_same_block() -> None:
    gates = torch.tensor([[10.0, 1.0, 10.0, 1.01, 0.0, 10.0, 11.0], [100.0, 10.0, 100.0, 10.1, 200.0, 100.0, 99.0]])
    assert NEAR_ZERO == 0.1
    assert near_zero(gates).nonzero().tolist() == [[0, 1], [0, 4], [1, 1]]


def test_of_a_block_that_is_mostly_zero_the_zero_rows_are_near_zero() -> None:
    assert near_zero(torch.tensor([[0.0, 0.0, 0.0, 5.0]])).tolist() == [[True, True, True, False]]


def test_a_distribution_counts_every_row_once_and_its_last_bin_holds_all_above() -> None:
    gates = torch.tensor([[0.0, 4.0, 4.0, 7.99, 8.0, 1000.0, 4.0, 0.4]], dtype=torch.float64)  # the median is 4
    counts = distribution(gates)[0].tolist()
    assert len(counts) == BINS == 16  # half a unit wide each, up to 8
    assert {index: count for index, count in enumerate(counts) if count} == {0: 2, 8: 3, 15: 3}


def test_a_block_without_a_median_is_spread_up_to_its_highest_row() -> None:
    counts = distribution(torch.tensor([[0.0, 0.0, 0.0, 2.0], [0.0, 0.0, 0.0, 0.0]]))
    assert counts[0, 0] == 3 and counts[0, -1] == 1
    assert counts[1].tolist() == [4] + [0] * (BINS - 1)
