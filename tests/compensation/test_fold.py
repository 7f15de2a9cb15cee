"""Folding: kept units stand in for removed ones as the conditional expectation of jointly normal units says."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from pruner.calibration.calibration import Calibration
from pruner.calibration.gathering import gather
from pruner.calibration.observations import Moments
from pruner.compensation import fold as folding
from pruner.compensation.fold import RIDGE, fold, shrunk_units, takeover, without_rows
from pruner.files.consumers import load_consumers
from pruner.lstm.traces import layers_of, run_layers
from tests.helpers.models import found_in, random_lstm, random_steps, with_twins

KEPT, REMOVED = torch.tensor([0, 2, 5, 6]), torch.tensor([1, 3, 4])


@pytest.fixture
def no_ridge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folding, "RIDGE", 1e-13)


def observed(steps: int = 200, units: int = 7, seed: int = 0) -> tuple[Tensor, Moments]:
    """Correlated units (N, H) with means of their own, and their exact moments."""
    values = random_steps(steps, units, seed=seed) @ random_steps(units, units, seed=seed + 1) + random_steps(
        units, seed=9
    )
    return values, Moments(values.mean(0), torch.atleast_2d(torch.cov(values.t(), correction=0)))


def test_the_takeover_is_the_conditional_expectation(no_ridge: None) -> None:
    _, moments = observed()
    # Another closed form of it, from the inverse covariance of all: -P_RR^-1 P_RK.
    precision = torch.linalg.inv(moments.covariance)
    wanted = -torch.linalg.inv(precision[REMOVED][:, REMOVED]) @ precision[REMOVED][:, KEPT]
    weights, offset = takeover(moments, KEPT, REMOVED)
    torch.testing.assert_close(weights, wanted, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(offset, moments.mean[REMOVED] - wanted @ moments.mean[KEPT], rtol=1e-6, atol=1e-8)


def regression(values: Tensor, ridge: float, constant: bool) -> tuple[np.ndarray, np.ndarray]:
    """The same by least squares on the values themselves, the ridge as more rows that ask for zero."""
    regressors, wanted = values[:, KEPT].numpy(), values[:, REMOVED].numpy()
    if constant:
        regressors = np.column_stack([regressors, np.ones(len(values))])
    more = np.zeros((len(KEPT), regressors.shape[1]))
    more[:, : len(KEPT)] = np.sqrt(ridge * len(values)) * np.eye(len(KEPT))
    wanted = np.concatenate([wanted, np.zeros((len(KEPT), len(REMOVED)))])
    found = np.linalg.lstsq(np.concatenate([regressors, more]), wanted, rcond=None)[0].T
    return found[:, : len(KEPT)], found[:, -1] if constant else np.zeros(len(REMOVED))


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_the_takeover_is_a_ridge_regression(constant: bool, seed: int) -> None:
    values, moments = observed(seed=seed)
    own = values[:, KEPT] - (values[:, KEPT].mean(0) if constant else 0)
    weights, offset = takeover(moments, KEPT, REMOVED, constant)
    wanted, wanted_offset = regression(values, RIDGE * float(own.square().mean()), constant)
    np.testing.assert_allclose(weights.numpy(), wanted, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(offset.numpy(), wanted_offset, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kernel", [(), (3,), (2, 2)], ids=["linear", "conv1d", "conv2d"])
def test_a_folded_reader_gives_what_the_whole_one_gives_of_units_that_kept_ones_tell(
    no_ridge: None, kernel: tuple[int, ...], bias: bool
) -> None:
    values = random_steps(400, 7)
    if bias:
        values = values + 1
    values[:, REMOVED] = values[:, KEPT] @ random_steps(4, 3, seed=2) + (5.0 if bias else 0)
    moments = Moments(values.mean(0), torch.cov(values.t(), correction=0))
    reader, own = random_steps(6, 7, *kernel, seed=3), random_steps(6, seed=4) if bias else None
    small, small_bias = fold(reader, own, moments, KEPT)
    assert small.shape == (6, 4, *kernel) and small.is_contiguous()
    assert (small_bias is None) == (own is None)

    def read(weight: Tensor, bias: Tensor | None, units: Tensor) -> Tensor:
        if not kernel:
            return F.linear(units, weight, bias)
        channels = units.t().reshape(1, -1, *((20, 20) if len(kernel) == 2 else (400,)))
        return (F.conv2d if len(kernel) == 2 else F.conv1d)(channels, weight, bias)

    torch.testing.assert_close(read(small, small_bias, values[:, KEPT]), read(reader, own, values), rtol=0, atol=1e-6)


def test_the_order_of_the_kept_units_is_that_of_the_columns() -> None:
    _, moments = observed()
    reader, bias = random_steps(3, 7), random_steps(3)
    small, own = fold(reader, bias, moments, KEPT)
    turned, same = fold(reader, bias, moments, KEPT.flip(0))
    torch.testing.assert_close(turned, small.flip(1))
    torch.testing.assert_close(same, own)


@given(st.integers(1, 6), st.integers(0, 2**31), st.sampled_from([torch.float16, torch.bfloat16, torch.float32]))
def test_nothing_removed_changes_nothing(units: int, seed: int, dtype: torch.dtype) -> None:
    _, moments = observed(units=units, seed=seed % 1000)
    reader = random_steps(3, units, seed=seed).to(dtype)
    bias = random_steps(3, seed=seed).to(dtype)
    small, own = fold(reader, bias, moments, torch.arange(units))
    assert torch.equal(small, reader) and own is not None and torch.equal(own, bias)


def test_units_that_never_move_are_taken_over_as_constants() -> None:
    moments = Moments(torch.tensor([0.5, 0, 0.25]).double(), torch.zeros(3, 3).double())
    weights, offset = takeover(moments, torch.tensor([0, 1]), torch.tensor([2]))
    assert not weights.any() and offset.tolist() == [0.25]
    dead = Moments(torch.zeros(3).double(), torch.zeros(3, 3).double())
    weights, offset = takeover(dead, torch.tensor([0, 1]), torch.tensor([2]), constant=False)
    assert not weights.any() and not offset.any()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"bias": False},
        {"num_layers": 2},
        {"num_layers": 2, "bidirectional": True},
        {"num_layers": 2, "bidirectional": True, "bias": False},
        {"num_layers": 2, "bidirectional": True, "proj_size": 3},
    ],
    ids=str,
)
def test_an_lstm_without_its_twins_computes_the_same(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, int | bool]
) -> None:
    monkeypatch.setattr(folding, "RIDGE", 1e-8)
    lstm, tensors, dense = with_twins(**settings)
    inputs = random_steps(20, 30, 3, dtype=torch.float32)
    found = gather(lstm, tensors, Calibration("file", {"rnn": [inputs]}))
    # Of each pair one unit stays, another one in each layer and direction.
    chosen = [[[1, 3, 4, 6], [0, 1, 6, 7]], [[0, 2, 4, 6], [1, 3, 5, 7]]]
    kept = {(layer, direction): torch.tensor(chosen[layer][direction]) for layer, direction in lstm.places}
    heads = load_consumers(tensors, ["head.weight"])
    small = shrunk_units(dense, heads, kept, lstm, found, by_fold=True)
    steps = inputs.transpose(0, 1)
    wanted = heads[0](run_layers(dense, steps)[1])
    near = {"rtol": 0, "atol": 1e-4}
    torch.testing.assert_close(small.consumers[0](run_layers(small.layers, steps)[1]), wanted, **near)
    lost = shrunk_units(dense, heads, kept, lstm, found, by_fold=False)
    assert float((lost.consumers[0](run_layers(lost.layers, steps)[1]) - wanted).abs().max()) > 1e-2
    assert small.reconstruction is lost.reconstruction is None
    without = shrunk_units(dense, [], kept, lstm, found, by_fold=True)
    if lstm.proj_size:
        assert without.reconstruction is None
        return
    assert without.reconstruction is not None and len(without.reconstruction) == lstm.directions
    output = run_layers(dense, steps)[1].split(8, -1)
    for side, (weight, bias) in enumerate(without.reconstruction):
        own = kept[lstm.num_layers - 1, side]
        rest = torch.tensor([unit for unit in range(8) if unit not in own.tolist()])
        told = F.linear(output[side][..., own], weight, bias)
        torch.testing.assert_close(told, output[side][..., rest], **near)


def test_dropped_rows_leave_their_mean_in_the_bias() -> None:
    lstm, tensors = found_in(random_lstm(), "rnn.")
    dense = layers_of(lstm, tensors)
    inputs = random_steps(6, 12, 3, dtype=torch.float32)
    found = gather(lstm, tensors, Calibration("file", {"rnn": [inputs]}))
    ih, hh = torch.arange(16) % 2 == 0, torch.arange(16) % 3 == 0
    ((kept,),) = without_rows(dense, {(0, 0): (ih, hh)}, found)
    ((zeroed,),) = without_rows(dense, {(0, 0): (ih, hh)}, None)
    (own,) = dense[0]
    assert torch.equal(kept.ih, own.ih * ih[:, None]) and torch.equal(kept.hh, own.hh * hh[:, None])
    assert torch.equal(zeroed.ih, kept.ih) and torch.equal(zeroed.hh, kept.hh) and torch.equal(zeroed.bias, own.bias)
    # Without rows, what each gave on average: its product with the mean input, and with the mean of the state before.
    (traced,) = run_layers(dense, inputs.transpose(0, 1))[0][0]
    given = own.ih @ inputs.flatten(0, 1).mean(0) * ~ih + own.hh @ traced.outputs[:-1].flatten(0, 1).mean(0) * ~hh
    torch.testing.assert_close(kept.bias, own.bias + given, rtol=1e-5, atol=1e-6)
