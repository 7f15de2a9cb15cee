"""Many visitors at once: how long pages take, with idle and with full workers, what memory they leave, and whether anybody
ever sees anything of another.

    python -m benchmarks.visitors [--visitors 50] [--rounds 3] [--moves 3] [--think 8] [--wait 600] [--quick]

Every visitor opens a checkpoint of their own under a recipe of their own and moves the sparsity slider, by turns with idle
workers and while more sweeps run than there are workers; a third of them calibrate, run and export. They talk to the server
as a browser does, and whatever comes is searched for the marks of all others: a name in the file and in its tensors, a
number behind a mark in its weights and in their saliencies, and the seed of the recipe. Then all leave; their models are
forgotten after `--idle` seconds (an hour on other servers), and memory is measured again after `--wait`.
"""

import argparse
import asyncio
import io
import json
import os
import random
import re
import statistics
import struct
import sys
import time
import zipfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from typing import Any
from urllib.error import HTTPError

import safetensors.torch
import torch
from torch import Tensor, nn

from benchmarks.browserless import Failed, Tab
from benchmarks.rows import Row
from benchmarks.server import memory, serving

HIDDEN, INPUT = 128, 64
MARK = 2.7316489  # in everybody's weights, before the mark of whose they are
FIRST_SEED = 914_000_000  # of recipes; whole, with no digit beside it, it is found nowhere by chance
NAMES, SEEDS = re.compile(rb"zq\d{3}[a-z]{6}"), re.compile(rb"(?<![\d.])9140\d{5}(?!\d)")
MOST_RATIO, MOST_GROWTH, LEAST_MESSAGES = 2.0, 0.15, 2000
LONGEST, TAKES = 300.0, 240  # seconds that a visitor waits for work; of `rows`


@dataclass
class Heard:
    """What all visitors heard: messages, and what of another was among them."""

    visitors: list["Visitor"] = field(default_factory=list)
    messages: int = 0
    size: int = 0
    clicked_again: int = 0
    leaks: list[str] = field(default_factory=list)
    found_themselves: set[str] = field(default_factory=set)  # without which no leak found would mean nothing
    errors: list[str] = field(default_factory=list)
    times: dict[str, list[float]] = field(default_factory=dict)  # seconds, by what was done

    async def timed(self, what: str, doing: Awaitable[Any]) -> Any:
        began = time.perf_counter()
        found = await doing
        self.times.setdefault(what, []).append(time.perf_counter() - began)
        return found


