"""What a reload finds and another browser does not, in a real Chromium; and where icons come from."""

import time
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from playwright.sync_api import Browser, Locator, Page, expect

from pruner.dashboard.remembering import COOKIE, SECRET
from tests.helpers.browser import TIMEOUT, WORK, at_rest, go, opened
from tests.helpers.files import saved
from tests.helpers.models import named, random_lstm, random_steps

SOON = 3.0  # seconds, within which a reload shows all on a machine that does nothing else
MARKED_NAME = "marked_encoder"
MARKED_ROW = torch.tensor([12345677 / 2**22, 0.25, 0.25])  # its L1 norm is exact in float32
MARKS = [MARKED_NAME.encode(), MARKED_ROW.sum().numpy().tobytes()]
RECIPE = "sparsity=0.5&granularity=units&criterion=obs&compensation=heal&budget=120"


def _marked() -> bytes:
    tensors = named(random_lstm(), f"{MARKED_NAME}.")
    tensors[f"{MARKED_NAME}.weight_ih_l0"][0] = MARKED_ROW
    return saved(tensors)


def _received(page: Page) -> list[bytes]:
    """What the server says to a page from now on, grown as it comes."""
    said: list[bytes] = []

    def heard(payload: bytes | str) -> None:
        said.append(payload if isinstance(payload, bytes) else payload.encode())

    page.on("websocket", lambda socket: socket.on("framereceived", heard))
    return said


def _marks_in(said: list[bytes]) -> list[bool]:
    return [any(mark in message for message in said) for mark in MARKS]


def _found_soon_after_a_reload(page: Page, what: Locator) -> None:
    started = time.monotonic()
    page.reload(wait_until="commit")
    expect(what).to_be_visible()
    assert time.monotonic() - started < 3 * SOON  # beside other tests, and a run


def test_a_reload_finds_a_run_and_its_inputs_again_and_another_browser_none_of_it(
    server: str, page: Page, browser: Browser, tmp_path: Path
) -> None:
    model, inputs = tmp_path / "own.pt", tmp_path / "inputs.npy"
    model.write_bytes(_marked())
    np.save(inputs, random_steps(40, 20, 3, dtype=torch.float32).numpy())
    said = _received(page)
    page.goto(f"{server}/?file=own.pt&sha256={sha256(model.read_bytes()).hexdigest()[:16]}&{RECIPE}")
    page.locator("input[type=file]").set_input_files(model)
    opened(page)
    go(page, "Calibrate")
    page.locator("input[type=file]").set_input_files(inputs)
    expect(page.get_by_text("inputs.npy")).to_be_visible()
    at_rest(page)  # and the server has it
    page.get_by_role("button", name="Calibrate", exact=True).click()
    calibrated = page.get_by_role("heading", name="Sparsity of each gate under global ranking")
    expect(calibrated).to_be_visible(timeout=WORK)
    go(page, "Run")
    page.get_by_role("button", name="Run", exact=True).click()
    enough = page.get_by_role("button", name="Enough, keep what is healed")
    expect(enough).to_be_visible()
    _found_soon_after_a_reload(page, enough)
    go(page, "Masks")
    assert _marks_in(said) == [True, True]
    cookie = next(each for each in page.context.cookies() if each["name"] == COOKIE)
    assert SECRET.fullmatch(cookie["value"]) and cookie["sameSite"] == "Strict"
    assert 3500 < cookie["expires"] - time.time() <= 3600
    assert cookie["value"] not in page.url and cookie["value"] not in page.content()
    with browser.new_context() as others:
        others.set_default_timeout(TIMEOUT)
        other = others.new_page()
        heard = _received(other)
        other.goto(page.url)
        expect(other.get_by_text("No model is open yet")).to_be_visible()
        other.goto(page.url.replace("/masks", "/"))
        expect(other.get_by_text("This link was made with a checkpoint that stays with its owner")).to_be_visible()
        at_rest(other)
        assert heard and _marks_in(heard) == [False, False]
        assert not any(cookie["value"].encode() in message for message in heard)
    page.get_by_test_id("stSidebar").get_by_role("button", name="Cancel").click()
    expect(page.get_by_test_id("stSidebar").get_by_role("progressbar")).to_have_count(0)
    go(page, "Calibrate")
    _found_soon_after_a_reload(page, calibrated)
    page.goto(server)  # without a link, too
    expect(page.get_by_text(MARKED_NAME).first).to_be_visible()


def test_icons_and_fonts_come_with_the_app(server: str, page: Page) -> None:
    page.goto(f"{server}/?example=embedded-reber")
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    at_rest(page)
    # A browser without a window fetches no icon of a page, so that is looked at.
    icon = page.locator("link[rel~=icon]").get_attribute("href")
    assert icon and icon.startswith("data:"), icon
    fonts = page.evaluate("[...document.fonts].filter(font => font.status === 'loaded').map(font => font.family)")
    assert any("Material Symbols" in family for family in fonts), fonts
