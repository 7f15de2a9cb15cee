"""The front door in a real Chromium: all of it on one screen, grids that move by themselves, and a model that speaks."""

import re

from playwright.sync_api import Page, WebSocket, expect

from tests.helpers.browser import at_rest, go, opened


def test_from_the_door_to_a_model_that_speaks(server: str, page: Page) -> None:
    sent: list[str | bytes] = []

    def listen(socket: WebSocket) -> None:
        socket.on("framesent", lambda frame: sent.append(frame))

    page.on("websocket", listen)
    page.set_viewport_size({"width": 1280, "height": 720})
    page.goto(f"{server}/open")  # typed by hand, like the names of all other pages; it stands at /, too
    canvas, slider = page.locator("canvas.grids"), page.get_by_role("slider")
    expect(canvas).to_have_attribute("data-fallen", " ".join(["16"] * 8))
    at_rest(page)
    expect(page.get_by_text("Page not found")).to_have_count(0)
    names = ("Look inside", "Make it smaller", "Learn", "Open Python-docs characters", "Open Embedded Reber grammar")
    buttons = [page.get_by_test_id("stMain").get_by_role("button", name=name) for name in names]
    for each in (page.get_by_role("heading", level=1), canvas, slider, *buttons, page.get_by_test_id("stFileUploader")):
        expect(each).to_be_in_viewport(ratio=1)
    before = len(sent)
    slider.press("Home")
    expect(canvas).to_have_attribute("data-fallen", " ".join(["0"] * 8))
    page.wait_for_timeout(500)  # longer than a slider that is heard takes to be told
    assert len(sent) == before

    buttons[-1].click()
    opened(page)
    go(page, "Masks")
    expect(page.get_by_text("Dense: 6 of 6 right")).to_be_visible()
    expect(page.get_by_text(re.compile("Pruned: [0-5] of 6 right"))).to_be_visible()
    slider.first.press("Home")
    expect(page.get_by_text("Pruned: 6 of 6 right")).to_be_visible()
