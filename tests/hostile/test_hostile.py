"""Hostile files: each is refused with one sentence or opens, in little time and memory, and nothing that it names is run."""

import json
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from pruner import PrunerError, open_checkpoint
from pruner.calibration.array_files import read_inputs
from tests.helpers.project import PROJECT
from tests.hostile.assemble import call, dictionary, named, npy_claim, pickled, saved, state, text
from tests.hostile.fuzz import fuzz
from tests.hostile.measured import CASES
from tests.hostile.others import ARRAYS
from tests.hostile.pickled_tensors import PICKLES

SECONDS, MEMORY = 5, 300 * 2**20
HOSTILE = Path(PROJECT.parent / "shared" / "hostile")
APART = (
    "hex of hex of hex",
    "lists without number",
    "a list nested deeper than the stack",
    "modules that multiply",
    "a tuple in itself",
    "names of half characters",
    "os.system",
    "archive: names that differ by case",
    "archive: an archive as it should be",
    "safetensors: a million names",
    "arrays: zeros in a thousandth of their size",
    "file: nothing",
)


@pytest.fixture(scope="module")
def measured() -> dict[str, dict[str, Any]]:
    """What came of every case, opened one after the other in a process of their own."""
    found = subprocess.run(
        [sys.executable, "-m", "tests.hostile.measured"], cwd=PROJECT, capture_output=True, text=True, timeout=300
    )
    lines = [json.loads(line) for line in found.stdout.splitlines()]
    assert found.returncode == 0, (lines[-1:], found.stderr[-2000:])
    return {line["name"]: line for line in lines}


def fits(message: str, answer: str) -> bool:
    return message == "" if answer == "" else re.search(answer, message) is not None


def test_there_are_many() -> None:
    assert len(CASES) >= 300


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_file_is_answered_in_little_time_and_memory(name: str, measured: dict[str, dict[str, Any]]) -> None:
    found, (_, answer) = measured[name], CASES[name]
    assert fits(found["message"], answer)
    if found["message"]:
        assert found["message"].startswith("expected ")
        assert found["message"].isprintable()
        assert len(found["message"]) < 600
    assert found["seconds"] < SECONDS
    assert found["memory"] < MEMORY


@pytest.mark.parametrize("name", APART)
def test_a_reader_of_its_own_answers_the_same(name: str) -> None:
    make, answer = CASES[name]
    try:
        open_checkpoint(make(), "file", isolated=True)
        message = ""
    except PrunerError as error:
        message = str(error)
    assert fits(message, answer)


@pytest.mark.parametrize("name", ARRAYS)
def test_hostile_arrays_are_no_inputs(name: str) -> None:
    make, answer = ARRAYS[name]
    if name.startswith("zeros"):
        assert "a" in read_inputs(make(), "file")  # within the limit of what is unpacked
    elif answer:
        with pytest.raises(PrunerError, match=answer):
            read_inputs(make(), "file")


@pytest.mark.parametrize("name", ["a tuple shown for ever", "unhashable keys", "a tuple hashed for ever"])
def test_a_key_that_is_no_name_is_not_shown(name: str) -> None:
    with pytest.raises(PrunerError, match=r"under a key that is no name|under 'a'|found a NoneType"):
        read_inputs(CASES[name][0](), "file")


def test_an_array_that_no_memory_holds_is_no_input() -> None:
    with pytest.raises(PrunerError, match="fits in memory"):
        read_inputs(npy_claim(shape="(4611686018427387904, 4611686018427387904, 0)", data=b""), "file.npy")


TRAP = """
from pathlib import Path
Path({marker!r}).write_text("imported")
class Trap:
    def __new__(cls, *arguments, **named):
        Path({marker!r}).write_text("made")
        return object.__new__(cls)
    def __setstate__(self, state):
        Path({marker!r}).write_text("set")
    def __reduce_ex__(self, protocol):
        return Trap, ()
def trap(*arguments, **named):
    Path({marker!r}).write_text("called")
    return {{}}
"""


