"""Tuning in a real Chromium: grids that follow a dragged slider, a selected unit, pinned recipes, undo, links."""

import re

import pandas as pd
import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from pruner import Recipe, examples
from pruner.lstm.gates import ALL_BLOCKS
from pruner.pipeline import choose_masks
from tests.helpers.browser import TIMEOUT, at_rest, go, number, opened


def _canvas(page: Page) -> Locator:
    return page.locator("canvas.grids:not([hidden])")


def _fallen(sparsity: float) -> str:
    """What the canvas should say of layer 0: rows that fall in each of the eight blocks."""
    checkpoint = examples.named("embedded-reber").open()
    masks = choose_masks(checkpoint, Recipe(sparsity))
    names = ("lstm.weight_ih_l0", "lstm.weight_hh_l0")
    return " ".join(str(count) for name in names for count in (~masks[name]).view(4, -1).sum(1).tolist())


def _set(page: Page, percent: str) -> None:
    field = page.get_by_role("spinbutton", name="in %")
    field.fill(percent)
    field.press("Enter")
    expect(page.get_by_role("slider").first).to_have_value(str(int(percent) / 100))
    at_rest(page)


def test_the_grids_follow_the_slider_while_it_is_dragged(server: str, page: Page) -> None:
    page.goto(f"{server}/masks?example=embedded-reber&sparsity=0.5")
    canvas = _canvas(page)
    expect(canvas).to_have_attribute("data-fallen", _fallen(0.5))
    expect(number(page, "Quality")).not_to_have_text("–")  # once that is known, the page is made anew
    slider = page.get_by_role("slider").first
    slider.scroll_into_view_if_needed()
    track = slider.bounding_box()
    assert track
    middle = track["y"] + track["height"] / 2
    page.mouse.move(track["x"] + track["width"] / 2, middle)
    page.mouse.down()
    page.mouse.move(track["x"] + 0.75 * track["width"], middle, steps=5)
    dragged = float(slider.input_value())
    assert dragged > 0.6
    expect(canvas).to_have_attribute("data-fallen", _fallen(dragged))
    rows = sum(map(int, _fallen(dragged).split()))
    expect(number(page, "Rows dropped")).to_have_text(str(rows))  # before the slider is let go
    page.wait_for_timeout(1000)  # longer than a slider takes to rest that is not held
    at_rest(page)
    expect(page).to_have_url(re.compile("sparsity=0.5$"))  # nothing was made anew below the hand that holds it
    page.mouse.up()
    expect(page).to_have_url(re.compile(f"sparsity={dragged:g}$"))
    expect(canvas).to_have_attribute("data-fallen", _fallen(dragged))


def test_what_moves_stays_where_it_is_when_all_of_the_page_is_made_anew(server: str, page: Page) -> None:
    page.goto(f"{server}/masks?example=pydocs-chars&sparsity=0.5")
    slider, kept = page.get_by_role("slider").first, (_canvas(page), page.get_by_test_id("stMetric").first)
    expect(kept[0]).to_have_attribute("data-fallen", re.compile("128"))
    at_rest(page)
    for each in (slider, *kept):
        each.evaluate("(element) => (element.isTheSame = true)")
    for turn in range(6):
        slider.press("ArrowRight")
        expect(page).to_have_url(re.compile(f"sparsity={0.51 + turn / 100:.2g}"))  # it has come to rest
        at_rest(page)
        assert all(each.evaluate("(element) => element.isTheSame") for each in (slider, *kept))


def test_the_grids_follow_without_the_server(server: str, page: Page) -> None:
    page.goto(f"{server}/masks?example=embedded-reber&sparsity=0.5")
    expect(_canvas(page)).to_have_attribute("data-fallen", _fallen(0.5))
    at_rest(page)
    page.context.set_offline(True)
    page.get_by_role("slider").first.press("Home")
    expect(_canvas(page)).to_have_attribute("data-fallen", _fallen(0))


MOVE_AND_UNDO = """slider => {
  for (const value of [0.9, 0.8]) {
    slider.value = value
    slider.dispatchEvent(new Event("input", { bubbles: true }))
  }
  const undo = [...document.querySelectorAll("button")].find((each) => each.textContent.includes("Undo"))
  undo.dispatchEvent(new PointerEvent("pointerdown", { bubbles: true }))
  undo.click()
}"""


