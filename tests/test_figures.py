"""Figures hold the numbers they were made from, every unit in a cell."""

import numpy as np
import pytest
import torch

from pruner.figures import MAX_CELLS, gate_grids, grid_shape, sorted_curves
from pruner.gates import BLOCKS, SIDES
from pruner.masks import keep_mask, row_ranks


def saliency_of(hidden_size: int) -> torch.Tensor:
    return torch.randn(4 * hidden_size, generator=torch.Generator().manual_seed(hidden_size)).abs() + 1


def cells(trace: object) -> np.ndarray:
    """The values of a heatmap in the order of the units, without the empty cells behind the last."""
    return np.asarray(trace.z).ravel()


@pytest.mark.parametrize("units", [1, 2, 3, 16, 17, 150, 256, 4096])
def test_a_grid_is_nearly_square_and_no_larger_than_it_must_be(units: int) -> None:
    rows, columns = grid_shape(units)
    assert rows * columns >= units > (rows - 1) * columns
    assert 0 <= columns - rows <= 1


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("hidden_size", [1, 5, 32, 150])
def test_every_unit_of_every_gate_is_a_cell(side: str, hidden_size: int) -> None:
    saliency = saliency_of(hidden_size)
    traces = gate_grids(saliency, side).data
    assert [trace.name for trace in traces] == list(BLOCKS[side])
    for gate, trace in enumerate(traces):
        values = cells(trace)
        expected = saliency[gate * hidden_size : (gate + 1) * hidden_size].float().numpy()
        assert np.array_equal(values[:hidden_size], expected)
        assert np.isnan(values[hidden_size:]).all()
        assert np.array_equal(np.asarray(trace.customdata).ravel()[:hidden_size], np.arange(hidden_size))
        assert values.dtype == np.float32


def test_the_four_gates_share_one_scale_that_an_outlier_does_not_flatten() -> None:
    saliency = saliency_of(256)
    saliency[300] = 1000
    figure = gate_grids(saliency, "ih")
    assert {trace.coloraxis for trace in figure.data} == {"coloraxis"}
    assert figure.layout.coloraxis.cmin == pytest.approx(float(saliency.min()))
    assert figure.layout.coloraxis.cmax < 10


def test_equal_saliencies_still_have_a_scale() -> None:
    scale = gate_grids(torch.ones(16), "hh").layout.coloraxis
    assert scale.cmin < scale.cmax


def test_what_a_mask_drops_is_covered_and_nothing_else() -> None:
    saliency = saliency_of(10)
    mask = keep_mask(row_ranks(saliency), (0.0, 0.3, 0.5, 1.0))
    covers = [trace for trace in gate_grids(saliency, "hh", mask).data if trace.name.endswith("dropped")]
    for gate, cover in enumerate(covers):
        dropped = ~mask.view(4, 10)[gate].numpy()
        assert np.array_equal(cells(cover)[:10] == 1, dropped)
        assert np.isnan(cells(cover)[10:]).all()


def test_a_layer_too_large_to_draw_is_averaged_and_says_so() -> None:
    hidden_size = MAX_CELLS // 2
    saliency = saliency_of(hidden_size)
    figure = gate_grids(saliency, "ih")
    assert sum(trace.z.size for trace in figure.data) <= 1.01 * MAX_CELLS
    assert cells(figure.data[1])[0] == pytest.approx(float(saliency[hidden_size : hidden_size + 2].mean()))
    assert "mean of 2 units" in figure.layout.annotations[-1].text


def test_curves_rise_and_are_cut_where_the_mask_cuts() -> None:
    saliency = saliency_of(40)
    dropped = (0, 10, 20, 40)
    figure = sorted_curves(saliency, "ih", dropped)
    lines = {trace.name: trace for trace in figure.data if trace.mode == "lines"}
    cuts = {trace.name: trace for trace in figure.data if trace.mode == "markers"}
    assert list(lines) == list(BLOCKS["ih"])
    for gate, (block, line) in enumerate(lines.items()):
        expected = saliency.view(4, 40)[gate].sort().values.float().numpy()
        assert np.array_equal(np.asarray(line.y), expected)
        if dropped[gate]:
            cut = cuts[f"cut of {block}"]
            assert list(cut.x) == [100 * dropped[gate] / 40]
            assert list(cut.y) == [expected[min(dropped[gate], 39)]]
    assert "cut of ii" not in cuts


def test_long_curves_are_thinned_but_keep_their_ends() -> None:
    saliency = saliency_of(4096)
    line = sorted_curves(saliency, "hh").data[0]
    assert len(line.y) <= 500
    assert line.y[0] == saliency[:4096].min().float()
    assert line.y[-1] == saliency[:4096].max().float()
