"""Scores from what an LSTM does on calibration inputs, and the random one that each should beat.

Each is one function of a layer's statistics; the lower, the sooner a unit or row goes.
"""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from pruner.calibration.observations import LayerStatistics
from pruner.errors import PrunerError
from pruner.importance.brain_surgeon import removal_order

Found = TypeVar("Found")
LEAST = 1e-100  # what the mean of what reads a layer counts as where nothing does


def activation(statistics: LayerStatistics) -> Tensor:
    """(H,): mean absolute value of each unit (Hu et al. 2016, "Network Trimming", who count what is not zero)."""
    return statistics.activation


def taylor(statistics: LayerStatistics) -> Tensor:
    """(H,): mean |unit * gradient|, the first-order change of the loss without the unit (Molchanov et al. 2017, "Pruning
    convolutional neural networks for resource efficient inference"). Raises PrunerError without a task."""
    return _with_task(statistics.taylor_units)


def fisher(statistics: LayerStatistics) -> Tensor:
    """(H,): variance times importance, half of which is the second-order loss when the unit becomes its mean, the others
    as they are (Theis et al. 2018, "Faster gaze prediction with dense networks and Fisher pruning")."""
    return statistics.units.covariance.diagonal() * statistics.importance.diagonal()


def obs(statistics: LayerStatistics) -> Tensor:
    """(H,): what has been lost once a unit is gone, in the order of the optimal brain surgeon; see `brain_surgeon`.

    An error counts by what it costs and by how it is read, in equal parts: the Fisher information knows small errors
    only, and after many removals they are large; gates that are saturated now, and read much, then open.
    """
    importance, reading = statistics.importance, statistics.reading
    scale = importance.diagonal().mean() / reading.diagonal().mean().clamp(min=LEAST)
    order, costs = removal_order(statistics.units.covariance, (importance + scale * reading) / 2)
    # Steps without any cost, of units that nothing reads, still come one after the other.
    lost = costs.clamp(min=1e-12 * float(costs.max().clamp(min=1e-300))).cumsum(0)
    return torch.empty_like(lost).scatter_(0, order, lost)


UNIT_SCORES: dict[str, Callable[[LayerStatistics], Tensor]] = {
    "activation": activation,
    "taylor": taylor,
    "fisher": fisher,
    "obs": obs,
}


def taylor_rows(statistics: LayerStatistics, side: str) -> Tensor:
    """(4H,): mean |product * gradient| of each row of a packed weight. Raises PrunerError without a task."""
    return _with_task(statistics.taylor_rows)[side]


def fisher_rows(statistics: LayerStatistics, side: str) -> Tensor:
    """(4H,): variance of what a row adds to its gate, times how sensitive the loss is to that gate: twice the second-order
    loss when the row goes and its mean stays in the bias."""
    return statistics.parts[side][1] * statistics.sensitivity


ROW_SCORES: dict[str, Callable[[LayerStatistics, str], Tensor]] = {"taylor": taylor_rows, "fisher": fisher_rows}


def random_score(count: int, seed: int) -> Tensor:
    """(count,): random numbers, the same for the same seed; a score that does not beat them says nothing."""
    return torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _with_task(found: Found | None) -> Found:
    if found is None:
        raise PrunerError(
            "expected a task and the tensors that read the output for the criterion 'taylor', which needs a loss; found "
            "none; name both, or choose the criterion 'fisher' or 'obs'"
        )
    return found
