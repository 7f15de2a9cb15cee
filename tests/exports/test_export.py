"""An export: exact files, an honest manifest, a loader that needs torch alone, and all of it or nothing."""

import hashlib
import io
import os
import runpy
import stat
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn
from torch.nn.utils import prune

from pruner import PrunerError, Recipe, Result, open_checkpoint, run
from pruner.exports import export
from pruner.exports.export import pack
from tests.helpers.exports import read_manifest
from tests.helpers.models import named, random_lstm

EVERYTHING = {"num_layers": 2, "bidirectional": True, "proj_size": 2}
BESIDE = ("README.md", "example.py", "load_pruned.py", "masks.safetensors")  # the model and the manifest
RECIPE = Recipe(0.5, gate_sparsity={"hf": 0.25})


def result_of(folder: Path, container: Any, suffix: str = "pt", **options: Any) -> Result:
    path = folder / f"model.{suffix}"
    if suffix == "safetensors":
        safetensors.torch.save_file(container, path, metadata={"author": "me"})
    else:
        torch.save(container, path, **options)
    return run(open_checkpoint(path), RECIPE)


@pytest.fixture
def result(tmp_path: Path) -> Result:
    return result_of(tmp_path, {**named(random_lstm(**EVERYTHING), "encoder."), **named(nn.Linear(4, 2), "head.")})


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("nesting", "suffix", "options", "model"),
    [
        ((), "pt", {}, "pruned.pt"),
        ((), "pt", {"_use_new_zipfile_serialization": False}, "pruned.pt"),
        ((), "safetensors", {}, "pruned.safetensors"),
        (("state_dict",), "pt", {}, "pruned.pt"),
        (("model", "net"), "pt", {}, "pruned.pt"),
        (("model", "model"), "pt", {}, "pruned.pt"),
    ],
    ids=["torch zip", "torch legacy", "safetensors", "nested", "nested twice", "nested twice under one key"],
)
def test_the_model_has_the_container_and_names_of_its_source(
    tmp_path: Path, nesting: tuple[str, ...], suffix: str, options: dict[str, Any], model: str
) -> None:
    source = {**named(random_lstm(), "lstm."), **named(nn.Linear(4, 2), "head.")}
    container: Any = source
    for key in reversed(nesting):
        container = {key: container, "epoch": 3}
    result = result_of(tmp_path, container, suffix, **options)
    folder = result.save(tmp_path / "export")
    assert {path.name for path in folder.iterdir()} == {model, "manifest.json", *BESIDE}
    if suffix == "safetensors":
        stored = safetensors.torch.load_file(folder / model)
        with safetensors.safe_open(folder / model, "pt") as file:
            assert file.metadata() == {"author": "me"}
    else:
        stored = torch.load(folder / model, weights_only=True)
    for key in nesting:
        assert stored.keys() == {key, "epoch"} and stored["epoch"] == 3
        stored = stored[key]
    expected = {**source, **result.forms["masked"].changed}
    assert list(stored) == list(sorted(source) if suffix == "safetensors" else source)
    assert all(torch.equal(stored[name], expected[name]) and stored[name].dtype == torch.float32 for name in stored)
    assert any(not torch.equal(stored[name], source[name]) for name in source)


def test_masks_are_bytes_under_the_names_of_the_source(result: Result, tmp_path: Path) -> None:
    masks = safetensors.torch.load_file(result.save(tmp_path / "export") / "masks.safetensors")
    assert masks.keys() == result.masks.keys()
    for name, mask in masks.items():
        assert mask.dtype == torch.uint8 and torch.equal(mask.bool(), result.masks[name])


def test_the_loader_is_that_of_the_project(result: Result, tmp_path: Path) -> None:
    loader = result.save(tmp_path / "export") / "load_pruned.py"
    assert loader.read_bytes() == Path(export.load_pruned.__file__).read_bytes()


def test_the_manifest_says_what_was_made_from_what(result: Result, tmp_path: Path) -> None:
    folder = result.save(tmp_path / "export")
    manifest = read_manifest(folder)
    assert {"source", "recipe", "form", "lstms", "totals", "certificate", "versions"} <= manifest.keys()
    assert manifest["form"] == "masked"
    assert manifest["source"] == {
        "name": "model.pt",
        "sha256": sha256(tmp_path / "model.pt"),
        "format": "torch zip",
    }
    assert Recipe.from_dict(manifest["recipe"]) == RECIPE
    assert manifest["totals"] == {
        key: {"before": getattr(result.costs["dense"], key), "after": getattr(result.costs["masked"], key)}
        for key in ("parameters", "zeros", "bytes", "macs_per_step")
    }
    assert manifest["files"] == {
        name: {"sha256": sha256(folder / name), "bytes": (folder / name).stat().st_size}
        for name in ("pruned.pt", *BESIDE)
    }
    assert manifest["totals"]["bytes"]["after"] == manifest["files"]["pruned.pt"]["bytes"]
    assert manifest["versions"].keys() >= {"torch", "safetensors"}


