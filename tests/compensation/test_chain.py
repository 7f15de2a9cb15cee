"""Compensation from end to end: every form of every kind of LSTM, held against a masked model run by PyTorch itself."""

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pruner import Checkpoint, run
from pruner.compact.load_pruned import CompactLSTMCell, ReconstructingLSTMCell, load_lstms
from pruner.compact.masked_and_compact import FORMS
from pruner.compensation import fold, judge
from pruner.lstm.traces import run_layers
from tests.helpers.compensated import (
    HIDDEN,
    WAYS,
    Way,
    calibration,
    check_exports,
    check_steps,
    check_zeros,
    held_back_loss,
    model,
    steps_of,
)
from tests.helpers.files import saved_in
from tests.helpers.models import named, random_lstm, random_steps, with_twins

CASES = [
    (way, granularity, {"num_layers": layers, "bidirectional": both, "proj_size": projection, "bias": bias})
    for way, granularity, layers, both, projection, bias in itertools.product(
        WAYS, ("units", "rows"), (1, 2), (False, True), (0, 2), (False, True)
    )
    if not (projection and WAYS[way].head)  # nothing of what reads a projection goes
]


@pytest.mark.parametrize(("way", "granularity", "settings"), CASES, ids=str)
def test_every_form_computes_the_compensated_model(
    tmp_path: Path, way: str, granularity: str, settings: dict[str, Any]
) -> None:
    chosen = WAYS[way]
    checkpoint = saved_in(tmp_path, model(chosen.head, **settings))
    inputs = calibration()
    result = run(checkpoint, chosen.recipe(granularity=granularity), calibration=inputs)
    check_zeros(result)
    check_steps(result, chosen, inputs.split()[1].sequences["rnn"][0])
    reconstructs = granularity == "units" and not chosen.head and not settings["proj_size"]
    assert set(result.compensation.reconstructions) <= ({"rnn"} if reconstructs else set())
    if settings["bias"] and granularity == "units":  # where nothing would help, nothing would be tested
        assert steps_of(result)[0]["kept"]
        assert bool(result.compensation.reconstructions) == reconstructs
    check_exports(result, tmp_path)


def test_each_step_helps_where_it_should(tmp_path: Path) -> None:
    checkpoint = saved_in(tmp_path, model(head=True, num_layers=2))
    for task in ("softmax", "regression"):
        recipe = Way("heal", task, True, steps=60).recipe(granularity="units")
        fold, heal = steps_of(run(checkpoint, recipe, calibration=calibration(count=100)))
        assert fold["kept"] and heal["kept"]
        assert fold["after"] < 0.6 * fold["before"] and heal["before"] == fold["after"]
        assert heal["after"] < 0.8 * fold["after"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("both", [False, True])
def test_layers_may_lose_different_shares(tmp_path: Path, way: str, both: bool) -> None:
    chosen = WAYS[way]
    checkpoint = saved_in(tmp_path, model(chosen.head, num_layers=2, bidirectional=both))
    recipe = chosen.recipe(granularity="units", layer_sparsity={0: 0.5, 1: 0.2})
    result = run(checkpoint, recipe, calibration=calibration())
    (layout,) = result.forms["compact"].layouts
    assert {len(units) for units in layout.kept_units.values()} == {3, 5} and layout.stored_as == "CompactLSTM"
    check_zeros(result)
    check_exports(result, tmp_path)


def test_equal_sizes_and_a_head_are_a_plain_smaller_model(tmp_path: Path) -> None:
    """The compact file of a compensated model loads into the class it came from, with a smaller hidden size."""
    checkpoint = saved_in(tmp_path, model(True, num_layers=2, bidirectional=True))
    result = run(checkpoint, WAYS["heal softmax"].recipe(0.5, granularity="units"), calibration=calibration())
    folder = result.save(tmp_path / "out", "compact")
    small = nn.ModuleDict({"rnn": nn.LSTM(3, 3, 2, batch_first=True, bidirectional=True), "linear": nn.Linear(6, 4)})
    small.load_state_dict(torch.load(folder / "pruned.pt", weights_only=True))
    inputs = random_steps(5, 9, 3, dtype=torch.float32)
    tensors = result.forms["masked"].tensors(checkpoint)
    output = result.forms["masked"].modules(checkpoint)["rnn"](inputs)[0]
    wanted = F.linear(output, tensors["linear.weight"], tensors["linear.bias"])
    torch.testing.assert_close(small["linear"](small["rnn"](inputs)[0]), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("head", [False, True])
@pytest.mark.parametrize("settings", [{}, {"num_layers": 2, "bidirectional": True}, {"bias": False}], ids=str)
def test_twins_take_over_what_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], head: bool
) -> None:
    """Units that repeat others are what the brain surgeon takes, and their readers do without."""
    monkeypatch.setattr(fold, "RIDGE", 1e-7)
    _, tensors, _ = with_twins(**settings)
    tensors["linear.weight"], tensors["linear.bias"] = tensors.pop("head.weight"), tensors.pop("head.bias")
    checkpoint = saved_in(tmp_path, tensors)
    recipe = replace(Way(head=head).recipe(0.5, granularity="units"), criterion="obs")
    data = calibration(count=40, steps=30)
    inputs = data.split()[1].sequences["rnn"][0]
    losses = []
    for how in ("none", "fold"):
        result = run(checkpoint, replace(recipe, compensation=how), calibration=data)
        losses.append(held_back_loss(result, Way(head=head), inputs))
        if not head:
            assert result.drift["rnn"].relative > 0
    assert losses[1] < 1e-6 < 1e-3 < losses[0]
    if not head:
        drifts = [
            run(checkpoint, replace(recipe, compensation=each), calibration=data).drift["rnn"].relative
            for each in ("none", "fold")
        ]
        assert drifts[1] < 0.01 * drifts[0]


