"""Work that the queue has done in workers: what it must cross, and all the ways in which it may end.

A module of its own that imports little, for every worker imports it anew.
"""

import os
import signal
import time
from collections.abc import Callable
from mmap import mmap
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pruner import PrunerError
from pruner.files.checkpoint import Checkpoint
from pruner.progress import Progress
from pruner.search.workers import as_they_come

Seen = Callable[[Any], object]


def look_around(seen: Seen, progress: Progress) -> int:
    progress(0.5, "looking")
    return os.getpid()


def look_at_rank(seen: Seen, progress: Progress) -> tuple[int, str]:
    return os.nice(0), Path("/proc/self/oom_score_adj").read_text().strip()


def count_up(to: int, seen: Seen, progress: Progress) -> str:
    for number in range(to):
        seen(number)
    while not progress(0.25, f"{to} are seen"):
        time.sleep(0.01)
    return "enough"


def hold(folder: Path, seen: Seen, progress: Progress) -> None:
    """Go on until cancelled, and clean up."""
    mark = folder / str(os.getpid())
    mark.touch()
    try:
        while True:
            progress(0.5, "holding")
            time.sleep(0.01)
    finally:
        mark.unlink()


def be_deaf(folder: Path, seen: Seen, progress: Progress) -> None:
    (folder / str(os.getpid())).touch()
    time.sleep(600)


def fall_over(how: int, seen: Seen, progress: Progress) -> None:
    os.kill(os.getpid(), how)


def refuse(seen: Seen, progress: Progress) -> None:
    raise PrunerError("expected *more*")


def overdo(seen: Seen, progress: Progress) -> None:
    raise MemoryError("no room")


def slip(seen: Seen, progress: Progress) -> None:
    raise KeyError("nothing")


def tell_who(path: Path, seen: Seen, progress: Progress) -> str:
    path.write_text(str(os.getpid()))
    return "told"


def make_what_does_not_pickle(seen: Seen, progress: Progress) -> Any:
    return lambda: None


def double(checkpoint: Checkpoint, tensor: Tensor, seen: Seen, progress: Progress) -> Any:
    seen(tensor)
    assert bytes(checkpoint.source.data[:2]) == b"PK"
    return checkpoint, tensor, 2 * checkpoint.tensors["bias_hh_l0"], checkpoint.source


def look_at_file(checkpoint: Checkpoint, seen: Seen, progress: Progress) -> tuple[bool, bool, Tensor]:
    """Whether the file is mapped, whether the tensors lie in it, and one of them, changed."""
    data, tensor = checkpoint.source.data, checkpoint.tensors["weight_ih_l0"]
    place = tensor.data_ptr() - torch.frombuffer(data, dtype=torch.uint8).data_ptr()
    return isinstance(data.obj, mmap), 0 <= place < len(data), 2 * tensor


def squared(number: int, stop: Callable[[], None]) -> tuple[int, int]:
    time.sleep(0.05)
    return number * number, os.getpid()


def square_all(count: int, seen: Seen, progress: Progress) -> Any:
    found = dict(as_they_come(squared, [(number,) for number in range(count)], lambda others: None))
    return found, os.getpid()


def last(stop: Callable[[], None]) -> None:
    while True:
        stop()
        time.sleep(0.01)


def last_marked(folder: Path, stop: Callable[[], None]) -> None:
    (folder / str(os.getpid())).touch()
    last(stop)


def die(stop: Callable[[], None]) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def run_calls(function: Any, seen: Seen, progress: Progress) -> str:
    """Have three calls run; "enough" makes nobody wait for them any more."""

    def look(others: bool) -> None:
        if progress(0.5, "calling"):
            raise TimeoutError

    try:
        return f"all {len(list(as_they_come(function, [()] * 3, look)))}"
    except TimeoutError:
        return "ended early"
