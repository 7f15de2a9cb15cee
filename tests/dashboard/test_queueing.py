"""Heavy work in worker processes: what comes back, how it is cancelled, and what a worker that dies takes along."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pruner.dashboard import queueing
from pruner.dashboard.forked import NEEDED
from pruner.dashboard.jobs import Job
from pruner.dashboard.limits import Limits
from pruner.dashboard.queueing import Queue, ordinal
from pruner.dashboard.workspaces import Workspaces
from pruner.files.opening import open_checkpoint
from pruner.progress import Cancelled
from tests.helpers.files import saved, saved_in
from tests.helpers.heavy import (
    Seen,
    be_deaf,
    count_up,
    die,
    double,
    fall_over,
    hold,
    last,
    look_around,
    look_at_file,
    look_at_rank,
    make_what_does_not_pickle,
    overdo,
    refuse,
    run_calls,
    slip,
    square_all,
    tell_who,
)
from tests.helpers.models import named, random_lstm
from tests.helpers.pages import wait
from tests.helpers.project import PROJECT


@pytest.fixture(scope="module")
def queue() -> Queue:
    """With as many workers as most machines have cores at least, and room for a few jobs of a visitor."""
    return Queue(Limits(workers=2, jobs_a_visitor=3))


def begin(queue: Queue, work: Any, visitor: str = "a", seen: Seen = lambda found: None) -> Job[Any]:
    return Job(partial(queue.compute, visitor, work, seen))


def until(true: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_there(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("module", NEEDED)
def test_what_workers_are_to_have_imported_is_there(module: str) -> None:
    assert find_spec(module)


def test_work_is_done_elsewhere_and_its_turn_ends_with_it(queue: Queue) -> None:
    found = [wait(begin(queue, look_around)).status.result for _ in range(3)]
    assert len({*found, os.getpid()}) == 4
    until(lambda: not any(map(is_there, found)))


def test_pages_go_before_workers_and_these_go_first_where_memory_ends(queue: Queue) -> None:
    nice, first = wait(begin(queue, look_at_rank)).status.result
    assert nice > os.nice(0) and int(first) > int(Path("/proc/self/oom_score_adj").read_text())


def test_progress_moments_and_enough_cross_the_border(queue: Queue) -> None:
    numbers: list[int] = []
    job = begin(queue, partial(count_up, 50), seen=numbers.append)
    until(lambda: job.status.what == "50 are seen")
    assert (job.status.fraction, job.status.state, numbers) == (0.25, "running", [*range(50)])
    job.enough()
    assert wait(job).status.result == "enough"


def test_what_is_there_already_comes_back_as_what_it_is(queue: Queue) -> None:
    checkpoint = open_checkpoint(saved(named(random_lstm())), "small.pt")
    tensor, seen = torch.arange(6.0).view(2, 3).t(), list[Tensor]()
    job = wait(begin(queue, partial(double, checkpoint, tensor), seen=seen.append))
    found, same, doubled, source = job.status.result
    assert found is checkpoint and source is checkpoint.source
    assert same.data_ptr() == seen[0].data_ptr() == tensor.data_ptr() and torch.equal(same, tensor)
    assert torch.equal(doubled, 2 * checkpoint.tensors["bias_hh_l0"])


def test_a_file_is_mapped_by_both_wherever_it_has_gone(queue: Queue, tmp_path: Path) -> None:
    checkpoint = saved_in(tmp_path, named(random_lstm()))
    expected = 2 * checkpoint.tensors["weight_ih_l0"]
    for change in (lambda path: os.utime(path, (1, 1)), Path.unlink):
        is_mapped, in_file, doubled = wait(begin(queue, partial(look_at_file, checkpoint))).status.result
        assert is_mapped and in_file and torch.equal(doubled, expected)
        change(tmp_path / "model.pt")


@pytest.mark.parametrize("wish", ["cancel", "enough"])
def test_work_that_has_just_ended_is_not_taken_for_a_worker_that_died(queue: Queue, tmp_path: Path, wish: str) -> None:
    path = tmp_path / "worker"

    def wishes_too_late(fraction: float, what: str) -> bool:
        until(lambda: path.exists() and path.read_text() != "" and not is_there(int(path.read_text())))
        if wish == "cancel":
            raise Cancelled
        return True

    if wish == "cancel":
        with pytest.raises(Cancelled):
            queue.compute("a", partial(tell_who, path), print, wishes_too_late)
    else:
        assert queue.compute("a", partial(tell_who, path), print, wishes_too_late) == "told"


@pytest.mark.parametrize("work", [hold, be_deaf])
def test_cancelled_work_ends_within_a_second_and_cleans_up_if_it_can(
    queue: Queue, work: Callable[..., None], tmp_path: Path
) -> None:
    job = begin(queue, partial(work, tmp_path))
    until(lambda: any(tmp_path.iterdir()))
    (mark,) = tmp_path.iterdir()
    began = time.monotonic()
    job.cancel()
    assert wait(job).status.state == "cancelled" and time.monotonic() - began < 1.0
    until(lambda: not is_there(int(mark.name)))
    assert mark.exists() == (work is be_deaf)


def test_the_place_in_the_line_is_told_and_who_leaves_it_frees_it(queue: Queue, tmp_path: Path) -> None:
    computing = [begin(queue, partial(hold, tmp_path), visitor) for visitor in "ab"]
    until(lambda: len([*tmp_path.iterdir()]) == 2)
    waiting = []
    for place, visitor in enumerate("cde", 1):
        waiting.append(begin(queue, look_around, visitor))
        until(lambda place=place: waiting[-1].status.what.startswith(f"{ordinal(place)} in line"))
    waiting[1].cancel()
    assert wait(waiting[1]).status.state == "cancelled"
    until(lambda: waiting[2].status.what.startswith("2nd in line"))
    computing[0].cancel()
    assert {wait(waiting[index]).status.state for index in (0, 2)} == {"done"}
    computing[1].cancel()
    wait(computing[1])


def test_who_has_left_for_good_leaves_workers_and_line_to_others(queue: Queue, tmp_path: Path) -> None:
    now = 0.0
    workspaces = Workspaces(Limits(), lambda: now)
    jobs = {key: begin(queue, partial(hold, tmp_path), "gone") for key in ("run", "sweep", "shrink")}
    workspaces.join("gone", "model", jobs, jobs)
    until(lambda: sorted(job.status.what[:11] for job in jobs.values()) == ["1st in line", "holding", "holding"])
    other = begin(queue, look_around, "b")
    until(lambda: other.status.what.startswith("2nd in line"))
    now += Limits().idle_seconds
    workspaces.forget_idle()
    assert {wait(job).status.state for job in jobs.values()} == {"cancelled"}
    assert wait(other).status.state == "done"


def test_one_visitor_may_have_so_much_at_once(queue: Queue, tmp_path: Path) -> None:
    jobs = [begin(queue, partial(hold, tmp_path)) for _ in range(3)]
    until(lambda: jobs[2].status.what.startswith("1st in line"))
    assert "expected at most 3 pieces of work" in wait(begin(queue, look_around)).status.error
    for job in jobs:
        job.cancel()
        wait(job)
    assert wait(begin(queue, look_around)).status.state == "done"


@pytest.mark.parametrize(
    ("work", "told"),
    [
        (refuse, "expected *more*"),
        (overdo, "expected room to run the model, found: no room"),
        (partial(fall_over, signal.SIGKILL), "expected the process that computes this to go on"),
        (partial(fall_over, signal.SIGSEGV), "expected the process that computes this to go on"),
        (partial(run_calls, die), "expected the process that computes this to go on"),
    ],
    ids=["refused", "out of memory", "killed", "crashed", "a helper killed"],
)
def test_what_fails_takes_only_itself_along_and_says_so(
    queue: Queue, work: Callable[..., None], told: str, tmp_path: Path
) -> None:
    other = begin(queue, partial(hold, tmp_path), "b")
    until(lambda: any(tmp_path.iterdir()))
    assert told in wait(begin(queue, work)).status.error
    assert other.status.state == "running" and wait(begin(queue, look_around)).status.state == "done"
    other.cancel()
    wait(other)


@pytest.mark.parametrize("work", [slip, make_what_does_not_pickle])
def test_a_fault_that_nobody_foresaw_is_told_to_the_log(
    queue: Queue, work: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[Any] = []
    monkeypatch.setattr("threading.excepthook", logged.append)
    assert "fault" in wait(begin(queue, work)).status.error
    until(lambda: bool(logged))
    assert work.__name__ in "".join(logged[0].exc_value.__notes__) or "pickle" in str(logged[0].exc_value)


def test_calls_of_joblib_go_to_workers_of_their_own_as_turns_come(queue: Queue, tmp_path: Path) -> None:
    other = begin(queue, partial(hold, tmp_path), "b")
    until(lambda: any(tmp_path.iterdir()))
    found, own = wait(begin(queue, partial(square_all, 4))).status.result
    assert {index: value for index, (value, _) in found.items()} == {0: 0, 1: 1, 2: 4, 3: 9}
    assert len({process for _, process in found.values()} | {own}) == 5
    other.cancel()
    wait(other)


def test_calls_that_are_not_wanted_any_more_end(queue: Queue) -> None:
    job = begin(queue, partial(run_calls, last))
    until(lambda: job.status.what == "calling")
    time.sleep(0.2)
    job.enough()
    assert wait(job).status.result == "ended early"
    cancelled = begin(queue, partial(run_calls, last))
    until(lambda: cancelled.status.what == "calling")
    cancelled.cancel()
    wait(cancelled)
    assert {wait(begin(queue, look_around)).status.state for _ in range(2)} == {"done"}


def test_the_process_that_is_forked_may_die_and_comes_again(queue: Queue) -> None:
    wait(begin(queue, look_around))
    process = queue.forks._process
    assert process is not None
    process.kill()
    process.wait()
    assert wait(begin(queue, look_around)).status.state == "done"
    assert queue.forks._process is not process


def test_a_server_that_is_killed_leaves_no_process(tmp_path: Path) -> None:
    code = """
