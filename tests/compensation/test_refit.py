"""Refits: the weighted least squares of every row, and gates that come nearer to the dense model's."""

from typing import Any

import pytest
import torch
from torch import Tensor

from pruner.calibration.calibration import Calibration
from pruner.calibration.gathering import gather
from pruner.compensation import refit
from pruner.compensation.fold import shrunk_units, without_rows
from pruner.compensation.refit import RIDGE, Sample, refit_layers, weighted_least_squares
from pruner.files.consumers import load_consumers
from pruner.lstm.find import find_lstms
from pruner.lstm.lstm import LSTM
from pruner.lstm.traces import Layers, layers_of, pre_activations, run_layers, unit_derivatives
from tests.helpers.models import named, random_lstm, random_steps


def row_by_row(regressors: Tensor, residuals: Tensor, counts: Tensor, allowed: Tensor | None = None) -> Tensor:
    """The normal equations of each row alone, over the weights that it may change."""
    found = torch.zeros(residuals.shape[1], regressors.shape[1], dtype=regressors.dtype)
    for row in range(len(found)):
        free = torch.ones(regressors.shape[1], dtype=torch.bool) if allowed is None else allowed[row]
        own, count = regressors[:, free], counts[:, row : row + 1]
        ridge = RIDGE * float((count * regressors.square()).sum()) / regressors.shape[1]
        normal = own.t() @ (count * own) + ridge * torch.eye(own.shape[1], dtype=own.dtype)
        found[row, free] = torch.linalg.solve(normal, own.t() @ (count * residuals[:, row : row + 1]))[:, 0]
    return found


def solved(regressors: Tensor, residuals: Tensor, counts: Tensor, allowed: Tensor | None = None) -> Tensor:
    return weighted_least_squares(regressors, counts, (counts * residuals).t() @ regressors, allowed)


@pytest.mark.parametrize("chunk", [7, 4096])
@pytest.mark.parametrize("restricted", [False, True])
def test_enough_steps_solve_the_normal_equations(monkeypatch: pytest.MonkeyPatch, restricted: bool, chunk: int) -> None:
    monkeypatch.setattr(refit, "ITERATIONS", 100)
    monkeypatch.setattr(refit, "CHUNK", chunk)
    regressors = random_steps(60, 7) @ random_steps(7, 7, seed=2) + 1
    residuals, counts = random_steps(60, 5, seed=3), random_steps(60, 5, seed=4).square()
    allowed = torch.rand(5, 7, generator=torch.Generator().manual_seed(0)) < 0.6 if restricted else None
    if allowed is not None:
        allowed[2] = False
    found = solved(regressors, residuals, counts, allowed)
    torch.testing.assert_close(found, row_by_row(regressors, residuals, counts, allowed), rtol=1e-6, atol=1e-6)
    if allowed is not None:
        assert not found[~allowed].any() and found[allowed].all()


def test_a_few_steps_go_most_of_the_way() -> None:
    regressors = random_steps(60, 7)
    residuals, counts = random_steps(60, 5, seed=3), random_steps(60, 5, seed=4).square()

    def loss(change: Tensor) -> Tensor:
        ridge = RIDGE * (counts[:, :, None] * regressors.square()[:, None]).sum(0).mean(1)
        missing = residuals - regressors @ change.t()
        return (counts * missing.square()).sum(0) + ridge * change.square().sum(1)

    start, end = loss(torch.zeros(5, 7).double()), loss(row_by_row(regressors, residuals, counts))
    reached = loss(solved(regressors, residuals, counts))
    assert bool((reached - end <= 0.1 * (start - end)).all())


@pytest.mark.parametrize("zero", ["residuals", "regressors", "both"])
def test_where_there_is_nothing_to_gain_nothing_changes(zero: str) -> None:
    regressors, residuals = random_steps(20, 3), random_steps(20, 4, seed=2)
    if zero != "residuals":
        regressors = regressors * 0
    if zero != "regressors":
        residuals = residuals * 0
    assert torch.equal(solved(regressors, residuals, torch.ones(20, 4).double()), torch.zeros(4, 3).double())


