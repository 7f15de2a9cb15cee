"""Models side by side: which rows there are for which models, and the process that times them. Nothing here is timed to
be compared."""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pruner import Cancelled, PrunerError, Recipe, open_checkpoint, run
from pruner.examples import named as example_named
from pruner.exports.onnx.parts import parts_of
from pruner.exports.speed.apart import BATCH_SIZES, timed_apart
from pruner.exports.speed.models import Model, dense_of, model_of
from pruner.exports.speed.runnable import in_onnx_runtime
from pruner.exports.speed.table import Table, side_by_side
from pruner.lstm.timing import TOO_NOISY, Call
from pruner.progress import silent
from pruner.result import Result
from tests.helpers.files import saved
from tests.helpers.models import named, random_lstm
from tests.helpers.speeds import tell

LINEAR = named(nn.Linear(4, 2), "linear.")
WAYS = ["PyTorch", "ONNX Runtime", "ONNX Runtime, int8"]


def made(tensors: dict[str, torch.Tensor], recipe: Recipe) -> Result:
    return run(open_checkpoint(saved(tensors), "model.pt"), recipe)


def both(result: Result, form: str) -> list[Model]:
    recipe = result.recipe
    whole = dense_of(result.checkpoint, recipe.lstms, recipe.consumers)
    dense = model_of("dense", whole, "masked", result.costs["dense"].bytes, None)
    return [dense, model_of(form, result.pruned, form, result.costs[form].bytes, None)]


UNITS, ROWS = Recipe(0.5, "units"), Recipe(0.5)
CONSUMED = Recipe(0.5, "units", consumers=("linear.weight",))
UNEVEN = Recipe(0.5, "units", layer_sparsity={0: 0.25})
CHAINED = Recipe(0.5, "units", consumers=("one=two.weight_ih_l0", "two=linear.weight"))
CHAIN = {**named(random_lstm(), "one."), **named(nn.LSTM(4, 4), "two."), **LINEAR}
TWO = {**named(random_lstm(), "one."), **named(random_lstm(input_size=5, bidirectional=True), "two.")}


@pytest.mark.parametrize("form", ["masked", "compact"])
@pytest.mark.parametrize(
    ("tensors", "recipe"),
    [
        ({**named(random_lstm(), "lstm."), **LINEAR}, CONSUMED),
        (named(random_lstm(num_layers=2)), UNEVEN),
        (named(random_lstm(num_layers=2, bidirectional=True)), ROWS),
        (named(nn.LSTMCell(3, 4)), UNITS),
        (named(random_lstm(dtype=torch.float16)), UNITS),
        (CHAIN, CHAINED),
        (TWO, ROWS),
        (TWO, Recipe(0.5, "units", lstms=("two",))),
    ],
    ids=["consumer", "uneven layers", "rows", "cell", "half precision", "chain", "two", "one of two"],
)
def test_every_model_runs_in_all_ways(
    monkeypatch: pytest.MonkeyPatch, tensors: dict[str, torch.Tensor], recipe: Recipe, form: str
) -> None:
    timed = tell(monkeypatch)
    result = made(tensors, recipe)
    table = side_by_side(both(result, form))
    assert timed == [f"{model}, {way}" for model in ("dense", form) for way in WAYS]
    assert table.reasons == [] and all(row.size for row in table.rows)
    assert [row.faster for row in table.rows] == [(faster,) * 4 for faster in (1, 2, 4, 2, 4, 8)]


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        (named(random_lstm(proj_size=2)), "found (root) with proj_size 2"),
        ({**named(random_lstm(), "lstm."), **named(nn.LSTMCell(3, 4), "cell.")}, "holds LSTMs, which read all steps"),
    ],
    ids=["projection", "cells and LSTMs"],
)
def test_what_is_not_timed_has_its_row_and_says_why(
    monkeypatch: pytest.MonkeyPatch, tensors: dict[str, torch.Tensor], reason: str
) -> None:
    timed = tell(monkeypatch)
    table = side_by_side(both(made(tensors, UNITS), "compact"))
    assert timed == ["dense, PyTorch", "compact, PyTorch"] and len(table.rows) == 6
    assert all((row.reason is None) == (row.runtime == "PyTorch") for row in table.rows)
    assert len(table.reasons) == 2 and all(reason in sentence for sentence in table.reasons)
    _, cells = table.words(None)
    assert cells[1][2:] == ["–"] * 4


