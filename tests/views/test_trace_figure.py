"""A unit over time: all parts on one axis, with the symbols that were read below them."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from pruner.views.trace_figure import OverTime, trace_figure
from pruner.views.unit_trace import TRACED, unit_trace
from tests.helpers.models import random_steps


def over_time(symbols: str | None = None, holds: list[bool] | None = None, first: int = 0) -> OverTime:
    steps = len(symbols or "abcdef")
    dense, pruned = (unit_trace(random_steps(6, first + steps, 5, seed=seed), 2)[first:] for seed in (1, 2))
    outputs = random_steps(steps, 3)
    marks = None if holds is None else np.array(holds)
    return OverTime(4, dense, pruned, outputs, [1, 4, 7], list(symbols) if symbols else None, marks)


def test_every_part_stands_on_the_same_axis_of_time() -> None:
    figure = trace_figure(over_time("BTBTXS", first=3))
    assert {trace.xaxis for trace in figure.data} == {None}  # the only one
    assert all(list(trace.x) == [3, 4, 5, 6, 7, 8] for trace in figure.data)
    assert len({trace.yaxis for trace in figure.data}) == len(TRACED) + 2
    assert (figure.layout.hovermode, figure.layout.hoversubplots) == ("x unified", "axis")
    assert figure.layout.xaxis.spikemode == "across" and figure.layout.xaxis.showspikes
    assert tuple(figure.layout.xaxis.range) == (2.5, 8.5)


def test_parts_stand_below_each_other() -> None:
    figure = trace_figure(over_time("BTBTXS"))
    names = ["yaxis", *(f"yaxis{number}" for number in range(2, 9))]
    domains = [figure.layout[name].domain for name in names]
    assert domains[0][1] == 1 and domains[-1][0] == pytest.approx(0, abs=1e-9)
    assert all(upper[0] > lower[1] for upper, lower in pairwise(domains))


def test_lines_and_cells_hold_what_the_units_do() -> None:
    found = over_time()
    figure = trace_figure(found)
    lines = [trace for trace in figure.data if trace.type == "scatter"]
    assert [trace.name for trace in lines] == ["dense", "pruned"] * len(TRACED)
    assert np.allclose(lines[3].y, found.pruned["c"])
    cells = next(trace for trace in figure.data if trace.type == "heatmap")
    assert np.allclose(cells.z, found.outputs.T) and np.array(cells.customdata)[:, 0].tolist() == [1, 4, 7]
    assert any("4 ▶" in note.text for note in figure.layout.annotations)


def test_symbols_are_shown_as_they_are_and_those_without_ink_are_named() -> None:
    figure = trace_figure(over_time('<"& \nb'))
    read = figure.data[-1]
    assert list(read.text) == ["&lt;", '"', "&amp;", " ", "↵", "b"]
    assert list(read.customdata)[3:5] == ["a space", "a line break"]


@pytest.mark.parametrize(
    ("holds", "spans"),
    [
        ([False] * 6, []),
        ([True] * 6, [(-0.5, 5.5)]),
        ([True, False, True, True, False, True], [(-0.5, 0.5), (1.5, 3.5), (4.5, 5.5)]),
    ],
)
def test_the_steps_where_a_condition_holds_are_shaded(holds: list[bool], spans: list[tuple[float, float]]) -> None:
    shapes = trace_figure(over_time("BTBTXS", holds)).layout.shapes
    assert [(shape.x0, shape.x1) for shape in shapes] == spans


def test_what_is_not_finite_can_be_drawn() -> None:
    found = over_time("BT")
    broken = OverTime(4, found.dense, found.pruned, torch.full((2, 3), float("nan")), [1, 4, 7], ["B", "T"])
    assert trace_figure(broken).layout.coloraxis.cmax == 1
