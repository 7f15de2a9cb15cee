"""The command line: what each command does, and one line on stderr for everything it cannot use."""

import hashlib
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import safetensors.torch
import torch
from torch import nn

from pruner import Recipe, open_checkpoint
from pruner.__main__ import main
from pruner.examples import EXAMPLES
from pruner.exports.verify import verify
from pruner.result import choose_masks
from tests.conftest import named, random_lstm
from tests.helpers.project import PROJECT

COMMANDS = ["inspect", "saliency", "masks", "prune", "verify", "measure", "examples"]
RECIPE = Recipe(
    0.25, criterion="l2", lstms=("encoder",), layer_sparsity={1: 0.75}, gate_sparsity={"hf": 0.5, "ig": 1.0}
)
OPTIONS = (
    "--sparsity 0.25 --granularity rows --criterion l2 --lstm encoder "
    "--layer-sparsity 1=0.75 --gate-sparsity hf=0.5 --gate-sparsity ig=1"
)


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with checkpoints, an export and things that are neither."""
    monkeypatch.chdir(tmp_path)
    encoder = random_lstm(num_layers=2, bidirectional=True)
    tensors = {**named(encoder, "encoder."), **named(nn.LSTMCell(8, 4), "cell."), **named(nn.GRU(3, 4), "gru.")}
    torch.save({"state_dict": tensors}, "model.pt")
    torch.save(random_lstm().state_dict(), "root.pt")
    torch.save(nn.Linear(3, 4).state_dict(), "linear.pt")
    torch.save({"a.weight_ih_l0": torch.full((16, 3), torch.nan), "a.weight_hh_l0": torch.zeros(16, 4)}, "nan.pt")
    Path("garbage.pt").write_bytes(b"garbage")
    Path("empty.pt").touch()
    Path("recipe.json").write_text(RECIPE.to_json())
    Path("broken.json").write_text('{"sparsity": ')
    Path("wrong.json").write_text('{"sparsity": 2}')
    Path("none.json").write_text('{"lstms": []}')
    Path("used").mkdir()
    Path("used", "kept.txt").write_text("mine")
    assert main(shlex.split("prune root.pt --output export")) == 0
    return tmp_path


def command(line: str) -> int:
    return main(shlex.split(line))


def printed(capsys: pytest.CaptureFixture[str], line: str) -> str:
    """The standard output of a command that succeeds without a word on stderr."""
    capsys.readouterr()
    assert command(line) == 0
    output = capsys.readouterr()
    assert output.err == ""
    return output.out


def files(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in folder.rglob("*")
    }


def test_inspect_json_is_exactly_as_designed(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(printed(capsys, "inspect model.pt --json"))
    assert found == {
        "format": "torch zip",
        "tensors": 16 + 4 + 4,
        "bytes": Path("model.pt").stat().st_size,
        "lstms": [
            {
                "name": "cell",
                "kind": "LSTMCell",
                "num_layers": 1,
                "bidirectional": False,
                "input_size": 8,
                "hidden_size": 4,
                "proj_size": 0,
                "bias": True,
                "dtype": "float32",
                "parameters": 16 * (8 + 4 + 2),
            },
            {
                "name": "encoder",
                "kind": "LSTM",
                "num_layers": 2,
                "bidirectional": True,
                "input_size": 3,
                "hidden_size": 4,
                "proj_size": 0,
                "bias": True,
                "dtype": "float32",
                "parameters": 2 * 16 * (3 + 4 + 2) + 2 * 16 * (8 + 4 + 2),
            },
        ],
        "skipped": [{"name": "gru", "reason": "a GRU: 3 gates of 4 rows, an LSTM has 4"}],
    }


def test_an_lstm_at_the_root_has_an_empty_name(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert [lstm["name"] for lstm in json.loads(printed(capsys, "inspect root.pt --json"))["lstms"]] == [""]


def test_inspect_tells_the_same_in_words(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = printed(capsys, "inspect model.pt")
    assert "model.pt: torch zip, 24 tensors" in told
    assert "encoder: LSTM(3 -> 4), 2 layers, bidirectional, float32, 736 parameters" in told
    assert "cell: LSTMCell(8 -> 4), 1 layer, float32, 224 parameters" in told
    assert "gru: not an LSTM: a GRU" in told


def test_inspect_of_a_file_without_an_lstm_says_what_is_there(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "no LSTM; it holds 2 tensors: weight, bias" in printed(capsys, "inspect linear.pt")
    assert json.loads(printed(capsys, "inspect linear.pt --json"))["lstms"] == []


@pytest.mark.parametrize(("option", "power"), [("", 1), ("--criterion l1", 1), ("--criterion l2", 2)])
def test_saliency_is_written_as_a_table(
    workplace: Path, capsys: pytest.CaptureFixture[str], option: str, power: int
) -> None:
    assert printed(capsys, f"saliency model.pt {option} --output rows.csv") == ""
    table = pd.read_csv("rows.csv")
    assert list(table.columns) == ["lstm", "tensor", "layer", "direction", "gate", "unit", "row", "saliency"]
    assert len(table) == 16 * (2 + 8) and set(table["lstm"]) == {"encoder", "cell"}
    weight = open_checkpoint("model.pt").tensors["encoder.weight_hh_l1_reverse"]
    expected = torch.linalg.vector_norm(weight.double(), ord=power, dim=1)
    assert list(table.query("tensor == 'encoder.weight_hh_l1_reverse'")["saliency"]) == pytest.approx(expected.tolist())


def test_masks_are_bytes_under_the_names_of_the_source(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, "masks model.pt --sparsity 0.75 --output masks.safetensors") == ""
    masks = safetensors.torch.load_file("masks.safetensors")
    assert masks.keys() == {
        name for name in open_checkpoint("model.pt").tensors if "weight" in name and "gru" not in name
    }
    for mask in masks.values():
        assert mask.dtype == torch.uint8 and mask.shape == (16,) and mask.max() == 1
        assert [int(kept.sum()) for kept in mask.chunk(4)] == [1] * 4


@pytest.mark.parametrize("settings", [OPTIONS, "--recipe recipe.json"], ids=["options", "file"])
def test_options_and_recipe_file_give_the_masks_of_the_recipe(
    workplace: Path, capsys: pytest.CaptureFixture[str], settings: str
) -> None:
    printed(capsys, f"masks model.pt {settings} --output masks.safetensors")
    expected = choose_masks(open_checkpoint("model.pt"), RECIPE)
    masks = safetensors.torch.load_file("masks.safetensors")
    assert masks.keys() == expected.keys()
    assert all(torch.equal(masks[name].bool(), expected[name]) for name in expected)


@pytest.mark.parametrize(
    "settings", [OPTIONS, "--recipe recipe.json --form masked --device cpu"], ids=["options", "file"]
)
def test_prune_exports_what_the_recipe_says(workplace: Path, capsys: pytest.CaptureFixture[str], settings: str) -> None:
    told = printed(capsys, f"prune model.pt {settings} --output new")
    assert "encoder: output drift 0." in told and "rows masked" in told
    assert verify("new", open_checkpoint("model.pt"))
    assert Recipe.from_dict(json.loads(Path("new", "manifest.json").read_text())["recipe"]) == RECIPE


UNITS = "--granularity units --consumer head.weight --round-to 2 --sparsity 0.6"


@pytest.mark.parametrize(
    ("options", "recipe"),
    [
        (UNITS, Recipe(0.6, "units", round_to=2, consumers=("head.weight",))),
        (
            f"{UNITS} --allocation global --criterion group",
            Recipe(0.6, "units", "group", "global", 2, consumers=("head.weight",)),
        ),
    ],
    ids=["uniform", "global"],
)
def test_prune_removes_units_and_their_consumers_columns(
    workplace: Path, capsys: pytest.CaptureFixture[str], options: str, recipe: Recipe
) -> None:
    source = {**named(random_lstm(hidden_size=8), "rnn."), **named(nn.Linear(8, 2), "head.")}
    torch.save(source, "tagger.pt")
    told = printed(capsys, f"prune tagger.pt {options} --output new")
    assert f"{16 * 2 * 11 + 64 + 18} parameters became {16 * 7 + 32 + 10}" in told
    assert f"{32 * 11} multiply-accumulates per time step {16 * 7}" in told
    manifest = json.loads(Path("new", "manifest.json").read_text())
    assert Recipe.from_dict(manifest["recipe"]) == recipe
    assert (manifest["form"], manifest["lstms"][0]["consumers"]) == ("compact", ["head.weight"])
    stored = torch.load("new/pruned.pt")
    assert stored["head.weight"].shape == (2, 4) and stored["rnn.weight_hh_l0"].shape == (16, 4)
    assert "certificate holds" in printed(capsys, "verify new --source tagger.pt")
    found = json.loads(printed(capsys, "measure new --json"))
    assert (found["parameters"], found["macs_per_step"]) == (16 * 7 + 32 + 10, 16 * 7)
    printed(capsys, f"masks tagger.pt {options} --output masks.safetensors")
    masks = safetensors.torch.load_file("masks.safetensors")
    assert masks.keys() == {name for name in source if name.startswith("rnn.")}


@pytest.mark.parametrize(
    ("granularity", "form", "stored_as", "told"),
    [
        ("rows", "", "LSTM", "rows masked"),
        ("rows", "--form masked", "LSTM", "rows masked"),
        ("rows", "--form compact", "RowCompactLSTM", "parameters became"),
        ("units", "", "LSTM", "parameters became"),
        ("units", "--form compact", "LSTM", "parameters became"),
        ("units --layer-sparsity 1=0.25", "", "CompactLSTM", "parameters became"),
        ("units", "--form masked", "LSTM", "rows masked"),
    ],
)
def test_prune_exports_the_form_that_was_asked_for(
    workplace: Path, capsys: pytest.CaptureFixture[str], granularity: str, form: str, stored_as: str, told: str
) -> None:
    line = f"prune model.pt --granularity {granularity} --lstm encoder {form} --output new"
    assert told in printed(capsys, line)
    manifest = json.loads(Path("new", "manifest.json").read_text())
    assert [lstm["stored_as"] for lstm in manifest["lstms"]] == [stored_as]
    assert manifest["form"] == ("compact" if told == "parameters became" else "masked")
    assert verify("new", open_checkpoint("model.pt"))
    assert (
        json.loads(printed(capsys, "measure new --json"))["macs_per_step"]
        == manifest["totals"]["macs_per_step"]["after"]
    )


@pytest.mark.parametrize("options", ["--granularity units", "--form compact", "--granularity units --form masked"])
def test_a_compact_example_is_rated_like_its_masked_form(
    workplace: Path, capsys: pytest.CaptureFixture[str], options: str
) -> None:
    printed(capsys, "examples embedded-reber --output reber.safetensors")
    told = printed(capsys, f"prune reber.safetensors --sparsity 0.3 {options} --output new")
    quality = json.loads(printed(capsys, "measure new --json"))["quality"]
    assert f"strings wholly right: 1.0000 before, {quality['value']:.4f} after" in told


def test_the_sparsity_is_a_half_if_unsaid(workplace: Path) -> None:
    assert json.loads(Path("export", "manifest.json").read_text())["recipe"] == Recipe().to_dict()


def test_the_lstm_at_the_root_can_be_named(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "(root): output drift" in printed(capsys, "prune root.pt --lstm '' --output new")


def test_prune_tells_the_quality_of_an_example(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed(capsys, "examples embedded-reber --output reber.safetensors")
    assert "strings wholly right: 1.0000 before, 0." in printed(capsys, "prune reber.safetensors --output new")


def test_verify_tells_what_holds(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    alone = printed(capsys, "verify export").splitlines()
    against_source = printed(capsys, "verify export --source root.pt").splitlines()
    assert all(line.startswith("ok: ") for line in against_source)
    assert set(alone[:-1]) < set(against_source)


@pytest.mark.parametrize(("what", "macs"), [("root.pt", 112), ("export", 112), ("model.pt", 2 * 112 + 2 * 192 + 192)])
def test_measure_json_is_exactly_as_designed(
    workplace: Path, capsys: pytest.CaptureFixture[str], what: str, macs: int
) -> None:
    found = json.loads(printed(capsys, f"measure {what} --json"))
    path = Path(what, "pruned.pt") if Path(what).is_dir() else Path(what)
    assert found.keys() == {"parameters", "bytes", "macs_per_step", "latency_ms", "quality"}
    assert found["parameters"] == sum(tensor.numel() for tensor in open_checkpoint(path).tensors.values())
    assert found["bytes"] == path.stat().st_size
    assert found["macs_per_step"] == macs
    assert found["latency_ms"] > 0
    assert found["quality"] is None


def test_measure_rates_an_example(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed(capsys, "examples embedded-reber --output reber.safetensors")
    quality = json.loads(printed(capsys, "measure reber.safetensors --json"))["quality"]
    assert quality == {"name": "strings wholly right", "value": 1.0, "higher_is_better": True}
    assert printed(capsys, "measure reber.safetensors").splitlines()[-1] == "1.0000 strings wholly right"


def test_measure_ends_its_note_with_a_line(
    workplace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    printed(capsys, "examples embedded-reber --output reber.safetensors")
    monkeypatch.setattr("pruner.examples.data_note", lambda example: "The data differs.")
    assert printed(capsys, "measure reber.safetensors").endswith("\nThe data differs.\n")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_an_example_in_another_precision_is_measured_and_pruned(
    workplace: Path, capsys: pytest.CaptureFixture[str], dtype: torch.dtype
) -> None:
    example = EXAMPLES["embedded-reber"].open()
    tensors = {name: tensor.to(dtype) for name, tensor in example.tensors.items()}
    safetensors.torch.save_file(tensors, "other.safetensors", example.metadata)
    assert json.loads(printed(capsys, "measure other.safetensors --json"))["macs_per_step"] == 4 * 32 * (7 + 32)
    printed(capsys, "prune other.safetensors --output new")


def test_examples_are_listed_and_copied(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert [line.split(":")[0] for line in printed(capsys, "examples").splitlines()] == list(EXAMPLES)
    assert printed(capsys, "examples embedded-reber --output reber.safetensors") == ""
    assert Path("reber.safetensors").read_bytes() == EXAMPLES["embedded-reber"].file.read_bytes()


@pytest.mark.parametrize("line", [*(f"{name} --help" for name in COMMANDS), "--help"])
def test_help_is_given(capsys: pytest.CaptureFixture[str], line: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        command(line)
    assert stopped.value.code == 0
    assert "usage: python -m pruner" in capsys.readouterr().out


UNUSABLE = {
    "": "COMMAND",
    "prun model.pt --output new": "invalid choice: 'prun'",
    "--sparsity 0.5": "COMMAND",
    "inspect": "checkpoint",
    "inspect missing.pt": "found no file",
    "inspect used": "found a folder",
    "inspect garbage.pt": "bytes of no known format",
    "inspect empty.pt": "an empty file",
    "inspect model.pt root.pt": "root.pt",
    "inspect model.pt --jsn": "--jsn",
    f"inspect {'x' * 300}": "too long",
    "saliency model.pt": "--output",
    "saliency model.pt --criterion l3 --output new": "invalid choice: 'l3'",
    "saliency linear.pt --output new": "expected an LSTM in linear.pt, found none",
    "saliency nan.pt --output new": "rows of a.weight_ih_l0 (the first is row 0)",
    "saliency model.pt --output nowhere/rows.csv": "expected a place to write",
    "masks model.pt": "--output",
    "masks missing.pt --output new": "found no file",
    "masks linear.pt --output new": "expected an LSTM in linear.pt, found none",
    "masks nan.pt --output new": "rows of a.weight_ih_l0 (the first is row 0)",
    "masks model.pt --output nowhere/masks.safetensors": "expected a place to write",
    "masks model.pt --output used": "expected a place to write",
    "masks model.pt --output model.pt/masks.safetensors": "expected a place to write",
    "masks model.pt --output .": "expected a place to write",
    "masks model.pt --output ..": "expected a place to write",
    "masks model.pt --output ''": "expected a place to write",
    "masks model.pt --sparsity -0.1 --output new": "sparsity between 0 and 1, found -0.1",
    "masks model.pt --sparsity 1.1 --output new": "sparsity between 0 and 1, found 1.1",
    "masks model.pt --sparsity nan --output new": "sparsity between 0 and 1, found nan",
    "masks model.pt --sparsity inf --output new": "sparsity between 0 and 1, found inf",
    "masks model.pt --sparsity half --output new": "invalid float value: 'half'",
    "masks model.pt --sparsity --output new": "--sparsity",
    "masks model.pt --granularity columns --output new": "invalid choice: 'columns'",
    "masks model.pt --criterion l0 --output new": "invalid choice: 'l0'",
    "masks model.pt --lstm decoder --output new": "('cell', 'encoder'), found 'decoder'",
    "masks model.pt --lstm encoder. --output new": "('cell', 'encoder'), found 'encoder.'",
    "masks model.pt --gate-sparsity hf --output new": "--gate-sparsity as name=sparsity",
    "masks model.pt --gate-sparsity hf= --output new": "--gate-sparsity as name=sparsity",
    "masks model.pt --gate-sparsity hf=0.1=0.2 --output new": "--gate-sparsity as name=sparsity",
    "masks model.pt --gate-sparsity hf=2 --output new": "the sparsity of gate hf between 0 and 1",
    "masks model.pt --gate-sparsity f=0.5 --output new": "expected a gate among",
    "masks model.pt --layer-sparsity first=0.5 --output new": "layer numbers in layer_sparsity, found 'first'",
    "masks model.pt --layer-sparsity 2=0.5 --output new": "a layer from 0 to 1",
    f"masks model.pt --layer-sparsity {'9' * 5000}=0.5 --output new": "expected",
    "masks model.pt --recipe missing.json --output new": "expected a recipe file",
    "masks model.pt --recipe used --output new": "expected a recipe file",
    "masks model.pt --recipe broken.json --output new": "text that is not JSON",
    "masks model.pt --recipe model.pt --output new": "text that is not JSON",
    "masks model.pt --recipe wrong.json --output new": "sparsity between 0 and 1, found 2",
    "masks model.pt --recipe none.json --output new": "expected",
    "masks model.pt --recipe recipe.json --sparsity 0.5 --output new": "found both",
    "masks root.pt --recipe recipe.json --output new": "found 'encoder'",
    "prune model.pt": "--output",
    "prune missing.pt --output new": "found no file",
    "prune garbage.pt --output new": "bytes of no known format",
    "prune linear.pt --output new": "expected an LSTM in linear.pt, found none",
    "prune nan.pt --output new": "rows of a.weight_ih_l0 (the first is row 0)",
    "prune model.pt --sparsity 7 --output new": "sparsity between 0 and 1, found 7",
    "prune model.pt --recipe wrong.json --output new": "sparsity between 0 and 1, found 2",
    "masks model.pt --allocation fair --output new": "invalid choice: 'fair'",
    "masks model.pt --allocation global --output new": "expected granularity 'units' with allocation 'global'",
    "masks model.pt --criterion group --output new": "expected granularity 'units' with criterion 'group'",
    "masks model.pt --round-to 8 --output new": "expected granularity 'units' with round_to 8",
    "masks model.pt --round-to half --output new": "invalid int value: 'half'",
    "masks model.pt --granularity units --round-to 0 --output new": "expected round_to from 1 to 4096, found 0",
    "masks model.pt --granularity units --gate-sparsity hf=0.5 --output new": "expected no gate_sparsity",
    "masks model.pt --granularity units --allocation global --layer-sparsity 0=0.5 --output new": "no layer_sparsity",
    "masks model.pt --consumer linear.weight --output new": "expected granularity 'units' with consumers",
    "masks model.pt --granularity units --consumer linear.weight --output new": "'linear.weight', which is not there",
    "prune model.pt --granularity units --consumer gru.weight_ih_l0 --output new": "expected a consumer that reads",
    "saliency model.pt --criterion group --output new": "invalid choice: 'group'",
    "prune model.pt --form smaller --output new": "invalid choice: 'smaller'",
    "prune model.pt --device tpu --output new": "found 'tpu'",
    "prune model.pt --device cuda:99 --output new": "found 'cuda:99'",
    "prune model.pt --output used": "used in use",
    "prune model.pt --output model.pt": "model.pt in use",
    "prune model.pt --output model.pt/new": "expected a place to write",
    f"prune model.pt --output {'x' * 300}": "too long",
    "prune model.pt --output a/b/new": "found no folder",
    "verify": "DIR|ZIP",
    "verify missing": "expected",
    "verify used": "expected an export folder",
    "verify model.pt": "expected the zip of an export",
    "verify garbage.pt": "expected an export folder or its zip",
    "verify export --source missing.pt": "found no file",
    "verify export --source garbage.pt": "bytes of no known format",
    "verify export --source model.pt": "a source with sha256",
    "measure": "CHECKPOINT|DIR",
    "measure missing.pt": "found no file",
    "measure linear.pt": "expected an LSTM in linear.pt, found none",
    "measure used": "expected an export folder",
    f"measure {'x' * 300}": "too long",
    "examples reber": "found 'reber'",
    "examples embedded-reber": "expected --output FILE",
    "examples --output new": "expected the name of an example",
    "examples embedded-reber --output nowhere/reber.safetensors": "expected a place to write",
}


@pytest.mark.parametrize(("line", "message"), UNUSABLE.items(), ids=[line[:60] or "nothing" for line in UNUSABLE])
def test_unusable_input_is_one_line_on_stderr_and_nothing_is_written(
    workplace: Path, capsys: pytest.CaptureFixture[str], line: str, message: str
) -> None:
    before = files(workplace)
    capsys.readouterr()
    assert command(line) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("error: ") and output.err.endswith("\n") and output.err.count("\n") == 1
    assert message in output.err
    assert files(workplace) == before


@pytest.mark.parametrize(
    "line",
    ["prune large.pt --output new", "prune large.safetensors --output new", "masks large.pt --output new"],
)
def test_a_full_disk_is_unusable_too(workplace: Path, capsys: pytest.CaptureFixture[str], line: str) -> None:
    resource = pytest.importorskip("resource", reason="no limits on the size of files here")
    tensors = named(random_lstm(hidden_size=300, input_size=1, num_layers=3, bias=False))
    torch.save(tensors, "large.pt")
    safetensors.torch.save_file(tensors, "large.safetensors")
    before = files(workplace)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        status = command(line)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert status == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert files(workplace) == before


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
    assert Path("link").is_symlink() and len(list(Path("here").iterdir())) == 4
    Path("there").mkdir()
    monkeypatch.chdir("there")
    assert command("prune ../root.pt --output .") == 0
    assert sorted(path.name for path in Path.cwd().iterdir()) == [
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

    monkeypatch.setattr("pruner.__main__.open_checkpoint", interrupted)
    assert command("inspect root.pt") == 130
    assert capsys.readouterr().err == "stopped\n"
