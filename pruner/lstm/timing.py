"""Times taken in turns, and what they tell: how many times as fast one thing is as another, or that nobody can tell."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

TOO_NOISY = "too noisy to tell"
SURE = 1.2  # by what factor a figure may be off
PARTS = 4  # of the turns, in which the figure must be the same
PATIENCE = 4  # times the seconds that were given, where so few turns would take longer

Clock = Callable[[], float]
Call = Callable[[], Any]


def in_turns(
    calls: Mapping[str, Call], seconds: float, most: int | None = None, clock: Clock = time.perf_counter
) -> dict[str, list[float]]:
    """{name: the seconds that each call of it took}, all of them in turns (A B C A B C ...) for so many seconds in all, so
    that a slow moment of the machine meets all of them; at least `PARTS` turns, unless they take `PATIENCE` times as long,
    and at most `most`.

    What is timed comes right after another call of the same, so that nothing pays for the caches as another left them.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()  # the first time, much is prepared
    begun, turns = clock(), 0
    while turns != most and clock() - begun < seconds * (PATIENCE if turns < PARTS else 1):
        for name, call in calls.items():
            call()
            started = clock()
            call()
            times[name].append(clock() - started)
        turns += 1
    return times


def typical(times: Sequence[float]) -> float:
    """The median of the lowest quarter, which other work on the machine disturbs least."""
    return statistics.median(_lowest_quarter(times))


def times_as_fast(base: Sequence[float], other: Sequence[float]) -> float | None:
    """How many times as fast the other is as the base, from times taken in turns; None where they do not say it to within a
    factor of `SURE`.

    They do where the lowest quarter of either is of about the same times, each quarter of the turns gives about the same
    figure, and the median of all turns, each with its own pair, too. A machine that slows down meets both of a pair alike;
    one that now and then does other work disturbs few turns; but what is disturbed most of the time, or one more than the
    other, is no measurement.
    """
    turns = min(len(base), len(other))
    if turns < PARTS:
        return None
    cuts = [round(part * turns / PARTS) for part in range(PARTS + 1)]
    spans = [slice(*ends) for ends in pairwise(cuts)]
    figure = typical(base) / typical(other)
    by_part = [typical(base[span]) / typical(other[span]) for span in spans]
    paired = statistics.median(one / another for one, another in zip(base, other, strict=True))
    sure = all(figure / SURE <= found <= figure * SURE for found in (*by_part, paired))
    sure = sure and all(max(_lowest_quarter(times)) <= SURE * typical(times) for times in (base, other))
    return figure if sure else None


def in_words(figure: float | None) -> str:
    """`3.4×`, or that nobody can tell."""
    return TOO_NOISY if figure is None else f"{figure:.1f}×" if figure < 9.95 else f"{figure:.0f}×"


def _lowest_quarter(times: Sequence[float]) -> list[float]:
    return sorted(times)[: max(1, len(times) // 4)]
