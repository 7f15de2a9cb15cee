"""What a unit does over time, and units found by what they do, in process through `app.py`."""

from dataclasses import replace

import pytest
import torch
from streamlit.testing.v1 import AppTest

from pruner import Recipe, examples
from pruner.calibration.calibration import Calibration
from pruner.dashboard.gathered import Gathered
from pruner.dashboard.reading import example_read
from pruner.lstm.find import find_lstms
from pruner.views.conditions import ONE_OF
from tests.helpers.files import saved
from tests.helpers.models import named, random_lstm
from tests.helpers.pages import checked, choose, click_line, figure_of, go, numbers_of, set_to, texts, upload

TRACES = 0  # which figure of the page


@pytest.fixture
def unit(example: AppTest) -> AppTest:
    return set_to(go(example, "unit"), unit=4)


@pytest.fixture
def own(app: AppTest) -> AppTest:
    """A model of the visitor's own that reads token numbers through an embedding."""
    tensors = named(random_lstm(input_size=3, hidden_size=6), "lstm.") | {"embedding.weight": torch.randn(9, 3)}
    return set_to(go(upload(app.run(), "model.pt", saved(tensors)), "unit"), unit=4)


def read_in(app: AppTest) -> list[str]:
    """The symbols below the traces."""
    return next(trace["text"] for trace in figure_of(app, TRACES)["data"] if trace.get("name") == "read")


def type_in(app: AppTest, text: str) -> AppTest:
    app.text_area(key="typed").set_value(text)
    return checked(app.run())


def test_a_string_that_is_typed_stands_below_the_traces(unit: AppTest) -> None:
    unit = type_in(unit, "BPBPVVEPE")
    assert read_in(unit) == list("BPBPVVEPE")
    lines = [trace for trace in figure_of(unit, TRACES)["data"] if trace["name"] in ("dense", "pruned")]
    assert [trace["name"] for trace in lines] == ["dense", "pruned"] * 6
    assert len(numbers_of(lines[0]["y"])) == 9
    unit = set_to(unit, sparsity=0.0)
    lines = [trace for trace in figure_of(unit, TRACES)["data"] if trace["name"] in ("dense", "pruned")]
    for dense, pruned in zip(lines[::2], lines[1::2], strict=True):
        assert numbers_of(pruned["y"]) == pytest.approx(numbers_of(dense["y"]), abs=1e-6)


def test_a_symbol_that_is_none_is_told_once(unit: AppTest) -> None:
    unit = type_in(unit, "BTQ")
    assert len(unit.error) == 1 and "found 'Q' at place 3" in unit.error[0].value.replace("\\", "")
    assert len(unit.get("plotly_chart")) == 1
    assert not type_in(unit, "BTB").error


def test_what_is_left_empty_is_filled_again(unit: AppTest) -> None:
    assert "".join(read_in(type_in(unit, ""))).startswith("BTB")


def test_long_text_is_shown_in_part(app: AppTest) -> None:
    app.query_params.update({"example": "pydocs-chars", "unit": "7"})
    app = type_in(go(app.run(), "unit"), 'He said "no".\n' * 10)
    assert "".join(read_in(app)).startswith('He said "no".↵')
    assert len(read_in(app)) == 48
    app.slider(key="first_step").set_value(8)
    assert "".join(read_in(checked(app.run()))).startswith('"no".↵He said')
    app = type_in(app, "He")
    assert read_in(app) == ["H", "e"]


def test_token_numbers_are_read_where_the_file_holds_an_embedding(own: AppTest) -> None:
    assert read_in(type_in(own, "8, 0 3")) == ["8", "0", "3"]
    own = type_in(own, "9")
    assert "token numbers from 0 to 8" in own.error[0].value


def test_without_symbols_or_inputs_the_page_leads_to_them(app: AppTest) -> None:
    app = set_to(go(upload(app.run(), "model.pt", saved(named(random_lstm()))), "unit"), unit=0)
    assert "is not calibrated yet" in app.info[0].value
    assert not app.text_area


