"""Shrink: the smallest model that keeps the quality, or the best of a size, found and exported by one command."""

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import pytest

from pruner import PrunerError, Recipe, examples
from pruner.calibration.inputs import gaussian
from pruner.cli.main import main
from pruner.exports.verify import verify
from pruner.search.shrink import Target, shrink

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
    assert found.told[0].endswith("for 40% of the macs.")


def test_what_cannot_be_reached_is_said() -> None:
    checkpoint = EXAMPLE.open()
    calibration = EXAMPLE.calibration(checkpoint)
    with pytest.raises(PrunerError, match=r"expected a share of size that can be left, found 1e-06; ask for more"):
        shrink(checkpoint, RECIPE, calibration, Target(None, "size", 1e-6))
    with pytest.raises(PrunerError, match="expected real or sampled inputs to shrink with, found random ones"):
        shrink(checkpoint, RECIPE, gaussian(checkpoint, checkpoint.lstms), Target())


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ("--target macs", "found 'macs'"),
        ("--target time=0.5", "found 'time=0.5'"),
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
