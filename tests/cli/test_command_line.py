"""The command line: what each command does."""

import json
import warnings
from pathlib import Path

import pandas as pd
import pytest
import safetensors.torch
import torch
from torch import nn

from pruner import Recipe, open_checkpoint
from pruner.examples import EXAMPLES
from pruner.exports.verify import verify
from pruner.pipeline import choose_masks
from tests.helpers.command_line import OPTIONS, RECIPE, command, printed
from tests.helpers.models import named, random_lstm

COMMANDS = ["inspect", "saliency", "masks", "prune", "verify", "measure", "examples"]


def test_inspect_json_is_exactly_as_designed(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(printed(capsys, "inspect model.pt --json"))
    shapes = found.pop("shapes")
    assert (len(shapes), shapes["cell.weight_ih"]) == (24, [16, 8])
    assert (found.pop("learned"), found.pop("notes")) == ({}, [])
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
    told = printed(capsys, f"prune reber.safetensors --sparsity 0.3 --criterion l1 {options} --output new")
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
    assert found.keys() == {"parameters", "bytes", "macs_per_step", "latency_ms", "quality", "times"}
    assert found["parameters"] == sum(tensor.numel() for tensor in open_checkpoint(path).tensors.values())
    assert found["bytes"] == path.stat().st_size
    assert found["macs_per_step"] == macs
    assert found["latency_ms"] > 0
    assert found["quality"] is None


def test_measure_rates_an_example(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed(capsys, "examples embedded-reber --output reber.safetensors")
    quality = json.loads(printed(capsys, "measure reber.safetensors --json"))["quality"]
    assert quality == {"name": "strings wholly right", "value": 1.0, "higher_is_better": True}
    assert printed(capsys, "measure reber.safetensors").splitlines()[3] == "1.0000 strings wholly right"


def test_measure_ends_its_note_with_a_line(
    workplace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    printed(capsys, "examples embedded-reber --output reber.safetensors")
    monkeypatch.setattr("pruner.examples.data_note", lambda example: "The data differs.")
    assert "\nThe data differs.\n" in printed(capsys, "measure reber.safetensors")


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


def test_a_warning_of_pytorch_about_projections_is_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(nn.LSTM(4, 8, proj_size=2).state_dict(), "model.pt")
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert command("prune model.pt --output new") == 0
    finally:
        torch.set_warn_always(False)
