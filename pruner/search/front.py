"""What nothing else beats: the Pareto front of size and loss, and the smallest that loses little enough."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeVar


class Rated(Protocol):
    """What a recipe leaves, see `sweep.Rated`."""

    @property
    def value(self) -> float: ...

    @property
    def macs_per_step(self) -> int: ...


Item = TypeVar("Item")
RatedItem = TypeVar("RatedItem", bound=Rated)


def front(items: Iterable[Item], key: Callable[[Item], tuple[Any, Any]]) -> list[Item]:
    """Those that no other beats in both parts of their key (cost, loss), the cheapest first."""
    found: list[Item] = []
    for item in sorted(items, key=key):
        if not found or key(item)[1] < key(found[-1])[1]:
            found.append(item)
    return found


def lost(value: float, dense: float, higher_is_better: bool) -> float:
    """By what share of the dense model's a value is worse; of a dense value of 0, which is a distance, the value itself."""
    worse = dense - value if higher_is_better else value - dense
    return worse / abs(dense) if dense else worse


def smallest_within(rated: Sequence[RatedItem], dense: float, higher_is_better: bool, share: float) -> RatedItem | None:
    """The recipe that leaves the least work of those that lose at most this share, if any does."""
    within = [each for each in rated if lost(each.value, dense, higher_is_better) <= share]
    return min(within, key=lambda each: (each.macs_per_step, lost(each.value, dense, higher_is_better)), default=None)