def test_the_manifest_describes_every_layer(result: Result, tmp_path: Path) -> None:
    (lstm,) = read_manifest(result.save(tmp_path / "export"))["lstms"]
    assert (lstm["name"], lstm["kind"], lstm["num_layers"], lstm["proj_size"]) == ("encoder", "LSTM", 2, 2)
    directions = [(layer["layer"], layer["direction"]) for layer in lstm["layers"]]
    assert directions == [(0, "forward"), (0, "reverse"), (1, "forward"), (1, "reverse")]
    for layer in lstm["layers"]:
        assert layer["hidden_size"] == {"before": 4, "after": 4}
        assert layer["kept_units"] == [0, 1, 2, 3]
        assert layer["kept_rows"] == {"ii": 2, "if": 2, "ig": 2, "io": 2, "hi": 2, "hf": 3, "hg": 2, "ho": 2}


def test_the_certificate_holds_exactly(result: Result, tmp_path: Path) -> None:
    certificate = read_manifest(result.save(tmp_path / "export"))["certificate"]
    scale, own_scale = certificate.pop("max_abs_output"), certificate["in_own_dtype"].pop("max_abs_output")
    assert 0 < scale < 1e3 and own_scale == pytest.approx(scale, rel=1e-4)
    assert certificate == {
        "max_abs_difference": 0.0,
        "sequence_length": 64,
        "batch_size": 4,
        "dtype": "float64",
        "holds": True,
        "in_own_dtype": {"dtype": "float32", "max_abs_difference": 0.0},
    }


def test_a_model_that_does_not_compute_what_the_masks_say_is_not_exported(
    result: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "write", lambda checkpoint, changed, path: torch.save(checkpoint.container, path))
    with pytest.raises(PrunerError, match=r"found a difference of .*nothing was exported"):
        result.save(tmp_path / "export")
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]


LOADER = """
import importlib.util, runpy, sys
from pathlib import Path
import torch

assert importlib.util.find_spec("pruner") is None
root = Path(sys.argv[1])
inputs = torch.load(root / "inputs.pt")
outputs = {}
for folder in root.glob("*/export"):
    for batch_first in (False, True):
        lstms = runpy.run_path(folder / "load_pruned.py")["load_lstms"](folder, batch_first=batch_first)
        for name, module in lstms.items():
            assert not module.training
            dtype = str(next(module.parameters()).dtype)
            with torch.inference_mode():
                output = module.float()(inputs[:, 0] if isinstance(module, torch.nn.LSTMCell) else inputs)
            outputs[folder.parent.name, batch_first, name] = dtype, output
torch.save(outputs, root / "outputs.pt")
"""

INPUTS = torch.randn(5, 5, 3, generator=torch.Generator().manual_seed(0))
MODULES: dict[str, nn.Module] = {
    "plain": random_lstm(),
    "two layers": random_lstm(num_layers=2),
    "bidirectional": random_lstm(bidirectional=True),
    "projection": random_lstm(proj_size=2),
    "no bias": random_lstm(bias=False),
    "everything": random_lstm(**EVERYTHING, bias=False),
    "cell": nn.LSTMCell(3, 4),
    "cell without bias": nn.LSTMCell(3, 4, bias=False),
    "float16": random_lstm(dtype=torch.float16),
    "bfloat16": random_lstm(dtype=torch.bfloat16, **EVERYTHING),
    "bfloat16 cell": nn.LSTMCell(3, 4, dtype=torch.bfloat16),
    "float64": random_lstm(dtype=torch.float64),
    "safetensors": random_lstm(seed=1),
    "nested": random_lstm(seed=2),
    "of two": random_lstm(seed=3),
}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, bool, str], tuple[str, Any]]:
    """What `load_pruned.py` of every export gives in a Python that cannot import this project."""
    root = tmp_path_factory.mktemp("exports")
    torch.save(INPUTS, root / "inputs.pt")
    for case, module in MODULES.items():
        (root / case).mkdir()
        container: Any = named(module, "rnn.")
        if case == "nested":
            container = {"model": container}
        if case == "of two":
            container |= named(random_lstm(seed=4), "other.")
        result = result_of(root / case, container, "safetensors" if case == "safetensors" else "pt")
        result.save(root / case / "export")
    subprocess.run([sys.executable, "-I", "-c", LOADER, str(root)], check=True)
    return torch.load(root / "outputs.pt")


