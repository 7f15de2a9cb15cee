"""Healing: what is left learns to answer as the dense model does, and whenever it ends, what is kept is valid."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pruner import Cancelled, Recipe, Result, run
from pruner.calibration.calibration import Calibration
from pruner.compensation.fold import Shrunk
from pruner.compensation.heal import LOOKS, Budget
from pruner.compensation.lessons import STEPS, Lessons
from pruner.compensation.student import Student
from pruner.files.consumers import load_consumers
from pruner.lstm.traces import layers_of, run_layers
from pruner.recipe import seconds
from tests.helpers.compensated import WAYS, Way, calibration, check_exports, check_zeros, model, steps_of
from tests.helpers.files import saved_in
from tests.helpers.models import found_in, named, random_lstm, random_steps

SHAPES: list[dict[str, Any]] = [
    {},
    {"bias": False},
    {"num_layers": 2, "bidirectional": True},
    {"num_layers": 2, "proj_size": 3},
    {"num_layers": 3},
]


def healed(folder: Path, updates: int = 60, granularity: str = "units", **settings: Any) -> Result:
    checkpoint = saved_in(folder, model(head=not settings.get("proj_size"), **settings))
    way = Way("heal", None if settings.get("proj_size") else "softmax", not settings.get("proj_size"), updates)
    return run(checkpoint, way.recipe(granularity=granularity), calibration=calibration(count=64))


@pytest.mark.parametrize("granularity", ["units", "rows"])
@pytest.mark.parametrize("settings", SHAPES, ids=str)
def test_healing_helps_and_what_was_dropped_stays_gone(
    tmp_path: Path, granularity: str, settings: dict[str, Any]
) -> None:
    result = healed(tmp_path, granularity=granularity, **settings)
    fold, heal = steps_of(result)
    assert heal["kept"] and heal["after"] < 0.9 * fold["after"]
    check_zeros(result)
    check_exports(result, tmp_path)


@pytest.mark.parametrize("settings", SHAPES, ids=str)
def test_a_student_computes_what_it_was_made_of(settings: dict[str, Any]) -> None:
    lstm, tensors = found_in(random_lstm(hidden_size=6, **settings), "rnn.")
    tensors["head.weight"] = random_steps(5, lstm.output_width, dtype=torch.float32)
    consumers = load_consumers(tensors, ["head.weight"])
    dense = Shrunk(layers_of(lstm, tensors), consumers)
    inputs = random_steps(11, 2, 3, dtype=torch.float32)
    student = Student(dense, lstm, None, None)
    found, state = student(inputs)
    torch.testing.assert_close(found, consumers[0](run_layers(dense.layers, inputs)[1]), rtol=0, atol=1e-5)
    if not lstm.bidirectional:  # which go on from a state
        first, state = student(inputs[:5])
        second, _ = student(inputs[5:], state)
        torch.testing.assert_close(torch.cat([first, second]), found, rtol=0, atol=1e-6)
    again = student.shrunk()
    for before, after in zip(dense.layers, again.layers, strict=True):
        for one, other in zip(before, after, strict=True):
            assert torch.equal(one.ih, other.ih) and torch.equal(one.hh, other.hh) and torch.equal(one.bias, other.bias)
    assert torch.equal(again.consumers[0].weight, consumers[0].weight)


def test_so_many_updates_give_the_same_bits_twice(tmp_path: Path) -> None:
    one, other = (healed(tmp_path, 30, num_layers=2).compensation.tensors for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_two_threads_give_nearly_the_same(tmp_path: Path) -> None:
    one = healed(tmp_path, 30).compensation.tensors
    torch.set_num_threads(2)
    try:
        two = healed(tmp_path, 30).compensation.tensors
    finally:
        torch.set_num_threads(1)
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=0, atol=1e-3)


def test_a_budget_of_time_is_kept(tmp_path: Path) -> None:
    checkpoint = saved_in(tmp_path, model(head=True))
    recipe = Recipe(0.4, "units", consumers=("linear.weight",), task="softmax", compensation="heal", budget=0.5)
    step = steps_of(run(checkpoint, recipe, calibration=calibration()))[1]
    assert 0.4 < step["seconds"] < 5 and step["updates"] > 10 and not step["stopped"]


def test_who_has_enough_gets_what_was_reached(tmp_path: Path) -> None:
    checkpoint = saved_in(tmp_path, model(head=True))
    said = 0

    def enough(_: float, what: str) -> bool:
        nonlocal said
        said += what.startswith("Healing")
        return said > 20

    recipe = WAYS["heal softmax"].recipe(granularity="units")
    result = run(checkpoint, recipe, progress=enough, calibration=calibration())
    fold, heal = steps_of(result)
    assert heal["stopped"] and heal["updates"] == 20 and heal["after"] <= fold["after"]
    check_exports(result, tmp_path)


@pytest.mark.parametrize("moment", range(0, 50, 5))
def test_cancelled_at_any_moment_it_leaves_nothing(tmp_path: Path, moment: int) -> None:
    checkpoint = saved_in(tmp_path, model(head=True))
    before = {name: tensor.clone() for name, tensor in checkpoint.tensors.items()}
    calls: Iterator[int] = iter(range(10**6))

    def cancel(_: float, what: str) -> None:
        if what.startswith("Healing") and next(calls) >= moment:
            raise Cancelled

    with pytest.raises(Cancelled):
        run(checkpoint, Way("heal", "softmax", True, 60).recipe(), progress=cancel, calibration=calibration())
    assert all(torch.equal(checkpoint.tensors[name], tensor) for name, tensor in before.items())


def test_where_it_does_not_help_it_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pruner.compensation.heal.RATE", 100.0)
    result = healed(tmp_path)
    fold, heal = steps_of(result)
    assert not heal["kept"] and heal["after"] == fold["after"]
    folded = run(result.checkpoint, WAYS["fold, head"].recipe(granularity="units"), calibration=calibration(count=64))
    for name, tensor in folded.compensation.tensors.items():
        torch.testing.assert_close(result.compensation.tensors[name], tensor)


def test_what_it_is_told_with_is_the_loss_so_far(tmp_path: Path) -> None:
    said: list[str] = []
    checkpoint = saved_in(tmp_path, model(head=True))
    recipe = WAYS["heal softmax"].recipe(granularity="units")
    result = run(checkpoint, recipe, progress=lambda _, what: said.append(what), calibration=calibration())
    told = [what for what in said if what.startswith("Healing")]
    assert len(told) == 41 and f"at first {steps_of(result)[1]['before']:.4g}" in told[0]
    assert len(set(told)) == len(LOOKS) + 1  # a new loss after every look


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_other_precisions_are_written_back_in_their_type(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {name: tensor.to(dtype) for name, tensor in model(head=True).items()}
    checkpoint = saved_in(tmp_path, tensors)
    result = run(checkpoint, WAYS["heal softmax"].recipe(granularity="units"), calibration=calibration())
    assert {tensor.dtype for tensor in result.compensation.tensors.values()} == {dtype}
    assert steps_of(result)[1]["kept"]


def test_a_cell_is_healed_like_an_lstm(tmp_path: Path) -> None:
    tensors = {name: 3 * tensor for name, tensor in named(nn.LSTMCell(3, 6), "rnn.").items()}
    checkpoint = saved_in(tmp_path, tensors)
    result = run(checkpoint, WAYS["heal"].recipe(granularity="units"), calibration=calibration())
    assert [step["name"] for step in steps_of(result)] == ["fold", "heal"]
    check_exports(result, tmp_path)


def test_answers_that_do_not_fit_are_computed_in_passing(monkeypatch: pytest.MonkeyPatch) -> None:
    lstm, tensors = found_in(random_lstm(hidden_size=6), "rnn.")
    teacher = Student(Shrunk(layers_of(lstm, tensors), []), lstm, None, None).requires_grad_(False)
    windows = []
    for room in (2**29, 1):
        monkeypatch.setattr("pruner.compensation.lessons.MAX_ANSWERS", room)
        lessons = Lessons(lstm, tensors, calibration(count=40, steps=300), teacher, teacher.widths(), None, "cpu")
        stream = lessons.windows()
        windows.append([next(stream) for _ in range(9)])
    for (inputs, answers, begins), (same, in_passing, too) in zip(*windows, strict=True):
        assert torch.equal(inputs, same) and begins == too
        torch.testing.assert_close(answers, in_passing, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("count", "steps", "streams"), [(3, 2000, 11), (1, 1024, 2), (70, 1100, 32)])
def test_long_sequences_are_read_as_streams_that_begin_elsewhere_each_time(
    count: int, steps: int, streams: int
) -> None:
    lstm, tensors = found_in(random_lstm(hidden_size=6), "rnn.")
    numbered = torch.arange(count * steps, dtype=torch.float32).view(count, steps, 1).expand(-1, -1, 3).contiguous()
    once = Calibration("file", {"rnn": [numbered]})
    teacher = Student(Shrunk(layers_of(lstm, tensors), []), lstm, None, None).requires_grad_(False)
    stream = Lessons(lstm, tensors, once, teacher, teacher.widths(), None, "cpu").windows()
    length, begun = count * steps // streams, set()
    for _ in range(3):
        read, begins = [], True
        while sum(map(len, read)) < length:
            inputs, _, first = next(stream)
            assert first == begins and inputs.shape[1] == streams
            read.append(inputs[..., 0])
            begins = False
        assert [len(window) for window in read[1:-1]] == [STEPS] * (len(read) - 2) and len(read[0]) > STEPS // 2
        places = torch.cat(read)
        assert torch.equal(places.diff(dim=0) % (streams * length), torch.ones(length - 1, streams))
        assert len(places.unique()) == streams * length
        begun.add(float(places[0, 0]))
    assert len(begun) == 3


@pytest.mark.parametrize(("text", "expected"), [("30s", 30.0), ("2m", 120.0), ("1.5h", 5400.0), ("45", 45.0)])
def test_times_as_people_write_them(text: str, expected: float) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "m", "soon", "2 days", "--"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(ValueError):
        seconds(text)


def test_lstms_share_the_seconds_of_a_budget() -> None:
    assert Budget.of(Recipe(budget=60), 3) == Budget(20.0, None)
    assert Budget.of(Recipe(steps=10), 3).spent(0.0, 5) == 0.5


def test_an_older_recipe_is_read_as_what_took_its_place() -> None:
    older = {"compensation": "full", "granularity": "units"}
    assert Recipe.from_dict(older) == Recipe(granularity="units", compensation="heal")
    assert "'full' is read as 'heal'" in Recipe.notices(json.dumps(older))[0]
    assert Recipe.notices("{}") == Recipe.notices("no JSON") == []
