"""How fast the Masks page answers its sparsity slider, beside a bare Streamlit page with one slider and one figure.

python -m benchmarks.latency [--hidden 1024,4096] [--moves 30]

In one headless Chromium, one key press on each page in turns: milliseconds from the key to the redrawn grids, to the new
number beside them, and to the new number on the bare page (the floor), median and 95th percentile. Then the time from a
link to the first picture: the example's grids, and a bare page with one Plotly heatmap. Needs an installed Chromium.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from playwright.sync_api import Browser, Error, Page, sync_playwright
from safetensors.torch import save_file
from torch import nn

from benchmarks.rows import Row, Unavailable
from tests.helpers.browser import installed_chromium, opened, serving
from tests.helpers.project import PROJECT

BARE = """import streamlit as st
value = st.slider("Sparsity", 0.0, 1.0, 0.5, 0.01, key="sparsity", format="percent")
st.metric("Value", f"{value:.2f}")
"""
BARE_FIGURE = """import numpy as np, plotly.graph_objects as go, streamlit as st
st.plotly_chart(go.Figure(go.Heatmap(z=np.random.default_rng(0).random((32, 64), dtype=np.float32))))
"""
WATCH = """(selectors) => {
  window.seen = {}
  let pressed = 0
  addEventListener("keydown", () => { pressed = performance.now(); window.seen = {} }, true)
  for (const [name, selector, attribute] of selectors) {
    const node = [...document.querySelectorAll("*")].flatMap((each) => each.shadowRoot ? [each, each.shadowRoot] : [each])
      .map((root) => root.querySelector && root.querySelector(selector)).find(Boolean)
    const target = attribute ? node : node.parentElement
    const record = () => { if (pressed && !(name in window.seen)) window.seen[name] = performance.now() - pressed }
    new MutationObserver(record).observe(target, attribute
      ? { attributes: true, attributeFilter: [attribute] } : { childList: true, subtree: true, characterData: true })
  }
}"""
TAKES = 120  # seconds of `rows`
MOST_OVER_BARE = {"grids": 1.0}  # drawn no later than the number of a page that has nothing else


@dataclass(frozen=True)
class Seen:
    """Milliseconds from a key to what it changes: median, 95th percentile, and the median of the bare page."""

    title: str
    median: float
    late: float
    base: float


GRIDS = ("grids", "canvas.grids", "data-fallen")
NUMBER = ("number", "[data-testid=stMetricValue]", "")


def _press(page: Page, key: str, names: list[str]) -> dict[str, float]:
    page.bring_to_front()
    page.get_by_role("slider").first.press(key)
    page.wait_for_function("(names) => names.every((name) => name in window.seen)", arg=names)
    page.wait_for_timeout(150)  # let the rest of the page come to rest
    return page.evaluate("window.seen")


def _masks_page(browser: Browser, url: str, checkpoint: Path) -> Page:
    page = browser.new_page(viewport={"width": 1440, "height": 1000})
    page.set_default_timeout(120_000)
    page.goto(url)
    page.get_by_role("textbox", name="Or a path on this machine").fill(str(checkpoint))
    page.get_by_role("button", name="Open path").click()
    opened(page)
    page.get_by_role("link", name="Masks", exact=True).click()
    page.locator("canvas.grids[data-fallen]").wait_for()
    page.locator(".js-plotly-plot").nth(1).wait_for()
    page.wait_for_timeout(2000)
    page.evaluate(WATCH, [GRIDS, NUMBER])
    return page


def _moves(browser: Browser, app: str, bare: str, folder: Path, hidden: int, count: int) -> Iterator[Seen]:
    """What was seen of the bare page, of the grids and of the number beside them."""
    checkpoint = folder / f"h{hidden}.safetensors"
    torch.manual_seed(0)
    save_file({f"lstm.{name}": tensor for name, tensor in nn.LSTM(256, hidden).state_dict().items()}, checkpoint)
    floor_page = browser.new_page(viewport={"width": 1440, "height": 1000})
    floor_page.goto(bare)
    floor_page.locator("[data-testid=stMetricValue]").wait_for()
    floor_page.evaluate(WATCH, [NUMBER])
    page = _masks_page(browser, app, checkpoint)
    floor, grids, number = [], [], []
    for move in range(count + 2):
        key = "ArrowRight" if move % 30 < 15 else "ArrowLeft"
        bare_seen, seen = _press(floor_page, key, ["number"]), _press(page, key, ["grids", "number"])
        if move >= 2:  # the first two warm up
            floor.append(bare_seen["number"])
            grids.append(seen["grids"])
            number.append(seen["number"])
    base = statistics.median(floor)
    for title, times in (("bare page", floor), ("grids", grids), ("number", number)):
        yield Seen(title, statistics.median(times), sorted(times)[int(0.95 * (len(times) - 1))], base)
    page.close()
    floor_page.close()


def _first_pictures(browser: Browser, app: str, bare: str, runs: int) -> None:
    found: dict[str, list[float]] = {"bare page, one figure": [], "the example's grids": []}
    for _ in range(runs + 1):
        for title, link, picture in (
            ("bare page, one figure", bare, ".js-plotly-plot .heatmaplayer"),
            ("the example's grids", f"{app}/saliency?example=pydocs-chars", "canvas.grids[data-fallen]"),
        ):
            context = browser.new_context(viewport={"width": 1440, "height": 1000})
            page = context.new_page()
            started = time.perf_counter()
            page.goto(link, wait_until="commit")
            page.locator(picture).first.wait_for()
            found[title].append(time.perf_counter() - started)
            context.close()
    base = statistics.median(found["bare page, one figure"][1:])
    for title, times in found.items():
        print(f"| {title} | {statistics.median(times[1:]):.2f} s | {statistics.median(times[1:]) / base:.2f} |")


def rows() -> Iterator[Row]:
    """The Masks page at H = 1024 over the bare page."""
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        folder = Path(name)
        (folder / "bare.py").write_text(BARE)
        try:
            browser = playwright.chromium.launch(executable_path=installed_chromium(), args=["--no-sandbox"])
        except Error as error:
            raise Unavailable(f"no Chromium starts here ({error.message.splitlines()[0]})") from error
        with serving(PROJECT / "app.py", "--", "--local-files") as app, serving(folder / "bare.py") as bare:
            for seen in _moves(browser, app, bare, folder, 1024, 15):
                if seen.title != "bare page":
                    target = MOST_OVER_BARE.get(seen.title)
                    yield Row(f"Masks page, H = 1024: {seen.title} over a bare page", seen.median / seen.base, target)
        browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hidden", default="1024,4096")
    parser.add_argument("--moves", type=int, default=30)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        folder = Path(name)
        (folder / "bare.py").write_text(BARE)
        (folder / "bare_figure.py").write_text(BARE_FIGURE)
        browser = playwright.chromium.launch(executable_path=installed_chromium(), args=["--no-sandbox"])
        with serving(PROJECT / "app.py", "--", "--local-files") as app:
            print("| H | what | median ms | 95 % | over the bare page |\n|---|---|---|---|---|")
            with serving(folder / "bare.py") as bare:
                for hidden in map(int, arguments.hidden.split(",")):
                    for seen in _moves(browser, app, bare, folder, hidden, arguments.moves):
                        over = seen.median / seen.base
                        print(
                            f"| {hidden} | {seen.title} | {seen.median:.0f} | {seen.late:.0f} | {over:.2f} |",
                            flush=True,
                        )
            print("\n| first picture | median | over the bare page |\n|---|---|---|")
            with serving(folder / "bare_figure.py") as bare:
                _first_pictures(browser, app, bare, 7)
        browser.close()


if __name__ == "__main__":
    main()