def masked_output(module: nn.Module, batch_first: bool) -> Any:
    """What a module computes with the rows zeroed that the recipe drops, by hand."""
    state = {}
    for name, tensor in module.state_dict().items():
        state[name] = tensor.clone().float()
        if "weight_ih" in name or "weight_hh" in name:
            for gate, rows in enumerate(state[name].chunk(4)):
                dropped = 1 if gate == 1 and "_hh" in name else 2
                rows[tensor.double().abs().sum(1).chunk(4)[gate].argsort()[:dropped]] = 0
    twin = random_like(module, batch_first)
    twin.load_state_dict(state)
    with torch.inference_mode():
        return twin(INPUTS[:, 0] if isinstance(module, nn.LSTMCell) else INPUTS)


def random_like(module: nn.Module, batch_first: bool) -> nn.Module:
    if isinstance(module, nn.LSTMCell):
        return nn.LSTMCell(3, 4, bias=module.bias)
    settings = {name: getattr(module, name) for name in ("num_layers", "bias", "bidirectional", "proj_size")}
    return random_lstm(batch_first=batch_first, **settings)


@pytest.mark.parametrize("batch_first", [False, True], ids=["time first", "batch first"])
@pytest.mark.parametrize("case", MODULES)
def test_the_loader_alone_gives_the_masked_outputs(loaded: Any, case: str, batch_first: bool) -> None:
    dtype, output = loaded[case, batch_first, "rnn"]
    assert dtype == str(next(MODULES[case].parameters()).dtype)
    torch.testing.assert_close(output, masked_output(MODULES[case], batch_first))


def test_the_loader_gives_every_lstm_by_name(loaded: Any) -> None:
    assert {name for case, batch_first, name in loaded if case == "of two"} == {"rnn", "other"}


def test_the_loader_is_importable_from_its_folder(result: Result, tmp_path: Path) -> None:
    folder = result.save(tmp_path / "export")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    code = "from load_pruned import load_lstms; print(list(load_lstms('.', device='cpu', batch_first=True)))"
    shown = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, check=True, capture_output=True, text=True
    )
    assert shown.stdout == "['encoder']\n"


@pytest.mark.parametrize("tensor", ["weight_ih_l0", "bias_ih_l0", "weight_hr_l0"])
def test_masks_left_in_the_source_count_in_the_loader_too(tmp_path: Path, tensor: str) -> None:
    lstm = random_lstm(proj_size=2)
    prune.random_unstructured(lstm, tensor, 0.5)
    path = tmp_path / "model.pt"
    torch.save(lstm.state_dict(), path)
    folder = run(open_checkpoint(path), Recipe(0.0)).save(tmp_path / "export")
    loaded = runpy.run_path(str(folder / "load_pruned.py"))["load_lstms"](folder, batch_first=False)[""]
    with torch.inference_mode():
        torch.testing.assert_close(loaded(INPUTS), lstm(INPUTS))


def test_the_loader_loses_no_lstm_to_another_of_its_name(tmp_path: Path) -> None:
    result = result_of(tmp_path, {**named(random_lstm(), "rnn."), **named(nn.LSTMCell(3, 4), "rnn.")})
    folder = result.save(tmp_path / "export")
    loaded = runpy.run_path(str(folder / "load_pruned.py"))["load_lstms"](folder, batch_first=False)
    assert len(loaded) == len(read_manifest(folder)["lstms"]) == len(result.masks) / 2