class Visitor:
    """One of them, with a model and a recipe that nobody else has."""

    def __init__(self, number: int, heard: Heard) -> None:
        letters = random.Random(number)
        self.number, self.heard, self.seed = number, heard, FIRST_SEED + 1 + number
        self.mark = float(1 + number)
        self.name = f"zq{number:03d}" + "".join(letters.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(6))
        self.file = safetensors.torch.save(self._weights())
        self.secret = "".join(letters.choice("abcdefghijklmnop") for _ in range(43))
        heard.visitors.append(self)

    def _weights(self) -> dict[str, Tensor]:
        torch.manual_seed(self.number)
        modules = {"lstm": nn.LSTM(INPUT, HIDDEN), "head": nn.Linear(HIDDEN, 16)}
        tensors = {
            f"{self.name}.{of}.{key}": value for of, each in modules.items() for key, value in each.state_dict().items()
        }
        marked = tensors[f"{self.name}.lstm.weight_ih_l0"]
        marked[:2] = 0
        marked[0, -1], marked[1, 0] = MARK, self.mark  # neighbours among weights as among saliencies
        return tensors

    def tab(self, url: str) -> Tab:
        return Tab(url, f"pruner_browser={self.secret}", self.hear)

    def hear(self, data: bytes) -> None:
        """Count a message, and search it for what is another's."""
        self.heard.messages += 1
        self.heard.size += len(data)
        mine = {self.name.encode(), str(self.seed).encode()}
        after = set(_after_marks(data))
        if self.mark in after:
            self.heard.found_themselves.add(self.name)
        found = {each.decode() for each in {*NAMES.findall(data), *SEEDS.findall(data)} - mine}
        found |= {
            f"weights of {other.name}" for other in self.heard.visitors if other is not self and other.mark in after
        }
        self.heard.leaks += [f"{self.name} received {each}" for each in sorted(found)]

    async def arrive(self, tab: Tab) -> None:
        """Open the own model under a link with the own recipe."""
        await tab.open(f"file={self.name}.safetensors&sparsity=0.4&granularity=units&criterion=random&seed={self.seed}")
        await tab.upload(f"{self.name}.safetensors", self.file)
        if not tab.shows("markdown", self.name):
            raise Failed("the model was not opened")

    async def move(self, tab: Tab, what: str, moves: int, think: float) -> None:
        """Move the slider of Masks so many times, each time until all is drawn."""
        await tab.go("masks")
        dice = random.Random(self.number)
        for _ in range(moves):
            await asyncio.sleep(think * (0.5 + dice.random()))
            component, _ = tab.find("bidi_component", lambda each: "grids" in each.id and each.bytes)
            size = int.from_bytes(component.bytes[:4], "little")
            said = json.loads(component.bytes[4 : 4 + size])["sliders"]["said"]
            told = {**said, "overall": dice.randrange(10, 90) / 100, "rests": True}
            await self.heard.timed(what, tab.move("grids", "move", told))

    async def work(self, tab: Tab) -> None:
        """Calibrate, run and export; check that the export is one's own."""
        await tab.go("calibrate")
        await tab.choose("Inputs", "andom")
        calibrated = self.until_done(tab, "Calibrate", lambda: tab.shows("markdown", "time steps"))
        await self.heard.timed("calibrate", calibrated)
        await tab.go("run")
        await self.heard.timed("run", self.until_done(tab, "Run", lambda: tab.shows("metric", "Output drift")))
        await self.heard.timed("export", tab.go("export"))
        files = zipfile.ZipFile(io.BytesIO(await self.zip_of(tab)))
        for name in files.namelist():
            self.hear(files.read(name))
        recipe = json.loads(files.read(next(name for name in files.namelist() if name.endswith("manifest.json"))))
        if recipe["recipe"]["seed"] != self.seed:
            raise Failed("another recipe was exported")

    async def zip_of(self, tab: Tab) -> bytes:
        """The export. Streamlit lets a file go that nobody has fetched yet while pages of others end; one clicks again."""
        try:
            return await tab.download("Download everything as one zip")
        except HTTPError as error:
            if error.code != HTTPStatus.NOT_FOUND:
                raise
            self.heard.clicked_again += 1
            return await tab.download("Download everything as one zip")

    async def until_done(self, tab: Tab, label: str, done: Callable[[], bool]) -> None:
        """Start work and look at it as a page does, as long as it takes."""
        await tab.press(label)
        until = time.monotonic() + LONGEST
        while not done():
            if time.monotonic() > until:
                raise Failed(f"{label} does not end")
            await asyncio.sleep(0.5)
            await tab.run()

    async def keep_busy(self, tab: Tab, over: asyncio.Event) -> None:
        """Sweep, and sweep again, until it is over."""
        await tab.go("experiments")
        while not over.is_set():
            await tab.press("Try sizes")
            while tab.shows("button", "Cancel") and not over.is_set():
                await asyncio.sleep(1.0)
                await tab.run()
        if tab.shows("button", "Cancel"):
            await tab.press("Cancel")


def _after_marks(data: bytes) -> Iterator[float]:
    """The numbers that follow the mark of all weights in a message, which is searched once and not once a visitor."""
    mark, at = struct.pack("<f", MARK), 0
    while (at := data.find(mark, at) + 1) and at + 7 <= len(data):
        yield struct.unpack_from("<f", data, at + 3)[0]


def table(times: dict[str, list[float]]) -> str:
    """Percentiles of the milliseconds that each thing took."""
    lines = [f"{'':<24}{'times':>6}{'median':>9}{'90 %':>9}{'99 %':>9}{'most':>9}  ms"]
    for what, seconds in times.items():
        ordered = sorted(1000 * each for each in seconds)
        shares = [ordered[min(len(ordered) - 1, int(share * len(ordered)))] for share in (0.5, 0.9, 0.99, 1.0)]
        lines.append(f"{what:<24}{len(ordered):>6}" + "".join(f"{each:>9,.0f}" for each in shares))
    return "\n".join(lines)


