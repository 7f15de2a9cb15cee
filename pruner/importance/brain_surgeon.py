"""In which order hidden units go, and what each costs when those that stay are refitted after it."""

import torch
from torch import Tensor

RIDGE = 1e-3  # of the mean variance, so that the covariance can be inverted
LEAST = 1e-100  # what the mean variance counts as where no unit ever moves
BLOCK = 64


def removal_order(covariance: Tensor, importance: Tensor) -> tuple[Tensor, Tensor]:
    """The order (H,) int64 of removal, first to last, and the cost (H,) of each unit at its turn.

    `covariance` (H, H) is that of the units, `importance` (H, H) what an error in them costs. At each turn the unit of least
    `importance_jj / inverse_covariance_jj` goes, the loss when what reads it is refitted on the others by least squares;
    both matrices are then brought up to date in O(H²), so that one pass gives the order for every sparsity. This is the
    optimal brain surgeon (Hassibi & Stork 1993, "Second order derivatives for network pruning") with the Kronecker-factored
    curvature of Dong, Chen & Pan 2017, "Learning to prune deep neural networks via layer-wise optimal brain surgeon".
    """
    size = len(covariance)
    variance = covariance.diagonal().double().mean().clamp(min=LEAST)
    inverse = torch.linalg.inv(covariance.double() + RIDGE * variance * torch.eye(size, dtype=torch.float64))
    importance = importance.double().clone()
    alive = torch.ones(size, dtype=torch.float64)
    diagonals = inverse.diagonal().clone(), importance.diagonal().clone()
    order, costs = [], []
    # Updates are collected and applied `BLOCK` at once: a product of matrices is faster than as many outer products.
    for start in range(0, size, BLOCK):
        count = min(BLOCK, size - start)
        columns, refits, reads = (torch.zeros(size, count, dtype=torch.float64) for _ in range(3))
        for turn in range(count):
            ratio = torch.where(alive > 0, diagonals[1] / diagonals[0], torch.inf)
            unit = int(ratio.argmin())
            order.append(unit)
            costs.append(max(float(ratio[unit]), 0.0))
            column = alive * (inverse[unit] - columns @ columns[unit])
            read = alive * (importance[unit] + reads @ refits[unit] + refits @ reads[unit])
            refit = -column / column[unit]  # what each other unit takes over from this one
            refit[unit] = 0
            read = read + read[unit] / 2 * refit
            columns[:, turn] = column / column[unit].sqrt()
            refits[:, turn], reads[:, turn] = refit, read
            diagonals[0].sub_(columns[:, turn].square())
            diagonals[1].add_(2 * read * refit)
            alive[unit] = 0
        inverse -= columns @ columns.t()
        importance += reads @ refits.t() + refits @ reads.t()
    return torch.tensor(order), torch.tensor(costs, dtype=torch.float64)
