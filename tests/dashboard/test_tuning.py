"""Undo, own sparsities, pins and comparisons, in process through `app.py`."""

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from pruner import Recipe, examples
from pruner.pipeline import choose_masks
from tests.helpers.files import saved
from tests.helpers.models import named, random_lstm
from tests.helpers.pages import (
    button,
    canvases,
    checked,
    go,
    metrics,
    press,
    said,
    sent_to_the_canvas,
    set_to,
    slide,
    standing,
    upload,
    wait,
)


def test_undo_and_redo_walk_over_the_recipes(example: AppTest) -> None:
    example = slide(slide(go(example, "masks"), overall=0.3), overall=0.7)
    example = press(slide(example, gates={"hf": 0.2}), "Undo")
    assert standing(example) == {"overall": 0.7, "layers": {}, "gates": {}}
    example = press(example, "Undo")
    assert standing(example)["overall"] == 0.3
    example = press(press(example, "Redo"), "Redo")
    assert standing(example) == {"overall": 0.7, "layers": {}, "gates": {"hf": 0.2}}
    assert said(example).items() >= standing(example).items()
    assert button(example, "Redo").disabled
    example = slide(press(example, "Undo"), overall=0.1)  # a new step forgets what was undone
    assert button(example, "Redo").disabled
    for _ in range(3):
        example = press(example, "Undo")
    assert standing(example)["overall"] == 0.5
    assert button(example, "Undo").disabled


def test_a_move_that_has_not_come_to_rest_is_undone_too(example: AppTest) -> None:
    example = slide(go(example, "masks"), overall=0.3)
    example.session_state.sparsity = 0.4  # as a slider leaves it that still moves
    example = press(example, "Undo")
    assert standing(example)["overall"] == 0.3


@pytest.mark.parametrize(("click", "stands"), [("Undo", 0.3), ("Redo", 0.9), ("Pin as A", 0.9)])
def test_a_move_that_comes_in_one_message_with_a_click_was_there_before_it(
    example: AppTest, click: str, stands: float
) -> None:
    example = press(slide(slide(go(example, "masks"), overall=0.3), overall=0.7), "Undo")
    button(example, click).click()
    example = slide(example, overall=0.9)  # whose callback is called after that of the click
    assert example.session_state.sparsity == stands == standing(example)["overall"]
    if click == "Pin as A":
        assert example.session_state.pinned.recipe.sparsity == 0.9


def test_what_is_moved_is_heard_and_nothing_is_said_back(example: AppTest) -> None:
    example = go(example, "masks")
    first, sent = said(example), canvases(example)[0].bytes
    assert first["overall"] == 0.5
    example = slide(example, overall=0.25)
    assert example.session_state.sparsity == 0.25 and metrics(example)["Rows dropped, of 256"] == "64"
    assert canvases(example)[0].bytes == sent
    example = set_to(example, sparsity=0.5)
    assert said(example) == {**first, "edition": first["edition"] + 1}


def test_what_was_moved_before_something_else_was_said_is_said_again(example: AppTest) -> None:
    example = go(example, "masks")
    before = said(example)["edition"]
    example = set_to(example, sparsity=0.7)
    example = slide(example, edition=before, overall=0.6)
    assert example.session_state.sparsity == 0.6 == said(example)["overall"]
    assert said(example)["edition"] == before + 2


def test_what_was_undone_stays_so_when_word_comes_late_that_the_sliders_rest(example: AppTest) -> None:
    example = go(example, "masks")
    before = said(example)["edition"]
    example = press(slide(example, overall=0.6), "Undo")
    example = slide(example, edition=before, overall=0.6)  # sent before the browser heard of the undo
    assert example.session_state.sparsity == 0.5 == said(example)["overall"]
    assert not button(example, "Redo").disabled


def test_what_falls_between_two_steps_of_the_sliders_is_said(example: AppTest) -> None:
    example = slide(go(example, "masks"), overall=0.125)
    masks = choose_masks(examples.named("embedded-reber").open(), Recipe(0.125))
    assert metrics(example)["Rows dropped, of 256"] == str(sum(int((~mask).sum()) for mask in masks.values()))
    header, _ = sent_to_the_canvas(example)
    assert said(example)["overall"] == 0.125 and header["now"] == [4] * 8
    header, _ = sent_to_the_canvas(slide(example, overall=0.25))
    assert header["now"] is None and header["counts"][25] == [8] * 8


