"""Figures hold the numbers they were made from, every unit in a cell."""

import numpy as np
import pandas as pd
import pytest
import torch

from pruner.importance.masks import keep_mask, row_ranks
from pruner.lstm.gates import ALL_BLOCKS, BLOCKS, SIDES
from pruner.recipe import COMPENSATIONS, CRITERIA
from pruner.search.parts import UNITS, Sensitivity
from pruner.views.colours import DROPPED
from pruner.views.data_figures import activation_curves, block_shares
from pruner.views.row_figures import MAX_CELLS, gate_grids, grid_shape, sorted_curves
from pruner.views.search_figures import (
    COMPENSATION_DASHES,
    COMPENSATION_SYMBOLS,
    CRITERION_COLORS,
    experiments,
    sensitivity_heatmap,
)


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


def test_units_are_sorted_by_their_activation() -> None:
    activations = {"layer 0": torch.tensor([0.3, 0.1, 0.2]), "layer 1": torch.rand(2000)}
    lines = activation_curves(activations).data
    assert [line.name for line in lines] == list(activations)
    assert np.allclose(lines[0].y, [0.1, 0.2, 0.3])
    assert np.allclose(lines[0].x, [100 / 6, 50, 500 / 6])
    assert len(lines[1].y) <= 500 and lines[1].y[-1] == activations["layer 1"].max()


def test_shares_of_blocks_stand_in_their_cells() -> None:
    shares = {
        f"layer {layer}": {block: (layer + index) / 10 for index, block in enumerate(ALL_BLOCKS)} for layer in (0, 1)
    }
    (trace,) = block_shares(shares).data
    assert [label.split("<br>") for label in trace.x[:2]] == [["ii", "input"], ["if", "forget"]]
    assert list(trace.y) == ["layer 0", "layer 1"]
    assert np.allclose(trace.z, [[100 * share for share in own.values()] for own in shares.values()])


def tried(way: str, criterion: str, compensation: str, *points: tuple[float, float, float]) -> list[dict[str, object]]:
    """Lines of a table of experiments: sparsity, share of the multiply-accumulates, value."""
    of = {"way": way, "criterion": criterion, "compensation": compensation, "when": "12:00", "front": way == "obs"}
    return [
        {
            **of,
            "key": f"{way} {sparsity}",
            "what": "",
            "sparsity": sparsity,
            "macs": macs,
            "value": value,
            "now": value == 2,
        }
        for sparsity, macs, value in points
    ]


def test_experiments_have_a_look_for_each_way_a_band_for_the_lot_and_a_line_for_the_front() -> None:
    table = pd.DataFrame(
        [
            *tried("l1", "l1", "none", (0.9, 0.04, 5.0), (0.1, 0.8, 1.0)),
            *tried("obs", "obs", "none", (0.1, 0.8, 0.9), (0.9, 0.04, 2.0)),
            *tried("healed", "obs", "heal", (0.9, 0.04, 1.5)),
            *tried("random", "random", "none", (0.5, 0.3, 3.0), (0.5, 0.3, 9.0)),
            *tried("factors", None, None, (None, 0.3, 4.0)),
        ]
    )
    figure = experiments(table, "macs", "drift", 0.7)
    traces = {trace.name: trace for trace in figure.data}
    assert set(traces) == {
        *("l1", "obs", "healed", "random", "random, band", "factors", "nothing beats these", "your recipe now")
    }
    assert sorted(traces["random, band"].y) == [3.0, 9.0]
    assert (list(traces["l1"].x), list(traces["l1"].y)) == ([4.0, 80.0], [5.0, 1.0])
    assert traces["l1"].customdata[0][0] == "l1 0.9"
    assert (list(traces["nothing beats these"].x), list(traces["nothing beats these"].y)) == ([4.0, 80.0], [2.0, 0.9])
    assert (list(traces["your recipe now"].x), list(traces["your recipe now"].y)) == ([4.0], [2.0])
    assert traces["obs"].marker.color == traces["healed"].marker.color != traces["l1"].marker.color
    assert traces["obs"].marker.symbol != traces["healed"].marker.symbol != traces["factors"].marker.symbol
    assert max(map(list(traces).index, ("random", "factors"))) < list(traces).index("l1")  # which is drawn on top
    assert figure.layout.shapes[0].y0 == figure.layout.shapes[0].y1 == 0.7
    assert figure.layout.yaxis.title.text == "drift"
    lines = {trace.name: trace for trace in experiments(table, "sparsity", "drift", 0.7).data}
    assert set(traces) - set(lines) == {"factors", "nothing beats these"}
    assert lines["l1"].mode == "lines+markers" and list(lines["l1"].x) == [10.0, 90.0]


def test_every_criterion_and_compensation_has_a_look_of_its_own() -> None:
    assert set(CRITERION_COLORS) == set(CRITERIA) and len(set(CRITERION_COLORS.values())) == len(CRITERIA)
    for looks in (COMPENSATION_DASHES, COMPENSATION_SYMBOLS):
        assert set(looks) == set(COMPENSATIONS) and len(set(looks.values())) == len(COMPENSATIONS)
    assert DROPPED not in {color for name, color in CRITERION_COLORS.items() if name != "taylor"}


@pytest.mark.parametrize(("higher", "losses"), [(False, [[0.0, 1.5], [0.5, 3.0]]), (True, [[0.5, 0.0], [0.0, 0.0]])])
@pytest.mark.parametrize("parts", [[(0, UNITS), (1, UNITS)], [(0, "ii"), (0, "hf")]])
def test_sensitivity_shows_losses_part_by_part(
    parts: list[tuple[int, str]], higher: bool, losses: list[list[float]]
) -> None:
    values = dict(zip(parts, [(0.5, 2.5), (1.5, 4.0)], strict=True))
    (trace,) = sensitivity_heatmap(Sensitivity((0.3, 0.9), 1.0, higher, values)).data
    assert np.allclose(trace.z, losses)
    assert list(trace.x) == ["30%", "90%"]
    assert list(trace.y) == (["layer 0", "layer 1"] if parts[0][1] == UNITS else ["layer 0, ii", "layer 0, hf"])


def test_the_curve_of_the_chosen_gate_is_thicker() -> None:
    curves = sorted_curves(torch.rand(40), "hh", marked="g").data
    assert [curve.name for curve in curves if curve.line.width > 2] == ["hg"]