def test_nothing_removed_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    checkpoint = saved_in(tmp_path, model(head=True, num_layers=2))
    for way, granularity in itertools.product(("fold", "fold, head"), ("units", "rows")):
        result = run(checkpoint, WAYS[way].recipe(0.0, granularity=granularity), calibration=calibration())
        assert result.drift["rnn"].relative < 1e-6
        assert not any(step["kept"] for step in steps_of(result))
        folder = tmp_path / f"{way} {granularity}"
        folder.mkdir()
        check_exports(result, folder)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("granularity", ["units", "rows"])
@pytest.mark.parametrize("criterion", ["fisher", "obs"])
@pytest.mark.parametrize("bias", [True, False])
def test_a_model_that_says_nothing_is_compensated_by_nothing(
    tmp_path: Path, way: str, granularity: str, criterion: str, bias: bool
) -> None:
    """All its weights are zero, so that no unit ever moves and every ratio is 0 / 0."""
    if granularity == "rows" and criterion == "obs":
        return
    tensors = {name: 0 * tensor for name, tensor in model(WAYS[way].head, bias=bias).items()}
    checkpoint = saved_in(tmp_path, tensors)
    recipe = replace(WAYS[way].recipe(granularity=granularity), criterion=criterion)
    result = run(checkpoint, recipe, calibration=calibration())
    for name, tensor in result.forms["masked"].tensors(checkpoint).items():
        assert "kept" in name or not tensor.any(), name
    json.dumps(result.compensation.facts, allow_nan=False)
    check_exports(result, tmp_path)


