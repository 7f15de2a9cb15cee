"""Files read in a process of its own: the same comes out, and whatever happens there, this process lives and says so."""

import gc
import io
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from pruner import PrunerError, open_checkpoint
from pruner.calibration.array_files import read_inputs
from pruner.files import isolated_reader, isolation, limits
from pruner.files.checkpoint import Checkpoint
from pruner.files.writing import write
from tests.helpers.files import saved, saved_legacy
from tests.helpers.models import named, random_lstm
from tests.helpers.modules import Tagger, model, quantized, scripted
from tests.helpers.project import PROJECT

STATE = nn.ModuleDict({"rnn": random_lstm()}).state_dict()


def npz() -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **{name: tensor.numpy() for name, tensor in STATE.items()})
    return file.getvalue()


FILES: dict[str, Callable[[], bytes]] = {
    "zip": lambda: saved({"epoch": 3, "model": STATE, "size": torch.Size([1]), "raw": b"a" * 5000}),
    "legacy": lambda: saved_legacy(STATE),
    "safetensors": lambda: safetensors.torch.save(dict(STATE), {"author": "me"}),
    "module": lambda: saved(Tagger()),
    "script": lambda: scripted(nn.Sequential(random_lstm())),
    "quantized": lambda: saved(quantized(model()).state_dict()),
    "arrays": npz,
    "no LSTM": lambda: saved(nn.GRU(3, 4).state_dict()),
    "tied": lambda: saved({"a": STATE, "b": STATE}),
}


def assert_same(found: Checkpoint, expected: Checkpoint) -> None:
    for fact in ("format", "plain", "metadata", "locations", "lstms", "skipped", "learned", "notes"):
        assert getattr(found, fact) == getattr(expected, fact), fact
    assert list(found.tensors) == list(expected.tensors)
    for name, tensor in expected.tensors.items():
        assert torch.equal(found.tensors[name], tensor), name
    assert type(found.container) is type(expected.container)


