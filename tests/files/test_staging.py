"""Staging: what a writer leaves that dies at any moment, and what the next one makes of it."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pruner import PrunerError
from pruner.files import staging
from pruner.files.staging import Staging, clear_dead, temporary

LAST = "manifest.json"
FILES = ("a.txt", "b.txt", "inner/c.txt", "inner/d.txt", LAST)


@pytest.fixture(params=["locks", "no locks on this disk", "no locks at all"])
def locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    def refused(*_: object) -> None:
        raise OSError("not supported")

    if request.param == "no locks on this disk":
        monkeypatch.setattr(staging.fcntl, "flock", refused)
    if request.param == "no locks at all":
        monkeypatch.setattr(staging, "fcntl", None)
    monkeypatch.setattr(staging, "_PATIENCE", 0.05)
    return str(request.param)


def write(folder: Path) -> None:
    (folder / "inner").mkdir()
    for name in FILES:
        (folder / name).write_text(name)


def found(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def dies(work: Callable[[], object]) -> None:
    """Let a process do this that ends without a last word, at the latest when the work is done."""
    process = os.fork()
    if process == 0:
        try:
            work()
        finally:
            os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 9


def dying_moves(monkeypatch: pytest.MonkeyPatch, count: int) -> Callable[[], None]:
    """Moving everything in, until so many files are moved."""
    replace = Path.replace

    def counted(self: Path, target: Path) -> Path:
        nonlocal count
        if count == 0:
            os._exit(9)
        count -= 1
        return replace(self, target)

    def work() -> None:
        monkeypatch.setattr(Path, "replace", counted)
        own = Staging(Path.cwd(), "")
        write(own.files)
        own.move_in(LAST)

    return work


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    yield tmp_path


def test_it_is_gone_when_the_block_ends(here: Path, locks: str) -> None:
    for _ in range(2):
        with Staging(here, "place") as own:
            write(own.files)
            assert own.files.parent.parent == here
        assert not list(here.iterdir())


def test_a_new_folder_is_there_at_once(here: Path, locks: str) -> None:
    with Staging(here, "place") as own:
        write(own.files)
        own.settle()
        own.replace(here / "place")
    assert found(here) == {f"place/{name}" for name in FILES}


def test_an_old_folder_is_filled(here: Path, locks: str) -> None:
    with Staging(here, "") as own:
        write(own.files)
        own.move_in(LAST)
    assert found(here) == set(FILES) and not list(here.glob(".*"))


def test_one_writes_to_a_place_at_a_time(here: Path, locks: str) -> None:
    with Staging(here, "place"), Staging(here, "other"):
        with pytest.raises(PrunerError, match=r"found .*/place being written by another process; wait"):
            Staging(here, "place")
        clear_dead(here)
        assert len(list(here.glob(".export-*/files"))) == 2
    with Staging(here, "place"):
        pass


def test_who_writes_to_another_place_clears_the_dead_away(here: Path) -> None:
    dies(lambda: write(Staging(here, "place").files))
    assert len(list(here.glob(".export-*"))) == 1
    with Staging(here, "other") as own:
        assert list(here.iterdir()) == [own.files.parent]


def test_what_nobody_locked_yet_is_cleared_away_too(here: Path) -> None:
    (here / ".export-0123456789abcdef").mkdir()
    clear_dead(here)
    assert not list(here.iterdir())


@pytest.mark.parametrize("count", range(len(FILES) + 1))
def test_what_was_moved_goes_unless_it_was_all(here: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    dies(dying_moves(monkeypatch, count))
    assert (here / LAST).exists() == (count == len(FILES)) and (here / "a.txt").exists() == (count > 0)
    clear_dead(here)
    assert found(here) == (set(FILES) if count == len(FILES) else set())
    assert not list(here.glob(".*")) and (here / "inner").exists() == (count == len(FILES))


def test_the_interrupted_moves_of_a_living_writer_are_undone(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace, count = Path.replace, iter(range(2))

    def interrupted(self: Path, target: Path) -> Path:
        if next(count, None) is None:
            raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt), Staging(here, "") as own:
        write(own.files)
        own.move_in(LAST)
    assert not list(here.iterdir())


def test_nothing_of_anybody_else_goes(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dies(dying_moves(monkeypatch, 3))
    (here / "a.txt").unlink()
    (here / "a.txt").write_text("mine")
    (here / "inner" / "mine.txt").write_text("mine")
    (here / ".export-mine").mkdir()
    (here / ".export-0000000000000000").write_text("mine")
    (here / ".export-1111111111111111").symlink_to(here / "inner")
    clear_dead(here)
    assert found(here) == {"a.txt", "inner/mine.txt", ".export-0000000000000000"}
    assert (here / ".export-mine").exists() and (here / ".export-1111111111111111").is_symlink()


LISTS = [
    "",
    "{",
    "3",
    "null",
    "[3]",
    "[[]]",
    '[["a.txt"]]',
    '[["../outside", 1, 2, 3]]',
    '[["\\u0000", 1]]',
    "[" * 9**5,
]


@pytest.mark.parametrize("listed", LISTS, ids=lambda text: text[:20])
def test_a_list_that_nobody_wrote_here_removes_nothing(here: Path, listed: str) -> None:
    folder = here / ".export-0123456789abcdef"
    folder.mkdir()
    (folder / "moving.json").write_text(listed)
    (here / "a.txt").write_text("mine")
    clear_dead(here)
    assert [path.name for path in here.iterdir()] == ["a.txt"]


def test_not_even_outside_by_its_identity(here: Path) -> None:
    (here / "outside").write_text("mine")
    facts = (here / "outside").stat()
    folder = here / "place" / ".export-0123456789abcdef"
    folder.mkdir(parents=True)
    for path in ("../outside", str(here / "outside")):
        listed = [[path, facts.st_ino, facts.st_size, facts.st_mtime_ns], [LAST, 0, 0, 0]]
        (folder / "moving.json").write_text(json.dumps(listed))
        clear_dead(here / "place")
        assert (here / "outside").exists()
        folder.mkdir()


def test_a_list_of_another_user_removes_nothing_of_ours(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "a.txt").write_text("mine")
    facts = (here / "a.txt").stat()
    folder = here / ".export-0123456789abcdef"
    for stranger in (True, False):
        folder.mkdir()
        listed = [["a.txt", facts.st_ino, facts.st_size, facts.st_mtime_ns], [LAST, 0, 0, 0]]
        (folder / "moving.json").write_text(json.dumps(listed))
        if stranger:
            monkeypatch.setattr("os.geteuid", lambda: facts.st_uid + 1)
        clear_dead(here)
        monkeypatch.undo()
        assert (here / "a.txt").exists() == stranger


def test_temporary_files_of_the_dead_go_with_the_next(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(here))
    dies(lambda: write(temporary().files))
    assert found(here)
    with temporary() as one, temporary() as other:
        assert set(here.iterdir()) == {one.files.parent, other.files.parent}
    assert not list(here.iterdir())