def test_only_the_pruned_lstms_are_in_the_manifest(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    tensors = {**named(random_lstm(), "one."), **named(random_lstm(seed=1), "two.")}
    torch.save(tensors, path)
    folder = run(open_checkpoint(path), Recipe(0.5, lstms=("two",))).save(tmp_path / "export")
    assert [lstm["name"] for lstm in read_manifest(folder)["lstms"]] == ["two"]
    stored = torch.load(folder / "pruned.pt")
    changed = {name for name in tensors if not torch.equal(stored[name], tensors[name])}
    assert changed == {"two.weight_ih_l0", "two.weight_hh_l0"}


def test_tied_tensors_stay_tied_and_views_are_written_alone(tmp_path: Path) -> None:
    tensors = named(random_lstm(input_size=4))
    shared = torch.zeros(1000, 4)
    shared[:16] = tensors["weight_ih_l0"]
    tensors |= {"weight_ih_l0": shared[:16], "weight_hh_l0": shared[:16], "one": shared[20:30], "two": shared[20:30]}
    folder = result_of(tmp_path, tensors).save(tmp_path / "export")
    stored = torch.load(folder / "pruned.pt")
    assert stored["one"].data_ptr() == stored["two"].data_ptr()
    assert stored["weight_ih_l0"].data_ptr() != stored["weight_hh_l0"].data_ptr()
    assert (folder / "pruned.pt").stat().st_size < 1000 * 4 * 4


@pytest.fixture
def umask() -> Iterator[Any]:
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_others_can_read_the_files(tmp_path: Path, umask: Any, suffix: str) -> None:
    folder = result_of(tmp_path, named(random_lstm()), suffix).save(tmp_path / "export")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert set(modes.values()) == {0o644}, modes
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755


def test_all_files_have_the_same_permissions(result: Result, tmp_path: Path, umask: Any) -> None:
    umask(0o077)
    folder = result.save(tmp_path / "export")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert len(set(modes.values())) == 1, modes


@pytest.mark.parametrize("what", ["folder", "file"])
def test_a_place_in_use_is_refused(result: Result, tmp_path: Path, what: str) -> None:
    place = tmp_path / "export"
    if what == "folder":
        place.mkdir()
    kept = place / "kept.txt" if what == "folder" else place
    kept.write_text("mine")
    with pytest.raises(PrunerError, match=r"expected a new or empty folder for the export, found .*export in use"):
        result.save(place)
    assert kept.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["export", "model.pt"]


@pytest.mark.parametrize("place", ["new", "empty"])
def test_a_new_or_empty_folder_is_taken(result: Result, tmp_path: Path, place: str) -> None:
    (tmp_path / "empty").mkdir()
    assert result.save(str(tmp_path / place)).resolve() == (tmp_path / place).resolve()
    assert len(list((tmp_path / place).iterdir())) == 2 + len(BESIDE)


def test_a_name_that_no_file_can_have_is_refused(result: Result, tmp_path: Path) -> None:
    with pytest.raises(PrunerError, match="too long"):
        result.save(tmp_path / ("x" * 300))


def interrupt(monkeypatch: pytest.MonkeyPatch, step: str, interruption: Any) -> None:
    def interrupted(*_: Any) -> None:
        raise interruption

    monkeypatch.setattr(export, step, interrupted)


@pytest.mark.parametrize("step", ["write", "write_masks", "certify", "file_facts"])
@pytest.mark.parametrize(
    ("interruption", "raised"),
    [(KeyboardInterrupt, KeyboardInterrupt), (OSError("disk full"), PrunerError)],
    ids=["Ctrl-C", "disk full"],
)
def test_an_interruption_leaves_nothing_behind(
    result: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, interruption: Any, raised: Any
) -> None:
    interrupt(monkeypatch, step, interruption)
    with pytest.raises(raised):
        result.save(tmp_path / "export")
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]


def test_a_place_in_a_missing_folder_is_refused(result: Result, tmp_path: Path) -> None:
    with pytest.raises(PrunerError, match="expected a place to write the export"):
        result.save(tmp_path / "new" / "within" / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_a_full_disk_is_an_error_that_leaves_nothing_behind(tmp_path: Path, suffix: str) -> None:
    resource = pytest.importorskip("resource", reason="no limits on the size of files here")
    result = result_of(tmp_path, named(random_lstm(hidden_size=64)), suffix)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16 * 1024, limits[1]))
    try:
        with pytest.raises(PrunerError, match="expected a place to write"):
            result.save(tmp_path / "export")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == [f"model.{suffix}"]


def test_a_packed_export_holds_the_same_files(result: Result, tmp_path: Path) -> None:
    folder = result.save(tmp_path / "export")
    with zipfile.ZipFile(io.BytesIO(pack(folder))) as archive:
        assert archive.testzip() is None
        assert {name: archive.read(name) for name in archive.namelist()} == {
            path.name: path.read_bytes() for path in folder.iterdir()
        }
