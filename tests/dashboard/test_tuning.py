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
    checked,
    go,
    in_detail,
    kept_open,
    metrics,
    press,
    sent_to_the_canvas,
    set_to,
    slide,
    upload,
)


def test_undo_and_redo_walk_over_the_recipes(example: AppTest) -> None:
    example = kept_open(slide(slide(go(example, "masks"), 0.3), 0.7))
    example.number_input(key="gate_hf").set_value(0.2)
    example = press(checked(example.run()), "Undo")
    assert example.session_state.gate_sparsity == {} and example.slider(key="sparsity").value == 0.7
    example = press(example, "Undo")
    assert example.slider(key="sparsity").value == 0.3
    example = kept_open(press(press(example, "Redo"), "Redo"))
    assert example.number_input(key="gate_hf").value == 0.2
    assert button(example, "Redo").disabled
    example = slide(press(example, "Undo"), 0.1)  # a new step forgets what was undone
    assert button(example, "Redo").disabled
    for _ in range(3):
        example = press(example, "Undo")
    assert example.slider(key="sparsity").value == 0.5
    assert button(example, "Undo").disabled


def test_typing_and_sliding_say_the_same(example: AppTest) -> None:
    example = go(example, "masks")
    example.number_input(key="typed_sparsity").set_value(12.5)
    example = checked(example.run())
    assert example.slider(key="sparsity").value == 0.125
    masks = choose_masks(examples.named("embedded-reber").open(), Recipe(0.125))
    assert metrics(example)["Rows dropped, of 256"] == str(sum(int((~mask).sum()) for mask in masks.values()))
    header, _ = sent_to_the_canvas(example)
    assert header["now"] == [4] * 8  # no whole percent, so the canvas is told what falls
    assert slide(example, 0.25).number_input(key="typed_sparsity").value == 25


def test_a_slider_gives_a_gate_its_own_sparsity_and_follow_takes_it_back(example: AppTest) -> None:
    example = in_detail(example)
    assert example.slider(key="slide_gate_ig").value == 0.5
    example.slider(key="slide_gate_ig").set_value(0.75)
    example = kept_open(example)
    assert example.number_input(key="gate_ig").value == 0.75
    header, _ = sent_to_the_canvas(example)
    assert header["sliders"] == ["sparsity"] * 2 + ["slide_gate_ig"] + ["sparsity"] * 5
    assert header["now"] == [None, None, 24, *[None] * 5] and header["settings"][2] == 0.75
    example.button(key="reset_gate_ig").click()
    example = kept_open(example)
    assert example.number_input(key="gate_ig").value is None and example.slider(key="slide_gate_ig").value == 0.5


def test_an_emptied_field_lets_a_gate_follow(example: AppTest) -> None:
    example = in_detail(example)
    for typed, shown in ((0.75, 0.75), (None, 0.5)):
        example.number_input(key="gate_ig").set_value(typed)
        example = kept_open(example)
        assert example.slider(key="slide_gate_ig").value == shown


def test_closed_details_say_what_goes_before_the_overall_sparsity(example: AppTest) -> None:
    example = go(example, "masks")
    assert [each.key for each in example.slider] == ["sparsity"]
    assert not [each for each in example.caption if each.value.startswith("With a sparsity")]
    example = set_to(example, gate_sparsity={"hf": 0.1})
    assert "With a sparsity of its own: hf at 10%." in [each.value for each in example.caption]
    example = set_to(example, layer_sparsity={0: 0.2})
    assert "With a sparsity of their own: layer 0 at 20%, hf at 10%." in [each.value for each in example.caption]


def test_a_pinned_recipe_is_compared_with_the_present_one(example: AppTest) -> None:
    example = press(slide(go(example, "masks"), 0.25), "Pin as A")
    example = go(slide(example, 0.5), "compare")
    table = next(each.value for each in example.dataframe if "overlap" in each.value)
    assert table["both"].tolist() == [8] * 8 and table["only now"].tolist() == [8] * 8
    assert not table["only A"].any() and table["overlap"].tolist() == [0.5] * 8
    assert example.dataframe[0].value.to_numpy().tolist() == [["sparsity", "0.25", "0.5"]]
    header, arrays = sent_to_the_canvas(example)
    pinned = np.frombuffer(arrays, np.uint8, 8 * 32, offset=4 * (2 * 8 * 32 + 32)).reshape(8, 32)
    masks = choose_masks(examples.named("embedded-reber").open(), Recipe(0.25))
    assert pinned[:4].tolist() == masks["lstm.weight_ih_l0"].view(4, 32).int().tolist()
    assert header["now"] == [16] * 8
    example = press(example, "Unpin")
    assert "Nothing is pinned" in example.info[0].value


def _saved(seed: int, hidden_size: int = 8) -> bytes:
    return saved(named(random_lstm(seed, hidden_size=hidden_size), "lstm."))


def test_two_checkpoints_of_one_architecture_are_compared(app: AppTest) -> None:
    page = go(upload(app.run(), "after.pt", _saved(0)), "compare")
    page = upload(page, "before.pt", _saved(1))
    assert any("before\\.pt" in text.value and "after\\.pt" in text.value for text in page.markdown)
    table = next(each.value for each in page.dataframe if "overlap" in each.value)
    assert (table["both"] + table["only A"]).tolist() == [4] * 8 == (table["both"] + table["only now"]).tolist()
    assert (table["rank correlation"] < 1).all()


@pytest.mark.parametrize("other", [_saved(1, 9), b"no checkpoint"], ids=["another size", "no checkpoint"])
def test_a_file_that_cannot_be_compared_is_refused(app: AppTest, other: bytes) -> None:
    page = go(upload(app.run(), "after.pt", _saved(0)), "compare")
    page = upload(page, "other.pt", other)
    assert "expected" in page.error[0].value and "Nothing is pinned" in page.info[0].value


@pytest.mark.parametrize("granularity", ["rows", "units"])
def test_what_is_pinned_goes_with_the_model(example: AppTest, granularity: str) -> None:
    example.session_state.granularity = granularity
    example = press(go(checked(example.run()), "masks"), "Pin as A")
    example = go(example, "open")
    example.button(key="open_pydocs-chars").click()
    example = go(checked(example.run()), "compare")
    assert "Nothing is pinned" in example.info[0].value
