"""How far long work is, in parts of parts, and how it is stopped.

Whoever does work in several steps splits the progress that it was given, and hands each step its own part; no step knows
what stands before or after it:

    reading, fitting = split(progress, 1, 3)  # fitting takes three times as long
    data = read(progress=reading)
    return fit(data, progress=fitting)
"""

from collections.abc import Callable

# (fraction done, what is being done). It raises Cancelled to stop, or returns True where what was reached so far is enough,
# to work that can end early.
Progress = Callable[[float, str], bool | None]


class Cancelled(Exception):
    """A run was asked to stop before it finished: to be raised by the `progress` that was handed to it.

    >>> from pruner import Cancelled, Recipe, run
    >>> from pruner.examples import named
    >>> def stop(fraction, what):
    ...     raise Cancelled
    >>> try:
    ...     run(named("embedded-reber").open(), Recipe(), progress=stop)
    ... except Cancelled:
    ...     print("stopped")
    stopped
    """


def silent(fraction: float, what: str) -> None:
    """The progress of work that nobody watches."""


def split(progress: Progress, *weights: float) -> list[Progress]:
    """One progress for each of several steps that follow each other, by their share of the time."""
    total = sum(weights)
    starts = [sum(weights[:index]) / total for index in range(len(weights))]
    return [_part(progress, start, weight / total) for start, weight in zip(starts, weights, strict=True)]


def _part(progress: Progress, start: float, share: float) -> Progress:
    return lambda fraction, what: progress(start + share * fraction, what)