def test_a_unit_is_traced_on_a_sequence_that_was_held_back(calibrated: AppTest, gathered: Gathered) -> None:
    calibrated = set_to(go(calibrated, "unit"), unit=4)
    calibrated = choose(calibrated, "Traced on", "held back")
    first = read_in(calibrated)
    assert first[:1] == ["B"] and set(first) <= set("BTSXPVE")
    last = calibrated.number_input(key="sequence")
    last.set_value(last.max)
    assert read_in(checked(calibrated.run())) != first


def test_units_are_found_by_a_condition_and_one_is_shown(example: AppTest) -> None:
    example = go(example, "unit")
    assert len(example.dataframe) == 1  # of all units
    example = set_to(example, condition="The string began with T")
    ranked = example.dataframe[0].value
    assert ranked["h"].abs().is_monotonic_decreasing and abs(ranked["h"][0]) > 0.7
    assert "which no unit can know" in texts(example) and "training strings" in texts(example)
    example = choose(example, "Measured by", "c")
    ranked = example.dataframe[0].value
    assert ranked["c"].abs().is_monotonic_decreasing
    example = click_line(set_to(example, finding=True), "choose_found", 3)
    assert (example.session_state.unit, example.session_state.finding) == (ranked["unit"][3], False)
    assert "The string began with T" in texts(example)
    assert len(figure_of(type_in(example, "BTBTXSETE"), TRACES)["layout"]["shapes"]) == 1
    assert "shapes" not in figure_of(type_in(example, "BPBPVVEPE"), TRACES)["layout"]


@pytest.mark.parametrize(("typed", "said"), [("", "found nothing"), ("Q", "found 'Q'")])
def test_symbols_of_a_condition_are_checked(unit: AppTest, typed: str, said: str) -> None:
    unit = set_to(unit, condition=ONE_OF, typed_symbols=typed)
    assert len(unit.error) == 1 and said in unit.error[0].value.replace("\\", "")
    unit.text_input(key="typed_symbols").set_value("TX")
    unit = checked(unit.run())
    assert not unit.error and len(unit.dataframe[0].value) == 32


@pytest.mark.parametrize(
    ("source", "floats", "offered"), [("file", False, True), ("sampled", False, True), ("gaussian", True, False)]
)
def test_units_are_never_found_on_random_numbers(own: AppTest, source: str, floats: bool, offered: bool) -> None:
    assert "random numbers nobody can say" in texts(own)
    sequences = torch.randn(4, 30, 3) if floats else torch.randint(0, 9, (4, 30))
    held = Calibration(source, {"lstm": [sequences]}, "embedding.weight")
    own = set_to(own, gathered=Gathered(held, {}, Recipe()))
    assert ("random numbers nobody can say" in texts(own)) is not offered
    assert [box.key for box in own.selectbox if box.key == "condition"] == (["condition"] if offered else [])
    if offered:
        own = set_to(own, condition=ONE_OF, typed_symbols="3 4")
        assert len(own.dataframe[0].value) == 6


@pytest.mark.parametrize(
    ("example", "name", "changed", "is_read"),
    [
        ("embedded-reber", "lstm", {}, True),
        ("embedded-reber", "lstm", named(random_lstm(input_size=7), "lstm."), True),
        ("embedded-reber", "lstm", named(random_lstm(input_size=6), "lstm."), False),
        ("embedded-reber", "rnn", named(random_lstm(input_size=7), "rnn."), False),
        ("pydocs-chars", "lstm", {}, True),
        ("pydocs-chars", "lstm", {"embedding.weight": torch.randn(103, 64)}, False),
        ("pydocs-chars", "lstm", {"embedding.weight": torch.zeros(104, 64, dtype=torch.int64)}, False),
    ],
)
def test_symbols_are_those_of_an_example_of_any_size_and_of_nothing_else(
    example: str, name: str, changed: dict[str, torch.Tensor], is_read: bool
) -> None:
    checkpoint = examples.named(example).open()
    tensors = checkpoint.tensors | changed
    lstm = next(each for each in find_lstms(tensors)[0] if each.name == name)
    found = example_read(replace(checkpoint, tensors=tensors), lstm)
    assert (found is not None and found.name == example) is is_read
