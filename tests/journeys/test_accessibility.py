"""What axe finds on the pages, over what it finds on a bare Streamlit page; and that they ask nothing of a foreign host."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from tests.helpers.browser import TIMEOUT, serving
from tests.helpers.pages import LEARN, STUDIO

BARE = """import pandas as pd, streamlit as st
def page():
    st.title("Bare")
    st.slider("Share", 0.0, 1.0, 0.5)
    st.number_input("Number", 0, 9)
    st.segmented_control("Choice", ["a", "b"], default="a", required=True)
    st.selectbox("One of", ["a", "b"])
    st.button("Do")
    st.metric("Figure", "1")
    st.dataframe(pd.DataFrame({"a": [1]}), alt="A table")
    with st.expander("More"):
        st.caption("Small print")
st.set_page_config(page_title="Bare")
pages = [st.Page(page, title=title, url_path=title.lower()) for title in ("Bare", "Other")]
st.navigation({"One": pages[:1], "Two": pages[1:]}).run()
"""
# Words of code have colours of Streamlit's own. On the primary colour Streamlit writes in white, and with the primary
# colour on the ground: in the dark no colour is right for both, and the second is what there is more of.
DRAWN_BY_STREAMLIT = [
    ["[data-testid=stCode]"],
    ["[data-testid=stBaseButton-primary]"],
    ["[data-testid=stMultiSelect]"],
]
EVERY = ["", *STUDIO, *LEARN]
DARK = ["", "saliency", "masks", "unit", "experiments", "shrink", "lesson_cell", "lesson_steps", "lesson_healing"]
LOOKS = 6  # what fades in, or has no words yet, is gone at the next look


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    script: Path = tmp_path_factory.mktemp("bare") / "bare.py"
    script.write_text(BARE)
    with serving(script) as url:
        yield url


def _open(page: Page, url: str) -> None:
    page.goto(url)
    expect(page.get_by_role("heading", level=1)).to_be_visible(timeout=TIMEOUT)
    expect(page.get_by_test_id("stStatusWidget")).to_have_count(0, timeout=TIMEOUT)  # the script has run to its end


def _findings(page: Page, rules: list[str] | None) -> dict[str, list[str]]:
    """{rule: what breaks it} of serious and critical findings."""
    options = {"resultTypes": ["violations"]} | ({} if rules is None else {"runOnly": rules})
    found = Axe().run(page, {"exclude": DRAWN_BY_STREAMLIT}, options).response["violations"]
    return {
        each["id"]: [node["html"][:200] for node in each["nodes"]]
        for each in found
        if each["impact"] in ("serious", "critical")
    }


@pytest.mark.parametrize(("theme", "rules", "pages"), [("light", None, EVERY), ("dark", ["color-contrast"], DARK)])
def test_no_page_adds_a_serious_finding(
    server: str, bare: str, browser: Browser, theme: str, rules: list[str] | None, pages: list[str]
) -> None:
    added, asked = {}, list[str]()
    with browser.new_context(viewport={"width": 1280, "height": 1000}, color_scheme=theme) as context:
        context.set_default_timeout(TIMEOUT)
        page = context.new_page()
        _open(page, bare)
        known = _findings(page, rules)
        page.close()  # which asks for an icon of Streamlit's elsewhere, in its own time
        page = context.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("websocket", lambda socket: asked.append(socket.url.replace("ws", "http", 1)))
        for name in pages:
            _open(page, f"{server}/{name}?example=embedded-reber&unit=3")
            for _ in range(LOOKS):
                new = {rule: nodes for rule, nodes in _findings(page, rules).items() if rule not in known}
                if not new:
                    break
                page.wait_for_timeout(1000)
            else:
                added[name or "open"] = new
    assert not added, added
    assert asked and [url for url in asked if not url.startswith(("http://127.0.0.1:", "data:", "blob:"))] == []
