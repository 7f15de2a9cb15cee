"""Verification: a good export passes, every alteration of it is told, and nothing in the folder can break the check."""

import json
import py_compile
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from pruner import Checkpoint, PrunerError, Recipe, open_checkpoint, run
from pruner.exports.export import file_facts, pack
from pruner.exports.verify import verify
from tests.helpers.exports import (
    HOSTILE,
    LOADER,
    MANIFEST,
    MASKS,
    MODEL,
    edit_manifest,
    edit_masks,
    edit_model,
    paths,
    read_manifest,
    rehash,
    write_manifest,
)
from tests.helpers.files import saved_in, zipped
from tests.helpers.models import named, random_lstm

WEIGHT = "encoder.weight_hh_l0"
NOT_AS_CLAIMED = "not the export it claims to be"
TENSORS = {
    **named(random_lstm(num_layers=2, bidirectional=True, proj_size=2), "encoder."),
    **named(nn.LSTMCell(8, 4), "cell."),
    **named(nn.Linear(4, 2), "head."),
}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint and its export."""
    folder = tmp_path_factory.mktemp("original")
    run(saved_in(folder, TENSORS), Recipe(0.5, gate_sparsity={"hf": 0.25})).save(folder / "export")
    return folder


@pytest.fixture
def source(original: Path) -> Checkpoint:
    return open_checkpoint(original / "model.pt")


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """A copy of the export, to tamper with."""
    return Path(shutil.copytree(original / "export", tmp_path / "export"))


def flip(value: int) -> Callable[[Path], None]:
    """Set one row of a mask that holds the other value."""

    def edit(masks: dict[str, Tensor]) -> None:
        masks[WEIGHT][(masks[WEIGHT] != value).nonzero()[0]] = value

    return lambda folder: edit_masks(folder, edit)


def set_in_row(masked: bool, value: float) -> Callable[[Path], None]:
    """Set one value of a masked or unmasked row of the model."""

    def tamper(folder: Path) -> None:
        mask = safetensors.torch.load_file(folder / MASKS)[WEIGHT]
        row = int((mask == (0 if masked else 1)).nonzero()[0])
        edit_model(folder, lambda tensors: tensors[WEIGHT][row].fill_(value))

    return tamper


@pytest.mark.parametrize(
    "format", ["torch zip", "torch legacy", "safetensors", "nested", "half precision", "leftovers"]
)
def test_a_good_export_passes(tmp_path: Path, format: str) -> None:  # noqa: A002
    path = tmp_path / "model"
    match format:
        case "torch zip":
            torch.save(TENSORS, path)
        case "torch legacy":
            torch.save(TENSORS, path, _use_new_zipfile_serialization=False)
        case "safetensors":
            safetensors.torch.save_file(TENSORS, path)
        case "nested":
            torch.save({"model": {"state_dict": TENSORS}, "epoch": 3}, path)
        case "half precision":
            torch.save({name: tensor.bfloat16() for name, tensor in TENSORS.items()}, path)
        case "leftovers":
            lstm = random_lstm()
            prune.random_unstructured(lstm, "weight_hh_l0", 0.5)
            torch.save(lstm.state_dict(), path)
    checkpoint = open_checkpoint(path)
    folder = run(checkpoint, Recipe()).save(tmp_path / "export")
    alone, against_source = verify(folder), verify(str(folder), checkpoint)
    assert "5 files are complete and unaltered" in alone
    assert not any("certificate holds" in sentence for sentence in alone)
    assert "the certificate holds: largest difference 0" in against_source
    assert set(alone[:-1]) < set(against_source)
    assert "the recipe gives the same masks again" in against_source


def test_a_good_export_of_more_parameters_than_the_largest_size_passes(
    folder: Path, source: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pruner.exports.stored.MAX_SIZE", 100)
    assert all(lstm.parameters > 100 for lstm in source.lstms)
    assert verify(folder, source)


def test_a_good_export_of_some_lstms_passes(source: Checkpoint, tmp_path: Path) -> None:
    folder = run(source, Recipe(0.5, lstms=("encoder",))).save(tmp_path / "export")
    assert verify(folder, source)


def test_an_export_stays_good_when_its_loader_was_imported(folder: Path, source: Checkpoint) -> None:
    py_compile.compile(str(folder / LOADER))
    assert (folder / "__pycache__").is_dir()
    assert verify(folder, source)
    packed = folder.with_suffix(".zip")
    packed.write_bytes(pack(folder))
    assert verify(packed, source)


def test_a_loader_of_another_version_is_told_and_not_run(folder: Path) -> None:
    (folder / LOADER).write_text(f"open({str(folder / 'it-ran')!r}, 'w')")
    rehash(folder)
    assert any(sentence.startswith("load_pruned.py differs") for sentence in verify(folder))
    assert not (folder / "it-ran").exists()


def test_masked_rows_are_counted(folder: Path) -> None:
    assert f"{5 * 2 * 8 - 5:,} masked rows are zero" in verify(folder)


def test_an_export_is_complete_without_its_source_file(original: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(original / "export", tmp_path / "elsewhere"))
    assert verify(moved)


UNFAITHFUL: dict[str, tuple[Callable[[Path], Any], str]] = {
    "model missing": (lambda folder: (folder / MODEL).unlink(), "one pruned model"),
    "masks missing": (lambda folder: (folder / MASKS).unlink(), MASKS),
    "loader missing": (lambda folder: (folder / LOADER).unlink(), LOADER),
    "manifest missing": (lambda folder: (folder / MANIFEST).unlink(), MANIFEST),
    "model is a folder": (lambda folder: [(folder / MODEL).unlink(), (folder / MODEL).mkdir()], "one pruned model"),
    "manifest is a folder": (lambda folder: [(folder / MANIFEST).unlink(), (folder / MANIFEST).mkdir()], MANIFEST),
    "all files missing": (lambda folder: [path.unlink() for path in folder.iterdir()], MANIFEST),
    "folder missing": (shutil.rmtree, "expected"),
    "no folder but a file": (lambda folder: [shutil.rmtree(folder), folder.write_text("x")], "expected"),
    "a byte more in the model": (lambda folder: add_byte(folder / MODEL), MODEL),
    "a byte more in the masks": (lambda folder: add_byte(folder / MASKS), MASKS),
    "a byte more in the loader": (lambda folder: add_byte(folder / LOADER), LOADER),
    "a byte changed in the model": (lambda folder: change_byte(folder / MODEL), MODEL),
    "a byte changed in the masks": (lambda folder: change_byte(folder / MASKS), MASKS),
    "a byte changed in the loader": (lambda folder: change_byte(folder / LOADER), LOADER),
    "a file from elsewhere": (lambda folder: list_another(folder), "the files README.md"),
    "another model beside": (
        lambda folder: safetensors.torch.save_file(TENSORS, folder / "pruned.safetensors"),
        "pruned.safetensors",
    ),
    "masks are garbage": (lambda folder: [(folder / MASKS).write_bytes(b"\0" * 100), rehash(folder)], MASKS),
    "masks are empty": (lambda folder: [(folder / MASKS).write_bytes(b""), rehash(folder)], MASKS),
    "masks of an unknown type": (lambda folder: [unknown_type(folder / MASKS), rehash(folder)], "zeros and ones of"),
    "model is garbage": (lambda folder: [(folder / MODEL).write_bytes(b"\0" * 100), rehash(folder)], MODEL),
    "model is a pickle": (lambda folder: [(folder / MODEL).write_bytes(b"\x80\x04."), rehash(folder)], MODEL),
    "a mask left out": (lambda folder: edit_masks(folder, lambda masks: masks.pop(WEIGHT)), "masks of 16 rows for"),
    "a mask too many": (
        lambda folder: edit_masks(folder, lambda masks: masks.update(x=masks[WEIGHT].clone())),
        "a mask of 4H rows",
    ),
    "a mask too short": (lambda folder: edit_masks(folder, lambda masks: cut(masks, WEIGHT)), "masks of 16 rows for"),
    "a mask of two dimensions": (lambda folder: edit_masks(folder, lambda masks: stand(masks, WEIGHT)), NOT_AS_CLAIMED),
    "a mask of no rows": (
        lambda folder: edit_masks(folder, lambda masks: masks.update({WEIGHT: masks[WEIGHT][:0].clone()})),
        NOT_AS_CLAIMED,
    ),
    "a mask of floats": (
        lambda folder: edit_masks(folder, lambda masks: widen(masks, WEIGHT)),
        "zeros and ones of type uint8",
    ),
    "a mask of other numbers": (flip(2), "zeros and ones"),
    "a kept row called masked": (flip(0), NOT_AS_CLAIMED),
    "a masked row called kept": (flip(1), "expected"),
    "a weight in a masked row": (set_in_row(True, 0.5), NOT_AS_CLAIMED),
    "NaN in a masked row": (set_in_row(True, torch.nan), NOT_AS_CLAIMED),
    "NaN in a kept row": (set_in_row(False, torch.nan), "expected"),
    "another scale of outputs": (set_in_row(False, 50.0), "certificate"),
    "an LSTM left out": (
        lambda folder: edit_model(
            folder, lambda tensors: [tensors.pop(f"cell.weight_{side}") for side in ("ih", "hh")]
        ),
        NOT_AS_CLAIMED,
    ),
    "an LSTM listed twice": (
        lambda folder: edit_manifest(folder, ("lstms",), [*read_manifest(folder)["lstms"]] * 2),
        "expected",
    ),
    "an LSTM of another shape": (
        lambda folder: edit_model(folder, lambda tensors: tensors.update(named(nn.LSTMCell(7, 4), "cell."))),
        "expected",
    ),
}


def list_another(folder: Path) -> None:
    (folder.parent / "another").write_text("x")
    edit_manifest(folder, ("files", "../another"), file_facts(folder.parent / "another"))


def add_byte(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\n")


def change_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def unknown_type(path: Path) -> None:
    """A float8 format of safetensors that torch's loader may not know, spelled by hand."""
    header = json.dumps({WEIGHT: {"dtype": "F8_E8M0", "shape": [16], "data_offsets": [0, 16]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(16))


def cut(masks: dict[str, Tensor], name: str) -> None:
    masks[name] = masks[name][:-1].clone()


def stand(masks: dict[str, Tensor], name: str) -> None:
    masks[name] = masks[name][:, None].clone()


def widen(masks: dict[str, Tensor], name: str) -> None:
    masks[name] = masks[name].float()


@pytest.mark.parametrize(("tamper", "message"), UNFAITHFUL.values(), ids=UNFAITHFUL)
def test_an_altered_export_is_told_without_its_source(
    folder: Path, tamper: Callable[[Path], Any], message: str
) -> None:
    tamper(folder)
    with pytest.raises(PrunerError, match=message):
        verify(folder)


UNLIKE_THE_SOURCE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a kept weight": (
        lambda folder: edit_model(folder, lambda tensors: tensors[WEIGHT][:].mul_(1 + 1e-6)),
        f"own values in {WEIGHT}",
    ),
    "a bias": (
        lambda folder: edit_model(folder, lambda tensors: tensors["encoder.bias_ih_l1"][0].add_(1e-6)),
        "own values in encoder.bias_ih_l1",
    ),
    "a tensor that is no LSTM's": (
        lambda folder: edit_model(folder, lambda tensors: tensors["head.weight"].neg_()),
        "own values in head.weight",
    ),
    "a tensor's dtype": (
        lambda folder: edit_model(folder, lambda tensors: tensors.update({"head.bias": tensors["head.bias"].double()})),
        NOT_AS_CLAIMED,
    ),
    "a tensor's shape": (
        lambda folder: edit_model(folder, lambda tensors: tensors.update({"head.bias": torch.zeros(3)})),
        NOT_AS_CLAIMED,
    ),
    "a tensor less": (
        lambda folder: edit_model(folder, lambda tensors: tensors.pop("head.bias")),
        NOT_AS_CLAIMED,
    ),
    "a tensor renamed": (
        lambda folder: edit_model(folder, lambda tensors: tensors.update({"head.bios": tensors.pop("head.bias")})),
        NOT_AS_CLAIMED,
    ),
    "a tensor more": (
        lambda folder: edit_model(folder, lambda tensors: tensors.update(x=torch.zeros(3))),
        NOT_AS_CLAIMED,
    ),
    "another recipe": (
        lambda folder: edit_manifest(folder, ("recipe", "sparsity"), 0.25),
        "masks that the recipe gives",
    ),
    "another gate's sparsity": (
        lambda folder: edit_manifest(folder, ("recipe", "gate_sparsity"), {}),
        "masks that the recipe gives",
    ),
    "other LSTMs": (
        lambda folder: edit_manifest(folder, ("recipe", "lstms"), ["cell"]),
        "masks that the recipe gives",
    ),
    "another format": (lambda folder: edit_manifest(folder, ("source", "format"), "torch legacy"), NOT_AS_CLAIMED),
    "another total": (lambda folder: edit_manifest(folder, ("totals", "zeros", "before"), 1), NOT_AS_CLAIMED),
    "another source": (
        lambda folder: edit_manifest(folder, ("source", "sha256"), "0" * 64),
        "a source with sha256 0000",
    ),
}