@pytest.mark.parametrize(("width", "height", "grids"), [(1280, 720, 8), (390, 844, 4)])
def test_slider_number_verdict_and_grids_stand_on_one_screen(
    server: str, browser: Browser, width: int, height: int, grids: int
) -> None:
    with browser.new_context(viewport={"width": width, "height": height}) as context:
        context.set_default_timeout(TIMEOUT)
        page = context.new_page()
        page.goto(f"{server}/masks?example=embedded-reber&sparsity=0.5")
        expect(number(page, "Quality")).to_have_text(re.compile(r"^0\.\d+$"))
        expect(page.locator(".stMarkdownBadge", has_text="Ruined")).to_be_in_viewport(ratio=1)
        undo = page.get_by_role("button", name="Undo")
        for each in (page.get_by_role("slider").first, page.get_by_role("spinbutton", name="in %"), undo):
            expect(each).to_be_in_viewport(ratio=1)
        place = _canvas(page).bounding_box()
        assert place and place["y"] + place["height"] * grids / 8 <= height
        page.get_by_role("button", name="Save as PNG").scroll_into_view_if_needed()
        expect(page.get_by_role("slider").first).to_be_in_viewport(ratio=1)  # it stays while the grids pass by


def test_the_quality_follows_the_release_of_the_slider(server: str, page: Page) -> None:
    page.goto(f"{server}/masks?example=embedded-reber&sparsity=0.5")
    quality = number(page, "Quality")
    expect(quality).to_have_text(re.compile(r"^0\.\d+$"))
    page.get_by_role("slider").first.press("Home")
    expect(quality).to_have_text("1.000")
    expect(page.locator(".stMarkdownBadge", has_text="Kept")).to_be_visible()


def test_from_the_overview_to_a_comparison_and_a_shared_link(server: str, page: Page, browser: Browser) -> None:
    page.goto(f"{server}/overview?example=embedded-reber")
    expect(page.get_by_role("heading", name="Overview", exact=True, level=1)).to_be_visible()
    table = page.get_by_test_id("stDataFrame").last
    expect(table.locator("canvas").first).to_be_visible()
    table.scroll_into_view_if_needed()
    table.click(position={"x": 25, "y": 55})  # the first block
    expect(page.get_by_role("heading", name="Rows", exact=True, level=1)).to_be_visible()

    canvas = _canvas(page)
    expect(canvas).to_be_visible()
    canvas.hover(position={"x": 40, "y": 60})
    expect(page.locator(".tip")).to_contain_text(re.compile(r"ii, unit \d+: L1 norm"))
    told = page.locator(".tip").text_content() or ""
    unit = re.findall(r"unit (\d+)", told)[0]
    canvas.click(position={"x": 40, "y": 60})
    expect(page.get_by_text(f"Unit {unit} is selected.")).to_be_visible()

    go(page, "Masks")
    expect(canvas).to_have_attribute("data-fallen", _fallen(0.5))  # drawn at once, the slider may come after it
    _set(page, "30")
    expect(canvas).to_have_attribute("data-fallen", _fallen(0.3))
    page.get_by_role("button", name="Pin as A").click()
    _set(page, "50")
    expect(canvas).to_have_attribute("data-fallen", _fallen(0.5))

    page.get_by_text("Compare with A", exact=True).click()
    expect(page.locator(".foot .legend")).to_contain_text("only in A")
    expect(number(page, "Quality of A")).to_have_text(re.compile(r"^0\.\d+$"))
    expect(canvas).to_have_attribute("data-fallen", _fallen(0.5))
    page.get_by_text("Compare with A", exact=True).click()
    expect(page.locator(".foot .legend")).not_to_contain_text("only in A")

    page.get_by_role("button", name="Undo").click()
    expect(page.get_by_role("slider").first).to_have_value("0.3")
    expect(canvas).to_have_attribute("data-fallen", _fallen(0.3))
    page.get_by_role("button", name="Redo").click()
    expect(canvas).to_have_attribute("data-fallen", _fallen(0.5))
    page.keyboard.press("Control+z")
    expect(canvas).to_have_attribute("data-fallen", _fallen(0.3))
    expect(page).to_have_url(re.compile(f"sparsity=0.3.*unit={unit}"))

    with browser.new_context() as elsewhere:
        elsewhere.set_default_timeout(TIMEOUT)
        fresh = elsewhere.new_page()
        fresh.goto(page.url)
        expect(fresh.get_by_text(f"Unit {unit} is selected.")).to_be_visible()
        expect(fresh.get_by_role("slider").first).to_have_value("0.3")
        expect(_canvas(fresh)).to_have_attribute("data-fallen", _fallen(0.3))
        fresh.get_by_role("button", name="Clear selection").click()
        expect(fresh.get_by_text("Click a cell to select its unit")).to_be_visible()