@pytest.mark.parametrize("way", WAYS)
def test_a_judge_reads_no_more_than_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    """Of held-back inputs whose batches are alike, a few say the same as all."""
    checkpoint = saved_in(tmp_path, model(WAYS[way].head))
    data = calibration(count=400)
    data.sequences["rnn"][0][320:] = data.sequences["rnn"][0][320:321]
    monkeypatch.setattr(judge, "HELD_BACK_STEPS", 10**6)
    every = run(checkpoint, WAYS[way].recipe(granularity="units"), calibration=data)
    monkeypatch.setattr(judge, "HELD_BACK_STEPS", 33)
    read = []
    monkeypatch.setattr(
        judge, "run_layers", lambda layers, inputs: (read.append(inputs), run_layers(layers, inputs))[1]
    )
    few = run(checkpoint, WAYS[way].recipe(granularity="units"), calibration=data)
    assert {tuple(inputs.shape) for inputs in read} == {(16, 3, 3)}
    for one, other in zip(steps_of(every), steps_of(few), strict=True):
        assert one["before"] == pytest.approx(other["before"], rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("granularity", ["units", "rows"])
def test_other_types_stay_what_they_are(tmp_path: Path, dtype: torch.dtype, way: str, granularity: str) -> None:
    tensors = {name: tensor.to(dtype) for name, tensor in model(WAYS[way].head, num_layers=2).items()}
    checkpoint = saved_in(tmp_path, tensors, "safetensors")
    result = run(checkpoint, WAYS[way].recipe(granularity=granularity), calibration=calibration())
    for form in FORMS:
        for name, tensor in result.forms[form].tensors(checkpoint).items():
            assert tensor.dtype == (
                torch.int64 if "kept" in name or "rows_" in name or "stands_for" in name else dtype
            ), name
    check_zeros(result)
    check_exports(result, tmp_path, tolerance=1e-4)


def test_several_lstms_are_compensated_each_with_its_own_readers(tmp_path: Path) -> None:
    tensors = model(head=True) | named(random_lstm(1, hidden_size=5, num_layers=2), "other.")
    checkpoint = saved_in(tmp_path, tensors)
    recipe = Way(head=True).recipe(granularity="units")
    result = run(checkpoint, recipe, calibration=calibration("rnn", "other"))
    assert [facts["name"] for facts in result.compensation.facts["lstms"]] == ["other", "rnn"]
    assert set(result.compensation.reconstructions) == {"other"}  # nobody said who reads it
    check_exports(result, tmp_path)
    alone = run(checkpoint, replace(recipe, lstms=("rnn",)), calibration=calibration("rnn", "other"))
    assert not any(name.startswith("other") for name in alone.compensation.tensors)
    for name in ("rnn.weight_hh_l0", "linear.weight", "linear.bias"):
        assert torch.equal(alone.compensation.tensors[name], result.compensation.tensors[name])


def cell_checkpoint(folder: Path, head: bool = False) -> Checkpoint:
    torch.manual_seed(0)
    tensors = {name: 3 * tensor for name, tensor in named(nn.LSTMCell(3, HIDDEN), "rnn.").items()}
    if head:
        tensors |= {name: tensor for name, tensor in model(head=True).items() if name.startswith("linear")}
    return saved_in(folder, tensors)


def stepped(cell: nn.Module, inputs: Tensor) -> Tensor:
    """The outputs of a cell that is fed its own state."""
    state, outputs = None, []
    for step in inputs:
        state = cell(step, state)
        outputs.append(state[0])
    return torch.stack(outputs)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("granularity", ["units", "rows"])
def test_cells_are_compensated_like_lstms(tmp_path: Path, way: str, granularity: str) -> None:
    chosen = WAYS[way]
    checkpoint = cell_checkpoint(tmp_path, chosen.head)
    result = run(checkpoint, chosen.recipe(granularity=granularity), calibration=calibration())
    check_zeros(result)
    check_exports(result, tmp_path)
    inputs = random_steps(9, 4, 3, seed=11, dtype=torch.float32)
    wanted = result.forms["masked"].modules(checkpoint)["rnn"](inputs.transpose(0, 1))[0].transpose(0, 1)
    kinds = {}
    for form in FORMS:
        cell = load_lstms(tmp_path / form)["rnn"]
        torch.testing.assert_close(stepped(cell, inputs), wanted, rtol=0, atol=1e-5)
        torch.testing.assert_close(cell(inputs[0, 0])[0], wanted[0, 0], rtol=0, atol=1e-5)  # unbatched
        kinds[form] = type(cell)
    if granularity == "units" and not chosen.head:
        assert kinds == {"masked": ReconstructingLSTMCell, "compact": CompactLSTMCell}
