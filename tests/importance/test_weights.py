"""Row saliency: exact norms from weights of any dtype and layout, which are neither copied nor changed."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from pruner import PrunerError
from pruner.importance.weights import ROW_NORMS, as_table, outgoing_norms, row_saliency, score, score_units
from pruner.lstm.lstm import LSTM
from pruner.recipe import CRITERIA
from tests.helpers.allocations import Allocations
from tests.helpers.models import found_in, random_lstm

ORDERS = {"l1": 1, "l2": 2}
ROWS = torch.tensor([[3.0, -4.0], [0.0, 0.0], [-1.0, 1.0]])


def norms(weight: Tensor, criterion: str) -> Tensor:
    return torch.linalg.vector_norm(weight.double().flatten(1), ord=ORDERS[criterion], dim=1)


WEIGHT_CRITERIA = ("l1", "l2", "group")


@pytest.mark.parametrize(("criterion", "expected"), [("l1", [7.0, 0.0, 2.0]), ("l2", [5.0, 0.0, 2.0**0.5])])
def test_norms_by_hand(criterion: str, expected: list[float]) -> None:
    assert row_saliency(ROWS, criterion).tolist() == pytest.approx(expected, rel=1e-15)  # a root may end one bit off


def test_every_criterion_is_tested() -> None:
    """Here, in test_data_scores, or as the random one."""
    assert ORDERS.keys() == ROW_NORMS.keys()
    assert {name for name, each in CRITERIA.items() if not each.from_data} == {*WEIGHT_CRITERIA, "random"}
    assert {*ROW_NORMS, "group"} == set(WEIGHT_CRITERIA)
    assert {criterion.norm for criterion in CRITERIA.values()} == set(ROW_NORMS)
    assert row_saliency(ROWS, "group").tolist() == row_saliency(ROWS, "l2").tolist()


@pytest.mark.parametrize("criterion", ORDERS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@given(seed=st.integers(0, 2**31), rows=st.integers(1, 40), columns=st.integers(1, 40))
def test_norms_are_those_of_torch_and_of_the_float64_copy(
    criterion: str, dtype: torch.dtype, seed: int, rows: int, columns: int
) -> None:
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)).to(dtype)
    found = row_saliency(weight, criterion)
    assert found.dtype == torch.float64
    assert torch.equal(found, row_saliency(weight.double(), criterion))
    torch.testing.assert_close(found, norms(weight, criterion), rtol=1e-12, atol=0)


BASE = torch.randn(24, 36, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "weight",
    [BASE.t(), BASE[::2], BASE[3:, 1::5], BASE[:1].expand(8, 36), BASE.view(24, 6, 6), BASE.view(24, 6, 6).mT],
    ids=["transposed", "every other row", "some columns", "expanded", "three dimensions", "three, transposed"],
)
@pytest.mark.parametrize("criterion", ORDERS)
def test_any_layout_is_scored_like_its_contiguous_copy(weight: Tensor, criterion: str) -> None:
    assert torch.equal(row_saliency(weight, criterion), row_saliency(weight.contiguous(), criterion))


@pytest.mark.parametrize("shape", [(1000, 700), (3, 300_000)], ids=["many rows", "rows longer than a piece"])
@pytest.mark.parametrize("criterion", ORDERS)
def test_weights_of_several_pieces(shape: tuple[int, int], criterion: str) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(row_saliency(weight, criterion), norms(weight, criterion), rtol=1e-12, atol=0)


@pytest.mark.parametrize("criterion", ORDERS)
def test_weights_are_neither_changed_nor_copied(criterion: str) -> None:
    weight = torch.randn(4096, 1024, generator=torch.Generator().manual_seed(2))
    before = weight.clone()
    with Allocations() as allocations:
        row_saliency(weight, criterion)
    assert torch.equal(weight, before)
    assert 0 < allocations.largest <= weight.untyped_storage().nbytes() / 8


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("criterion", ORDERS)
def test_weights_that_are_not_finite_are_named(value: float, criterion: str) -> None:
    lstm, tensors = found_in(random_lstm(num_layers=2), "encoder.")
    tensors["encoder.weight_hh_l1"][5:7, 2] = value
    with pytest.raises(PrunerError, match=r"2 of 16 rows of encoder\.weight_hh_l1 \(the first is row 5\)"):
        score(lstm, tensors, criterion)


def test_scores_are_those_of_the_packed_weights() -> None:
    lstm, tensors = found_in(random_lstm(num_layers=2, bidirectional=True, proj_size=2), "rnn.")
    scores = score(lstm, tensors, "l2")
    packed = [name for name in tensors if "weight_ih" in name or "weight_hh" in name]
    assert sorted(scores) == sorted(packed)
    for name in packed:
        torch.testing.assert_close(scores[name], norms(tensors[name], "l2"), rtol=1e-12, atol=0)


def tiny(weight_hh: list[float]) -> tuple[LSTM, dict[str, Tensor]]:
    """Two units: every row of weight_ih is 1 (unit 0) or 1.5 (unit 1), and unit 0's first row of weight_hh is given."""
    lstm, tensors = found_in(nn.LSTM(1, 2), "rnn.")
    tensors["rnn.weight_ih_l0"] = torch.tensor([[1.0], [1.5]]).repeat(4, 1)
    tensors["rnn.weight_hh_l0"] = torch.tensor([weight_hh] + 7 * [[0.0, 0.0]])
    return lstm, tensors | {"head.weight": torch.tensor([[3.0, 0.0]]), "conv.weight": torch.tensor([[[0.0, 2.0]] * 2])}


