"""What `measure` says of speed: all that can be run, side by side, for people and for scripts."""

import json
import re
from pathlib import Path

import pytest
import torch

from pruner.compact.load_pruned import CompactLSTM
from pruner.exports.onnx.facts import FLOAT, INT8
from pruner.exports.verdict import by_answers
from tests.helpers.command_line import command, printed
from tests.helpers.exports import edit_manifest, read_manifest
from tests.helpers.speeds import tell

DENSE = ["dense, PyTorch", "dense, ONNX Runtime", "dense, ONNX Runtime, int8"]


@pytest.fixture
def reber(workplace: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    printed(capsys, "examples embedded-reber --output reber.safetensors")
    return Path("reber.safetensors")


def test_a_checkpoint_is_timed_in_all_ways_to_run_it(
    reber: Path, capsys: pytest.CaptureFixture[str], contenders: list[str]
) -> None:
    times = json.loads(printed(capsys, f"measure {reber} --json"))["times"]
    assert contenders == DENSE
    assert times["settings"] == [
        {"batch_size": size, "threads": count} for size, count in ((1, 1), (32, 1), (1, 2), (32, 2))
    ]
    torch, whole, small = times["rows"]
    assert torch == {
        "model": "dense",
        "runtime": "PyTorch",
        "numbers": "float",
        "bytes": reber.stat().st_size,
        "quality": 1.0,
        "faster": [1.0] * 4,
        "reason": None,
    }
    assert whole["faster"] == [2.0] * 4 and small["faster"] == [4.0] * 4
    assert small["bytes"] < whole["bytes"] and small["quality"] > 0.9


def test_an_export_is_timed_beside_the_dense_model_by_the_files_it_holds(
    reber: Path, capsys: pytest.CaptureFixture[str], contenders: list[str]
) -> None:
    command(f"prune {reber} --granularity units --compensation none --criterion l1 --onnx --output new")
    rows = json.loads(printed(capsys, "measure new --json"))["times"]["rows"]
    assert contenders == [*DENSE, *(title.replace("dense", "compact") for title in DENSE)]
    facts = read_manifest(Path("new"))["onnx"]["files"]
    sizes = [Path("new", name).stat().st_size for name in ("pruned.safetensors", FLOAT, INT8)]
    assert [row["bytes"] for row in rows[3:]] == sizes and rows[0]["bytes"] == reber.stat().st_size
    assert [row["quality"] for row in rows[4:]] == [facts[name]["quality"]["value"] for name in (FLOAT, INT8)]
    assert [row["quality"] for row in rows[:3]] == [None] * 3  # the dense weights are not there
    assert [row["faster"][0] for row in rows] == [1, 2, 4, 2, 4, 8]


def test_an_export_without_onnx_files_is_timed_by_those_it_could_hold(
    reber: Path, capsys: pytest.CaptureFixture[str], contenders: list[str]
) -> None:
    command(f"prune {reber} --sparsity 0.1 --output rows")
    rows = json.loads(printed(capsys, "measure rows --json"))["times"]["rows"]
    assert [row["model"] for row in rows] == ["dense"] * 3 + ["masked"] * 3
    assert rows[3]["quality"] == rows[4]["quality"] and rows[5]["quality"] is not None


def test_people_get_a_table_with_words_where_the_machine_is_busy(
    reber: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command(f"prune {reber} --granularity units --compensation none --criterion l1 --output new")
    tell(monkeypatch, busy=True, threads=(1,))
    lines = printed(capsys, "measure new").splitlines()
    title, dense, *_ = lines[lines.index("") + 1 :]
    assert re.split(r"  +", title.strip()) == [
        "bytes",
        "batch 1, 1 thread",
        "batch 32, 1 thread",
        "strings wholly right",
    ]
    assert re.split(r"  +", dense.strip()) == ["dense, PyTorch", "22,452", "1.0×", "1.0×", "–"]
    assert next(line for line in lines if "compact, PyTorch" in line).count("too noisy to tell") == 2


def test_why_there_is_no_onnx_row_is_told(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = printed(capsys, "measure model.pt")
    assert "dense, ONNX Runtime: it holds LSTMs, which read all steps at once, and cells" in told


def test_what_is_counted_at_its_dense_size_is_said_to_be(
    workplace: Path, capsys: pytest.CaptureFixture[str], contenders: list[str]
) -> None:
    torch.save(CompactLSTM(3, 8, [torch.tensor([0, 2, 5])]).state_dict(), "small.pt")
    told = printed(capsys, "measure small.pt")
    assert "416 parameters" in told and "(3 hidden units left of 8). It is shown at its dense size" in told


def test_a_verdict_is_repeated_in_plain_words(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit_manifest(Path("export"), ("verdict",), by_answers(1 / 300, False).told())
    told = printed(capsys, "measure export")
    assert "kept, as the export says: squared error against the dense model's answers on held-back" in told
    assert "relative: 0 before, 0.003333 after\n" in told
