"""What memory the server takes while a visitor goes through all pages with a file of one gigabyte, opened by its path.

    python -m benchmarks.pages [--hidden 4000]

All are looked at, the recipe of Masks is run and exported, in both containers; nothing is calibrated. Told is the most that
the server and its workers take together, mapped pages included, beyond what they take for a tiny file, as a multiple of the
large one.
"""

import argparse
import asyncio
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from benchmarks.browserless import Tab
from benchmarks.large import HIDDEN, TINY, make, room_for
from benchmarks.rows import Row
from benchmarks.server import memory, serving

TAKES = 100
MOST_MEMORY = 2.5  # times the file
OFTEN = 0.2  # seconds between two looks
LOOKED_AT = ("shrink", "overview", "saliency", "unit", "weights", "calibrate", "masks", "experiments", "run")


def peak_of_walk(url: str, process: int, file: Path) -> float:
    """The most MiB that a server and its workers take meanwhile."""
    peak, over = memory(process), threading.Event()

    def look() -> None:
        nonlocal peak
        while not over.wait(OFTEN):
            peak = max(peak, memory(process))

    looking = threading.Thread(target=look)
    looking.start()
    try:
        asyncio.run(asyncio.wait_for(walk(url, file), TAKES))
    finally:
        over.set()
        looking.join()
    return peak


async def walk(url: str, file: Path) -> None:
    async with Tab(url, "", lambda data: None) as tab:
        await tab.open()
        await tab.write("Or a path on this machine", str(file))
        await tab.press("Open path")
        for page in LOOKED_AT:
            await tab.go(page)
        await tab.press("Run")
        while not tab.shows("metric", "Output drift"):
            await asyncio.sleep(OFTEN)
            await tab.run()
        await tab.go("export")


def rows(hidden_size: int = HIDDEN) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as name:
        room_for(Path(name), hidden_size)
        for suffix in ("safetensors", "pt"):
            tiny, large = (Path(name) / f"{title}.{suffix}" for title in ("tiny", "large"))
            make(tiny, TINY)
            make(large, hidden_size)
            with serving("--local-files", TMPDIR=name) as (url, process):
                least, most = (peak_of_walk(url, process, file) for file in (tiny, large))
            size = large.stat().st_size / 2**20
            yield Row(f"{suffix}: memory of the server on all pages", (most - least) / size, MOST_MEMORY)
            large.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hidden", type=int, default=HIDDEN)
    for row in rows(parser.parse_args().hidden):
        print(row.told(), flush=True)


if __name__ == "__main__":
    main()