def trapped(name: str) -> bytes:
    """Everything in a pickle that can name something: a class and a function, called, made, given a state and items."""
    made = named(name, "Trap") + b")\x81" + dictionary(a=text("b")) + b"b"
    function = call(name, "trap", text("a")) + dictionary(a=text("b")) + b"b"
    items = call(name, "Trap") + b"(" + text("k") + b"Nu"
    appended = call(name, "Trap") + b"(NNe"
    old = b"(i" + f"{name}\nTrap\n".encode()
    stacked = text(name) + text("trap") + b"\x93)R"
    parts = (made, function, items, appended, old, stacked)
    body = b"".join(text(str(index)) + part for index, part in enumerate(parts))
    tensor_of = call("torch._tensor", "_rebuild_from_type_v2", named(name, "trap"), named(name, "Trap"), b")", b"N")
    return b"}(" + body + text("keys") + b"}" + call(name, "Trap") + b"Ns" + text("tensor") + tensor_of + b"u"


FILES: dict[str, Callable[[str], bytes]] = {
    "raw": lambda name: pickled(trapped(name)),
    "zip": lambda name: saved_with(name, legacy=False),
    "legacy": lambda name: saved_with(name, legacy=True),
}


def saved_with(name: str, legacy: bool) -> bytes:
    """A file of torch.save that holds an LSTM, and an object of a class of that module."""
    module = ModuleType(name)
    exec(  # the same class, defined here so that torch.save finds it, without a trap
        "class Trap:\n    def __init__(self):\n        self.a = 1\nclass Net(Trap):\n    pass\n", module.__dict__
    )
    for made in (module.Trap, module.Net):
        made.__module__ = name
    sys.modules[name] = module
    try:
        return saved({"state_dict": state(), "trap": module.Net(), module.Trap: 3}, legacy)
    finally:
        del sys.modules[name]


@pytest.mark.parametrize("isolated", [False, True], ids=["here", "apart"])
@pytest.mark.parametrize("kind", FILES)
def test_nothing_that_a_file_names_is_imported_or_called(
    kind: str, isolated: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, marker = f"trap_{kind}", tmp_path / "marker"
    (tmp_path / f"{name}.py").write_text(TRAP.format(marker=str(marker)))
    data = FILES[kind](name)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    before = set(sys.modules)
    open_checkpoint(data, "file", isolated=isolated)
    assert not marker.exists()
    assert name not in sys.modules
    assert set(sys.modules) - before <= {"pyfive", "onnx"}


def test_the_traps_would_snap_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marker = tmp_path / "marker"
    (tmp_path / "trap_elsewhere.py").write_text(TRAP.format(marker=str(marker)))
    monkeypatch.syspath_prepend(tmp_path)
    pickle.loads(pickled(call("trap_elsewhere", "trap", text("a"))))
    assert marker.read_text() == "called"


def test_no_pickle_of_a_case_is_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, function in ((torch, "load"), (torch.jit, "load"), (pickle, "loads"), (pickle, "load")):
        monkeypatch.setattr(module, function, lambda *_: pytest.fail("left to others"))
    for make, _ in list(PICKLES.values())[-60:]:
        try:
            open_checkpoint(make(), "file")
        except PrunerError:
            continue


@pytest.mark.parametrize("file", sorted(HOSTILE.glob("*.pt")), ids=lambda path: path.name)
def test_files_that_others_made_end_as_they_should(file: Path) -> None:
    for isolated in (False, True):
        if file.name.startswith("refuse_"):
            with pytest.raises(PrunerError, match=r"^expected "):
                open_checkpoint(file, isolated=isolated)
        else:
            assert len(open_checkpoint(file, isolated=isolated).lstms) == 1


def test_damaged_files_of_every_kind_open_or_are_refused() -> None:
    report = fuzz(seconds=8, seed=20, finds=None)
    assert report.finds == []
    assert report.opened > 50 < report.refused