@pytest.mark.parametrize(("tamper", "message"), UNLIKE_THE_SOURCE.values(), ids=UNLIKE_THE_SOURCE)
def test_an_export_unlike_its_source_is_told(
    folder: Path, source: Checkpoint, tamper: Callable[[Path], Any], message: str
) -> None:
    tamper(folder)
    with pytest.raises(PrunerError, match=message):
        verify(folder, source)


def test_another_checkpoint_is_not_the_source(folder: Path, tmp_path: Path) -> None:
    other = saved_in(tmp_path, {**TENSORS, "head.bias": TENSORS["head.bias"] + 1})
    with pytest.raises(PrunerError, match="a source with sha256"):
        verify(folder, other)


LAYER = ("lstms", 0, "layers", 0)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("source", "format"), "safetensors"),
        (("source", "format"), "onnx"),
        (("files", "extra.txt"), {"sha256": "", "bytes": 0}),
        (("files", "../export/pruned.pt"), {"sha256": "", "bytes": 0}),
        (("files", "/etc/hostname"), {"sha256": "", "bytes": 0}),
        (("files", MODEL, "bytes"), 1),
        (("lstms",), []),
        (("lstms", 0, "name"), "decoder"),
        (("lstms", 0, "hidden_size"), 5),
        (("lstms", 0, "bias"), False),
        (("lstms", 0, "tensors", "weight_ih"), ["cell.weight_hh"]),
        (("lstms", 0, "tensors", "bias_ih"), ["cell.bias_hh"]),
        ((*LAYER, "kept_rows", "ii"), 3),
        ((*LAYER, "hidden_size", "after"), 3),
        ((*LAYER, "kept_units"), [0, 1]),
        ((*LAYER, "direction"), "reverse"),
        (("totals", "parameters", "after"), 1),
        (("totals", "bytes", "after"), 1),
        (("totals", "macs_per_step", "after"), 1),
        (("certificate", "holds"), False),
        (("certificate", "max_abs_difference"), 1.0),
        (("certificate", "max_abs_output"), 1e9),
        (("certificate", "dtype"), "float32"),
        (("certificate", "in_own_dtype"), {}),
        (("certificate", "in_own_dtype", "dtype"), "float64"),
        (("certificate", "in_own_dtype", "max_abs_difference"), 1.0),
        (("certificate", "in_own_dtype", "max_abs_output"), 1e9),
        (("form",), "compact"),
        (("lstms", 0, "parameters"), 1),
        (("lstms", 0, "source_tensors", "bias_ih"), "cell.bias_hh"),
        (("lstms", 0, "stored_as"), "RowCompactLSTM"),
        (("lstms", 0, "consumers"), ["head.weight"]),
        (("recipe", "granularity"), "units"),
    ],
    ids=lambda value: ".".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_a_false_statement_in_the_manifest_is_told(folder: Path, path: tuple[Any, ...], value: Any) -> None:
    edit_manifest(folder, path, value)
    with pytest.raises(PrunerError):
        verify(folder)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        "null",
        "7",
        '"manifest"',
        "[" * 100_000,
        '{"source": {}}',
        "\ufffe",
        '{"lstms": ' + "9" * 5000 + "}",
    ],
    ids=lambda text: text[:20] or "empty",
)
def test_a_manifest_that_is_none_is_told(folder: Path, text: str) -> None:
    (folder / MANIFEST).write_text(text)
    with pytest.raises(PrunerError, match="expected the manifest of an export"):
        verify(folder)


