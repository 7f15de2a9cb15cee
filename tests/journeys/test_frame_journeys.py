"""What the frame does for pages that come and go, in a real Chromium."""

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.helpers.browser import serving, titled

SLOW_AND_QUICK = """import time
import streamlit as st
from pruner.dashboard import frame

def slow():
    st.title("Slow")
    time.sleep(3)

@st.fragment
def part():
    st.write("Pressed" if st.button("Press") else "Waiting")

def quick():
    st.title("Quick")
    part()

frame.run(st.navigation([st.Page(slow, title="Slow"), st.Page(quick, title="Quick")]))
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory):
    script: Path = tmp_path_factory.mktemp("pages") / "slow_and_quick.py"
    script.write_text(SLOW_AND_QUICK)
    with serving(script) as url:
        yield url


def test_a_page_that_still_computes_takes_nothing_from_the_one_that_follows(server: str, page: Page) -> None:
    page.goto(server)
    titled(page, "Slow")
    page.get_by_role("link", name="Quick").click()
    titled(page, "Quick")
    page.wait_for_timeout(4000)  # until the slow page has come to its end
    page.get_by_role("button", name="Press").click()
    expect(page.get_by_text("Pressed")).to_be_visible(timeout=3000)