SETTINGS: list[dict[str, Any]] = [
    {},
    {"bias": False},
    {"num_layers": 2, "bidirectional": True},
    {"num_layers": 2, "proj_size": 3},
]


class Case:
    """A random LSTM with calibration inputs and what the dense model does on them."""

    def __init__(self, burn_in: int = 2, **settings: Any) -> None:
        self.tensors = named(random_lstm(hidden_size=8, **settings), "rnn.")
        self.lstm: LSTM = find_lstms(self.tensors)[0][0]
        self.tensors["head.weight"] = random_steps(5, self.lstm.directions * self.lstm.output_size, dtype=torch.float32)
        inputs = random_steps(40, 20, 3, dtype=torch.float32)
        self.calibration = Calibration("file", {"rnn": [inputs]}, burn_in=burn_in)
        self.dense = layers_of(self.lstm, self.tensors)
        self.heads = load_consumers(self.tensors, ["head.weight"])
        self.statistics = gather(self.lstm, self.tensors, self.calibration)
        self.sample = Sample(self.lstm, self.tensors, self.calibration, self.dense, self.heads, "cpu")
        chosen = [[0, 2, 3, 5, 7], [1, 2, 4, 5, 6]]
        self.kept = {place: torch.tensor(chosen[place[1]]) for place in self.lstm.places}

    def refitted(self, layers: Layers, kept: Any, allowed: Any = None) -> Layers:
        return refit_layers(layers, self.dense, self.sample, kept, allowed, self.lstm.bias, lambda _: None)

    def error(self, layers: Layers, kept: list[list[Tensor]] | None) -> float:
        """Weighted square error of the pre-activations over all layers: the objective, summed."""
        (inputs,) = self.sample.read[0]
        total, whole = 0.0, run_layers(self.dense, inputs)[0]
        for layer, sides in enumerate(run_layers(layers, inputs)[0]):
            for side, traced in enumerate(sides):
                rows = torch.arange(32)
                if kept is not None:
                    rows = torch.cat([gate * 8 + kept[layer, side] for gate in range(4)])
                wanted = whole[layer][side]
                missing = pre_activations(self.dense[layer][side], wanted)[..., rows]
                missing = missing - pre_activations(layers[layer][side], traced)
                counts = unit_derivatives(wanted)[..., rows].square()
                counts = counts / counts.mean((0, 1)) + 1
                total += float((missing.square() * counts).mean())
        return total


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_kept_gates_come_nearer_to_those_of_the_dense_model(settings: dict[str, Any]) -> None:
    case = Case(**settings)
    for by_fold in (False, True):
        small = shrunk_units(case.dense, case.heads, case.kept, case.lstm, case.statistics, by_fold).layers
        after = case.refitted(small, case.kept)
        assert case.error(after, case.kept) < (1 if by_fold else 0.8) * case.error(small, case.kept)
        for before, now in zip(small, after, strict=True):
            for old, new in zip(before, now, strict=True):
                assert old.ih.shape == new.ih.shape and old.hh.shape == new.hh.shape
                assert case.lstm.bias or torch.equal(old.bias, new.bias)
                assert old.hr is new.hr  # no part of a gate


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_dropped_rows_stay_zero(settings: dict[str, Any]) -> None:
    case = Case(**settings)
    generator = torch.Generator().manual_seed(0)
    pairs = {place: tuple(torch.rand(2, 32, generator=generator) < 0.5) for place in case.lstm.places}
    allowed = {}
    for place, pair in pairs.items():
        columns = case.lstm.layer_input_size(place[0]), case.lstm.output_size, 1
        masks = zip((*pair, pair[0] | pair[1]), columns, strict=True)
        allowed[place] = torch.cat([mask[:, None].expand(-1, width) for mask, width in masks], 1)
    start = without_rows(case.dense, pairs, case.statistics if case.lstm.bias else None)
    after = case.refitted(start, None, allowed)
    assert case.error(after, None) < case.error(start, None)
    for layer, sides in enumerate(after):
        for side, weights in enumerate(sides):
            ih, hh = pairs[layer, side]
            assert not weights.ih[~ih].any() and weights.ih[ih].any(1).all()
            assert not weights.hh[~hh].any() and weights.hh[hh].any(1).all()
            fixed = ~(ih | hh)
            assert torch.equal(weights.bias[fixed], start[layer][side].bias[fixed])


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_with_nothing_removed_next_to_nothing_changes(settings: dict[str, Any]) -> None:
    case = Case(**settings)
    everything = {place: torch.arange(8) for place in case.lstm.places}
    for kept in (everything, None):
        for before, after in zip(case.dense, case.refitted(case.dense, kept), strict=True):
            for old, new in zip(before, after, strict=True):
                for name in ("ih", "hh", "bias"):
                    torch.testing.assert_close(getattr(new, name), getattr(old, name), rtol=0, atol=1e-5)


