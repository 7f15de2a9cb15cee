"""What nothing else beats: the Pareto front of size and loss, and the smallest that loses little enough."""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

Item = TypeVar("Item")
Key = Callable[[Item], tuple[Any, Any]]  # its cost, and what it loses


def front(items: Iterable[Item], key: Key[Item]) -> list[Item]:
    """Those that no other beats in both parts of their key, the cheapest first."""
    found: list[Item] = []
    for item in sorted(items, key=key):
        if not found or key(item)[1] < key(found[-1])[1]:
            found.append(item)
    return found


def lost(value: float, dense: float, higher_is_better: bool) -> float:
    """By what share of the dense model's a value is worse; of a dense value of 0, which is a distance, the value itself."""
    worse = dense - value if higher_is_better else value - dense
    return worse / abs(dense) if dense else worse


def smallest_within(items: Iterable[Item], key: Key[Item], loss: float) -> Item | None:
    """The cheapest of those that lose at most so much, if any does; of several the one that loses least."""
    return min((item for item in items if key(item)[1] <= loss), key=key, default=None)