def test_a_busy_machine_gives_words_in_place_of_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    tell(monkeypatch, busy=True)
    table = side_by_side(both(made(named(random_lstm()), UNITS), "compact"))
    _, cells = table.words(None)
    assert [row[2:] for row in cells[3:]] == [[TOO_NOISY] * 4] * 3
    assert [row[2:] for row in cells[:3]] == [["1.0×"] * 4, ["2.0×"] * 4, ["4.0×"] * 4]
    assert table.told()["rows"][3]["faster"] == [None] * 4


def test_files_are_as_large_and_as_good_as_those_of_an_export(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tell(monkeypatch)
    example = example_named("embedded-reber")
    result = run(example.open(), Recipe(0.1, "units", consumers=("linear.weight",)), quality=example.quality)
    assert result.quality is not None
    compact = model_of("compact", result.pruned, "compact", 1, result.quality["compact"], example.quality)
    rows = side_by_side([compact]).rows
    folder = result.save(tmp_path / "new", onnx=True)
    assert [row.size for row in rows[1:]] == [
        (folder / name).stat().st_size for name in ("pruned.onnx", "pruned.int8.onnx")
    ]
    assert rows[1].quality == rows[0].quality and rows[2].quality == pytest.approx(rows[0].quality, abs=0.1)


def test_as_long_as_it_is_asked_for_a_process_of_its_own_times_in_turns() -> None:
    """The one test here that times something."""
    dense = both(made({**named(random_lstm(), "lstm."), **LINEAR}, CONSUMED), "compact")
    threads, told = torch.get_num_threads(), list[float]()
    table = side_by_side(dense, lambda share, what: told.append(share), seconds=0.05)
    assert isinstance(table, Table) and torch.get_num_threads() == threads
    counts = sorted({count for _, count in table.settings})
    assert table.settings == tuple((size, count) for count in counts for size in BATCH_SIZES) and counts[0] == 1
    assert told == sorted(told) and told[-1] == 1


@dataclass(frozen=True)
class Stubborn:
    """Not to be timed: it ends its process, or goes on for ever."""

    ends: bool

    def call(self, batch_size: int, threads: int) -> Call:
        return (lambda: os._exit(3)) if self.ends else (lambda: time.sleep(60))


@pytest.fixture
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the process find the classes of this module."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))


def test_a_process_that_ends_early_is_told_as_such(importable: None) -> None:
    with pytest.raises(PrunerError, match=r"expected room to time .* found that their process ended early; close"):
        timed_apart({"one": Stubborn(True)}, 0.1, silent)


def test_timing_can_be_stopped(importable: None) -> None:
    looked: list[Any] = []

    def stop(share: float, what: str) -> None:
        looked.append(what)
        if len(looked) > 3:
            raise Cancelled

    started = time.monotonic()
    with pytest.raises(Cancelled):
        timed_apart({"one": Stubborn(False)}, 0.1, stop)
    assert time.monotonic() - started < 30


@pytest.mark.parametrize(("recipe", "asked"), [(CONSUMED, [(2, 64, 2)]), (UNITS, [(2, 64, 4), (1, 2, 4), (1, 2, 4)])])
def test_a_file_is_asked_for_what_its_consumers_give_where_there_are_any(recipe: Recipe, asked: list[Any]) -> None:
    result = made({**named(random_lstm(), "lstm."), **LINEAR}, recipe)
    model = both(result, "compact")[1]
    parts = parts_of(model.layouts, model.tensors, model.consumers)
    timed = in_onnx_runtime(model.files["pruned.onnx"], parts, True)
    assert timed is not None
    assert [each.shape for each in timed.call(2, 1)()] == asked
