"""Takes the moving picture of the README from the running app: python -m tests.take_film

A slider is dragged and the grids follow, the frontier of Shrink grows, and a ruined text heals.
"""

import io
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

from tests.helpers.browser import at_rest, drawn, installed_chromium, serving

FILM = Path(__file__).resolve().parents[1] / ".github" / "pictures" / "film.gif"
VIEW = {"width": 1280, "height": 720}
SIZE = (960, 540)
COLOURS = 96
QUICK, SLOW, HELD = 100, 260, 2200  # milliseconds that a frame stands
MOST = 16  # frames of a scene that takes its time
WORK = 600_000  # milliseconds that a search may take

Frame = tuple[Image.Image, int]


def frames(url: str, page: Page) -> Iterator[Frame]:
    page.goto(f"{url}/masks?example=pydocs-chars&sparsity=0")
    drawn(page, 2)
    at_rest(page)
    slider = page.get_by_role("slider").first
    box = slider.bounding_box()
    assert box is not None
    left, middle = box["x"] + 8, box["y"] + box["height"] / 2
    page.mouse.move(left, middle)
    page.mouse.down()
    yield _seen(page, SLOW)
    for step in range(1, 23):
        page.mouse.move(left + (box["width"] - 16) * 0.6 * step / 22, middle)
        page.wait_for_timeout(60)
        yield _seen(page, QUICK)
    page.mouse.up()
    at_rest(page)
    page.wait_for_timeout(2500)  # the sample is judged
    yield _seen(page, HELD)

    page.goto(f"{url}/shrink?example=embedded-reber")
    page.get_by_role("radio", name="30 s").click()
    at_rest(page)
    yield _seen(page, SLOW * 3)
    page.get_by_role("button", name="Shrink", exact=True).click()
    done = page.get_by_role("button", name="Download everything as one zip")
    yield from _while(page, done.is_visible)
    expect(done).to_be_visible(timeout=WORK)
    at_rest(page)
    page.wait_for_timeout(1500)
    yield _seen(page, HELD)

    page.goto(f"{url}/lesson_healing")
    at_rest(page)
    page.get_by_role("radio").first.evaluate("each => each.scrollIntoView()")  # so that the loss is in sight, too
    yield _seen(page, SLOW * 3)
    page.get_by_role("button", name="Heal", exact=True).click()
    cancel = page.get_by_test_id("stMain").get_by_role("button", name="Cancel")
    cancel.wait_for()
    yield from _while(page, lambda: not cancel.is_visible())
    at_rest(page)
    page.wait_for_timeout(1500)
    yield _seen(page, HELD)


def _while(page: Page, ended: Callable[[], bool]) -> Iterator[Frame]:
    """A scene until it has ended, in few frames that are evenly apart."""
    seen: list[Frame] = []
    deadline = time.monotonic() + WORK / 1000
    while not ended() and time.monotonic() < deadline:
        page.wait_for_timeout(1000)
        seen.append(_seen(page, SLOW))
    step = max(1, len(seen) // MOST)
    yield from seen[::step]


def _seen(page: Page, milliseconds: int) -> Frame:
    shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB").resize(SIZE, Image.Resampling.LANCZOS)
    return shot, milliseconds


def take() -> None:
    with serving() as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=installed_chromium(), args=["--no-sandbox"])
        page = browser.new_page(viewport=VIEW)
        page.set_default_timeout(60_000)
        expect.set_options(timeout=60_000)
        shots, milliseconds = zip(*frames(url, page), strict=True)
        browser.close()
    palette = shots[len(shots) // 4].quantize(COLOURS)
    first, *rest = [shot.quantize(palette=palette, dither=Image.Dither.NONE) for shot in shots]
    first.save(FILM, save_all=True, append_images=rest, duration=list(milliseconds), loop=0, optimize=True)


if __name__ == "__main__":
    take()