@pytest.mark.parametrize("kind", FILES)
def test_the_same_comes_out_of_a_process_of_its_own(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.write_bytes(FILES[kind]())
    expected = open_checkpoint(path)
    for source in (path, path.read_bytes()):
        found = open_checkpoint(source, "model", isolated=True)
        assert_same(found, expected)
        assert (found.sha256, found.size) == (expected.sha256, expected.size)
        again = []
        for checkpoint in (found, expected):
            write(checkpoint, {}, tmp_path / "written")
            again.append(open_checkpoint(tmp_path / "written"))
        assert_same(*again)


def test_refusals_come_out_word_by_word() -> None:
    for data in (saved([STATE]), b"PK\3\4", saved(STATE)[:-100], bytes(100)):
        with pytest.raises(PrunerError) as here:
            open_checkpoint(data, "model.pt")
        with pytest.raises(PrunerError) as there:
            open_checkpoint(data, "model.pt", isolated=True)
        assert str(here.value) == str(there.value)


@pytest.mark.parametrize("name", ["model.pt", "a" * 5000, "new\nline \x1b[31m", "half \ud800", "-c", "--help"])
def test_names_of_files_are_names_and_nothing_else(name: str) -> None:
    checkpoint = open_checkpoint(saved(STATE), name, isolated=True)
    assert checkpoint.name.isprintable()
    assert len(checkpoint.name) <= 256
    with pytest.raises(PrunerError) as caught:
        open_checkpoint(b"PK", name, isolated=True)
    assert str(caught.value).isprintable()


def test_no_file_stays_open_and_none_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def opened() -> int:
        gc.collect()
        return len(list(Path("/proc/self/fd").iterdir()))

    before = opened()
    kept = [open_checkpoint(saved(STATE), isolated=True) for _ in range(3)]
    assert opened() - before <= 2 * len(kept)  # a mapping keeps its own, and one is there for whoever maps it, too
    assert not list(tmp_path.iterdir())
    kept.clear()
    assert opened() == before


def test_a_pipe_is_refused_before_a_process_starts(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for read in (open_checkpoint, read_inputs):
        with pytest.raises(PrunerError, match="found a pipe or a device"):
            read(tmp_path / "pipe", isolated=True)


def test_a_file_larger_than_any_memory_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "huge.pt"
    with path.open("wb") as file:
        file.truncate(2**43)
    for isolated in (False, True):
        with pytest.raises(PrunerError, match=r"^expected a"):
            open_checkpoint(path, isolated=isolated)


READERS = {
    "exits": "raise SystemExit(3)",
    "fails": "raise ValueError",
    "kills itself": "import os; os.kill(os.getpid(), 9)",
    "overruns its stack": "import ctypes; ctypes.string_at(0)",
    "says nothing": "pass",
    "says nonsense": "print('[1, 2')",
    "says something else": "print('[\"dict\"]')",
    "never ends saying": "while True: print('a' * 10**6)",
    "never ends": "import time; time.sleep(100)",
    "never ends computing": "while True: pass",
    "says that it failed": "print('[\"error\"]')",
}


@pytest.mark.parametrize("reader", READERS)
def test_whatever_happens_there_is_told_in_a_sentence(
    reader: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "reader.py"
    script.write_text(READERS[reader])
    monkeypatch.setattr(isolation, "_READER", script)
    monkeypatch.setattr(isolation, "_PATIENCE", 1)
    monkeypatch.setattr(isolation, "cpu_seconds", lambda size: 1)
    started = time.monotonic()
    with pytest.raises(
        PrunerError, match=r"^expected a file that 300 MiB of memory and 1 seconds suffice to read, found"
    ):
        open_checkpoint(saved(STATE), "model.pt", isolated=True)
    assert time.monotonic() - started < 10


def in_a_reader(code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process that has limited itself as a reader does for an empty file."""
    script = f"""
import sys, types
sys.modules["pruner"] = types.ModuleType("pruner")  # without torch, as the reader has it
sys.modules["pruner"].__path__ = [{str(PROJECT / "pruner")!r}]
from pruner.files import isolated_reader, limits
limits._FREE_SECONDS = 1
isolated_reader.limit(0)
{code}
"""
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30)


def test_a_reader_has_memory_and_time_of_its_own_size() -> None:
    assert in_a_reader("bytearray(250 * 2**20); print('enough')").stdout == "enough\n"
    assert "MemoryError" in in_a_reader("bytearray(320 * 2**20)").stderr
    started = time.monotonic()
    assert in_a_reader("while True: pass").returncode < 0
    assert time.monotonic() - started < 20
    assert limits.memory(2**30) == 3 * 2**30 + 300 * 2**20


def test_a_reader_needs_no_torch() -> None:
    code = f"""
import os, runpy, sys
sys.argv = ["reader", "checkpoint", '"model"', str(os.getppid())]
runpy.run_path({isolated_reader.__file__!r}, run_name="__main__")
print(sorted({{"torch", "streamlit", "pandas", "safetensors"}} & sys.modules.keys()))
"""
    with (PROJECT / "pruner" / "examples" / "embedded_reber.safetensors").open("rb") as file:
        found = subprocess.run([sys.executable, "-c", code], stdin=file, capture_output=True, timeout=60)
    assert found.returncode == 0, found.stderr
    assert found.stdout.endswith(b"[]\n")


def test_inputs_come_out_the_same() -> None:
    file = io.BytesIO()
    np.savez_compressed(file, a=np.arange(12.0).reshape(2, 2, 3), b=np.zeros((2, 5), ">i4"))
    csv = b"sequence,a,b\n1,2,3\n1,4,5\n2,6,7\n"
    for data, name in ((file.getvalue(), "x.npz"), (csv, "x.csv"), (saved(named(random_lstm())), "x.pt")):
        here, there = read_inputs(data, name), read_inputs(data, name, isolated=True)
        assert here.keys() == there.keys()
        for key, group in here.items():
            assert all(torch.equal(one, other) for one, other in zip(group, there[key], strict=True))