def test_what_a_browser_sends_ends_at_0_and_1(example: AppTest) -> None:
    example = slide(go(example, "masks"), overall=7, gates={"hf": -3, "xx": 0.5}, layers={"9": 0.1})
    assert example.session_state.sparsity == 1 and not example.error
    assert metrics(example)["Rows dropped, of 256"] == str(7 * 32)


def test_sparsities_of_their_own_are_told(example: AppTest) -> None:
    example = go(example, "masks")
    assert not [each for each in example.caption if each.value.startswith("With a sparsity")]
    example = slide(example, gates={"hf": 0.1})
    assert "With a sparsity of its own: hf at 10%." in [each.value for each in example.caption]
    example = slide(example, layers={"0": 0.2})
    assert "With a sparsity of their own: layer 0 at 20%, hf at 10%." in [each.value for each in example.caption]


def test_whole_units_have_no_sliders_of_gates_and_keep_what_was_set_there(example: AppTest) -> None:
    example = set_to(slide(go(example, "masks"), gates={"hf": 0.1}), granularity="units")
    assert [group["kind"] for group in sent_to_the_canvas(example, 0)[0]["sliders"]["groups"]] == ["layers"]
    example = slide(example, overall=0.25)
    assert example.session_state.gate_sparsity == {"hf": 0.1}


def _compared(app: AppTest) -> AppTest:
    """Masks as a comparison, by a link of before, once both are judged."""
    app = go(app, "compare")
    assert app.title[0].value == "Masks"
    for job in app.session_state.judged.values():
        wait(job)
    return checked(app.run())


def test_a_pinned_recipe_is_compared_with_the_present_one(example: AppTest) -> None:
    example = press(slide(go(example, "masks"), overall=0.25), "Pin as A")
    example = _compared(slide(example, overall=0.5))
    sums, settings, table = (each.value for each in example.dataframe[:3])
    assert table["both"].tolist() == [8] * 8 and table["only now"].tolist() == [8] * 8
    assert not table["only A"].any() and table["overlap"].tolist() == [0.5] * 8
    assert settings.to_numpy().tolist() == [["sparsity", "0.25", "0.5"]]
    shown = metrics(example)
    quality_a, quality = shown["Quality of A"], shown["Quality"]
    assert float(quality_a) > float(quality)
    assert sums.iloc[0]["A"].startswith(quality_a) and sums.iloc[0]["now"].startswith(quality)
    header, arrays = sent_to_the_canvas(example)
    pinned = np.frombuffer(arrays, np.uint8, 8 * 32, offset=4 * (2 * 8 * 32 + 32)).reshape(8, 32)
    masks = choose_masks(examples.named("embedded-reber").open(), Recipe(0.25))
    assert pinned[:4].tolist() == masks["lstm.weight_ih_l0"].view(4, 32).int().tolist()
    assert header["counts"][50] == [16] * 8
    example = press(example, "Unpin")
    assert "Nothing is pinned" in example.info[0].value


def _saved(seed: int, hidden_size: int = 8) -> bytes:
    return saved(named(random_lstm(seed, hidden_size=hidden_size), "lstm."))


def test_two_checkpoints_of_one_architecture_are_compared(app: AppTest) -> None:
    page = go(upload(app.run(), "after.pt", _saved(0)), "compare")
    page = upload(page, "before.pt", _saved(1), which=-1)
    assert any("before\\.pt" in text.value and "after\\.pt" in text.value for text in page.markdown)
    table = next(each.value for each in page.dataframe if "overlap" in each.value)
    assert (table["both"] + table["only A"]).tolist() == [4] * 8 == (table["both"] + table["only now"]).tolist()
    assert (table["rank correlation"] < 1).all()


@pytest.mark.parametrize("other", [_saved(1, 9), b"no checkpoint"], ids=["another size", "no checkpoint"])
def test_a_file_that_cannot_be_compared_is_refused(app: AppTest, other: bytes) -> None:
    page = go(upload(app.run(), "after.pt", _saved(0)), "compare")
    page = upload(page, "other.pt", other, which=-1)
    assert "expected" in page.error[0].value and any("Nothing is pinned" in each.value for each in page.info)


@pytest.mark.parametrize("granularity", ["rows", "units"])
def test_what_is_pinned_goes_with_the_model(example: AppTest, granularity: str) -> None:
    example.session_state.granularity = granularity
    example = press(go(checked(example.run()), "masks"), "Pin as A")
    example = go(example, "open")
    example.button(key="open_pydocs-chars").click()
    example = go(checked(example.run()), "compare")
    assert any("Nothing is pinned" in each.value for each in example.info)
