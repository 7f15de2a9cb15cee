"""Ctrl-C, SIGTERM and memory that runs out: healing ends with what it has reached, all else with one line."""

import json
import runpy
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pruner import PrunerError
from pruner.cli import output
from pruner.cli.main import run
from pruner.errors import no_memory
from pruner.exports.verify import verify
from tests.helpers.command_line import command

Presses = list[list[signal.Signals]]
CTRL_C, TERM = signal.SIGINT, signal.SIGTERM
HEAL = "--granularity units --criterion obs --compensation heal --budget 5m"


@pytest.fixture
def presses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Presses]:
    """The signals that come when healing has begun, in turn."""
    monkeypatch.chdir(tmp_path)
    assert command("examples embedded-reber --output model.safetensors") == 0
    coming: Presses = []

    def press(fraction: float, what: str) -> None:
        begun = what.startswith("Healing") or (what.endswith("healed") and ": 0 of" not in what)
        if coming and begun:
            for which in coming.pop():
                signal.raise_signal(which)

    monkeypatch.setattr(output, "show_progress", press)
    before = signal.signal(TERM, output.terminate)  # as the command does that runs by itself
    yield coming
    signal.signal(TERM, before)


@pytest.mark.parametrize("which", [CTRL_C, TERM])
def test_the_first_keeps_what_was_reached(
    presses: Presses, capsys: pytest.CaptureFixture[str], which: signal.Signals
) -> None:
    presses.append([which])
    assert command(f"prune model.safetensors {HEAL} --output out") == 0
    told = capsys.readouterr()
    assert "ending early with what is reached" in told.err and "ended early" in told.out
    (entry,) = json.loads(Path("out/manifest.json").read_text())["compensation"]["lstms"]
    assert entry["steps"][-1]["stopped"] and entry["steps"][-1]["seconds"] < 60
    assert verify("out")
    assert signal.getsignal(CTRL_C) is signal.default_int_handler and signal.getsignal(TERM) is output.terminate


@pytest.mark.parametrize(("signals", "code"), [([CTRL_C, CTRL_C], 130), ([CTRL_C, TERM], 143), ([TERM, TERM], 143)])
def test_the_second_writes_nothing(
    presses: Presses, capsys: pytest.CaptureFixture[str], signals: list[signal.Signals], code: int
) -> None:
    presses.append(signals)
    assert command(f"prune model.safetensors {HEAL} --output out") == code
    assert capsys.readouterr().err.endswith("stopped\n")
    assert not Path("out").exists() and not list(Path().glob(".export-*"))


def test_around_a_command_ctrl_c_ends_the_process_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    handlers = []

    def command_of_a_moment() -> int:
        handlers.append(signal.getsignal(CTRL_C))
        return 0

    def started() -> None:
        handlers.append(signal.getsignal(CTRL_C))
        run()

    monkeypatch.setattr("pruner.cli.main.main", command_of_a_moment)
    monkeypatch.setattr("pruner.cli.main.run", started)
    before = {which: signal.getsignal(which) for which in (CTRL_C, TERM)}
    try:
        with pytest.raises(SystemExit):
            runpy.run_module("pruner", run_name="__main__")
        assert [*handlers, signal.getsignal(CTRL_C)] == [signal.SIG_DFL, signal.default_int_handler, signal.SIG_DFL]
        signal.signal(CTRL_C, signal.SIG_IGN)
        with pytest.raises(SystemExit):
            run()
        assert handlers[-1] == signal.getsignal(CTRL_C) == signal.SIG_IGN
    finally:
        for which, handler in before.items():
            signal.signal(which, handler)


def test_shrink_keeps_the_best_that_was_tried(presses: Presses, capsys: pytest.CaptureFixture[str]) -> None:
    presses.append([CTRL_C])
    assert command("shrink model.safetensors --budget 2s --output out") in (0, 2)  # 2: nothing had been tried yet
    told = capsys.readouterr()
    assert "ending early" in told.err
    assert ("The search was ended early" in told.out) == Path("out").exists()


@pytest.mark.parametrize(("which", "code"), [(CTRL_C, 130), (TERM, 143)])
@pytest.mark.parametrize("line", ["prune model.safetensors --output out", "masks model.safetensors --output masks.st"])
def test_what_heals_nothing_is_stopped_by_the_first(
    presses: Presses, monkeypatch: pytest.MonkeyPatch, line: str, which: signal.Signals, code: int
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        signal.raise_signal(which)

    monkeypatch.setattr("pruner.pipeline.choose_masks", interrupted)
    monkeypatch.setattr("pruner.cli.looking.choose_masks", interrupted)
    assert command(line) == code
    assert {path.name for path in Path().iterdir()} == {"model.safetensors"}


def test_defaults_of_a_model_whose_inputs_are_known(presses: Presses, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("prune model.safetensors --granularity units --steps 20 --output out") == 0
    assert "note: inputs are known, so units fall by obs and are healed" in capsys.readouterr().err
    recipe = json.loads(Path("out/manifest.json").read_text())["recipe"]
    assert (recipe["criterion"], recipe["compensation"]) == ("obs", "heal")
    assert command("prune model.safetensors --granularity units --criterion l1 --output weights") == 0
    assert "note" not in capsys.readouterr().err
    recipe = json.loads(Path("weights/manifest.json").read_text())["recipe"]
    assert (recipe["criterion"], recipe["compensation"]) == ("l1", "none")


def caused_by(error: Exception) -> PrunerError:
    found = PrunerError("expected tensors that fit together")
    found.__cause__ = error
    return found


OUT_OF_MEMORY = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    caused_by(RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory")),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: type(error).__name__)
def test_memory_that_runs_out_is_one_line(
    presses: Presses, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr("pruner.exports.export.write_masks", fails)
    assert command("prune model.safetensors --granularity rows --output out") == 2
    told = capsys.readouterr().err
    assert told.startswith("error: expected enough memory for this model, found too little") and told.count("\n") == 1
    assert {path.name for path in Path().iterdir()} == {"model.safetensors"}


def test_what_torch_says_without_memory_is_known() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**60, dtype=torch.uint8)
    assert no_memory(raised.value) and not no_memory(RuntimeError("shapes do not fit"))
