"""A few steps of conjugate gradients (Hestenes & Stiefel 1952), preconditioned."""

from collections.abc import Callable

import torch
from torch import Tensor

Map = Callable[[Tensor], Tensor]


def conjugate_gradients(
    curve: Callable[[int, Tensor], Tensor], wanted: Tensor, precondition: Map, steps: int, by_rows: bool
) -> Tensor:
    """The solution x of `curve(x) = wanted`, from zero, after so many steps; x is of the shape of `wanted`, (M, W).

    `curve(step, direction)` applies a symmetric, positive operator, `precondition` roughly its inverse. `by_rows`: the M
    rows are as many problems of their own, solved side by side.
    """

    def inner(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum(1, keepdim=True) if by_rows else (a * b).sum()

    tiny = torch.finfo(wanted.dtype).tiny  # where there is nothing to solve, 0 / tiny leaves no change
    solution, remaining = torch.zeros_like(wanted), wanted
    direction = scaled = precondition(remaining)
    size = inner(remaining, scaled)
    for step in range(steps):
        curved = curve(step, direction)
        length = size / inner(direction, curved).clamp(min=tiny)
        solution, remaining = solution + length * direction, remaining - length * curved
        scaled = precondition(remaining)
        new = inner(remaining, scaled)
        direction, size = scaled + new / size.clamp(min=tiny) * direction, new
    return solution
