"""The lessons in a real Chromium: from a link, with controls that change what they say, and questions that react."""

import re
from pathlib import Path

import pytest
import torch
from playwright.sync_api import Page, expect
from torch import nn

from pruner import examples
from pruner.examples.embedded_reber import encode
from pruner.lessons import LESSONS, Lesson, cell, frozen, norms, packed, repair, smaller, steps, together
from tests.helpers.browser import at_rest, drawn, titled, wait_until_it_fits
from tests.helpers.pages import LEARN


def _answer(page: Page, lesson: Lesson) -> None:
    """Predict something, so that the answer shows."""
    page.get_by_test_id("stRadio").get_by_text(lesson.answers[0].text, exact=True).click()
    expect(page.get_by_role("link", name="the answer")).to_be_visible()


def _expected(page: Page) -> list[float]:
    """What the animated cell shows that its model expects next."""
    return [float(item.get_attribute("value")) for item in page.locator(".shares data").all()]


def test_an_lstm_is_stepped_through_frozen_and_cut_by_keyboard(server: str, page: Page) -> None:
    page.goto(f"{server}/lesson_cell")
    page.get_by_role("group", name=re.compile("One step of an LSTM")).focus()
    expect(page.get_by_text("Step 1 of 10 reads B, after nothing.")).to_be_visible()
    for _ in cell.READ[1:9]:
        page.keyboard.press("ArrowRight")
    expect(page.get_by_text("Step 9 of 10 reads E, after BPBPTVPS. Allowed next: P")).to_be_visible()
    expect(page).to_have_url(re.compile("at=9"))
    tensors = examples.named("embedded-reber").open().tensors
    lstm = nn.LSTM(7, 32, batch_first=True)
    lstm.load_state_dict({name.removeprefix("lstm."): t for name, t in tensors.items() if name.startswith("lstm.")})
    with torch.no_grad():
        hidden, _ = lstm(encode([f"{cell.READ}E"])[0])
        shares = (hidden[0, 8] @ tensors["linear.weight"].t() + tensors["linear.bias"]).softmax(0).tolist()
    assert _expected(page) == pytest.approx(shares, abs=1e-5)
    page.get_by_role("button", name="g cell freeze").press("Enter")
    expect(page.get_by_role("button", name="g cell frozen")).to_have_attribute("aria-pressed", "true")
    expect(page).to_have_url(re.compile("frozen=g"))
    page.get_by_label("Unit", exact=True).fill("2")
    page.get_by_role("button", name="Remove unit 2").press("Enter")
    expect(page).to_have_url(re.compile("removed=2"))
    at_rest(page)
    changed = cell.walk(frozen="g", removed=(2,)).shares[8].tolist()
    assert _expected(page) == pytest.approx(changed, abs=1e-5) and changed != pytest.approx(shares, abs=0.1)
    page.reload()
    expect(page.get_by_text("Step 9 of 10 reads E")).to_be_visible()
    assert _expected(page) == pytest.approx(changed, abs=1e-5)
    page.get_by_role("button", name="Whole again").click()
    expect(page).to_have_url(f"{server}/lesson_cell?at=9")
    page.get_by_role("link", name="Next: One tensor, four layers").click()
    expect(page).to_have_url(f"{server}/lesson_packed")


def test_every_question_reacts_and_every_lesson_leads_to_the_next(server: str, page: Page) -> None:
    page.goto(f"{server}/{LEARN[1]}")
    for lesson, after in zip(LESSONS, [*LESSONS[1:], None], strict=True):
        titled(page, lesson.title)
        expect(page.get_by_test_id("stAlert")).to_have_count(0)
        for answer in lesson.answers:
            page.get_by_test_id("stRadio").get_by_text(answer.text, exact=True).click()
            expect(page.get_by_test_id("stAlert")).to_contain_text("Right." if answer.right else "Not quite.")
        page.get_by_role("link", name=f"Next: {after.title}" if after else "All lessons and terms").click()
    titled(page, "Learn")


def test_a_row_is_found_again_by_its_link(server: str, page: Page) -> None:
    page.goto(f"{server}/lesson_packed?row=101&packed=weight_hh")
    _answer(page, packed.LESSON)
    expect(page.get_by_text("Row 101 is the output gate o of unit 5.")).to_be_visible()
    drawn(page, 2)
    slider = page.get_by_role("slider", name="Row of the packed tensor")
    slider.press("ArrowRight")
    expect(page.get_by_text("Row 102 is the output gate o of unit 6.")).to_be_visible()
    expect(page).to_have_url(re.compile("row=102"))
    page.reload()
    _answer(page, packed.LESSON)
    expect(page.get_by_text("Row 102 is the output gate o of unit 6.")).to_be_visible()