import sys, time
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from pruner.dashboard.forked import NEEDED
from pruner.dashboard.jobs import Job
from pruner.dashboard.limits import Limits
from pruner.dashboard.queueing import Queue
from tests.helpers.heavy import hold, last_marked, run_calls
queue, folder = Queue(Limits(workers=3)), Path(sys.argv[1])
for work in (partial(hold, folder), partial(run_calls, partial(last_marked, folder))):
    Job(partial(queue.compute, "a", work, print))
while len([*folder.iterdir()]) < 3:
    time.sleep(0.01)
print(queue.forks._process.pid, flush=True)
time.sleep(600)
"""
    server = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, cwd=PROJECT)
    with server:
        processes = [int(server.stdout.readline()), *(int(mark.name) for mark in tmp_path.iterdir())]
        assert len(processes) == 4 and all(map(is_there, processes))
        server.kill()
    until(lambda: not any(map(is_there, processes)), seconds=10.0)


def test_without_forks_work_is_done_here(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queueing, "CAN_FORK", False)
    assert wait(begin(queue, look_around)).status.result == os.getpid()


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (1, "1st"),
        (2, "2nd"),
        (3, "3rd"),
        (4, "4th"),
        (11, "11th"),
        (12, "12th"),
        (13, "13th"),
        (21, "21st"),
        (112, "112th"),
    ],
)
def test_places_are_ordinals(number: int, told: str) -> None:
    assert ordinal(number) == told
