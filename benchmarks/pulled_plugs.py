"""What is left of an export whose process is ended at a random moment, and of two that write to one place.

    python -m benchmarks.pulled_plugs

Kills `python -m pruner prune` 40 times, half with -9 and half with SIGTERM, half with a new folder as its place and half
with an empty one, half at any moment of its run and half while the export is written. Right after, the place holds a
verifiable export or none; after the same command was run once more, undisturbed, a verifiable one and nothing else, nor is
anything left beside it or among the temporary files. Then 20 pairs of the command write to one place at once: one exports,
the other says in one line why not. Last, a sweep is killed while its workers compute: none outlives it by 10 seconds.

Exits with 1 if anything of that fails.
"""

import io
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from pruner import PrunerError
from pruner.cli.main import main as run
from pruner.exports.verify import verify

KILLS, PAIRS, LONGEST = 40, 20, 10.0  # seconds that workers may outlive
WARM_UP = 60.0  # seconds that workers may take to begin


@dataclass(frozen=True)
class Workplace:
    """Folders for a model, for places of exports and for temporary files."""

    root: Path

    @property
    def model(self) -> Path:
        return self.root / "model.pt"

    @property
    def places(self) -> Path:
        return self.root / "places"

    @property
    def temporary(self) -> Path:
        return self.root / "temporary"

    def place(self, there: bool) -> Path:
        """Where an export goes, whose folder is there already or not."""
        place = self.places / "export"
        if there:
            place.mkdir()
        return place

    def start(self, *arguments: str | Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "pruner", *map(str, arguments)],
            env={**os.environ, "TMPDIR": str(self.temporary), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def prune(self, place: Path) -> subprocess.Popen[str]:
        return self.start("prune", self.model, "--granularity", "units", "--output", place)

    def next_start(self, place: Path) -> tuple[int, str]:
        """How the same command ends, run in this process, and what it says on stderr."""
        told = io.StringIO()
        with redirect_stdout(io.StringIO()), redirect_stderr(told):
            return run(["prune", str(self.model), "--granularity", "units", "--output", str(place)]), told.getvalue()

    def stray(self, place: Path) -> list[str]:
        """What lies beside a place, among the temporary files, and hidden within the place."""
        beside = [path for path in self.places.iterdir() if path != place]
        return [path.name for path in (*beside, *self.temporary.iterdir(), *place.glob(".*"))]

    def clear(self) -> None:
        for path in sorted(self.places.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()


@contextmanager
def workplace() -> Iterator[Workplace]:
    with tempfile.TemporaryDirectory() as folder:
        place = Workplace(Path(folder))
        place.places.mkdir()
        place.temporary.mkdir()
        tempfile.tempdir = str(place.temporary)  # of this process, too
        torch.manual_seed(0)
        lstm, embedding = nn.LSTM(256, 768, 2), torch.randn(10_000, 256)
        tensors = {**{f"lstm.{name}": tensor for name, tensor in lstm.state_dict().items()}, "embedding": embedding}
        torch.save(tensors, place.model)
        yield place


def whole(place: Path) -> bool:
    """Whether an export lies there that verifies."""
    try:
        return bool(verify(place))
    except PrunerError:
        return False


def being_written(work: Workplace, place: Path) -> bool:
    return any(work.places.glob(".export-*")) or any(place.glob(".export-*"))


def until(met: Callable[[], bool], seconds: float = WARM_UP) -> float:
    """Seconds that passed until something is met, or all of them."""
    started = time.monotonic()
    while not met() and time.monotonic() - started < seconds:
        time.sleep(0.002)
    return time.monotonic() - started


def undisturbed(work: Workplace) -> tuple[float, float]:
    """Seconds that the command takes until it writes, and then to its end."""
    place = work.place(there=False)
    process = work.prune(place)
    before = until(lambda: being_written(work, place))
    after = until(lambda: process.poll() is not None)
    assert process.returncode == 0 and whole(place) and not work.stray(place), "an export that nobody disturbs"
    work.clear()
    return before, after


def kill(work: Workplace, which: signal.Signals, there: bool, writing: bool, times: tuple[float, float]) -> list[str]:
    """What is found after a kill, and what is wrong with it."""
    place = work.place(there)
    process = work.prune(place)
    if writing:
        until(lambda: being_written(work, place) or process.poll() is not None)
        time.sleep(random.uniform(0, times[1]))
    else:
        time.sleep(random.uniform(0, sum(times)))
    process.send_signal(which)
    _, told = process.communicate()
    found = whole(place)
    left = bool(work.stray(place)) or (not found and place.exists() and any(place.iterdir()))
    expected = {signal.SIGKILL: (0, -9), signal.SIGTERM: (0, 143, -15)}[which]  # -15: before the command has begun
    wrong = [f"exit {process.returncode}: {told}"] if process.returncode not in expected else []
    if which == signal.SIGTERM and left:
        wrong.append("SIGTERM left files behind")
    if (place / "manifest.json").exists() and not found:
        wrong.append("a manifest of an export that is not whole")
    ended, told = work.next_start(place)
    if (ended != 0) if not found else (ended != 2 or "in use" not in told):
        wrong.append(f"the next start exits with {ended}: {told}")
    if not whole(place):
        wrong.append("no whole export after the next start")
    if stray := work.stray(place):
        wrong.append(f"left after the next start: {', '.join(stray)}")
    work.clear()
    return ["whole" if found else "none", "left" if left else "clean", *wrong]


def pair(work: Workplace, there: bool) -> list[str]:
    """What is wrong after two commands wrote to one place."""
    place = work.place(there)
    both = [work.prune(place), work.prune(place)]
    told = [process.communicate()[1] for process in both]
    ended = sorted(process.returncode for process in both)
    message = max(told, key=len)
    wrong = [] if ended == [0, 2] else [f"they exit with {ended}: {told}"]
    if message.count("\n") != 1 or not message.startswith("error: expected"):
        wrong.append(f"no clear message: {message!r}")
    if not whole(place) or work.stray(place):
        wrong.append(f"not one whole export, or more: {work.stray(place)}")
    work.clear()
    return wrong


def orphans(work: Workplace) -> tuple[int, float, list[str]]:
    """How many processes a sweep had when it was killed, seconds until all were gone, and what is wrong with that."""
    model = work.root / "example.safetensors"
    work.start("examples", "embedded-reber", "--output", model).wait()
    recipe = ("--granularity", "units", "--criterion", "obs", "--compensation", "heal", "--budget", "5m")
    process = work.start("sweep", model, *recipe)
    until(lambda: len(computing(process.pid)) >= 2)
    count = len(members(process.pid))
    process.kill()
    process.wait()
    seconds = until(lambda: not members(process.pid), 2 * LONGEST)
    left = members(process.pid)
    for number in left:
        os.kill(number, signal.SIGKILL)
    return count, seconds, [f"{len(left)} processes after {seconds:.0f} s"] if seconds > LONGEST else []


def members(session: int) -> list[int]:
    """The processes of a session."""
    found = subprocess.run(["ps", "-o", "pid=,stat=", "-s", str(session)], capture_output=True, text=True).stdout
    return [int(line.split()[0]) for line in found.splitlines() if not line.split()[1].startswith("Z")]


def computing(session: int) -> list[int]:
    """Workers of a session that have computed for a while."""
    columns = "pid=,cputimes=,args="
    found = subprocess.run(["ps", "-o", columns, "-s", str(session)], capture_output=True, text=True).stdout
    lines = [line.split(maxsplit=2) for line in found.splitlines() if "LokyProcess" in line]
    return [int(number) for number, seconds, _ in lines if int(seconds) >= 10]


def main() -> int:
    random.seed(0)
    failures = list[str]()
    with workplace() as work:
        times = undisturbed(work)
        print(f"undisturbed: {times[0]:.1f} s until the export is written, {times[1]:.1f} s for that and the end")
        print(f"\n{'signal':8} {'folder':9} {'killed':15} {'whole':>5} {'none':>5} {'left behind':>12} {'failed':>7}")
        for which in (signal.SIGKILL, signal.SIGTERM):
            for there in (False, True):
                for writing in (False, True):
                    found = [kill(work, which, there, writing, times) for _ in range(KILLS // 8)]
                    wrong = [each[2:] for each in found if each[2:]]
                    failures += [f"{which.name}: {', '.join(each)}" for each in wrong]
                    counted = Counter(word for each in found for word in each[:2])
                    folder, moment = "existing" if there else "new", "while it writes" if writing else "at any moment"
                    print(
                        f"{which.name:8} {folder:9} {moment:15} {counted['whole']:5} {counted['none']:5} "
                        f"{counted['left']:12} {len(wrong):7}",
                        flush=True,
                    )
        for there in (False, True):
            wrong = [each for _ in range(PAIRS // 2) if (each := pair(work, there))]
            failures += [", ".join(each) for each in wrong]
            folder = "an existing" if there else "a new"
            print(f"{PAIRS // 2} pairs into {folder} folder: {len(wrong)} failed", flush=True)
        count, seconds, wrong = orphans(work)
        failures += wrong
        print(f"a sweep of {count} processes, killed -9: all gone after {seconds:.1f} s")
    for failure in failures:
        print("FAILED", failure)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
