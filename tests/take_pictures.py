"""Takes pictures of the running app:

python -m tests.take_pictures                 # those of the README
python -m tests.take_pictures --every FOLDER  # every page in two themes and three widths, to be looked at one by one
"""

import argparse
import re
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright

from tests.helpers.browser import THEMES, installed_chromium, opened, serving
from tests.helpers.pages import LEARN, STUDIO

PICTURES = Path(__file__).resolve().parents[1] / ".github" / "pictures"
LINK = "example=pydocs-chars&sparsity=0.5&gates=hg:0.25"
DATA = (
    "example=pydocs-chars&sparsity=0.5&granularity=units&round_to=16&consumers=linear.weight&task=softmax"
    "&criterion=obs&compensation=fold"
)
SMALL = "&".join(
    (
        "example=embedded-reber&unit=7&granularity=units&sparsity=0.4",
        "criterion=obs&compensation=fold&consumers=linear.weight&task=softmax",
    )
)
WORKED = (
    ("Calibrate", "Calibrate"),
    ("Unit", None),
    ("Masks", None),
    ("Run", "Run"),
    ("Export", None),
    ("Experiments", "Try sizes"),
)  # pages by their titles, with the button that starts their work
WORK = 600_000  # milliseconds that a sweep may take
WIDTHS = (1440, 1024, 390)
EVERY = ["", *STUDIO, *LEARN]


def take() -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    with serving() as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=installed_chromium(), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(60_000)
        expect.set_options(timeout=60_000)
        page.goto(f"{url}/?{LINK}")
        opened(page)
        _save(page, "open")
        page.goto(f"{url}/shrink?example=embedded-reber")
        page.get_by_role("radio", name="30 s").click()
        page.get_by_role("button", name="Shrink", exact=True).click()
        expect(page.get_by_role("button", name="Download everything as one zip")).to_be_visible(timeout=WORK)
        _save(page, "shrink")
        page.goto(f"{url}/overview?{LINK}")
        expect(page.locator(".js-plotly-plot")).to_have_count(2)
        _save(page, "overview")
        page.goto(f"{url}/unit?{LINK}&unit=7")
        expect(page.get_by_role("heading", name="Neighbours")).to_be_visible()
        _save(page, "unit")
        for name, charts in (("saliency", 1), ("masks", 2)):
            page.goto(f"{url}/{name}?{LINK}&side=hh")
            expect(page.locator(".js-plotly-plot")).to_have_count(charts)
            _save(page, name)
        page.goto(f"{url}/calibrate?{DATA}")
        page.get_by_role("button", name="Calibrate", exact=True).click()
        expect(page.get_by_role("heading", name="Sparsity of each gate under global ranking")).to_be_visible(
            timeout=WORK
        )
        expect(page.locator(".js-plotly-plot")).to_have_count(2)
        _save(page, "calibrate")
        page.get_by_role("link", name="Run", exact=True).click()
        page.get_by_role("button", name="Run", exact=True).click()
        expect(page.get_by_role("heading", name="Before and after")).to_be_visible(timeout=WORK)
        expect(page.get_by_test_id("stMetric")).to_have_count(4)
        _save(page, "run")
        page.get_by_role("link", name="Export", exact=True).click()
        expect(page.get_by_text("computes exactly what was previewed")).to_be_visible()
        _save(page, "export")
        page.get_by_test_id("stSidebarNav").get_by_role("link", name="Experiments", exact=True).click()
        page.get_by_role("button", name="What is tried", exact=True).click()
        for name in ("L1 norm", "Brain surgeon"):
            page.get_by_role("button", name=name, exact=True).click()
        page.keyboard.press("Escape")
        page.get_by_role("button", name="Try sizes", exact=True).click()
        _wait_for_work(page)
        expect(page.get_by_role("button", name="Open on Masks")).to_be_visible()
        _save(page, "experiments")
        browser.close()


def take_every(folder: Path) -> None:
    """Every page on a page of its own height: those that show at once with the larger example and a unit selected, then
    those of longer work with the smaller one, after that work."""
    folder.mkdir(parents=True, exist_ok=True)
    with serving() as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=installed_chromium(), args=["--no-sandbox"])
        for theme in THEMES:
            for width in WIDTHS:
                with browser.new_context(viewport={"width": width, "height": 900}, color_scheme=theme) as context:
                    context.set_default_timeout(60_000)
                    page = context.new_page()
                    for name in EVERY:
                        page.goto(f"{url}/{name}?{LINK}&unit=7")
                        page.get_by_role("heading", level=1).wait_for()
                        page.wait_for_timeout(1500)
                        _shoot(page, folder / f"{name or 'open'}-{theme}-{width}.png", width, 4000)
            with browser.new_context(viewport={"width": WIDTHS[0], "height": 900}, color_scheme=theme) as context:
                context.set_default_timeout(WORK)
                _take_worked(context.new_page(), url, folder, theme)
        browser.close()


def _take_worked(page: Page, url: str, folder: Path, theme: str) -> None:
    page.goto(f"{url}/masks?{SMALL}")
    page.get_by_role("button", name="Pin as A").click()
    for _ in range(10):  # so that there is something to compare
        page.get_by_role("slider").first.press("ArrowRight")
    expect(page).to_have_url(re.compile("sparsity=0.5"))  # the server knows of it
    page.get_by_text("Compare with A", exact=True).click()
    for name, button in WORKED:
        page.get_by_test_id("stSidebarNav").get_by_role("link", name=name, exact=True).click()
        page.get_by_role("heading", name=name, exact=True, level=1).wait_for()
        if button:
            page.get_by_role("button", name=button, exact=True).click()
            _wait_for_work(page)
        _shoot_worked(page, folder, name.lower(), theme)
    page.get_by_role("radio", name="Layer by layer").click()
    page.get_by_role("button", name="Measure", exact=True).click()
    page.get_by_role("button", name="Use these sparsities").wait_for()
    _shoot_worked(page, folder, "parts", theme)


def _wait_for_work(page: Page) -> None:
    """Wait until work that was just started has ended."""
    cancel = page.get_by_test_id("stMain").get_by_role("button", name="Cancel")  # the sidebar has one, too
    cancel.wait_for()
    cancel.wait_for(state="detached", timeout=WORK)


def _shoot_worked(page: Page, folder: Path, name: str, theme: str) -> None:
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        _shoot(page, folder / f"{name}-worked-{theme}-{width}.png", width, 4000)
    page.set_viewport_size({"width": WIDTHS[0], "height": 900})


def _save(page: Page, name: str) -> None:
    """The whole page, once its fonts and charts have settled."""
    _shoot(page, PICTURES / f"{name}.png", 1280, 1500)


def _shoot(page: Page, path: Path, width: int, tallest: int) -> None:
    page.wait_for_timeout(2000)
    page_and_foot = "area => [...area.children].reduce((height, part) => height + part.scrollHeight, 0)"
    height = page.get_by_test_id("stMain").evaluate(page_and_foot)
    page.set_viewport_size({"width": width, "height": min(height, tallest)})
    page.mouse.move(0, 0)
    page.wait_for_timeout(1500)
    page.screenshot(path=path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--every", type=Path, metavar="FOLDER")
    every = parser.parse_args().every
    take_every(every) if every else take()
