"""A server and a browser for the journeys of one file, and a fresh page for each of them."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Error, Page, expect, sync_playwright

from tests.helpers.browser import TIMEOUT, installed_chromium, serving

ALONE = ["--no-sandbox", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A journey waits for a browser and a server that share the machine with whatever else it does: one that fails is tried
    once more, and the report names it. Whatever fails every time fails."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.flaky(reruns=1))


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with serving() as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """An installed Chromium, or Playwright's own; without either the journeys are skipped, except in CI. It knows of no host
    but this machine, so that whatever a page asks of another one fails."""
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=installed_chromium(), args=ALONE)
        except Error as error:
            if os.environ.get("CI"):
                raise
            pytest.skip(f"no Chromium: {error.message.splitlines()[0]}")
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1440, "height": 1000}, accept_downloads=True)
    context.set_default_timeout(TIMEOUT)
    expect.set_options(timeout=TIMEOUT)
    yield context.new_page()
    context.close()
