"""A picture of weights holds those weights, or the means it says."""

import math

import numpy as np
import pytest
import torch

from pruner.lstm.gates import ALL_BLOCKS, GATES
from pruner.views.scale import Scale
from pruner.views.unit_figures import block_heatmap, standing_histograms, weight_heatmap
from pruner.views.weight_view import MAX_CELLS, Cells, clip_limit, cut_window, reduce_block, weight_block
from tests.helpers.models import found_in, random_lstm


@pytest.mark.parametrize("gate", GATES)
def test_a_block_is_the_rows_of_its_gate(gate: str) -> None:
    lstm, tensors = found_in(random_lstm(num_layers=2, bidirectional=True), "net.")
    start = 4 * GATES.index(gate)
    block = weight_block(lstm, tensors, 1, 1, "ih", gate)
    assert torch.equal(block, tensors["net.weight_ih_l1_reverse"][start : start + 4])


@pytest.mark.parametrize("shape", [(7, 5), (12, 12), (3, 50), (1, 9), (50, 2)])
@pytest.mark.parametrize("reduction", ["mean absolute", "signed mean"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_cell_is_the_mean_of_its_square_also_at_the_edges(
    shape: tuple[int, int], reduction: str, dtype: torch.dtype
) -> None:
    block = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    cells = reduce_block(block, reduction, max_cells=12)
    size = cells.per_cell
    assert cells.values.dtype == torch.float32 and cells.values.numel() <= 12
    assert tuple(cells.values.shape) == (math.ceil(shape[0] / size), math.ceil(shape[1] / size))
    assert size == 1 or math.ceil(shape[0] / (size - 1)) * math.ceil(shape[1] / (size - 1)) > 12
    weights = block.float().numpy()
    weights = np.abs(weights) if reduction == "mean absolute" else weights
    for row in range(cells.values.shape[0]):
        for column in range(cells.values.shape[1]):
            square = weights[row * size : (row + 1) * size, column * size : (column + 1) * size]
            assert float(cells.values[row, column]) == pytest.approx(float(square.mean()), rel=1e-5, abs=1e-6)


def test_a_block_read_in_bands_is_the_same_as_in_one() -> None:
    block = torch.randn(700, 4096, generator=torch.Generator().manual_seed(2))
    cells = reduce_block(block, "signed mean", max_cells=MAX_CELLS)
    assert cells.per_cell == 4
    expected = block.view(175, 4, 1024, 4).mean((1, 3))
    assert torch.allclose(cells.values, expected, atol=1e-6)


def test_a_small_block_is_shown_as_it_is() -> None:
    block = torch.tensor([[-1.0, 2.0], [3.0, -4.0]])
    assert torch.equal(reduce_block(block, "signed mean").values, block)
    assert torch.equal(reduce_block(block, "mean absolute").values, block.abs())


@pytest.mark.parametrize(
    ("first", "size", "expected"),
    [((0, 0), 3, (0, 0, 3, 3)), ((9, 7), 3, (7, 5, 3, 3)), ((2, 1), 3, (2, 1, 3, 3)), ((4, 4), 64, (0, 0, 10, 8))],
)
def test_a_window_stays_inside(first: tuple[int, int], size: int, expected: tuple[int, int, int, int]) -> None:
    block = torch.arange(80.0).view(10, 8)
    window = cut_window(block, *first, size)
    row, column, rows, columns = expected
    assert (window.first_row, window.first_column) == (row, column)
    assert torch.equal(window.values, block[row : row + rows, column : column + columns])


def test_an_outlier_does_not_flatten_the_scale() -> None:
    values = torch.linspace(-1, 1, 1000)
    values[3] = 500
    assert 0.9 < clip_limit(values) <= 1
    assert clip_limit(torch.zeros(4)) > 0
    assert clip_limit(torch.tensor([0.0] * 999 + [7.0])) == 7  # the one that is not zero
    assert clip_limit(torch.tensor([math.nan, 2.0, 2.0])) == 2
    assert clip_limit(torch.tensor([math.nan])) > 0


def test_a_figure_places_weights_at_their_unit_and_column_around_zero() -> None:
    block = torch.randn(40, 30, generator=torch.Generator().manual_seed(3))
    figure = weight_heatmap(cut_window(block, 20, 10, 16), "input", unit=25)
    heatmap = figure.data[0]
    assert np.array_equal(heatmap.z, block[20:36, 10:26].numpy()) and heatmap.z.dtype == np.float32
    assert (heatmap.y0, heatmap.dy, heatmap.x0, heatmap.dx) == (20, 1, 10, 1)
    scale = figure.layout.coloraxis
    assert scale.cmin == -scale.cmax < 0
    assert [note.y for note in figure.layout.annotations] == [25]
    assert not weight_heatmap(cut_window(block, 0, 10, 16), "input", unit=25).layout.annotations


def test_a_reduced_figure_names_the_middle_of_each_square_and_outlines_the_window() -> None:
    whole = Cells(torch.ones(2, 3), per_cell=4)
    figure = weight_heatmap(whole, "input", window=Cells(torch.zeros(3, 2), 1, 5))
    assert (figure.data[0].y0, figure.data[0].dy) == (1.5, 4)
    assert list(figure.layout.xaxis.range) == [-0.5, 11.5] and list(figure.layout.yaxis.range) == [7.5, -0.5]
    outline = figure.layout.shapes[0]
    assert (outline.y0, outline.y1, outline.x0, outline.x1) == (0.5, 3.5, 4.5, 6.5)
    assert figure.layout.coloraxis.cmin == 0


def test_histograms_hold_every_row_and_mark_the_one_of_the_unit() -> None:
    saliency = torch.rand(8, 40, generator=torch.Generator().manual_seed(4))
    figure = standing_histograms(saliency, 7)
    bars = [trace for trace in figure.data if trace.type == "bar"]
    marks = [trace for trace in figure.data if trace.type == "scatter"]
    assert [bar.name for bar in bars] == list(ALL_BLOCKS)
    assert all(sum(bar.y) == 40 for bar in bars)
    assert [mark.x[0] for mark in marks] == pytest.approx(saliency[:, 7].tolist())


def test_a_heatmap_of_many_layers_is_drawn_closer_and_without_numbers() -> None:
    few = block_heatmap(["a"] * 3, np.ones((3, 8)), "median")
    many = block_heatmap([str(index) for index in range(40)], np.ones((40, 8)), "median")
    assert few.data[0].texttemplate and not many.data[0].texttemplate
    assert many.layout.height < 900


def test_columns_of_a_heatmap_have_scales_of_their_own_and_the_same_numbers() -> None:
    values = np.array(
        [[1.0, 10.0, math.inf, *[3.0] * 5], [2.0, 30.0, math.inf, *[4.0] * 5], [1.5, 20.0, 0.0, *[5.0] * 5]]
    )
    figure = block_heatmap(["a", "b", "c"], values, "median", shared=False, marked=(1, "hf"))
    cells = figure.data[0]
    assert cells.z[:, :2].tolist() == [[0, 0], [1, 1], [0.5, 0.5]]
    assert [row[1] for row in cells.text] == ["10", "30", "20"] and cells.text[0][2] == ""
    assert not figure.layout.coloraxis.showscale
    frame = figure.layout.shapes[0]
    assert (frame.x0, frame.x1, frame.y0, frame.y1) == (4.5, 5.5, 0.5, 1.5)


def test_a_column_without_finite_numbers_has_no_colours() -> None:
    figure = block_heatmap(["a"], np.full((1, 8), math.nan), "median", shared=False)
    assert np.isnan(figure.data[0].z).all() and figure.layout.coloraxis.cmax > figure.layout.coloraxis.cmin


@pytest.mark.parametrize(("shared", "ranges"), [(True, 1), (False, 4)])
def test_histograms_of_the_gates_share_an_axis_or_have_their_own(shared: bool, ranges: int) -> None:
    saliency = torch.rand(8, 40, generator=torch.Generator().manual_seed(4))
    figure = standing_histograms(saliency, 7, scale=Scale(shared=shared, clipped=False), marked="if")
    found = {tuple(figure.layout[axis].range) for axis in ("xaxis", "xaxis2", "xaxis3", "xaxis4")}
    assert len(found) == ranges
    assert [trace.name for trace in figure.data if trace.type == "bar" and trace.marker.opacity > 0.5] == ["if"]


def test_a_clipped_histogram_still_holds_every_row_and_the_unit() -> None:
    saliency = torch.ones(8, 1000).cumsum(1)
    saliency[:, 3] = 1e6
    figure = standing_histograms(saliency, 3, scale=Scale())
    assert sum(figure.data[0].y) == 1000
    assert figure.layout.xaxis.range[1] >= 1e6


def test_a_limit_that_is_given_is_that_of_the_colours() -> None:
    figure = weight_heatmap(Cells(torch.tensor([[1.0, -2.0]])), "input", limit=7.0)
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (-7, 7)


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [
        ([2.0, 5.0], False, (2, 5)),
        ([0.0, 0.25], True, (0, 0.25)),
        ([0.0, 0.0], True, (0, 0.01)),
        ([2.0, math.inf], False, (2, 2.01)),
    ],
)
def test_a_heatmap_always_has_a_scale(values: list[float], percent: bool, expected: tuple[float, float]) -> None:
    scale = block_heatmap(["a", "b"], np.repeat(values, 8).reshape(2, 8), "figure", percent).layout.coloraxis
    assert (scale.cmin, scale.cmax) == pytest.approx(expected)