def test_a_gate_of_its_own_sparsity_can_be_slid_typed_and_reset(server: str, page: Page) -> None:
    page.goto(f"{server}/masks?example=embedded-reber&sparsity=0.5&gates=hg:0.25")
    canvas = _canvas(page)
    expect(canvas).to_have_attribute("data-fallen", "16 16 16 16 16 16 8 16")
    at_rest(page)
    page.get_by_role("button", name="Recipe").press("Enter")
    slider = page.get_by_role("slider", name="hg (cell)")
    expect(slider).to_have_value("0.25")
    slider.focus()
    slider.press("Home")
    expect(canvas).to_have_attribute("data-fallen", "16 16 16 16 16 16 0 16")
    expect(page).to_have_url(re.compile("gates=hg%3A0$"))
    page.get_by_role("button", name="hg (cell): follow").click()
    expect(canvas).to_have_attribute("data-fallen", "16 16 16 16 16 16 16 16")
    expect(page).to_have_url(re.compile("sparsity=0.5$"))
    field = page.get_by_role("spinbutton", name="hg (cell), own sparsity")
    field.fill("75")
    field.press("Enter")
    expect(canvas).to_have_attribute("data-fallen", "16 16 16 16 16 16 24 16")
    expect(slider).to_have_value("0.75")
    page.get_by_role("slider", name="Layer 0").press("End")
    expect(canvas).to_have_attribute("data-fallen", "32 32 32 32 32 32 24 32")
    expect(page).to_have_url(re.compile("layers=0%3A1&gates=hg%3A0.75$"))
    page.get_by_role("button", name="Reset to the overall sparsity").click()
    expect(canvas).to_have_attribute("data-fallen", _fallen(0.5))
    expect(page).to_have_url(re.compile("sparsity=0.5$"))


def test_sliders_stand_where_they_were_when_one_comes_back(server: str, page: Page) -> None:
    page.goto(f"{server}/masks?example=embedded-reber&sparsity=0.5")
    slider = page.get_by_role("slider").first
    for _ in range(5):
        slider.press("ArrowRight")
    expect(page).to_have_url(re.compile("sparsity=0.55$"))
    go(page, "Rows")
    expect(page.get_by_role("slider")).to_have_count(0)
    go(page, "Masks")
    expect(slider).to_have_value("0.55")
    expect(_canvas(page)).to_have_attribute("data-fallen", _fallen(0.55))
    field = page.get_by_role("spinbutton", name="in %")
    field.fill("12.5")  # between two steps of the slider: the server tells what falls
    field.press("Enter")
    expect(page).to_have_url(re.compile("sparsity=0.125$"))
    expect(_canvas(page)).to_have_attribute("data-fallen", _fallen(0.125))
    at_rest(page)
    slider.evaluate(MOVE_AND_UNDO)  # two moves at once, of which Python has heard the first
    expect(_canvas(page)).to_have_attribute("data-fallen", _fallen(0.125))


def test_every_row_with_its_decision_is_downloaded(server: str, page: Page) -> None:
    page.goto(f"{server}/masks?example=embedded-reber&sparsity=0.5&gates=hg:0.25")
    button = page.get_by_role("button", name="Download every row as CSV")
    expect(button).to_be_visible()
    at_rest(page)
    with page.expect_download() as download:
        button.click()
    table = pd.read_csv(download.value.path())
    fallen = table[~table["kept"]].groupby("gate").size()
    assert fallen.to_dict() == {block: 8 if block == "hg" else 16 for block in ALL_BLOCKS}
    assert len(table) == 8 * 32


def test_the_keyboard_walks_over_the_grids(server: str, page: Page) -> None:
    page.goto(f"{server}/saliency?example=embedded-reber")
    canvas = _canvas(page)
    expect(canvas).to_be_visible()
    canvas.focus()
    for key in ("ArrowRight", "ArrowDown", "Enter"):
        page.keyboard.press(key)
    expect(page.get_by_text("Unit 7 is selected.")).to_be_visible()  # one to the right, one row of six down
    expect(canvas).to_have_attribute("aria-label", re.compile("eight gate blocks of layer 0"))
    canvas.focus()
    page.keyboard.press("Escape")
    expect(page.get_by_text("Click a cell to select its unit")).to_be_visible()


def test_a_link_to_ones_own_checkpoint_waits_for_the_file(
    server: str, page: Page, browser: Browser, checkpoints
) -> None:
    source = checkpoints / "beatnet_model_1_weights.pt"
    page.goto(server)
    page.locator("input[type=file]").set_input_files(source)
    opened(page)
    go(page, "Masks")
    _set(page, "30")
    expect(page).to_have_url(re.compile("file=beatnet_model_1_weights.pt&sha256=[0-9a-f]{16}&sparsity=0.3"))
    with browser.new_context() as elsewhere:
        elsewhere.set_default_timeout(TIMEOUT)
        fresh = elsewhere.new_page()
        fresh.goto(page.url.replace("/masks", "/"))
        expect(fresh.get_by_text("stays with its owner")).to_be_visible()
        fresh.locator("input[type=file]").set_input_files(source)
        opened(fresh)
        expect(fresh.get_by_text("this file is another one")).to_have_count(0)
        go(fresh, "Masks")
        expect(fresh.get_by_role("slider").first).to_have_value("0.3")
