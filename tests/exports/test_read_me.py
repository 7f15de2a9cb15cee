"""README.md and example.py of an export: made from its manifest, and true with torch alone."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pruner import PrunerError, Recipe, examples, open_checkpoint, run
from pruner.compact.load_pruned import load_lstms
from pruner.exports import read_me
from pruner.exports.verify import verify
from pruner.files.learned import with_batch_first
from tests.helpers.compensated import calibration, model
from tests.helpers.exports import edit_manifest, read_manifest, rehash, write_manifest
from tests.helpers.files import saved_in
from tests.helpers.models import named, random_lstm

HEAD = {"head.weight": torch.ones(2, 4), "head.bias": torch.ones(2)}
TAGGER = named(random_lstm(), "net.rnn.") | HEAD
SEVERAL = named(random_lstm(), "one.") | named(random_lstm(seed=1, hidden_size=6, bidirectional=True), "two.") | HEAD
CELL = named(nn.LSTMCell(3, 4), "cell.") | HEAD
UNITS = Recipe(0.5, "units")
TRIMMED = Recipe(0.5, "units", consumers=("head.weight",))
FOLDED = Recipe(0.4, "units", compensation="fold")
KINDS: dict[str, tuple[Any, Recipe, str, dict[str, Any]]] = {
    "masked rows": (TAGGER, Recipe(), "masked", {}),
    "masked units": (TAGGER, UNITS, "masked", {}),
    "compact rows": (TAGGER, Recipe(), "compact", {}),
    "compact rows, batches first": (TAGGER, Recipe(), "compact", {"batch_first": True}),
    "units": (TAGGER, UNITS, "compact", {}),
    "units of two sizes": (
        named(random_lstm(num_layers=2), "rnn."),
        Recipe(0.5, "units", layer_sparsity={0: 0.25}),
        "compact",
        {},
    ),
    "units with consumers": (TAGGER, TRIMMED, "compact", {"batch_first": False}),
    "read by a convolution": (
        named(random_lstm(), "rnn.") | {"conv.weight": torch.ones(2, 4, 3)},
        Recipe(0.5, "units", consumers=("conv.weight",)),
        "compact",
        {},
    ),
    "projection": (named(random_lstm(proj_size=2), "rnn."), UNITS, "compact", {}),
    "without bias": (named(random_lstm(bias=False), "rnn."), UNITS, "compact", {}),
    "bfloat16": ({key: value.bfloat16() for key, value in TAGGER.items()}, TRIMMED, "compact", {}),
    "float64": ({key: value.double() for key, value in TAGGER.items()}, Recipe(), "compact", {}),
    "reconstructing": (model(), FOLDED, "compact", {}),
    "reconstructing, masked": (model(), FOLDED, "masked", {"batch_first": True}),
    "a cell, rows": (CELL, Recipe(), "compact", {}),
    "a cell, units": (CELL, UNITS, "compact", {}),
    "a cell with consumers": (CELL, TRIMMED, "compact", {}),
    "several": (SEVERAL, TRIMMED, "compact", {}),
    "several, rows": (SEVERAL, Recipe(), "compact", {}),
    "at the root": (named(random_lstm()), UNITS, "compact", {}),
    "nested": ({"state_dict": TAGGER, "hidden": 4}, TRIMMED, "compact", {}),
    "side by side": ({"one": named(random_lstm()), "two": named(random_lstm(seed=1))}, UNITS, "compact", {}),
    "odd names": (named(random_lstm(), 'a"b\n.'), UNITS, "compact", {}),
    "names in a row": (named(random_lstm(), "layers.0."), UNITS, "compact", {}),
}
# No module of the pruner can be imported there, nor anything else that torch and safetensors do not bring.
ALONE = """
import contextlib, io, json, os, runpy, sys
assert not any(name.split(".")[0] == "pruner" for name in sys.modules)
sys.modules["pruner"] = None
shown = {}
for folder in sys.argv[1:]:
    os.chdir(folder)
    sys.modules.pop("load_pruned", None)
    path = list(sys.path)
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        runpy.run_path("example.py", run_name="__main__")
    sys.path[:] = path
    shown[os.path.basename(folder)] = output.getvalue()
print(json.dumps(shown))
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """{kind: its export}; the kinds that safetensors can hold in both containers."""
    root, found = tmp_path_factory.mktemp("exports"), {}
    for suffix in ("pt", "safetensors"):
        for kind, (container, recipe, form, said) in KINDS.items():
            if suffix == "safetensors" and not all(isinstance(value, Tensor) for value in container.values()):
                continue
            place = root / f"{kind} {suffix}"
            place.mkdir()
            checkpoint = saved_in(place, container, suffix)
            inputs = calibration("rnn") if recipe.needs_data else None
            result = run(checkpoint, recipe, calibration=inputs)
            found[place.name] = result.save(root / f"{kind}, as {suffix}", form, **said)
    return found


