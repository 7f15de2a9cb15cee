"""What reads a shrunk LSTM fitted to what the dense model says, without changing the LSTM."""

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from pruner.compensation.conjugate_gradients import conjugate_gradients
from pruner.files.consumers import Consumer

RIDGE = 1e-4  # of the mean square of what a head reads
LEAST = 1e-30  # what that counts as where all of it is zero
PASSES, ITERATIONS = 6, 10
CHUNK = 8192  # steps whose products are formed at once


def _with_constant(outputs: Tensor, head: Consumer) -> tuple[Tensor, Tensor]:
    """Regressors and current weights of a head, the constant and the bias last if it has one."""
    if head.bias is None:
        return outputs, head.weight
    return torch.cat([outputs, outputs.new_ones(len(outputs), 1)], 1), torch.cat([head.weight, head.bias[:, None]], 1)


def _as_head(head: Consumer, weights: Tensor) -> Consumer:
    if head.bias is None:
        return replace(head, weight=weights.contiguous())
    return replace(head, weight=weights[:, :-1].contiguous(), bias=weights[:, -1].contiguous())


def least_squares_readout(head: Consumer, outputs: Tensor, wanted: Tensor) -> Consumer:
    """The head refitted so that it gives `wanted` (N, V), the dense model's scores, from `outputs` (N, D*R) of the shrunk
    one, with a ridge towards what it was."""
    regressors, weights = _with_constant(outputs, head)
    width = regressors.shape[1]
    gram = regressors.new_zeros(width, width, dtype=torch.float64)
    missing = gram.new_zeros(width, len(weights))
    for steps, scores in zip(regressors.split(CHUNK), wanted.split(CHUNK), strict=True):
        wide = steps.double()
        gram += wide.t() @ wide
        missing += wide.t() @ (scores - steps @ weights.t()).double()
    ridge = RIDGE * gram.diagonal().mean().clamp(min=LEAST) * torch.eye(width, dtype=gram.dtype, device=gram.device)
    change = torch.linalg.solve(gram + ridge, missing).t()
    return _as_head(head, weights + change.to(weights.dtype))


def divergence(scores: Tensor, shares: Tensor) -> Tensor:
    """Mean Kullback-Leibler divergence, in nats, of softmax(scores) (N, V) from the given shares (N, V)."""
    return (torch.special.xlogy(shares, shares) - shares * scores.log_softmax(-1)).sum(-1).mean()


def divergence_readout(head: Consumer, outputs: Tensor, wanted: Tensor) -> Consumer:
    """The head refitted so that its softmax diverges least from that of the dense model's scores `wanted` (N, V).

    The objective is convex: Newton steps by conjugate gradients, each with a backtracking line search, without which they
    can diverge; it never ends above where it began. A ridge holds the weights to what they were.
    """
    regressors, weights = _with_constant(outputs, head)
    start, count = weights, len(outputs)
    chunks = [
        (steps, scores.softmax(-1)) for steps, scores in zip(regressors.split(CHUNK), wanted.split(CHUNK), strict=True)
    ]
    squares = sum(float(steps.double().square().sum()) for steps, _ in chunks)
    ridge = RIDGE * max(squares / regressors.numel(), LEAST)

    def objective(weights: Tensor) -> float:
        losses = (float(divergence(steps @ weights.t(), shares)) * len(steps) for steps, shares in chunks)
        return sum(losses) / count + float(ridge / 2 * (weights - start).square().sum())

    value = objective(weights)
    for _ in range(PASSES):
        slope, diagonal = ridge * (weights - start), torch.full_like(weights, ridge)
        found = []  # the shares that the head gives now
        for steps, shares in chunks:
            now = (steps @ weights.t()).softmax(-1)
            found.append(now)
            slope = slope + (now - shares).t() @ steps / count
            diagonal = diagonal + (now * (1 - now)).t() @ steps.square() / count

        def curve(_: int, direction: Tensor, found: list[Tensor] = found) -> Tensor:
            bent = ridge * direction
            for (steps, _), now in zip(chunks, found, strict=True):
                moved = steps @ direction.t()
                bent += (now * (moved - (now * moved).sum(1, keepdim=True))).t() @ steps / count
            return bent

        change = conjugate_gradients(curve, -slope, partial(torch.div, other=diagonal), ITERATIONS, by_rows=False)
        length_of_step, descent = 1.0, float((slope * change).sum())
        # Not `>`: what is not a number is no descent either.
        while not (tried := objective(weights + length_of_step * change)) <= value + 1e-4 * length_of_step * descent:
            length_of_step /= 2
            if length_of_step < 1e-3:
                return _as_head(head, weights)
        weights, gained, value = weights + length_of_step * change, value - tried, tried
        if gained < 1e-6:
            break
    return _as_head(head, weights)