@pytest.mark.parametrize(
    ("criterion", "consumers", "expected"),
    [
        ("l1", [], [4 + 4, 6]),
        ("l2", [], [(4 + 16) ** 0.5, 3]),
        ("group", [], [(4 + 16) ** 0.5, (9 + 16) ** 0.5]),
        ("group", ["head.weight"], [(4 + 16 + 9) ** 0.5, (9 + 16) ** 0.5]),
        ("group", ["head.weight", "conv.weight"], [(4 + 16 + 9 + 4) ** 0.5, (9 + 16 + 4) ** 0.5]),
        ("l2", ["head.weight"], [(4 + 16) ** 0.5, 3]),
    ],
    ids=str,
)
def test_units_by_hand(criterion: str, consumers: list[str], expected: list[float]) -> None:
    lstm, tensors = tiny([0.0, 4.0])
    scores = score_units(lstm, score(lstm, tensors, criterion), criterion, tensors, consumers)
    assert scores.keys() == {(0, 0)}
    assert scores[0, 0].dtype == torch.float64
    assert scores[0, 0].tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("criterion", WEIGHT_CRITERIA)
@pytest.mark.parametrize(
    "settings",
    [{}, {"num_layers": 3}, {"num_layers": 2, "bidirectional": True}, {"num_layers": 2, "proj_size": 2}],
    ids=str,
)
def test_units_are_scored_by_all_that_goes_with_them(settings: dict[str, int], criterion: str) -> None:
    lstm, tensors = found_in(random_lstm(**settings), "rnn.")
    tensors["head"] = torch.randn(3, lstm.directions * lstm.output_size, generator=torch.Generator().manual_seed(0))
    consumers = [] if lstm.proj_size else ["head"]
    scores = score_units(lstm, score(lstm, tensors, criterion), criterion, tensors, consumers)
    assert list(scores) == [(layer, side) for layer in range(lstm.num_layers) for side in range(lstm.directions)]
    for (layer, side), found in scores.items():
        suffix = lstm.suffix(layer, side)
        for unit in range(4):
            weights = [
                tensors[f"rnn.weight_{kind}{suffix}"][gate * 4 + unit] for kind in ("ih", "hh") for gate in range(4)
            ]
            if criterion == "group" and lstm.proj_size:
                weights.append(tensors[f"rnn.weight_hr{suffix}"][:, unit])
            elif criterion == "group":
                weights.append(tensors[f"rnn.weight_hh{suffix}"][:, unit])
                above = [lstm.suffix(layer + 1, other) for other in range(lstm.directions)]
                readers = ["head"] if layer == lstm.num_layers - 1 else [f"rnn.weight_ih{suffix}" for suffix in above]
                weights += [tensors[name][:, side * 4 + unit] for name in readers]
            expected = torch.cat(weights).double().norm(1 if criterion == "l1" else 2)
            assert float(found[unit]) == pytest.approx(float(expected), rel=1e-12)


@pytest.mark.parametrize(
    ("consumers", "expected"),
    [([], [0, 4]), (["head.weight"], [3, 4]), (["head.weight", "conv.weight"], [(9 + 4) ** 0.5, (16 + 4) ** 0.5])],
    ids=str,
)
def test_outgoing_weights_by_hand(consumers: list[str], expected: list[float]) -> None:
    lstm, tensors = tiny([0.0, 4.0])
    if "conv.weight" in consumers:
        tensors["conv.weight"] = torch.tensor([[[0.0, 2.0], [2.0, 0.0]]])
    assert outgoing_norms(lstm, tensors, 0, 0, consumers).tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_readers_that_are_not_finite_are_named(value: float) -> None:
    lstm, tensors = tiny([0.0, 4.0])
    tensors["head.weight"][0, 1] = value
    with pytest.raises(PrunerError, match="NaN or infinite values in what reads rnn"):
        outgoing_norms(lstm, tensors, 0, 0, ["head.weight"])


def test_table_has_a_line_for_every_row() -> None:
    lstm, tensors = found_in(random_lstm(num_layers=2, bidirectional=True), "rnn.")
    scores = score(lstm, tensors)
    table = as_table(lstm, scores)
    assert list(table.columns) == ["lstm", "tensor", "layer", "direction", "gate", "unit", "row", "saliency"]
    assert len(table) == 8 * 16
    for name, lines in table.groupby("tensor"):
        assert set(lines["lstm"]) == {"rnn"}
        assert set(lines["layer"]) == {int("_l1" in name)}
        assert set(lines["direction"]) == {"reverse" if name.endswith("_reverse") else "forward"}
        assert list(lines["row"]) == list(range(16))
        assert list(lines["unit"]) == [0, 1, 2, 3] * 4
        gates = ["ii", "if", "ig", "io"] if "_ih_" in name else ["hi", "hf", "hg", "ho"]
        assert list(lines["gate"]) == [gate for gate in gates for _ in range(4)]
        assert np.array_equal(lines["saliency"], scores[name].numpy())


def test_the_table_tells_what_masks_keep() -> None:
    lstm, tensors = found_in(random_lstm(), "rnn.")
    scores = score(lstm, tensors)
    table = as_table(lstm, scores, {"rnn.weight_hh_l0": torch.arange(16) % 3 > 0})
    kept = {name: list(lines["kept"]) for name, lines in table.groupby("tensor")}
    assert kept == {"rnn.weight_ih_l0": [True] * 16, "rnn.weight_hh_l0": [row % 3 > 0 for row in range(16)]}


def test_table_of_a_cell() -> None:
    lstm, tensors = found_in(nn.LSTMCell(3, 4), "cell.")
    table = as_table(lstm, score(lstm, tensors))
    assert list(dict.fromkeys(table["tensor"])) == ["cell.weight_ih", "cell.weight_hh"]
    assert set(table["layer"]) == {0}
