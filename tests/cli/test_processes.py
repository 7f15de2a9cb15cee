"""The command line as a process among others: exit codes, pipes, links, folders, interruptions."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from pruner.cli.main import main
from tests.helpers.command_line import command
from tests.helpers.models import named, random_lstm
from tests.helpers.project import PROJECT


def start(*arguments: str, **options: Any) -> subprocess.Popen[bytes]:
    """`python -m pruner` in the present folder, from a terminal that knows ASCII alone."""
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "PYTHONIOENCODING": "ascii", "PYTHONUNBUFFERED": ""}
    return subprocess.Popen(
        [sys.executable, "-m", "pruner", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )


def test_the_module_can_be_run(workplace: Path) -> None:
    process = start("inspect", "root.pt", "--json")
    output, errors = process.communicate()
    assert (process.returncode, errors) == (0, b"")
    assert json.loads(output)["lstms"][0]["hidden_size"] == 4


def test_a_run_that_fails_exits_2_without_a_traceback(workplace: Path) -> None:
    process = start("prune", "garbage.pt", "--output", "new")
    output, errors = process.communicate()
    assert (process.returncode, output) == (2, b"")
    assert errors.startswith(b"error: ") and errors.count(b"\n") == 1
    assert not Path("new").exists()


@pytest.mark.parametrize("arguments", [("inspect", "root.pt", "--json"), ("--help",)], ids=" ".join)
def test_a_broken_pipe_is_quiet(workplace: Path, arguments: tuple[str, ...]) -> None:
    with start(*arguments) as process:
        assert process.stdout and process.stderr
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_names_that_the_terminal_cannot_show_are_shown_somehow(workplace: Path) -> None:
    torch.save(named(random_lstm(), "modèle."), "\udcff.pt")
    process = start("inspect", "\udcff.pt")
    output, errors = process.communicate()
    assert (process.returncode, errors) == (0, b"")
    assert b"LSTM(3 -> 4)" in output


@pytest.mark.parametrize("command", ["masks", "saliency"])
def test_the_source_is_never_written_over(workplace: Path, command: str) -> None:
    before = (workplace / "model.pt").read_bytes()
    assert main([command, "model.pt", "--output", "./model.pt"]) == 2
    assert (workplace / "model.pt").read_bytes() == before


def test_a_link_is_followed_and_a_pipe_is_written_to(workplace: Path) -> None:
    Path("real.csv").write_text("old")
    Path("link.csv").symlink_to("real.csv")
    assert command("saliency root.pt --output link.csv") == 0
    assert Path("link.csv").is_symlink() and len(pd.read_csv("real.csv")) == 32
    os.mkfifo("pipe")
    reader = os.open("pipe", os.O_RDONLY | os.O_NONBLOCK)
    assert command("saliency root.pt --output pipe") == 0
    assert os.read(reader, 2**16) == Path("real.csv").read_bytes() and Path("pipe").is_fifo()
    os.close(reader)


def test_an_empty_folder_is_filled_even_if_one_stands_in_it(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("here").mkdir()
    Path("link").symlink_to("here")
    assert command("prune root.pt --output link") == 0
    assert Path("link").is_symlink() and len(list(Path("here").iterdir())) == 6
    Path("there").mkdir()
    monkeypatch.chdir("there")
    assert command("prune ../root.pt --output .") == 0
    assert sorted(path.name for path in Path.cwd().iterdir()) == [
        "README.md",
        "example.py",
        "load_pruned.py",
        "manifest.json",
        "masks.safetensors",
        "pruned.pt",
    ]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_output_that_cannot_be_printed_is_one_line_too(workplace: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "pruner", "inspect", "root.pt"],
            stdout=full,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(PROJECT)},
        )
    assert done.returncode == 2
    assert done.stderr.startswith(b"error: expected a place to print the output") and done.stderr.count(b"\n") == 1


def test_who_interrupts_sees_no_traceback(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **settings: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pruner.cli.options.open_checkpoint", interrupted)
    assert command("inspect root.pt") == 130
    assert capsys.readouterr().err == "stopped\n"