def test_numbers_are_edited_in_the_table_and_stand_in_the_link(server: str, page: Page) -> None:
    page.goto(f"{server}/lesson_saliency")
    _answer(page, norms.LESSON)
    expect(page.get_by_text("1.2 + 0.8 = 2.")).to_be_visible()
    expect(page.get_by_role("heading", name="In the library")).to_be_visible()
    drawn(page, 2)  # one of them on the other tab
    table, changed = page.get_by_test_id("stDataFrame").first, page.get_by_text("7 + 0.25 = 7.25.")
    for _ in range(4):  # a click misses its cell where the table still moves, and keys are lost before it has the focus
        page.wait_for_timeout(1000)
        table.click(position={"x": 270, "y": 52})  # weight 1 of the first row
        page.wait_for_timeout(500)
        page.keyboard.press("Enter")
        page.wait_for_timeout(500)
        page.keyboard.press("Control+a")
        page.keyboard.type("7")
        page.keyboard.press("Enter")
        page.wait_for_timeout(2000)
        if changed.is_visible():
            break
    expect(changed).to_be_visible()
    expect(page).to_have_url(re.compile(r"weights=7(\+|%20)-0\.25"))
    page.reload()
    _answer(page, norms.LESSON)
    expect(page.get_by_text("7 + 0.25 = 7.25.")).to_be_visible()
    expect(page.get_by_label("The same numbers as text")).to_have_value(norms.NUMBERS.replace("0.5 ", "7 ", 1))


def test_a_slider_moves_both_rankings(server: str, page: Page) -> None:
    page.goto(f"{server}/lesson_gates?share=30")
    _answer(page, together.LESSON)
    values = page.get_by_test_id("stMetricValue")
    expect(values.nth(1)).to_have_text("1%")
    page.get_by_role("slider").press("Home")
    expect(values.nth(1)).to_have_text("100%")
    expect(values.first).to_have_text("100%")
    expect(page).to_have_url(f"{server}/lesson_gates?share=0")


def test_steps_can_be_taken_and_handed_out(server: str, page: Page) -> None:
    page.goto(f"{server}/lesson_steps?step=Norms")
    _answer(page, steps.LESSON)
    expect(page.get_by_text("becomes one number")).to_be_visible()
    page.get_by_role("button", name="Next", exact=True).click()
    expect(page.get_by_text("k = int(32 × 0.25) = 8")).to_be_visible()
    expect(page).to_have_url(f"{server}/lesson_steps?step=Lowest")
    page.get_by_role("button", name="Back", exact=True).click()
    expect(page.get_by_text("becomes one number")).to_be_visible()


def test_a_gate_freezes_and_the_prediction_fails(server: str, page: Page) -> None:
    page.goto(f"{server}/lesson_frozen?rows=none")
    _answer(page, frozen.LESSON)
    expect(page.get_by_text("Nothing is masked.")).to_be_visible()
    values = page.get_by_test_id("stMetricValue")
    whole = values.first.inner_text()
    expect(values.last).to_have_text(whole)
    page.get_by_role("radio", name="both").click()
    expect(page.get_by_text("reads nothing any more")).to_be_visible()
    assert int(values.last.inner_text().strip("%")) < 50 < int(whole.strip("%"))


def test_the_last_lessons_follow_their_sliders(server: str, page: Page) -> None:
    page.goto(f"{server}/lesson_smaller?dropped=50")
    _answer(page, smaller.LESSON)
    expect(page.get_by_text("drops 16 of 32 rows")).to_be_visible()
    page.get_by_role("slider").press("Home")
    expect(page.get_by_text("drops 1 of 32 rows")).to_be_visible()
    page.goto(f"{server}/lesson_repair?removed=20")
    _answer(page, repair.LESSON)
    expect(page.get_by_text("With 6 of 32 units gone")).to_be_visible()
    page.get_by_role("slider").press("ArrowRight")
    expect(page.get_by_text("With 9 of 32 units gone")).to_be_visible()


def test_from_a_lesson_to_the_studio_with_the_open_model(server: str, page: Page) -> None:
    page.goto(f"{server}/lesson_gates?share=30")
    page.get_by_role("button", name="Open this model in the studio").click()
    expect(page).to_have_url(re.compile("share=30.*example=embedded-reber"))
    page.get_by_role("link", name="See this on your model").click()
    titled(page, "Masks")
    expect(page).to_have_url(f"{server}/masks?example=embedded-reber&sparsity=0.5")


def test_the_handout_is_downloaded(server: str, page: Page, tmp_path: Path) -> None:
    page.goto(f"{server}/learn")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download the handout").click()
    download.value.save_as(tmp_path / "handout.html")
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto((tmp_path / "handout.html").as_uri())
    expect(page.get_by_role("heading", level=1)).to_have_count(len(LESSONS) + 2)
    assert len(requests) == 1


def test_nothing_is_cut_off_sideways(server: str, page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 900})
    for path in LEARN:
        page.goto(f"{server}/{path}")
        expect(page.get_by_role("heading", name="Terms" if path == "learn" else "In the library")).to_be_visible()
        wait_until_it_fits(page)
