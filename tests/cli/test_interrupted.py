"""Ctrl-C: the first ends healing with what it has reached, the second ends the command."""

import json
import signal
from pathlib import Path

import pytest

from pruner.cli import output
from pruner.exports.verify import verify
from tests.helpers.command_line import command

HEAL = "--granularity units --criterion obs --compensation heal --budget 5m"


@pytest.fixture
def presses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[int]:
    """How often Ctrl-C is pressed when healing has begun; the list holds the numbers of presses that are to come."""
    monkeypatch.chdir(tmp_path)
    assert command("examples embedded-reber --output model.safetensors") == 0
    coming = list[int]()

    def press(fraction: float, what: str) -> None:
        begun = what.startswith("Healing") or (what.endswith("healed") and ": 0 of" not in what)
        if coming and begun:
            for _ in range(coming.pop()):
                signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(output, "show_progress", press)
    return coming


def test_the_first_keeps_what_was_reached(presses: list[int], capsys: pytest.CaptureFixture[str]) -> None:
    presses.append(1)
    assert command(f"prune model.safetensors {HEAL} --output out") == 0
    told = capsys.readouterr()
    assert "ending early with what is reached" in told.err and "ended early" in told.out
    (entry,) = json.loads(Path("out/manifest.json").read_text())["compensation"]["lstms"]
    assert entry["steps"][-1]["stopped"] and entry["steps"][-1]["seconds"] < 60
    assert verify("out")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_second_writes_nothing(presses: list[int], capsys: pytest.CaptureFixture[str]) -> None:
    presses.append(2)
    assert command(f"prune model.safetensors {HEAL} --output out") == 130
    assert capsys.readouterr().err.endswith("stopped\n")
    assert not Path("out").exists() and not list(Path().glob(".export-*"))


def test_shrink_keeps_the_best_that_was_tried(presses: list[int], capsys: pytest.CaptureFixture[str]) -> None:
    presses.append(1)
    assert command("shrink model.safetensors --budget 2s --output out") in (0, 2)  # 2: nothing had been tried yet
    told = capsys.readouterr()
    assert "ending early" in told.err
    assert ("The search was ended early" in told.out) == Path("out").exists()


@pytest.mark.parametrize("line", ["prune model.safetensors --output out", "masks model.safetensors --output masks.st"])
def test_what_heals_nothing_is_stopped_by_the_first(
    presses: list[int], monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("pruner.pipeline.choose_masks", interrupted)
    monkeypatch.setattr("pruner.cli.looking.choose_masks", interrupted)
    assert command(line) == 130
    assert {path.name for path in Path().iterdir()} == {"model.safetensors"}


def test_defaults_of_a_model_whose_inputs_are_known(presses: list[int], capsys: pytest.CaptureFixture[str]) -> None:
    assert command("prune model.safetensors --granularity units --steps 20 --output out") == 0
    assert "note: inputs are known, so units fall by obs and are healed" in capsys.readouterr().err
    recipe = json.loads(Path("out/manifest.json").read_text())["recipe"]
    assert (recipe["criterion"], recipe["compensation"]) == ("obs", "heal")
    assert command("prune model.safetensors --granularity units --criterion l1 --output weights") == 0
    assert "note" not in capsys.readouterr().err
    recipe = json.loads(Path("weights/manifest.json").read_text())["recipe"]
    assert (recipe["criterion"], recipe["compensation"]) == ("l1", "none")
