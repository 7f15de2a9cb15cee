"""Workers: calls side by side, what they raise, how they are stopped, and that none leaves anything behind."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from pruner import Cancelled, PrunerError
from pruner.search.workers import Stop, as_they_come
from tests.helpers.project import PROJECT

TIMEOUT = 60  # seconds, on a busy machine


def double(number: int, stop: Stop) -> int:
    stop()
    return 2 * number


def endless(stop: Stop) -> None:
    """A call that takes as long as anybody waits for it."""
    ended = time.monotonic() + TIMEOUT
    while time.monotonic() < ended:
        stop()
        time.sleep(0.02)


def broken(stop: Stop) -> None:
    raise ValueError("broken")


def killed(stop: Stop) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def all_of(function: Callable[..., object], calls: Sequence[tuple[int, ...]]) -> dict[int, object]:
    return dict(as_they_come(function, calls, lambda waiting: None))


def cancel_at_once(function: Callable[..., object], count: int = 4) -> None:
    def stop_when_started(waiting: bool) -> None:
        if not waiting:
            raise Cancelled

    with pytest.raises(Cancelled):
        list(as_they_come(function, [()] * count, stop_when_started))


class Held:
    """Endless calls in a thread of their own, until they are let go."""

    def __init__(self) -> None:
        self.started, self._let_go = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._hold)
        self._thread.start()
        assert self.started.wait(TIMEOUT)

    def _hold(self) -> None:
        def look(waiting: bool) -> None:
            self.started.set()
            if self._let_go.is_set():
                raise Cancelled

        with pytest.raises(Cancelled):
            list(as_they_come(endless, [()], look))

    def let_go(self) -> None:
        self._let_go.set()
        self._thread.join()


def deaf(stop: Stop) -> bool:
    return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="no masks of signals here")
def test_workers_hear_no_ctrl_c_from_their_first_moment() -> None:
    assert all_of(deaf, [()]) == {0: True}
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_every_call_is_known_by_its_place() -> None:
    assert all_of(double, [(number,) for number in range(20)]) == {number: 2 * number for number in range(20)}
    assert all_of(double, []) == {}


def test_what_a_call_raises_reaches_the_caller_and_the_workers_go_on() -> None:
    with pytest.raises(ValueError, match="broken"):
        all_of(broken, [()] * 3)
    assert all_of(double, [(1,)]) == {0: 2}


def test_what_was_cancelled_is_no_hindrance_to_what_comes_next() -> None:
    started = time.monotonic()
    for _ in range(4):
        cancel_at_once(endless)
        assert all_of(double, [(1,), (2,)]) == {0: 2, 1: 4}
    assert time.monotonic() - started < TIMEOUT  # the endless calls were stopped


def test_callers_wait_for_each_other_and_none_is_stopped_with_another() -> None:
    held, looks = Held(), list[bool]()

    def look(waiting: bool) -> None:
        looks.append(waiting)
        if looks == [True] * 3:
            held.let_go()

    assert dict(as_they_come(double, [(1,), (2,)], look)) == {0: 2, 1: 4}
    assert looks[:3] == [True] * 3 and looks == sorted(looks, reverse=True)


def test_whoever_waits_can_be_cancelled_too() -> None:
    held = Held()

    def look(waiting: bool) -> None:
        raise Cancelled

    try:
        with pytest.raises(Cancelled):
            list(as_they_come(double, [(1,)], look))
    finally:
        held.let_go()
    assert all_of(double, [(1,)]) == {0: 2}


def test_a_killed_worker_ends_the_calls_of_its_time_alone() -> None:
    with pytest.raises(PrunerError, match="expected all workers to compute to their end, found one killed"):
        all_of(killed, [()] * 3)
    assert all_of(double, [(1,), (2,)]) == {0: 2, 1: 4}


SEARCH = """
import sys, threading, time
from pruner.search.workers import as_they_come

def endless(stop):
    print("computing", flush=True)
    until = time.monotonic() + 100
    while time.monotonic() < until:
        stop()
        time.sleep(0.02)

def search():
    list(as_they_come(endless, [()] * 4, lambda waiting: None))

threading.Thread(target=search, daemon=True).start()
sys.stdin.read()
"""


@pytest.mark.parametrize("end", ["killed", "at its end"])
def test_no_worker_outlives_its_parent(end: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SEARCH],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=PROJECT,
        start_new_session=True,
    ) as process:
        assert process.stdout and process.stdin
        assert process.stdout.readline() == b"computing\n"
        process.kill() if end == "killed" else process.stdin.close()
        process.wait(TIMEOUT)
        started = time.monotonic()
        with pytest.raises(ProcessLookupError):  # of a group that has no process any more
            while time.monotonic() - started < 10:
                os.killpg(process.pid, 0)
                time.sleep(0.05)


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert all_of(double, [(1,)]) == {0: 2}
    cancel_at_once(endless)
    assert all_of(double, [(1,)]) == {0: 2}  # whoever was stopped before has ended when this begins
    started = time.monotonic()
    while list(tmp_path.glob(".export-*")):  # a busy machine ends the last call unheard
        assert time.monotonic() - started < TIMEOUT
        time.sleep(0.05)