@pytest.fixture(scope="module")
def shown(folders: dict[str, Path]) -> dict[str, str]:
    """{folder: what its example.py prints}, where nothing but torch and safetensors is there."""
    command = [sys.executable, "-I", "-c", ALONE, *map(str, folders.values())]
    done = subprocess.run(command, capture_output=True, text=True, env={}, cwd="/")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("kind", KINDS)
def test_its_example_runs_with_torch_alone(folders: dict[str, Path], shown: dict[str, str], kind: str) -> None:
    for folder in (path for name, path in folders.items() if name.rpartition(" ")[0] == kind):
        printed, manifest = shown[folder.name], read_manifest(folder)
        for entry in manifest["lstms"]:
            width = (entry["proj_size"] or entry["dense_hidden_size"]) * (2 if entry["bidirectional"] else 1)
            shape = "2, " if entry["kind"] == "LSTMCell" else "(5, 2|2, 5), "
            pattern = rf"^{re.escape(entry['name'] or 'the LSTM')} \({shape}{width}\)$"
            assert kind == "odd names" or re.search(pattern, printed, re.M), (pattern, printed)
        assert ("Module(" in printed) == (kind != "at the root")
        if KINDS[kind][1].consumers:
            assert re.search(r"Conv1d\(2, 2|in_features=(2|6), out_features=2", printed)


