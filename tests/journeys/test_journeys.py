"""Whole journeys in a real Chromium against a freshly started server."""

import json
import re
import zipfile
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect
from safetensors.torch import load

from pruner.cli.main import main
from tests.helpers.browser import THEMES, TIMEOUT, WORK, drawn, go, number, opened, serving, titled, wait_until_it_fits
from tests.helpers.project import PROJECT

# Each kind of page, on a server of its own.
LINKED = ["", "compare", "sensitivity", "lesson_frozen"]


def _to_the_zip(page: Page, folder: Path, granularity: str = "rows") -> Path:
    """From an open model by way of Masks at 50 % and Run to the downloaded zip."""
    page.get_by_role("link", name="Masks").click()
    titled(page, "Masks")
    if granularity == "units":
        page.get_by_role("radio", name="Units").click()
        page.get_by_role("button", name="Recipe").click()
        expect(page.get_by_role("radio", name="Heal")).to_be_checked()  # as the inputs of an example are known
        page.get_by_role("radio", name="None").click()
        page.get_by_role("radio", name="L1 norm").click()
        page.keyboard.press("Escape")
    drawn(page, 1 if granularity == "units" else 2)
    expect(page.get_by_role("slider").first).to_have_value("0.5")
    page.get_by_role("link", name="Run", exact=True).click()
    titled(page, "Run")
    page.get_by_role("button", name="Run", exact=True).click()
    expect(page.get_by_role("heading", name="Before and after")).to_be_visible(timeout=WORK)
    expect(page.get_by_test_id("stMetric").first).to_be_visible()
    page.get_by_role("link", name="Export", exact=True).click()
    expect(page.get_by_text("computes exactly what was previewed")).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download everything as one zip").click()
    target = folder / download.value.suggested_filename
    download.value.save_as(target)
    return target


def test_from_the_example_to_a_zip_that_verifies(server: str, page: Page, tmp_path: Path) -> None:
    page.goto(server)
    page.get_by_role("button", name="Open").first.click()
    opened(page)
    page.get_by_role("button", name="Look inside").click()
    titled(page, "Overview")
    page.get_by_role("link", name="See every row").click()
    titled(page, "Rows")
    expect(page.locator("canvas.grids")).to_be_visible()
    packed = _to_the_zip(page, tmp_path)
    source = PROJECT / "pruner" / "examples" / "pydocs_chars.safetensors"
    assert main(["verify", str(packed), "--source", str(source)]) == 0


def test_browser_and_command_line_export_the_same_tensors(server: str, page: Page, tmp_path: Path) -> None:
    source = PROJECT / "pruner" / "examples" / "embedded_reber.safetensors"
    page.goto(f"{server}/?example=embedded-reber")
    opened(page)
    packed = _to_the_zip(page, tmp_path, "units")
    assert main(["verify", str(packed), "--source", str(source)]) == 0
    options = ["--sparsity", "0.5", "--granularity", "units", "--criterion", "l1", "--consumer", "linear.weight"]
    assert main(["prune", str(source), *options, "--output", str(tmp_path / "export")]) == 0
    with zipfile.ZipFile(packed) as archive:
        assert json.loads(archive.read("manifest.json"))["form"] == "compact"
        from_browser = load(archive.read("pruned.safetensors"))
    from_command_line = load((tmp_path / "export" / "pruned.safetensors").read_bytes())
    assert from_browser.keys() == from_command_line.keys()
    for name, tensor in from_browser.items():
        assert tensor.dtype == from_command_line[name].dtype and tensor.shape == from_command_line[name].shape
        assert tensor.numpy().tobytes() == from_command_line[name].numpy().tobytes()
    assert from_browser["lstm.weight_hh_l0"].shape == (4 * 16, 16)


def test_from_a_dropped_checkpoint_to_a_zip_that_verifies(
    server: str, page: Page, tmp_path: Path, checkpoints: Path
) -> None:
    source = checkpoints / "beatnet_model_1_weights.pt"
    page.goto(server)
    page.locator("input[type=file]").set_input_files(source)
    opened(page)
    assert main(["verify", str(_to_the_zip(page, tmp_path)), "--source", str(source)]) == 0


