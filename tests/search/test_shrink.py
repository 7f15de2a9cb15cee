"""Shrink: the smallest model that keeps the quality, or the best of a size, found and exported by one command."""

import json
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import pytest
import torch
from torch import nn

from pruner import PrunerError, Recipe, examples, open_checkpoint
from pruner.calibration.calibration import Calibration
from pruner.calibration.inputs import gaussian
from pruner.cli.main import main
from pruner.compact.costs import size_of_file, size_of_form
from pruner.exports.verify import verify
from pruner.search.candidates import Candidate, Target
from pruner.search.smallest import FIRST, shrink
from tests.helpers.files import saved
from tests.helpers.models import named, random_lstm

STEPS = 60  # of healing: enough for the grammar, and the same on every machine

EXAMPLE = examples.named("embedded-reber")
RECIPE = EXAMPLE.complete(Recipe(granularity="units", criterion="obs", compensation="heal", steps=STEPS, budget=60))


def test_one_command_finds_and_exports_the_smallest_model_that_answers_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["examples", "embedded-reber", "--output", "model.pt"]) == 0
    assert main(f"shrink model.pt --steps {STEPS} --output small".split()) == 0
    told = capsys.readouterr().out
    assert re.search(r"the smallest that loses at most 3\.0% has \d+% of the multiply-accumulates", told)
    manifest = json.loads(Path("small/manifest.json").read_text())
    assert manifest["verdict"]["word"] == "kept"
    assert manifest["verdict"]["after"] >= 0.97
    macs = manifest["totals"]["macs_per_step"]
    assert macs["after"] < 0.6 * macs["before"]
    assert verify("small", EXAMPLE.open())
    frontier = pd.read_csv("small/frontier/frontier.csv")
    (chosen,) = frontier[frontier.chosen].to_dict("records")
    assert chosen["macs"] == pytest.approx(macs["after"] / macs["before"])
    assert chosen["macs"] == frontier[frontier.loss <= 0.03].macs.min()
    assert list(frontier.macs) == sorted(frontier.macs)
    dots = ElementTree.parse("small/frontier/frontier.svg").getroot().iter("{http://www.w3.org/2000/svg}circle")
    assert len(list(dots)) == len(frontier)


def test_the_best_of_a_size_takes_as_few_units_as_it_needs() -> None:
    checkpoint = EXAMPLE.open()
    calibration = EXAMPLE.calibration(checkpoint)
    found = shrink(checkpoint, RECIPE, calibration, Target(None, "macs", 0.4), EXAMPLE.quality)
    assert 0.4 - 1 / 16 < found.chosen.macs <= 0.4  # one unit of 32 more, and it would be over
    assert found.told[0].endswith("for 40% of the multiply-accumulates.")


def test_what_cannot_be_reached_is_said() -> None:
    checkpoint = EXAMPLE.open()
    calibration = EXAMPLE.calibration(checkpoint)
    with pytest.raises(PrunerError, match=r"that can be left, \d\.\d+% at the least, found 1e-06; ask for more"):
        shrink(checkpoint, RECIPE, calibration, Target(None, "size", 1e-6))


def test_on_random_inputs_nothing_is_promised_and_their_drift_is_called_so() -> None:
    checkpoint = EXAMPLE.open()
    calibration, seen = gaussian(checkpoint, checkpoint.lstms), list[Candidate]()
    with pytest.raises(
        PrunerError, match=r"found random ones.* drift on them is 0\.\d+ at 40%, .* give inputs, or ask"
    ):
        shrink(checkpoint, RECIPE, calibration, Target(), seen=seen.append)
    assert [each.verdict.word for each in seen] == ["unknown"] * len(FIRST)
    found = shrink(checkpoint, RECIPE, calibration, Target(None, "macs", 0.5))
    assert found.chosen.macs <= 0.5
    assert (found.chosen.verdict.word, found.chosen.recipe.compensation) == ("unknown", "fold")
    assert found.frontier()["quality"].notna().all()  # the drift


def test_where_nothing_may_be_lost_that_is_looked_for() -> None:
    checkpoint = open_checkpoint(saved(named(random_lstm(), "rnn.")), "tiny.pt")
    inputs = Calibration("file", {"rnn": [torch.randn(20, 10, checkpoint.lstms[0].input_size)]})
    recipe = Recipe(granularity="units", criterion="obs", compensation="fold")
    assert shrink(checkpoint, recipe, inputs, Target(keep=1.0)).chosen.loss == 0


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ("--target macs", "found 'macs'"),
        ("--target time=0.5", "found 'time=0.5'"),
        ("--target macs=nan", "expected the macs of --target between 0 and 1, found nan"),
        ("--target size=1.5", "expected the size of --target between 0 and 1, found 1.5"),
        ("--keep 0.9 --target macs=0.5", "expected either --keep or --target"),
        ("--keep 1.5", "expected --keep between 0 and 1, found 1.5"),
        ("--compensation none --criterion l1", "expected a recipe that needs inputs to shrink with"),
    ],
)
def test_other_demands_are_refused_in_one_line(
    options: str, found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["examples", "embedded-reber", "--output", "model.pt"]) == 0
    assert main(f"shrink model.pt {options} --output small".split()) == 2
    assert found in capsys.readouterr().err
    assert not Path("small").exists()


def test_what_was_tried_is_seen_as_it_comes_and_may_be_enough() -> None:
    checkpoint, seen = EXAMPLE.open(), list[Candidate]()

    def enough(fraction: float, what: str) -> bool:
        return bool(seen)

    found = shrink(
        checkpoint, RECIPE, EXAMPLE.calibration(checkpoint), Target(), EXAMPLE.quality, enough, seen=seen.append
    )
    assert found.told[0] == "The search was ended early."
    assert [each.recipe.sparsity for each in found.tried] == sorted(each.recipe.sparsity for each in seen)
    assert len(seen) < len(FIRST) + 1 and found.chosen in found.tried


def test_enough_before_anything_was_tried_is_nothing() -> None:
    checkpoint = EXAMPLE.open()
    for target in (Target(), Target(None, "macs", 0.5)):
        with pytest.raises(PrunerError, match="expected time to heal one candidate at least, found none"):
            shrink(checkpoint, RECIPE, EXAMPLE.calibration(checkpoint), target, EXAMPLE.quality, lambda *_: True)


def test_of_a_size_layers_alike_and_ranked_together_are_tried_and_the_better_taken() -> None:
    source = {**named(random_lstm(num_layers=2, hidden_size=12), "rnn."), **named(nn.Linear(12, 3), "head.")}
    checkpoint = open_checkpoint(saved(source), "two.pt")
    inputs = Calibration("file", {"rnn": [torch.randn(40, 20, checkpoint.lstms[0].input_size)]})
    recipe = Recipe(0.5, "units", "obs", consumers=("head.weight",), task="regression", compensation="fold")
    found = shrink(checkpoint, recipe, inputs, Target(None, "size", 0.6))
    assert {each.recipe.allocation for each in found.tried} == {"uniform", "global"}
    assert found.chosen.loss == min(each.loss for each in found.tried)
    for each in found.tried:
        left = size_of_form(checkpoint, each.pruned.forms["compact"]).tensor_bytes
        assert left <= 0.6 * size_of_file(checkpoint).tensor_bytes
    fixed = shrink(checkpoint, replace(recipe, layer_sparsity={0: 0.1}), inputs, Target(None, "macs", 0.9))
    assert len(fixed.tried) == 1 and 0.8 < fixed.chosen.macs <= 0.9
