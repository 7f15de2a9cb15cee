"""The dashboard in a real Chromium: servers that are started, pages that are opened and waited for."""

import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Locator, Page, expect
from playwright.sync_api import TimeoutError as NotInTime

from tests.helpers.project import PROJECT

TIMEOUT = 30_000  # milliseconds: a first page load on a busy machine
SOON = 5_000  # milliseconds: what needs no server
WORK = 180_000  # milliseconds: jobs of a page on a busy machine
THEMES = ["light", "dark"]


def installed_chromium() -> str | None:
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@contextmanager
def serving(script: Path = PROJECT / "app.py", *options: str) -> Iterator[str]:
    """A new server of a script on a free port; nothing changes while it runs, so that no files are watched."""
    port = _free_port()
    command = [sys.executable, "-m", "streamlit", "run", str(script), "--server.headless=true", f"--server.port={port}"]
    command += ["--server.fileWatcherType=none", *options]
    process = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_for(f"{url}/_stcore/health")
        yield url
    finally:
        process.terminate()
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(url: str) -> None:
    for _ in range(300):
        try:
            with urllib.request.urlopen(url):
                return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"no answer from {url}")


def at_rest(page: Page) -> None:
    """Wait until the server has answered the last move and the page has all of the answer."""
    expect(page.get_by_test_id("stApp")).to_have_attribute("data-test-script-state", "notRunning")


def wait_until_it_fits(page: Page) -> None:
    """Wait until nothing lies beyond the sides of the page: charts follow the window a moment later."""
    at_rest(page)
    page.wait_for_function(
        """() => {
            const area = document.querySelector('[data-testid="stMain"]')
            return area.scrollWidth <= area.clientWidth
        }"""
    )


def titled(page: Page, text: str) -> None:
    """Wait until the page has this title."""
    expect(page.get_by_role("heading", name=text, exact=True, level=1)).to_be_visible()


def opened(page: Page) -> None:
    """Wait until a model is open, and the page Open shows it."""
    expect(page.get_by_test_id("stSidebar").get_by_text("Open model", exact=True)).to_be_visible(timeout=TIMEOUT)


def drawn(page: Page, charts: int) -> None:
    """Wait until the page shows so many figures."""
    expect(page.locator(".js-plotly-plot")).to_have_count(charts)


def number(page: Page, label: str) -> Locator:
    """The value of the figure whose label begins so."""
    figure = page.get_by_test_id("stMetric").filter(has_text=re.compile(f"^{label}(?! of A)"))
    return figure.get_by_test_id("stMetricValue")


def choose(page: Page, box: str, option: str) -> None:
    """Choose from a box, which a page that is still being made may close again."""
    offered = page.get_by_role("option", name=option, exact=True)
    for _ in range(5):
        at_rest(page)
        page.get_by_role("combobox", name=box).fill(
            ""
        )  # the same text once more would be no news to a box that has closed
        page.get_by_role("combobox", name=box).fill(option)
        try:
            offered.click(timeout=SOON)
        except NotInTime:
            continue
        at_rest(page)
        return
    raise AssertionError(f"{box} does not offer {option}")


def go(page: Page, name: str) -> None:
    """To a page by its name in the navigation."""
    page.get_by_test_id("stSidebarNav").get_by_role("link", name=name, exact=True).click()
    titled(page, name)
    at_rest(page)
