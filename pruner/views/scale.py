"""The scale that the views of one model share: what a colour, or a place on an axis, stands for."""

from dataclasses import dataclass

import numpy as np

from pruner.lstm.gates import SIDES
from pruner.views.colours import CLIP_QUANTILE


@dataclass(frozen=True)
class Scale:
    """Values raw or `relative` to the median of their block; the four gates of a packed weight on one `shared` scale or
    each on its own; outliers `clipped` or not: a few would flatten the scale for all others."""

    relative: bool = False
    shared: bool = True
    clipped: bool = True

    @property
    def quantile(self) -> float:
        """The share of values that the scale reaches."""
        return CLIP_QUANTILE if self.clipped else 1.0

    def taken(self, blocks: np.ndarray) -> np.ndarray:
        """What is shown of the values (8, N) of the eight blocks."""
        return blocks / medians(blocks)[:, None] if self.relative else blocks

    def ranges(self, shown: np.ndarray) -> list[tuple[float, float]]:
        """Lowest and highest value of the scale of each of the eight blocks (8, N)."""
        gates = len(shown) // len(SIDES)
        parts = [side for side in np.split(shown, len(SIDES)) for _ in range(gates)] if self.shared else list(shown)
        return [(float(part.min()), float(np.quantile(part, self.quantile))) for part in parts]


def medians(blocks: np.ndarray) -> np.ndarray:
    """(N,) medians of the rows (N, M), never zero."""
    found: np.ndarray = np.maximum(np.median(blocks, axis=1), np.finfo(np.float32).tiny)
    return found