def test_a_manifest_that_is_not_text_is_told(folder: Path) -> None:
    (folder / MANIFEST).write_bytes(b"\xff\xfe\x80")
    with pytest.raises(PrunerError, match="expected the manifest of an export"):
        verify(folder)


def test_the_zip_of_an_export_passes_like_its_folder(folder: Path, tmp_path: Path, source: Checkpoint) -> None:
    path = tmp_path / "export.zip"
    path.write_bytes(pack(folder))
    assert verify(path) == verify(folder)
    assert verify(path, source) == verify(folder, source)


def damaged() -> bytes:
    """A zip whose compressed stream is garbage."""
    data = bytearray(zipped((MANIFEST, b"{}" * 100), method=zipfile.ZIP_DEFLATED))
    start = data.index(MANIFEST.encode()) + len(MANIFEST)
    data[start : start + 4] = b"\xff" * 4
    return bytes(data)


NO_EXPORTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "empty": (lambda path: path.write_bytes(zipped()), MANIFEST),
    "part": (lambda path: path.write_bytes(zipped((MANIFEST, b"{}"))), "manifest of an export"),
    "other files": (lambda path: path.write_bytes(zipped(("readme.txt", b""))), "found 'readme.txt'"),
    "path": (lambda path: path.write_bytes(zipped((f"../{MANIFEST}", b"{}"))), "the unsafe name '../manifest.json'"),
    "bomb": (
        lambda path: path.write_bytes(zipped((MANIFEST, bytes(10**6)), method=zipfile.ZIP_DEFLATED)),
        "unpacks to far more",
    ),
    "truncated": (lambda path: path.write_bytes(zipped((MANIFEST, b"{}"))[:-30]), "or its zip"),
    "damaged": (lambda path: path.write_bytes(damaged()), "or its zip"),
    "garbage": (lambda path: path.write_bytes(b"PK\3\4"), "or its zip"),
    "missing": (lambda path: path.symlink_to(path.with_name("nowhere")), "or its zip"),
}


