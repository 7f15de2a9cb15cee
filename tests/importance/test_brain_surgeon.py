"""The order of removal: at every turn the unit without which all readers, refitted on the others, lose least."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pruner.importance.brain_surgeon import BLOCK, RIDGE, removal_order


def problem(size: int, readers: int, seed: int) -> tuple[Tensor, Tensor]:
    """A covariance (H, H) and readers (M, H)."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(size, size, generator=generator, dtype=torch.float64)
    return mixing @ mixing.t() / size, torch.randn(readers, size, generator=generator, dtype=torch.float64)


def ridged(covariance: Tensor) -> Tensor:
    return covariance + RIDGE * covariance.diagonal().mean() * torch.eye(len(covariance), dtype=torch.float64)


def by_least_squares(covariance: Tensor, readers: Tensor) -> tuple[list[int], list[float]]:
    """Refit every reader on each possible rest, and take the cheapest, turn by turn."""
    data = np.linalg.cholesky(ridged(covariance).numpy()).T  # as many steps as units, with exactly that covariance
    wanted = data @ readers.numpy().T
    alive, order, costs, lost = list(range(len(covariance))), [], [], 0.0
    while alive:
        losses = {}
        for unit in alive:
            rest = [other for other in alive if other != unit]
            found = data[:, rest] @ np.linalg.lstsq(data[:, rest], wanted, rcond=None)[0] if rest else 0 * wanted
            losses[unit] = float(np.square(wanted - found).sum())
        cheapest = min(losses, key=losses.__getitem__)
        order.append(cheapest)
        costs.append(losses[cheapest] - lost)
        lost = losses[cheapest]
        alive.remove(cheapest)
    return order, costs


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("readers", [1, 3, 20])
def test_the_order_is_that_of_refitting_every_candidate(seed: int, readers: int) -> None:
    covariance, reading = problem(8, readers, seed)
    order, costs = removal_order(covariance, reading.t() @ reading)
    wanted_order, wanted_costs = by_least_squares(covariance, reading)
    assert order.tolist() == wanted_order
    assert costs.tolist() == pytest.approx(wanted_costs, rel=1e-8, abs=1e-8 * sum(wanted_costs))


def one_at_a_time(covariance: Tensor, importance: Tensor) -> tuple[list[int], list[float]]:
    """The same with both matrices brought up to date after every unit."""
    inverse, importance = torch.linalg.inv(ridged(covariance)), importance.clone()
    alive, order, costs = torch.ones(len(covariance), dtype=torch.bool), [], []
    for _ in range(len(covariance)):
        price = importance.diagonal() / inverse.diagonal()
        unit = int(torch.where(alive, price, torch.inf).argmin())
        order.append(unit)
        costs.append(float(price[unit]))
        refit = -inverse[unit] / inverse[unit, unit]
        refit[unit], refit[~alive] = 0, 0
        read = importance[unit] + importance[unit, unit] * refit / 2
        importance += torch.outer(read, refit) + torch.outer(refit, read)
        inverse -= torch.outer(inverse[unit], inverse[unit]) / inverse[unit, unit]
        alive[unit] = False
        importance[unit], importance[:, unit], inverse[unit], inverse[:, unit] = 0, 0, 0, 0
        inverse[unit, unit] = 1
    return order, costs


@pytest.mark.parametrize("size", [BLOCK - 1, BLOCK, BLOCK + 1, 150])
def test_blocks_of_updates_change_nothing(size: int) -> None:
    assert 2 * BLOCK < 150
    covariance, reading = problem(size, size, 3)
    order, costs = removal_order(covariance, reading.t() @ reading)
    wanted_order, wanted_costs = one_at_a_time(covariance, reading.t() @ reading)
    assert order.tolist() == wanted_order
    assert costs.tolist() == pytest.approx(wanted_costs, rel=1e-8)


def test_units_that_nobody_reads_go_first_and_cost_nothing() -> None:
    covariance, reading = problem(8, 5, 0)
    reading[:, [2, 6]] = 0
    order, costs = removal_order(covariance, reading.t() @ reading)
    assert set(order[:2].tolist()) == {2, 6}
    assert costs[:2].tolist() == [0, 0] and float(costs[2]) > 0


def test_a_unit_that_repeats_another_is_nearly_free() -> None:
    covariance, reading = problem(8, 5, 0)
    twins = torch.tensor([0, 1, 2, 3, 4, 5, 6, 3])  # unit 7 does what unit 3 does
    doubled, importance = covariance[twins][:, twins], reading.t() @ reading
    order, costs = removal_order(doubled, importance)
    first = int(order[0])
    assert first in (3, 7)
    # If its readers turned to its twin alone, they would lose what the ridge tells the two apart by.
    ridge = RIDGE * float(doubled.diagonal().mean())
    assert float(costs[0]) <= float(importance[first, first]) * 2 * ridge < float(costs[1])


@given(st.integers(1, 12), st.integers(0, 2**31), st.booleans())
def test_every_unit_goes_once_at_a_finite_cost(size: int, seed: int, dead: bool) -> None:
    covariance, reading = problem(size, 2, seed)
    if dead:  # a unit that never moves
        covariance[0], covariance[:, 0] = 0, 0
    before = covariance.clone()
    order, costs = removal_order(covariance, reading.t() @ reading)
    assert sorted(order.tolist()) == list(range(size))
    assert bool((costs >= 0).all()) and bool(costs.isfinite().all())
    assert torch.equal(covariance, before)


def test_units_that_never_move_have_an_order_all_the_same() -> None:
    order, costs = removal_order(torch.zeros(5, 5), torch.eye(5))
    assert sorted(order.tolist()) == list(range(5))
    assert costs.tolist() == pytest.approx([0] * 5, abs=1e-100)


def test_the_scale_of_activations_does_not_matter() -> None:
    covariance, reading = problem(8, 5, 1)
    order, costs = removal_order(covariance, reading.t() @ reading)
    small_order, small_costs = removal_order(covariance * 1e-12, reading.t() @ reading)
    assert torch.equal(order, small_order)
    torch.testing.assert_close(small_costs, costs * 1e-12, rtol=1e-6, atol=0)
