"""Timing that tells what a test wants: no test depends on how fast anything is."""

from collections.abc import Mapping

import pytest

from pruner.exports.speed.apart import BATCH_SIZES, Contender, Timed
from pruner.progress import Progress

TURNS = 8
SECONDS = {"PyTorch": 6.0, "ONNX Runtime": 3.0, "ONNX Runtime, int8": 1.5}  # of the dense model; any other takes half


def tell(monkeypatch: pytest.MonkeyPatch, *, busy: bool = False, threads: tuple[int, ...] = (1, 2)) -> list[str]:
    """Have every contender run once, and its times told as `SECONDS` has them, of a busy machine by turns of very different
    length. Returns the list that the contenders' names go to."""
    timed: list[str] = []

    def told(contenders: Mapping[str, Contender], seconds: float, progress: Progress) -> list[Timed]:
        progress(0.5, "Measuring the time")
        for contender in contenders.values():
            contender.call(2, 1)()
        timed.extend(contenders)
        times = {title: _times(title, busy) for title in contenders}
        return [Timed(batch_size, count, times) for count in threads for batch_size in BATCH_SIZES]

    monkeypatch.setattr("pruner.exports.speed.table.timed_apart", told)
    return timed


def _times(title: str, busy: bool) -> list[float]:
    model, _, runtime = title.partition(", ")
    taken = SECONDS[runtime] / (1 if model == "dense" else 2)
    return [taken * (1 + turn * turn if busy and model != "dense" else 1) for turn in range(TURNS)]