def test_from_the_example_by_its_inputs_to_the_best_recipe(server: str, page: Page) -> None:
    page.goto(f"{server}/?example=embedded-reber&granularity=units&round_to=1")
    opened(page)
    go(page, "Calibrate")
    page.get_by_role("button", name="Calibrate", exact=True).click()
    expect(page.get_by_role("heading", name="Sparsity of each gate under global ranking")).to_be_visible(timeout=WORK)
    go(page, "Masks")
    page.get_by_role("button", name="Recipe").click()
    page.get_by_role("radio", name="Brain surgeon").click()
    page.get_by_role("radio", name="Fold").click()
    page.keyboard.press("Escape")
    expect(page.get_by_text("Units are ranked by their brain surgeon score")).to_be_visible()
    go(page, "Run")
    page.get_by_role("button", name="Run", exact=True).click()
    expect(page.get_by_role("heading", name="Compensation, step by step")).to_be_visible(timeout=WORK)
    go(page, "Experiments")
    page.get_by_role("button", name="Try sizes", exact=True).click()
    page.get_by_role("button", name="Open on Masks").click(timeout=WORK)  # the smallest that loses little is selected
    titled(page, "Masks")
    expect(page).to_have_url(re.compile("sparsity=0.3&.*criterion=obs.*compensation=fold.*task=softmax"))
    expect(page.get_by_role("slider").first).to_have_value("0.3")
    expect(number(page, "Removable")).to_have_text("9")  # units


def test_a_hostile_upload_is_refused_and_the_server_goes_on(server: str, page: Page, tmp_path: Path) -> None:
    hostile = tmp_path / "model.pt"
    hostile.write_bytes(b"\x80\x04cposix\nsystem\n(S'touch stolen'\ntR.")
    page.goto(server)
    page.locator("input[type=file]").set_input_files(hostile)
    expect(page.get_by_text("found an object of 'posix.system'")).to_be_visible()
    assert not (PROJECT / "stolen").exists()
    page.get_by_role("button", name="Open").first.click()
    opened(page)


def test_moving_the_slider_moves_the_mask_and_the_link(server: str, page: Page) -> None:
    page.goto(f"{server}/masks?example=embedded-reber&sparsity=0.5")
    dropped = number(page, "Rows dropped")
    expect(dropped).to_have_text("128")
    slider = page.get_by_role("slider").first
    slider.focus()
    slider.press("Home")
    expect(dropped).to_have_text("0")
    expect(page).to_have_url(f"{server}/masks?example=embedded-reber&sparsity=0")


@pytest.mark.parametrize("path", LINKED, ids=lambda path: path or "open")
def test_a_deep_link_opens_inside_the_app_on_a_fresh_server(page: Page, path: str) -> None:
    with serving() as url:
        page.goto(f"{url}/{path}?example=embedded-reber&sparsity=0.25")
        navigation = page.get_by_test_id("stSidebarNav")
        for name in ("Open", "Rows", "Calibrate", "Masks", "Run", "Experiments", "Export"):
            expect(navigation.get_by_role("link", name=name, exact=True)).to_be_visible()
        expect(page.get_by_text("embedded_reber.safetensors").first).to_be_visible()
        expect(page.get_by_text("Page not found")).to_have_count(0)
        navigation.get_by_role("link", name="Masks").click()
        expect(page.get_by_role("slider").first).to_have_value("0.25")


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("width", [1440, 390])
def test_nothing_is_cut_off_sideways(server: str, browser: Browser, theme: str, width: int) -> None:
    with browser.new_context(viewport={"width": width, "height": 800}, color_scheme=theme) as context:
        context.set_default_timeout(TIMEOUT)
        page = context.new_page()
        page.goto(f"{server}/masks?example=embedded-reber")
        drawn(page, 2)
        wait_until_it_fits(page)
