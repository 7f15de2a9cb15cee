"""The command line: sweep, sensitivity, suggest, and calibration for what is pruned."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pruner.cli.main import main
from pruner.examples import embedded_reber

REBER = str(embedded_reber.FILE)


def test_sweep_writes_every_recipe(tmp_path: Path) -> None:
    arguments = ["sweep", REBER, "--granularity", "units", "--sparsities", "0.2,0.4", "--criteria", "l1,obs"]
    assert main([*arguments, "--compensations", "fold", "--output", str(tmp_path / "sweep.csv")]) == 0
    table = pd.read_csv(tmp_path / "sweep.csv")
    of_recipes = table[table.sparsity.notna()]
    assert len(of_recipes) == 2 * (2 + 3) and set(of_recipes.criterion) == {"l1", "obs", "random"}
    best = of_recipes[(of_recipes.criterion == "obs") & (of_recipes.sparsity == 0.2)].value.item()
    assert best == 1.0 and of_recipes.macs_per_step.max() < 4992


def test_sweep_lists_the_best_first_beside_the_dense_model_and_two_factors(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", REBER, "--granularity", "units", "--sparsities", "0.2,0.4"]) == 0
    measure, header, *lines = capsys.readouterr().out.splitlines()
    assert measure == "value: strings wholly right" and header.split()[-1] == "front"
    words = [line.split() for line in lines]
    assert [each[0] for each in words].count("two") == 2 and [each[0] for each in words].count("dense") == 1
    values = [float(each[-4]) for each in words]
    assert values == sorted(values, reverse=True) and values[0] == 1.0
    assert "True" in {each[-1] for each in words if each[0] not in ("two", "dense")}


def test_sensitivity_writes_every_block(tmp_path: Path) -> None:
    assert main(["sensitivity", REBER, "--sparsities", "0.5", "--output", str(tmp_path / "found.json")]) == 0
    found = json.loads((tmp_path / "found.json").read_text())
    assert [line["part"] for line in found] == ["ii", "if", "ig", "io", "hi", "hf", "hg", "ho"]


def test_a_suggested_recipe_can_be_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    how = ["--granularity", "units", "--criterion", "fisher", "--compensation", "fold", "--sparsities", "0.25,0.5"]
    assert (
        main(["suggest", REBER, *how, "--target", "macs", "--amount", "0.6", "--output", str(tmp_path / "r.json")]) == 0
    )
    assert main(["prune", REBER, "--recipe", str(tmp_path / "r.json"), "--output", str(tmp_path / "out")]) == 0
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    macs = manifest["totals"]["macs_per_step"]
    assert macs["after"] <= 0.6 * macs["before"]
    assert "calibrated on the example's own inputs" in capsys.readouterr().out


def test_calibration_from_a_file_and_at_random(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "inputs.npy", np.random.default_rng(0).normal(size=(8, 30, 7)).astype(np.float32))
    fold = ["prune", REBER, "--granularity", "units", "--compensation", "fold"]
    assert main([*fold, "--calibration", str(tmp_path / "inputs.npy"), "--output", str(tmp_path / "a")]) == 0
    assert main([*fold, "--calibration", "gaussian", "--output", str(tmp_path / "b")]) == 0
    told = capsys.readouterr().out
    assert "inputs from inputs.npy, 240 time steps" in told and "random inputs, not real ones" in told
    for folder, source in (("a", "file"), ("b", "gaussian")):
        manifest = json.loads((tmp_path / folder / "manifest.json").read_text())
        assert manifest["compensation"]["calibration"]["source"] == source
        assert main(["verify", str(tmp_path / folder), "--source", REBER]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sweep", REBER, "--output", "table.txt"], "expected --output as a .csv or .json file"),
        (["suggest", REBER, "--target", "macs", "--amount", "0.5", "--output", "no/such.json"], "found no folder"),
        (["sweep", REBER, "--sparsities", "half"], "expected sparsities as 0.25,0.5, found 'half'"),
        (["sweep", REBER, "--criteria", "magic"], "expected a criterion among"),
        (["sensitivity", REBER, "--sparsities", "2"], "expected sparsity between 0 and 1, found 2.0"),
        (["suggest", REBER, "--target", "macs", "--amount", "0.01", "--sparsities", "0.5"], "is the least"),
        (
            ["prune", REBER, "--calibration", "gaussian", "--output", "x"],
            "a criterion or a compensation that needs inputs",
        ),
        (
            ["prune", REBER, "--compensation", "fold", "--calibration", "no.npy", "--output", "x"],
            "a file of calibration",
        ),
        (
            ["prune", REBER, "--compensation", "fold", "--calibration", "sampled", "--output", "x"],
            "one --consumer and an",
        ),
        (["prune", REBER, "--compensation", "heal", "--calibration", "gaussian", "--output", "x"], "found random ones"),
    ],
)
def test_unusable_input_is_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert told[-1].startswith("error: expected") and message in told[-1]
    assert list(tmp_path.iterdir()) == []
