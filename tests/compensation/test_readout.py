"""Readouts: ridge least squares as numpy has it, and a divergence that never ends above where it began."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pruner.compensation import readout
from pruner.compensation.readout import RIDGE, divergence, divergence_readout, least_squares_readout
from pruner.files.consumers import Consumer
from tests.helpers.models import random_steps


def head_of(inputs: int, outputs: int, bias: bool, seed: int = 3, dtype: torch.dtype = torch.float64) -> Consumer:
    weight = random_steps(outputs, inputs, seed=seed, dtype=dtype)
    return Consumer("head.weight", weight, "head.bias" if bias else None, weight.new_ones(outputs) if bias else None)


def test_the_divergence_is_that_of_torch() -> None:
    scores, wanted = random_steps(20, 5), random_steps(20, 5, seed=2)
    shares = wanted.softmax(-1)
    expected = torch.nn.functional.kl_div(scores.log_softmax(-1), shares, reduction="batchmean")
    assert float(divergence(scores, shares)) == pytest.approx(float(expected), rel=1e-9)
    assert float(divergence(wanted, shares)) == pytest.approx(0, abs=1e-12)
    certain = torch.eye(5, dtype=torch.float64)  # shares of zero add nothing
    assert float(divergence(torch.zeros(5, 5), certain)) == pytest.approx(np.log(5))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("steps", [3, 50], ids=["fewer steps than weights", "more"])
def test_least_squares_is_that_of_numpy_with_rows_for_the_ridge(bias: bool, steps: int) -> None:
    head, outputs, wanted = head_of(6, 4, bias), random_steps(steps, 6), random_steps(steps, 4, seed=2)
    found = least_squares_readout(head, outputs, wanted)
    regressors, weights = outputs.numpy(), head.weight.numpy()
    if head.bias is not None:
        regressors = np.column_stack([regressors, np.ones(steps)])
        weights = np.column_stack([weights, head.bias.numpy()])
    root = np.sqrt(RIDGE * np.square(regressors).sum(0).mean()) * np.eye(regressors.shape[1])
    expected = np.linalg.lstsq(
        np.concatenate([regressors, root]), np.concatenate([wanted.numpy(), root @ weights.T]), rcond=None
    )[0].T
    np.testing.assert_allclose(found.weight.numpy(), expected[:, :6], rtol=1e-6, atol=1e-9)
    assert (found.bias is None) == (not bias)
    if found.bias is not None:
        np.testing.assert_allclose(found.bias.numpy(), expected[:, 6], rtol=1e-6, atol=1e-9)
    assert found.weight.is_contiguous() and (found.name, found.bias_name) == (head.name, head.bias_name)


@pytest.mark.parametrize("readout", [least_squares_readout, divergence_readout])
@pytest.mark.parametrize("bias", [True, False])
def test_a_head_that_is_right_stays_as_it_is(readout: Any, bias: bool) -> None:
    head, outputs = head_of(6, 4, bias), random_steps(50, 6)
    found = readout(head, outputs, head(outputs))
    torch.testing.assert_close(found.weight, head.weight, rtol=0, atol=1e-9)


@pytest.mark.parametrize("readout", [least_squares_readout, divergence_readout])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_outputs_that_are_all_zero_leave_finite_heads(readout: Any, bias: bool, dtype: torch.dtype) -> None:
    head = head_of(6, 4, bias, dtype=dtype)
    found = readout(head, torch.zeros(20, 6, dtype=dtype), random_steps(20, 4, dtype=dtype))
    assert torch.equal(found.weight, head.weight)
    assert found.bias is None or (bool(found.bias.isfinite().all()) and not torch.equal(found.bias, head.bias))


def objective(head: Consumer, start: Consumer, outputs: Tensor, wanted: Tensor) -> float:
    """What `divergence_readout` minimises, from its definition."""
    own, dense = head(outputs).log_softmax(-1), wanted.log_softmax(-1)
    away = (head.weight - start.weight).square().sum()
    squares = [outputs.square()]
    if head.bias is not None and start.bias is not None:
        away = away + (head.bias - start.bias).square().sum()
        squares.append(torch.ones(len(outputs), 1, dtype=outputs.dtype))
    ridge = readout.RIDGE * torch.cat(squares, 1).mean()
    return float((dense.exp() * (dense - own)).sum(-1).mean() + ridge / 2 * away)


@given(
    steps=st.integers(1, 40),
    inputs=st.integers(1, 12),
    classes=st.integers(1, 12),
    bias=st.booleans(),
    scale=st.sampled_from([0.0, 1e-6, 1.0, 30.0, 1e4]),
    sharpness=st.sampled_from([0.0, 1.0, 100.0, 1e6]),
    seed=st.integers(0, 2**31),
)
def test_a_divergence_never_ends_above_where_it_began(
    steps: int, inputs: int, classes: int, bias: bool, scale: float, sharpness: float, seed: int
) -> None:
    head = head_of(inputs, classes, bias, seed)
    outputs = scale * random_steps(steps, inputs, seed=seed + 1)
    wanted = sharpness * random_steps(steps, classes, seed=seed + 2)
    found = divergence_readout(head, outputs, wanted)
    assert bool(found.weight.isfinite().all())
    before, after = (objective(each, head, outputs, wanted) for each in (head, found))
    assert after <= before + 1e-9 * abs(before) + 1e-12


@pytest.mark.parametrize("strong", [False, True], ids=["own ridge", "strong ridge"])
@pytest.mark.parametrize("bias", [True, False])
def test_the_divergence_comes_to_its_minimum(bias: bool, strong: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of a general optimizer, from the same start."""
    if strong:
        monkeypatch.setattr(readout, "RIDGE", 0.3)
    head, outputs, wanted = head_of(6, 4, bias), random_steps(300, 6), random_steps(300, 4, seed=2)
    found = divergence_readout(head, outputs, wanted)
    weight, own = (
        head.weight.clone().requires_grad_(),
        None if head.bias is None else head.bias.clone().requires_grad_(),
    )
    parameters = [weight] if own is None else [weight, own]
    optimizer = torch.optim.LBFGS(parameters, max_iter=500, line_search_fn="strong_wolfe", tolerance_change=1e-14)
    ridge = readout.RIDGE * (outputs.square().sum() + (len(outputs) if bias else 0)) / (len(outputs) * (6 + bias))

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = divergence(torch.nn.functional.linear(outputs, weight, own), wanted.softmax(-1))
        loss = loss + ridge / 2 * (weight - head.weight).square().sum()
        if own is not None and head.bias is not None:
            loss = loss + ridge / 2 * (own - head.bias).square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    best = objective(Consumer("", weight.detach(), None, None if own is None else own.detach()), head, outputs, wanted)
    start, reached = (objective(each, head, outputs, wanted) for each in (head, found))
    assert best - 1e-9 <= reached <= best + 1e-4 * (start - best)


@pytest.mark.parametrize("bias", [True, False])
def test_a_score_that_is_not_finite_changes_nothing(bias: bool) -> None:
    head, outputs = head_of(3, 2, bias), random_steps(10, 3)
    outputs[0, 0] = torch.nan
    found = divergence_readout(head, outputs, random_steps(10, 2))
    assert torch.equal(found.weight, head.weight)