class Scene:
    """The visitors of one server, from the first one alone to the last one's leaving."""

    def __init__(self, arguments: argparse.Namespace, url: str, heard: Heard) -> None:
        self.arguments, self.heard, self.url = arguments, heard, url
        self.workers = len(os.sched_getaffinity(0))

    async def alone(self) -> None:
        """One visitor does everything once, so that all is imported that ever is."""
        visitor = Visitor(0, self.heard)
        async with visitor.tab(self.url) as tab:
            await visitor.arrive(tab)
            await visitor.move(tab, "slider, alone", self.arguments.moves, 0.2)
            await visitor.work(tab)

    async def together(self) -> None:
        visitors = [Visitor(number, self.heard) for number in range(1, self.arguments.visitors + 1)]
        async with AsyncExitStack() as stack:
            tabs = [await stack.enter_async_context(visitor.tab(self.url)) for visitor in visitors]
            present = list(zip(visitors, tabs, strict=True))
            await self._all(present, self._arrive)
            busy, others = present[: self.workers + 1], present[self.workers + 1 :]
            for _ in range(
                self.arguments.rounds
            ):  # by turns, so that what else runs on the machine disturbs both alike
                await self._all(others, partial(self._move, "slider, workers idle"))
                over = asyncio.Event()
                sweeps = asyncio.gather(*(self._noted(visitor.keep_busy(tab, over)) for visitor, tab in busy))
                await asyncio.sleep(2.0)
                await self._all(others, partial(self._move, "slider, workers full"))
                over.set()
                await sweeps
            await self._all(others[:: self.arguments.every], lambda visitor, tab: visitor.work(tab))
            print(f"{'with all of them':<24}{self.memory():>9,.0f} MiB", flush=True)

    def memory(self) -> float:
        return memory(self.arguments.process)

    async def _arrive(self, visitor: Visitor, tab: Tab) -> None:
        await asyncio.sleep(self.arguments.think * random.Random(visitor.number).random() * 4)
        await self.heard.timed("open", visitor.arrive(tab))

    async def _move(self, what: str, visitor: Visitor, tab: Tab) -> None:
        await visitor.move(tab, what, self.arguments.moves, self.arguments.think)

    async def _all(self, present: list[tuple[Visitor, Tab]], doing: Callable[[Visitor, Tab], Awaitable[None]]) -> None:
        await asyncio.gather(*(self._noted(doing(visitor, tab)) for visitor, tab in present))

    async def _noted(self, doing: Awaitable[None]) -> None:
        try:
            await doing
        except Exception as error:  # whatever it is, a visitor had to see it
            self.heard.errors.append(f"{type(error).__name__}: {error}"[:200])


def rows() -> Iterator[Row]:
    """With fewer visitors, and without waiting until what memory they leave is worth telling."""
    yield from _found(_asked(["--visitors", "10", "--moves", "4", "--wait", "0"]))


def main(words: list[str] | None = None) -> int:
    found = list(_found(_asked(words)))
    for row in found:
        print(row.told())
    return int(any(row.holds is False for row in found))


def _asked(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Many visitors of one server at once")
    parser.add_argument("--visitors", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3, help="with idle workers, and then with full ones")
    parser.add_argument("--moves", type=int, default=3, help="of the slider in each round")
    parser.add_argument("--think", type=float, default=8.0, help="seconds between two moves, about")
    parser.add_argument("--every", type=int, default=3, help="which of the visitors calibrate, run and export")
    parser.add_argument("--idle", type=int, default=60, help="seconds after which the server forgets what is not used")
    parser.add_argument(
        "--wait", type=int, default=600, help="seconds from the leaving of all to the last look at memory; 0: no look"
    )
    parser.add_argument(
        "--quick", action="store_true", help="few visitors for a short time, and no word on memory or speed"
    )
    arguments = parser.parse_args(words)
    if arguments.quick:
        arguments.visitors, arguments.every = len(os.sched_getaffinity(0)) + 3, 2
        arguments.rounds, arguments.moves, arguments.think, arguments.wait = 1, 1, 0.1, 0
    return arguments


def _found(arguments: argparse.Namespace) -> Iterator[Row]:
    heard = Heard()
    with serving(PRUNER_IDLE_SECONDS=str(arguments.idle)) as (url, arguments.process):
        scene = Scene(arguments, url, heard)
        asyncio.run(scene.alone())
        before = scene.memory()
        print(f"{'after one visitor':<24}{before:>9,.0f} MiB", flush=True)
        asyncio.run(scene.together())
        after = _memory_after(scene, arguments.wait)
    print(table(heard.times))
    print(f"downloads that were clicked again: {heard.clicked_again}")
    for error in sorted(set(heard.errors)):
        print(f"error: {error} ({heard.errors.count(error)} times)")
    for leak in heard.leaks[:10]:
        print(f"leak: {leak}")
    yield Row("visitors: messages with something of another", len(heard.leaks), 0, f"of {heard.messages:,}")
    found = len(heard.found_themselves)
    yield Row("visitors: that came upon their own weights", found, len(heard.visitors), "", at_least=True)
    yield Row("visitors: errors", len(heard.errors), 0, "")
    if not arguments.quick:
        full, idle = (statistics.median(heard.times[f"slider, workers {how}"]) for how in ("full", "idle"))
        yield Row("visitors: messages that were searched", heard.messages, LEAST_MESSAGES, "", at_least=True)
        yield Row("visitors: slider with full workers over idle ones", full / idle, MOST_RATIO)
    if arguments.wait:
        yield Row("visitors: memory after over before", after / before, 1 + MOST_GROWTH)


def _memory_after(scene: Scene, wait: int) -> float:
    """MiB when all have left for so long; told now and then."""
    for second in range(0, wait, 60):
        print(f"{f'{second} s after all left':<24}{scene.memory():>9,.0f} MiB", flush=True)
        time.sleep(min(60, wait - second))
    print(f"{f'{wait} s after all left':<24}{scene.memory():>9,.0f} MiB", flush=True)
    return scene.memory()


if __name__ == "__main__":
    sys.exit(main())