@pytest.mark.parametrize(("make", "message"), NO_EXPORTS.values(), ids=NO_EXPORTS)
def test_a_zip_that_is_no_export_is_refused(tmp_path: Path, make: Callable[[Path], Any], message: str) -> None:
    (tmp_path / "folder").mkdir()
    make(tmp_path / "folder" / "export.zip")
    with pytest.raises(PrunerError, match=message):
        verify(tmp_path / "folder" / "export.zip")
    assert [path.name for path in tmp_path.rglob("*")] == ["folder", "export.zip"]


@pytest.mark.parametrize("path", ["x" * 300, "a\0b", ""], ids=["too long", "null", "empty"])
def test_a_path_that_cannot_be_is_refused(path: str) -> None:
    with pytest.raises(PrunerError, match="expected"):
        verify(path)


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda value: repr(value)[:20])
def test_no_value_in_the_manifest_breaks_the_check(tmp_path: Path, hostile: Any) -> None:
    source = saved_in(tmp_path, nn.LSTMCell(1, 1).state_dict())
    folder = run(source, Recipe()).save(tmp_path / "export")
    manifest = read_manifest(folder)
    broken = {}
    for path in paths(manifest):
        write_manifest(folder, manifest)
        edit_manifest(folder, path, hostile)
        try:
            verify(folder, source)
        except PrunerError:
            continue
        except Exception as error:
            broken[path] = error
    assert not broken
