"""Exports whose process is killed, whose disk is full, whose source changes, and that two write at once."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pruner import PrunerError, Recipe, Result, open_checkpoint, run, save_pruned
from pruner.exports import export
from pruner.exports.verify import verify
from tests.helpers.command_line import command
from tests.helpers.models import named, random_lstm
from tests.helpers.project import PROJECT

SECONDS = 60  # on a busy machine


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "model.pt"
    torch.save(named(random_lstm(), "lstm."), path)
    return path


@pytest.fixture
def result(source: Path) -> Result:
    return run(open_checkpoint(source), Recipe(0.5))


def interrupted(monkeypatch: pytest.MonkeyPatch, change: Callable[[], object]) -> None:
    """Let something happen while an export is written, after its model is."""
    write_masks = export.write_masks

    def changed(*arguments: object) -> None:
        change()
        write_masks(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(export, "write_masks", changed)


@pytest.mark.parametrize(("which", "there"), [(signal.SIGKILL, True), (signal.SIGTERM, False)])
def test_a_killed_export_leaves_nothing_that_the_next_does_not_clear(
    tmp_path: Path, which: signal.Signals, there: bool
) -> None:
    tensors = {**named(random_lstm(hidden_size=256), "lstm."), "large": torch.randn(2**23)}  # written for a while
    torch.save(tensors, tmp_path / "model.pt")
    place = tmp_path / "places" / "export"
    (place if there else place.parent).mkdir(parents=True)
    line = f"prune {tmp_path / 'model.pt'} --output {place}"
    process = subprocess.Popen(
        [sys.executable, "-m", "pruner", *line.split()], cwd=PROJECT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    inside = place if there else place.parent
    until = time.monotonic() + SECONDS
    while not list(inside.glob(".export-*/files/pruned.pt")) and time.monotonic() < until:
        time.sleep(0.001)
    process.send_signal(which)
    _, told = process.communicate(timeout=SECONDS)
    assert not (place / "manifest.json").exists()
    if which == signal.SIGTERM:
        assert (process.returncode, told) == (143, b"stopped\n")
    else:
        assert list(inside.glob(".export-*"))
    assert command(line) == 0
    assert verify(place)
    assert [path.name for path in place.parent.iterdir()] == ["export"] and len(list(place.iterdir())) == 6


def test_a_dead_export_is_none_and_makes_room(result: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "export"
    place.mkdir()
    process = os.fork()
    if process == 0:
        replace = Path.replace
        try:
            monkeypatch.setattr(
                Path, "replace", lambda self, to: os._exit(9) if self.name == "manifest.json" else replace(self, to)
            )
            result.save(place)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 9
    assert (place / "pruned.pt").exists()
    with pytest.raises(PrunerError, match=r"expected an export folder with a manifest.json"):
        verify(place)
    assert verify(result.save(place)) and len(list(place.iterdir())) == 6


@pytest.mark.parametrize("there", [False, True], ids=["new", "existing"])
def test_of_two_writers_one_exports_and_one_is_told(
    result: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    place = tmp_path / "export"
    if there:
        place.mkdir()
    told = list[str]()

    def other() -> None:
        monkeypatch.undo()
        try:
            result.save(place)
        except PrunerError as error:
            told.append(str(error))

    def start() -> None:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()

    interrupted(monkeypatch, start)
    assert verify(result.save(place))
    (message,) = told
    assert "being written by another process" in message or "in use" in message
    assert {path.name for path in tmp_path.iterdir()} == {"model.pt", "export"} and len(list(place.iterdir())) == 6


def overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(b"\0")


def replace_it(path: Path) -> None:
    path.with_name("new").write_bytes(path.read_bytes())
    path.with_name("new").replace(path)


def lengthen(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"\0")


@pytest.mark.parametrize("when", ["before", "meanwhile"])
@pytest.mark.parametrize("change", [overwrite, replace_it, lengthen, Path.touch])
def test_a_source_that_changed_is_not_exported(
    result: Result, source: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], object], when: str
) -> None:
    if when == "before":
        change(source)
    else:
        interrupted(monkeypatch, lambda: change(source))
    with pytest.raises(PrunerError, match=r"expected model\.pt as it was when it was opened, found .*; open it again"):
        result.save(source.parent / "export")
    assert [path.name for path in source.parent.iterdir()] == ["model.pt"]


def test_a_source_that_is_gone_is_exported_as_it_was(result: Result, source: Path) -> None:
    data = source.read_bytes()
    source.unlink()
    folder = result.save(source.parent / "export")
    assert verify(folder, open_checkpoint(data))


def test_what_else_belongs_to_an_export_is_there_with_it_or_not_at_all(result: Result, tmp_path: Path) -> None:
    def fails(folder: Path) -> None:
        (folder / "more").mkdir()
        (folder / "more" / "table.csv").write_text("1")
        raise OSError("disk full")

    with pytest.raises(PrunerError, match="expected a place to write the export, found disk full"):
        result.save(tmp_path / "export", more=fails)
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]
    (tmp_path / "export").mkdir()
    folder = result.save(tmp_path / "export", more=lambda folder: (folder / "more").mkdir())
    assert verify(folder)


def test_two_files_are_not_written_to_one_place_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, written = tmp_path / "model.pt", torch.save

    def again(*arguments: object) -> None:
        monkeypatch.undo()
        with pytest.raises(PrunerError, match="being written by another process"):
            save_pruned(random_lstm(), path)
        written(*arguments)

    monkeypatch.setattr(torch, "save", again)
    save_pruned(random_lstm(), path)
    assert open_checkpoint(path).lstms and [each.name for each in tmp_path.iterdir()] == ["model.pt"]
