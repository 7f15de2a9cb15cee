"""A server of the dashboard that a benchmark starts, and what memory it takes."""

import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

APP = Path(__file__).parents[1] / "app.py"


@contextmanager
def serving(*options: str, **environment: str) -> Iterator[tuple[str, int]]:
    """A server of the dashboard, with options and an environment of its own: its address and its process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", str(APP), "--server.headless=true", f"--server.port={port}"]
    command, around = [*command, "--", *options], {**os.environ, **environment}
    with subprocess.Popen(command, cwd=APP.parent, env=around, stdout=subprocess.DEVNULL) as process:
        url = f"http://127.0.0.1:{port}"
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{url}/_stcore/health").close()
                break
            except OSError:
                time.sleep(0.1)
        try:
            yield url, process.pid
        finally:
            process.terminate()


def memory(process: int) -> float:
    """MiB that a process and all that it started take together; what several share is shared among them."""
    total, around = 0, {process}
    parents = {int(path.parent.name): path for path in Path("/proc").glob("[0-9]*/stat")}
    tree: dict[int, int] = {}
    for each, path in parents.items():
        try:
            tree[each] = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    while new := {each for each, parent in tree.items() if parent in around} - around:
        around |= new
    for each in around:
        try:
            lines = Path(f"/proc/{each}/smaps_rollup").read_text()
        except OSError:
            continue
        total += int(re.search(r"^Pss:\s+(\d+)", lines, re.M).group(1))  # type: ignore[union-attr]
    return total / 1024
