"""Every tensor of a file can be seen, whatever its shape and type, and nothing is said of it that is not so."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pruner.files.contents import WIDTHS
from pruner.views.tensors import (
    BINS,
    MOST_IN_A_LINE,
    as_matrix,
    distribution,
    distribution_figure,
    picture,
    tensor_table,
)
from pruner.views.weight_view import MAX_CELLS, as_floats
from tests.helpers.models import found_in, random_lstm


def test_the_table_names_every_tensor_and_whose_it_is() -> None:
    lstm, tensors = found_in(random_lstm(bias=False), "net.")
    table = tensor_table(tensors | {"step": torch.tensor(7), "ends": torch.zeros(2, 3, 4, dtype=torch.bool)}, [lstm])
    assert table["tensor"].tolist() == ["net.weight_ih_l0", "net.weight_hh_l0", "step", "ends"]
    assert table["shape"].tolist()[2:] == ["scalar", "2 × 3 × 4"]
    assert table["dtype"].tolist() == ["float32", "float32", "int64", "bool"]
    assert table["bytes"].tolist()[2:] == [8, 24]
    assert table["LSTM"].tolist() == ["net", "net", "", ""]


def test_a_file_without_tensors_has_an_empty_table_with_the_same_columns() -> None:
    assert list(tensor_table({}, [])) == list(tensor_table({"a": torch.zeros(1)}, []))


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((), (1, 1)), ((5,), (1, 5)), ((2, 3), (2, 3)), ((2, 3, 4), (2, 12)), ((0,), (1, 0)), ((0, 3), (0, 3))],
)
def test_every_shape_becomes_rows_and_columns(shape: tuple[int, ...], expected: tuple[int, int]) -> None:
    tensor = torch.rand(shape)
    assert as_matrix(tensor).shape == expected
    assert torch.equal(as_matrix(tensor).flatten(), tensor.flatten())


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
@pytest.mark.parametrize("dtype", sorted(WIDTHS))
def test_every_type_that_a_file_may_hold_can_be_drawn_and_counted(dtype: str) -> None:
    tensor = torch.arange(64, dtype=torch.uint8).view(getattr(torch, dtype))
    cells, found = picture(tensor, "mean absolute"), distribution(tensor)
    assert cells is not None and cells.values.dtype == torch.float32
    assert found.counts.sum() == tensor.numel() - found.not_finite


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int64", "float16", "bfloat16", "float64"])
def test_numbers_stay_what_they_are(dtype: str) -> None:
    numbers = torch.tensor([[0, 1, 2], [100, 3, 7]])
    assert torch.equal(as_floats(numbers.to(getattr(torch, dtype))), numbers.float())


def test_of_complex_numbers_the_size_is_shown() -> None:
    assert as_floats(torch.tensor([3 + 4j])).tolist() == [5.0]


@pytest.mark.parametrize(
    ("shape", "most"),
    [
        ((100_000,), MOST_IN_A_LINE),
        ((100_000, 1), MOST_IN_A_LINE),
        ((900, 3, 400), MAX_CELLS),
        ((3, 200_000), MAX_CELLS),
    ],
)
def test_a_large_tensor_is_drawn_in_few_cells_with_the_same_mean(shape: tuple[int, ...], most: int) -> None:
    cells = picture(torch.ones(shape), "signed mean")
    assert cells is not None and cells.per_cell > 1
    assert cells.values.numel() <= most
    assert torch.equal(cells.values, torch.ones_like(cells.values))


@pytest.mark.parametrize("shape", [(0,), (0, 4), (3, 0), (2, 0, 5)])
def test_a_tensor_without_numbers_has_no_picture_and_no_bins(shape: tuple[int, ...]) -> None:
    assert picture(torch.zeros(shape), "signed mean") is None
    found = distribution(torch.zeros(shape))
    assert len(found.counts) == 0 and math.isnan(found.mean) and found.not_finite == 0


NUMBERS = st.lists(st.floats(width=32), min_size=1, max_size=40)


@given(NUMBERS)
def test_a_distribution_is_that_of_the_finite_numbers(values: list[float]) -> None:
    found, array = distribution(torch.tensor(values)), np.array(values)
    known = array[np.isfinite(array)]
    assert found.not_finite == len(array) - len(known)
    assert found.zeros == int((array == 0).sum())
    assert found.counts.sum() == len(known)
    if len(known):
        assert (found.lowest, found.highest) == (known.min(), known.max())
        assert found.mean == pytest.approx(known.mean(), rel=1e-6, abs=1e-30)
        assert found.deviation == pytest.approx(known.std(), rel=1e-3, abs=1e-6 * max(abs(known).max(), 1e-30))
        assert len(found.counts) == BINS and len(found.edges) == BINS + 1


def test_a_distribution_read_in_parts_is_the_same_as_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = torch.randn(7, 11, generator=torch.Generator().manual_seed(0))
    whole = distribution(tensor)
    monkeypatch.setattr("pruner.views.tensors.AT_ONCE", 5)
    parts = distribution(tensor)
    assert parts.counts.tolist() == whole.counts.tolist()
    assert (parts.mean, parts.deviation) == pytest.approx((whole.mean, whole.deviation))


@pytest.mark.parametrize("tensor", [torch.tensor(3), torch.ones(4), torch.randn(5, 5)])
def test_a_figure_holds_every_number_once(tensor: Tensor) -> None:
    bars: Any = distribution_figure(distribution(tensor)).data[0]
    assert sum(bars.y) == tensor.numel()