def test_a_layer_is_fitted_on_what_those_below_give_after_their_own_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(num_layers=2, bidirectional=True)
    small = shrunk_units(case.dense, case.heads, case.kept, case.lstm, case.statistics, by_fold=False).layers
    seen: list[Tensor] = []

    def listen(regressors: Tensor, *others: Any) -> Tensor:
        seen.append(regressors)
        return weighted_least_squares(regressors, *others)

    monkeypatch.setattr(refit, "weighted_least_squares", listen)
    monkeypatch.setattr(refit, "PASSES", 1)
    after = case.refitted(small, case.kept)
    (inputs,) = case.sample.read[0]
    below = run_layers(after[:1], inputs)[1]
    for side, regressors in enumerate(seen[2:]):  # a reverse direction reads from the end, the burn-in last
        read = below.flip(0)[:-2] if side else below[2:]
        assert torch.equal(regressors[:, :10], read.flatten(0, 1))
        assert bool((regressors[:, -1] == 1).all())
    for layer, sides in enumerate(after):
        for side, weights in enumerate(sides):
            assert not torch.equal(weights.ih, small[layer][side].ih)


def test_a_sample_is_what_the_dense_model_does_after_the_burn_in() -> None:
    case = Case(burn_in=3, bidirectional=True)
    (inputs,) = case.calibration.sequences["rnn"]
    output = run_layers(case.dense, inputs.transpose(0, 1))[1][3:].flatten(0, 1)
    assert torch.equal(case.sample.outputs_of(case.dense), output)
    assert torch.equal(case.sample.scores[0], output @ case.tensors["head.weight"].t())


def test_a_sample_is_no_larger_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case()
    batches = Calibration("file", {"rnn": [random_steps(150, 20, 3, dtype=torch.float32)]})

    def sizes() -> list[int]:
        sample = Sample(case.lstm, case.tensors, batches, case.dense, case.heads, "cpu")
        assert sum(inputs.shape[0] * inputs.shape[1] for inputs in sample.read[0]) == len(sample.scores[0])
        return [inputs.shape[1] for inputs in sample.read[0]]

    assert sizes() == [64, 64, 22]
    monkeypatch.setattr(refit, "MAX_ELEMENTS", 2 * 64 * 20 * (3 + 8 + 1 + 32))
    assert sizes() == [64, 64]
    monkeypatch.setattr(refit, "MAX_ELEMENTS", 1)
    assert sizes() == [64]  # something there must be


class Stop(Exception):
    pass


def test_progress_runs_from_0_to_1_and_can_stop() -> None:
    case = Case(num_layers=2, bidirectional=True)
    small = shrunk_units(case.dense, case.heads, case.kept, case.lstm, case.statistics, by_fold=True).layers
    told: list[float] = []
    refit_layers(small, case.dense, case.sample, case.kept, None, True, told.append)
    assert told == sorted(told) and told[0] == 0 and 0.9 < told[-1] <= 1

    def stop(_: float) -> None:
        raise Stop

    with pytest.raises(Stop):
        refit_layers(small, case.dense, case.sample, case.kept, None, True, stop)
