"""What a file of one gigabyte takes: peak memory of every command, as a multiple of the file, and the CPU time of `prune`.

    python -m benchmarks.large [--hidden 4000]

The file, an LSTM of two layers between an embedding and a linear layer, is made in both containers. Every command runs in a
process of its own. Its peak is the largest resident memory of that process, mapped pages included, less that of the same
command on a tiny file. CPU time likewise, and the certificate's is taken off and told apart.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from benchmarks.rows import Row, Unavailable
from pruner.compact.layout import masked_layout
from pruner.exports.certificate import as_stored, certify, length_to_certify
from pruner.files.opening import open_checkpoint

TAKES = 240
MOST_MEMORY, MOST_CPU_SECONDS = 2.2, 6.0  # times the file; beside the certificate
HIDDEN, TINY = 4000, 16
JOURNEYS = ("rows masked", "units compact")
SCRATCH = 6  # times the file, on the disk


def make(path: Path, hidden_size: int) -> None:
    """A random model in the container that the name of the file says."""
    torch.manual_seed(0)
    modules = {
        "embedding": nn.Embedding(1024, hidden_size),
        "lstm": nn.LSTM(hidden_size, hidden_size, 2),
        "head": nn.Linear(hidden_size, 16),
    }
    tensors = {f"{name}.{key}": value for name, each in modules.items() for key, value in each.state_dict().items()}
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path)


def cost_of(*command: str | Path) -> tuple[float, float]:
    """(bytes of the largest resident memory, seconds of CPU) of a command of the pruner in a process of its own."""
    arguments = [sys.executable, "-m", "pruner", *map(str, command)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process, peak, ended = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, env=environment), 0, 0
    while not ended:  # the rusage of a process begins with the peak of the one that started it, so that does not tell
        peak = max(peak, high_water(process.pid))
        time.sleep(0.02)
        ended, status, used = os.wait4(process.pid, os.WNOHANG)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(arguments)} ended with {process.returncode}")
    return peak, used.ru_utime + used.ru_stime


def high_water(process: int) -> int:
    """The largest resident memory that a process has had, in bytes."""
    status = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    lines = (line.split() for line in status.splitlines())
    return next((int(line[1]) * 1024 for line in lines if line and line[0] == "VmHWM:"), 0)


def seconds_of_certificate(path: Path) -> float:
    """The CPU time of a certificate of the LSTMs of a file."""
    checkpoint = open_checkpoint(path)
    masks = {name: torch.ones(len(tensor), dtype=torch.bool) for name, tensor in checkpoint.tensors.items()}
    layouts = [masked_layout(lstm, masks) for lstm in checkpoint.lstms]
    both = (as_stored(layouts, checkpoint.tensors, checkpoint.source) for _ in range(2))
    started = time.process_time()
    certify(*both, layouts, length_to_certify(layouts))
    return time.process_time() - started


def journey(folder: Path, suffix: str) -> Iterator[Row]:
    """Look, choose masks, prune in either form and verify, all in one container."""
    large, tiny = (folder / f"{name}.{suffix}" for name in ("large", "tiny"))
    size, exported = large.stat().st_size, folder / "exported"
    certifying = seconds_of_certificate(large)

    def beyond_tiny(*command: str | Path) -> tuple[float, float]:
        """What a command takes beyond what it takes for the tiny file: memory as a multiple of the large one, seconds."""
        costs = []
        for file in (tiny, large):
            shutil.rmtree(exported, ignore_errors=True)
            costs.append(cost_of(*(file if part is large else part for part in command)))
        (least, idle), (most, busy) = costs
        return (most - least) / size, busy - idle

    for command in (("inspect", large), ("masks", large, "--output", folder / "masks.safetensors")):
        yield Row(f"{suffix}: peak memory of {command[0]}", beyond_tiny(*command)[0], MOST_MEMORY)
    for name in JOURNEYS:
        granularity, form = name.split()
        options = ("--granularity", granularity, "--form", form, "--output", exported)
        memory, seconds = beyond_tiny("prune", large, *options)
        yield Row(f"{suffix}: peak memory of prune, {name}", memory, MOST_MEMORY)
        if form == "masked":
            beside = seconds - certifying
            yield Row(f"{suffix}: CPU of prune beside the certificate, {name}", beside, MOST_CPU_SECONDS, "s")
            yield Row(f"{suffix}: CPU of the certificate", certifying, None, "s")
        least = cost_of("inspect", tiny)[0]
        memory = (cost_of("verify", exported, "--source", large)[0] - least) / size
        yield Row(f"{suffix}: peak memory of verify, {name}", memory, MOST_MEMORY)


def room_for(folder: Path, hidden_size: int) -> None:
    """Raise Unavailable where memory cannot be measured, or the disk is short of what a journey writes."""
    size = 4 * 4 * hidden_size * 2 * hidden_size * 2
    if not Path("/proc/self/status").exists():
        raise Unavailable("it reads what Linux tells of a process in /proc")
    if shutil.disk_usage(folder).free < SCRATCH * size:
        raise Unavailable(f"it needs {SCRATCH * size / 2**30:.0f} GiB of disk")


def rows(hidden_size: int = HIDDEN) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as name:
        room_for(Path(name), hidden_size)
        torch.set_num_threads(1)
        for suffix in ("safetensors", "pt"):
            folder = Path(name) / suffix
            folder.mkdir()
            for title, width in (("tiny", TINY), ("large", hidden_size)):
                make(folder / f"{title}.{suffix}", width)
            yield from journey(folder, suffix)
            shutil.rmtree(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hidden", type=int, default=HIDDEN)
    for row in rows(parser.parse_args().hidden):
        print(row.told(), flush=True)


if __name__ == "__main__":
    main()
