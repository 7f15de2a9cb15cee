"""Timing in a process of its own, one at a time: whatever else goes on in this one takes no part in it."""

import contextlib
import json
import os
import pickle
import queue
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pruner.errors import PrunerError
from pruner.lstm.timing import Call
from pruner.progress import Progress

BATCH_SIZES = (1, 32)
PATIENCE = 0.2  # seconds between two looks at whether to stop
_TIMER = Path(__file__).with_name("timing_process.py")  # a script: what it sets stays in its own process
_ONE_AT_A_TIME = threading.Lock()  # two that are timed at once disturb each other


class Contender(Protocol):
    """What can be timed; it pickles."""

    def call(self, batch_size: int, threads: int) -> Call: ...


@dataclass(frozen=True)
class Asked:
    """What the process is to time, and for how many seconds in each setting."""

    contenders: Mapping[str, Contender]
    seconds: float


@dataclass(frozen=True)
class Timed:
    """The seconds of every turn of each contender, by its name, at a batch size and a number of threads."""

    batch_size: int
    threads: int
    times: dict[str, list[float]]


def timed_apart(contenders: Mapping[str, Contender], seconds: float, progress: Progress) -> list[Timed]:
    """Times at each of `BATCH_SIZES`, with one thread and then, where there are more, with as many as PyTorch takes.

    Raises PrunerError if the process ends early, as it does where the models do not fit into the memory that is there.
    """
    while not _ONE_AT_A_TIME.acquire(timeout=PATIENCE):
        progress(0.0, "Waiting until others are timed")
    try:
        return _timed(Asked(contenders, seconds), progress)
    finally:
        _ONE_AT_A_TIME.release()


def _timed(asked: Asked, progress: Progress) -> list[Timed]:
    process = subprocess.Popen(  # noqa: S603 - our own interpreter and script
        [sys.executable, "-P", str(_TIMER), str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    lines: queue.Queue[bytes] = queue.Queue()
    talk = threading.Thread(target=_talk, args=(process, asked, lines), daemon=True)
    talk.start()
    found: list[Timed] = []
    try:
        count = json.loads(_next(lines, progress, 0.0))
        while len(found) < count:
            found.append(Timed(*json.loads(_next(lines, progress, len(found) / count))))
        return found
    finally:
        process.kill()
        talk.join()
        process.wait()


def _talk(process: subprocess.Popen[bytes], asked: Asked, lines: queue.Queue[bytes]) -> None:
    """Ask the process, and hand its answers over, an empty one at its end."""
    assert process.stdin is not None and process.stdout is not None  # noqa: S101 - both are pipes
    with contextlib.suppress(OSError), process.stdin as stream:  # it may end before it has heard all
        pickle.dump(asked, stream)
    with process.stdout as answers:
        for line in answers:
            lines.put(line)
    lines.put(b"")


def _next(lines: queue.Queue[bytes], progress: Progress, share: float) -> bytes:
    """The next answer, while the progress is told several times a second and may stop it."""
    while True:
        progress(share, "Measuring the time")
        try:
            line = lines.get(timeout=PATIENCE)
        except queue.Empty:
            continue
        if not line:
            raise PrunerError(
                "expected room to time the models side by side, found that their process ended early; close other programs, "
                "or try a smaller model"
            )
        return line