def test_it_runs_by_itself(folders: dict[str, Path]) -> None:
    folder = folders["units with consumers safetensors"]
    done = subprocess.run([sys.executable, "-I", "example.py"], cwd=folder, env={}, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "net.rnn (5, 2, 4)" in done.stdout and "Linear(in_features=2, out_features=2, bias=True)" in done.stdout


@pytest.mark.parametrize("kind", KINDS)
def test_it_passes_verify_as_it_was_written(folders: dict[str, Path], kind: str) -> None:
    folder = folders[f"{kind} pt"]
    found = verify(folder)
    assert "5 files are complete and unaltered" in found
    assert not any("differs" in sentence for sentence in found)


@pytest.mark.parametrize("kind", KINDS)
def test_its_lines_are_python_under_plain_headings(folders: dict[str, Path], kind: str) -> None:
    manifest = read_manifest(folders[f"{kind} pt"])
    text = read_me.readme(manifest)
    assert text.isprintable() or text.replace("\n", "").isprintable()
    codes = re.findall(r"```python\n(.+?)\n```", text, re.S)
    assert codes == [way.code for way in read_me.ways(manifest)]
    for code in [*codes, read_me.example(manifest)]:
        ast.parse(code)
    assert all(len([line for line in code.splitlines() if line]) <= 6 for code in codes)


def test_it_says_what_was_done_and_what_it_is_worth(tmp_path: Path) -> None:
    checkpoint, example = examples.named("embedded-reber").open(), examples.named("embedded-reber")
    result = run(checkpoint, Recipe(0.75, "units", consumers=("linear.weight",)), quality=example.quality)
    text = (result.save(tmp_path / "export") / "README.md").read_text()
    assert "# `embedded_reber.safetensors`, pruned" in text and checkpoint.sha256 in text
    before, after = result.costs["dense"], result.costs["compact"]
    assert f"| parameters | {before.parameters:,} | {after.parameters:,} |" in text
    assert "8 of 32 hidden units stay" in text and "`linear.weight`" in text
    assert f"**{result.verdict.word.capitalize()}.** {result.verdict.sentence}" in text
    assert "batches first" not in text  # what is known needs no word


def test_it_says_what_is_no_longer_true(tmp_path: Path) -> None:
    checkpoint = saved_in(tmp_path, {"state_dict": TAGGER, "hidden_size": 4})
    text = (run(checkpoint, TRIMMED).save(tmp_path / "export") / "README.md").read_text()
    assert "- hidden_size = 4 in the file equals the old hidden size" in text
    assert "batch_first=False)  # True, if yours read (N, T, I)" in text
    assert "The file does not say whether its LSTMs read batches first" in text


def test_it_says_of_each_lstm_what_became_of_its_width(tmp_path: Path) -> None:
    folder = run(saved_in(tmp_path, SEVERAL), TRIMMED).save(tmp_path / "export")
    manifest = read_manifest(folder)
    manifest["learned"] = {"one": {"handed_states": True}}
    for text in ((folder / "README.md").read_text(), read_me.readme(manifest)):
        assert "may read the output of `one`, which is narrower" in text and "Removed units of `two` come back" in text
        assert "you pass to `two` (`hx`) must be zero" in text and "handed to" not in text
    manifest["learned"] = {"two": {"handed_states": True}}
    text = read_me.readme(manifest)
    assert "handed to `two` is cut down" in text and "must be zero" not in text and "Removed units of `two`" in text


@pytest.mark.parametrize("file", ["README.md", "example.py"])
def test_another_text_is_told_and_not_run(tmp_path: Path, file: str) -> None:
    folder = run(saved_in(tmp_path, TAGGER), UNITS).save(tmp_path / "export")
    (folder / file).write_text(f"open({str(folder / 'it-ran')!r}, 'w')")
    rehash(folder)
    assert any(sentence.startswith(f"{file} differs") for sentence in verify(folder))
    assert not (folder / "it-ran").exists()
    (folder / file).unlink()
    with pytest.raises(PrunerError, match="expected the files"):
        verify(folder)


@pytest.mark.parametrize("key", ["learned", "verdict", "notes", "settings"])
def test_what_nobody_can_check_breaks_nothing(tmp_path: Path, key: str) -> None:
    folder = run(saved_in(tmp_path, TAGGER), UNITS).save(tmp_path / "export", batch_first=True)
    for value in ({"net.rnn": 3}, {"word": {}}, {"": {"batch_first": []}}, [1], ["\ud800"]):
        edit_manifest(folder, (key,), value)
        try:
            assert verify(folder)
        except PrunerError as error:
            assert f"expected {key} as" in str(error)


def test_where_the_rest_lies_is_checked(tmp_path: Path) -> None:
    folder = run(saved_in(tmp_path, TAGGER), UNITS).save(tmp_path / "export")
    edit_manifest(folder, ("rest", "head.weight", "keys"), ["head.bias"])
    with pytest.raises(PrunerError, match="expected rest as the manifest says"):
        verify(folder)


def test_an_export_without_the_texts_and_what_they_tell_still_verifies(tmp_path: Path) -> None:
    folder = run(saved_in(tmp_path, TAGGER), UNITS).save(tmp_path / "export")
    for file in ("README.md", "example.py"):
        (folder / file).unlink()
    manifest = read_manifest(folder)
    manifest["files"] = {name: facts for name, facts in manifest["files"].items() if (folder / name).exists()}
    del manifest["rest"]
    write_manifest(folder, manifest)
    assert "3 files are complete and unaltered" in verify(folder)
    assert load_lstms(folder, batch_first=True)


@pytest.mark.parametrize("form", ["masked", "compact"])
def test_the_loader_asks_for_what_nobody_said(tmp_path: Path, form: str) -> None:
    result = run(saved_in(tmp_path, TAGGER), Recipe())
    with pytest.raises(ValueError, match=r"expected batch_first as 'net.rnn' had it.*batch_first=True\) if it reads"):
        load_lstms(result.save(tmp_path / "unsaid", form))
    for said in (True, False):
        folder = result.save(tmp_path / f"said {said}", form, batch_first=said)
        assert load_lstms(folder)["net.rnn"].batch_first is said
        assert read_manifest(folder)["learned"]["net.rnn"]["batch_first"] is said
        assert load_lstms(folder, batch_first=not said)["net.rnn"].batch_first is not said


def test_a_cell_has_no_batches_to_ask_for(tmp_path: Path) -> None:
    folder = run(saved_in(tmp_path, CELL), UNITS).save(tmp_path / "export")
    assert "learned" not in read_manifest(folder)
    assert load_lstms(folder)["cell"](torch.zeros(2, 3))[0].shape == (2, 4)


def test_what_the_file_says_is_not_said_otherwise(tmp_path: Path) -> None:
    torch.save(nn.ModuleDict({"rnn": random_lstm(batch_first=True)}), tmp_path / "model.pt")
    checkpoint = open_checkpoint(tmp_path / "model.pt")
    assert with_batch_first(checkpoint, True).learned == checkpoint.learned
    with pytest.raises(
        PrunerError, match=r"expected batch_first as model\.pt says of rnn, true, found false; leave it out"
    ):
        run(checkpoint, Recipe()).save(tmp_path / "export", batch_first=False)
    assert not (tmp_path / "export").exists()


def test_the_examples_know_theirs(tmp_path: Path) -> None:
    for name in examples.EXAMPLES:
        checkpoint = examples.named(name).open()
        assert [facts.batch_first for facts in checkpoint.learned.values()] == [True]
    folder = run(checkpoint, Recipe()).save(tmp_path / "export")
    assert load_lstms(folder)["lstm"].batch_first


def test_new_settings_are_checked_against_the_source(tmp_path: Path) -> None:
    checkpoint = saved_in(tmp_path, {"state_dict": TAGGER, "hidden_size": 4})
    folder = run(checkpoint, TRIMMED).save(tmp_path / "export")
    assert read_manifest(folder)["settings"] == {"hidden_size": {"before": 4, "after": 2}}
    assert verify(folder, checkpoint)
    edit_manifest(folder, ("settings", "hidden_size", "after"), 3)
    with pytest.raises(PrunerError, match="expected settings as the manifest says"):
        verify(folder, checkpoint)
