"""The page Shrink, in process through `app.py`."""

import json
import zipfile
from io import BytesIO

import pytest
import torch
from streamlit.testing.v1 import AppTest

from pruner.dashboard.jobs import Job
from pruner.dashboard.lasting import IN_A_ROUND, Search
from pruner.exports.export import pack
from pruner.search.candidates import Target
from pruner.search.smallest import FIRST, ROUNDS
from tests.helpers.files import npy, saved
from tests.helpers.models import named, random_lstm, random_steps
from tests.helpers.pages import (
    button,
    checked,
    compute_here,
    endless,
    figure_of,
    go,
    metrics,
    numbers_of,
    press,
    select_row,
    set_to,
    texts,
    upload,
    wait,
    work,
)

BUDGET = 0.5  # seconds a candidate


@pytest.fixture(autouse=True)
def _computed_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """What workers do otherwise, to whom each test would be the first."""
    compute_here(monkeypatch)


def test_an_example_is_shrunk_judged_and_ready_to_take_away(example: AppTest) -> None:
    example = go(set_to(example, shrink_budget=BUDGET), "shrink")
    assert "All of it takes about" in texts(example)
    assert "judged by strings wholly right on what it never saw" in texts(example)
    example = work(example, "Shrink", "shrink")
    smaller = example.session_state.shrunk
    chosen, result = smaller.found.chosen, smaller.result
    assert len(FIRST) < len(smaller.found.tried) <= len(FIRST) + ROUNDS * IN_A_ROUND  # as `Search` reckons
    assert chosen.loss <= 0.03 and example.success[0].proto.title.startswith("Kept")
    assert metrics(example)["Multiply-accumulates"] == f"{result.costs['compact'].macs_per_step:,}"
    table = example.dataframe[0].value
    assert len(table) == len(smaller.found.tried) and table["chosen"].sum() == 1
    assert len(numbers_of(figure_of(example, 0)["data"][0]["x"])) == len(table)
    folder = example.session_state.export[1]["compact", None, False]
    with zipfile.ZipFile(BytesIO(pack(folder))) as packed:
        manifest = json.loads(packed.read(next(name for name in packed.namelist() if name.endswith("manifest.json"))))
    assert manifest["verdict"]["word"] == "kept"
    kept = {each.recipe.to_json(): each.verdict for each in example.session_state.history.values()}
    assert kept == {each.recipe.to_json(): each.verdict for each in smaller.found.tried}
    state = example.session_state  # the pages of the experts go on from there
    assert (state.granularity, state.criterion, state.compensation) == ("units", "obs", "heal")
    assert state.sparsity == chosen.recipe.sparsity and state.gathered is smaller.gathered
    example = go(example, "export")
    assert not example.warning and "find" not in texts(example)


def test_another_candidate_can_be_taken_instead(example: AppTest) -> None:
    example = work(go(set_to(example, shrink_budget=BUDGET), "shrink"), "Shrink", "shrink")
    before = example.session_state.shrunk
    assert button(example, "Take this candidate instead").disabled
    other = 0 if not example.dataframe[0].value["chosen"][0] else 1
    example = select_row(example, "candidates", other)
    example = press(example, "Take this candidate instead")
    wait(example.session_state.shrink)
    example = checked(example.run())
    after = example.session_state.shrunk
    assert after.found.chosen is not before.found.chosen and after.found.tried == before.found.tried
    assert after.result.pruned is after.found.chosen.pruned
    assert example.session_state.sparsity == after.found.chosen.recipe.sparsity


def test_ones_own_model_is_shrunk_to_a_size_with_inputs_dropped_on_the_page(app: AppTest) -> None:
    tensors = named(random_lstm(hidden_size=12, num_layers=2), "rnn.") | {
        "head.weight": random_steps(2, 12, dtype=torch.float32)
    }
    app = go(set_to(upload(app.run(), "own.pt", saved(tensors)), shrink_budget=BUDGET), "shrink")
    app = set_to(app, shrink_for="macs", target_size=40, consumers=["head.weight"], task="regression")
    app.file_uploader[0].upload("inputs.npy", npy(random_steps(60, 8, 3, dtype=torch.float32).numpy()))
    app = work(checked(app.run()), "Shrink", "shrink")
    smaller = app.session_state.shrunk
    assert smaller.found.chosen.macs <= 0.4 and len(smaller.found.tried) == IN_A_ROUND
    assert smaller.result.recipe.consumers == ("head.weight",)
    assert smaller.gathered.calibration.name == "inputs.npy"
    assert "Healed and judged on inputs from inputs\\.npy" in texts(app)
    assert "All of it takes" not in texts(app)  # what is asked for stands below
    assert "All of it takes" in texts(set_to(app, target_size=30))


def test_random_numbers_promise_nothing(app: AppTest) -> None:
    app = go(upload(app.run(), "own.pt", saved(named(random_lstm(hidden_size=12)))), "shrink")
    app = set_to(app, inputs_from="gaussian")
    assert "All of it takes" not in texts(app)  # nothing is healed
    app = work(app, "Shrink", "shrink")
    assert "found random ones" in app.error[0].value
    assert len(app.session_state.tried) == len(FIRST)
    app = work(set_to(app, shrink_for="size", target_size=50), "Shrink", "shrink")
    assert app.info[0].proto.title == "Unknown"
    smaller = app.session_state.shrunk
    (only,) = smaller.found.tried  # one layer has nothing to be ranked with
    assert smaller.result.verdict.after == pytest.approx(only.verdict.after)  # one drift, found twice
    assert app.session_state.inputs_from == "gaussian" and "Not real inputs" in texts(app)  # can still be changed
    assert not [each for each in app.button_group if each.label == "Time to heal each candidate"]


def test_inputs_that_are_not_there_are_asked_for(app: AppTest) -> None:
    app = go(upload(app.run(), "own.pt", saved(named(random_lstm()))), "shrink")
    app = work(app, "Shrink", "shrink")
    assert "drop one first" in app.error[0].value


def test_what_was_tried_is_drawn_while_it_goes_on(example: AppTest) -> None:
    example = work(go(set_to(example, shrink_budget=BUDGET), "shrink"), "Shrink", "shrink")
    tried = example.session_state.tried
    example.session_state.shrink, example.session_state.tried = Job(endless), tried[:3]
    example.session_state.search = Search(Target(), 3600, 2)
    example = checked(example.run())
    assert "so far, about 78 to " in texts(example) and "All of it takes" not in texts(example)
    assert len(numbers_of(figure_of(example, 0)["data"][0]["x"])) == 3
    assert button(example, "Cancel") and button(example, "Enough, keep what is healed")
    assert not example.get("download_button")
    example = press(example, "Cancel")
    wait(example.session_state.shrink)
    assert "cancelled" in checked(example.run()).info[0].value


@pytest.mark.parametrize("run_last", [True, False])
def test_export_goes_by_what_was_started_last(example: AppTest, run_last: bool) -> None:
    example = work(go(set_to(example, shrink_budget=BUDGET), "shrink"), "Shrink", "shrink")
    if run_last:
        example = work(set_to(go(example, "run"), compensation="none"), "Run", "run")
    example = go(example, "export")
    made = json.loads((next(iter(example.session_state.export[1].values())) / "manifest.json").read_text())
    assert made["recipe"]["compensation"] == ("none" if run_last else "heal")
