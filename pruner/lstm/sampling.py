"""Symbols that a model draws one by one, each from what it makes of those before."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

Step = Callable[[Tensor], Tensor]


def drawn(
    ids: Tensor, read: Step, lstm: nn.Module, answer: Step, draw: Step, temperature: float = 1.0
) -> Iterator[Tensor]:
    """Without end, the next ids (B, 1) after `ids` (B, T) and those drawn so far.

    `read` makes inputs (B, T, I) of ids, `answer` scores (B, V) of the output (B, R) of the last step; `draw` takes one id a
    line, (B, 1), from shares (B, V), which are those of the scores over the `temperature`.
    """
    state = None
    while True:
        with torch.no_grad():
            output, state = lstm(read(ids), state)
            ids = draw((answer(output[:, -1]) / temperature).softmax(1))
        yield ids


def by_dice(dice: Tensor) -> Step:
    """Draw by dice (B, N) that were thrown before, uniform in [0, 1), a column a step: models that share them differ only in
    what they find likely."""
    columns = iter(dice.T)

    def draw(shares: Tensor) -> Tensor:
        reached = shares.cumsum(1)
        at = torch.searchsorted(reached, next(columns)[:, None] * reached[:, -1:], right=True)
        return at.clamp(max=shares.shape[1] - 1)

    return draw


def thrown(lines: int, steps: int, seed: int = 0) -> Tensor:
    """Dice (lines, steps) in [0, 1): the same for the same seed."""
    return torch.rand(lines, steps, generator=torch.Generator().manual_seed(seed))
