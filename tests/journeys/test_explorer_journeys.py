"""The explorer's pages in a real Chromium: from the overview to a block, and one unit followed."""

import re

from playwright.sync_api import Browser, Locator, Page, expect

from tests.helpers.browser import TIMEOUT, at_rest, choose, drawn, go, titled


def _table_of_blocks(page: Page) -> Locator:
    titled(page, "Overview")
    drawn(page, 2)
    at_rest(page)
    return page.get_by_test_id("stDataFrame").nth(2)


def test_from_the_overview_to_a_block(server: str, page: Page) -> None:
    page.goto(f"{server}/overview?example=pydocs-chars")
    _table_of_blocks(page).click(
        position={"x": 25, "y": 35 + 35 * 4 + 17}
    )  # the button of the fifth line: hi of layer 0
    titled(page, "Rows")
    expect(page).to_have_url(re.compile("/saliency.*side=hh"))
    expect(page).not_to_have_url(re.compile("layer="))
    page.get_by_role("link", name="Overview", exact=True).click()
    table = _table_of_blocks(page)
    for _ in range(2):  # by layer, the last one first
        table.click(position={"x": 120, "y": 17})
    table.click(position={"x": 25, "y": 35 + 17})
    titled(page, "Rows")
    expect(page).to_have_url(re.compile("/saliency.*layer=1"))


def test_a_unit_is_followed_and_its_link_opens_it_in_a_fresh_browser(server: str, page: Page, browser: Browser) -> None:
    page.goto(f"{server}/unit?example=pydocs-chars&layer=1")
    titled(page, "Unit")
    number = page.get_by_role("spinbutton", name="Hidden unit, 0 to 255")
    number.fill("200")
    number.press("Enter")
    expect(page.get_by_role("heading", name="At rest")).to_be_visible()
    expect(page).to_have_url(re.compile("unit=200"))
    with browser.new_context(viewport={"width": 1440, "height": 1000}) as context:
        fresh = context.new_page()
        fresh.set_default_timeout(TIMEOUT)
        fresh.goto(page.url)
        expect(fresh.get_by_role("spinbutton", name="Hidden unit, 0 to 255")).to_have_value("200")
        expect(fresh.get_by_text("Unit 200 of lstm, layer 1")).to_be_visible()
    clear = page.get_by_role("button", name="Clear selection")
    expect(clear).to_be_in_viewport()
    below = page.get_by_test_id("stDataFrame").nth(2)
    below.click(position={"x": 20, "y": 35 + 17})  # the strongest neighbour in the layer below
    expect(page.get_by_text(re.compile(r"Unit \d+ of lstm, layer 0"))).to_be_visible()
    expect(page).not_to_have_url(re.compile("layer=1"))
    clear.click()
    expect(page.get_by_text("type its number, or select it in the table")).to_be_visible()
    expect(page).not_to_have_url(re.compile("unit="))
    expect(page.get_by_test_id("stDataFrame")).to_have_count(1)
    page.get_by_test_id("stDataFrame").click(position={"x": 25, "y": 35 + 35 * 2 + 17})
    expect(page).to_have_url(re.compile("unit=2(&|$)"))


def test_what_is_chosen_stays_from_page_to_page(server: str, page: Page) -> None:
    page.goto(f"{server}/saliency?example=pydocs-chars")
    titled(page, "Rows")
    page.get_by_role("radiogroup", name="Layer").get_by_text("1", exact=True).click()
    expect(page).to_have_url(re.compile("layer=1"))
    page.get_by_role("radiogroup", name="Gate").get_by_text("o", exact=True).click()
    expect(page).to_have_url(re.compile("layer=1.*shown_gate=o"))
    for name in ("Unit", "Weights", "Overview", "Rows"):
        go(page, name)
        for group, value in (("Layer", "1"), ("Gate", "o")):
            shown = page.get_by_role("radiogroup", name=group).get_by_role("radio", name=value, exact=True)
            expect(shown).to_be_checked()
    expect(page).to_have_url(re.compile("layer=1.*shown_gate=o"))


def test_a_unit_is_found_by_what_it_does_and_pointing_at_a_symbol_shows_its_step(server: str, page: Page) -> None:
    page.goto(f"{server}/unit?example=embedded-reber")
    titled(page, "Unit")
    page.get_by_text("Find units by what they do").click()
    at_rest(page)
    choose(page, "Units that follow this", "The string began with T")
    expect(page.get_by_text("which no unit can know")).to_be_visible()
    page.get_by_test_id("stDataFrame").first.click(position={"x": 25, "y": 35 + 17})
    expect(page).to_have_url(re.compile("unit="))
    expect(page.get_by_role("combobox", name="Units that follow this")).not_to_be_visible()  # the finder makes room
    expect(page.get_by_text("Shaded: The string began with T")).to_be_visible()
    chart = page.locator(".js-plotly-plot").first
    symbol = chart.locator(".textpoint").nth(6)  # of BTBTSSX…
    expect(symbol).to_have_text("X")
    symbol.scroll_into_view_if_needed()
    at_rest(page)
    box = symbol.bounding_box()
    assert box is not None
    page.mouse.move(box["x"], box["y"])
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    expect(chart.locator(".hoverlayer")).to_contain_text("step 6")
    expect(chart.locator(".hoverlayer")).to_contain_text("reads X")
    expect(chart.locator(".hoverlayer")).to_contain_text("o pruned")
