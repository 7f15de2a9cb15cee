"""Verification of compact exports: every alteration is told, hostile manifests too, and nothing wrong is ever exported."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from pruner import Checkpoint, PrunerError, Recipe, open_checkpoint, run
from pruner.compact.masked_and_compact import pruned_by
from pruner.exports import export
from pruner.exports.export import pack
from pruner.exports.opened import read_export
from pruner.exports.verify import verify
from tests.helpers.allocations import Allocations
from tests.helpers.compact import FOLDED, Tagger
from tests.helpers.exports import (
    HOSTILE,
    Edit,
    edit_manifest,
    edit_masks,
    edit_model,
    paths,
    read_manifest,
    write_manifest,
)
from tests.helpers.files import saved_in
from tests.helpers.models import named, random_lstm

FORMS = {
    "smaller": (lambda: Tagger(8, num_layers=2).state_dict(), Recipe(0.5, "units", consumers=FOLDED)),
    "unequal": (lambda: Tagger(8, num_layers=2).state_dict(), Recipe(0.5, "units", layer_sparsity={1: 0.25})),
    "rows": (lambda: Tagger(8, num_layers=2).state_dict(), Recipe(0.5, "rows")),
}
FIRST = {
    "smaller": "rnn.weight_ih_l0",
    "unequal": "rnn.layers.0.lstm.weight_ih_l0",
    "rows": "rnn.layers.0.weight_ih_rows",
}
SECOND = {
    "smaller": "rnn.weight_ih_l1",
    "unequal": "rnn.layers.1.lstm.weight_ih_l0",
    "rows": "rnn.layers.1.weight_ih_rows",
}


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("originals")
    for name, (make, recipe) in FORMS.items():
        (root / name).mkdir()
        torch.manual_seed(0)
        run(saved_in(root / name, make()), recipe).save(root / name / "export", "compact")
    return root


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def source(originals: Path, form: str) -> Checkpoint:
    return open_checkpoint(originals / form / "model.pt")


@pytest.fixture
def folder(originals: Path, form: str, tmp_path: Path) -> Path:
    """A copy of a compact export, to tamper with."""
    return Path(shutil.copytree(originals / form / "export", tmp_path / "export"))


def edit_compact(folder: Path, edit: Edit) -> None:
    """Alter the tensors, and the size that the manifest tells."""
    edit_model(folder, edit)
    edit_manifest(folder, ("totals", "bytes", "after"), (folder / "pruned.pt").stat().st_size)


def told(folder: Path, source: Checkpoint | None = None, message: str = "not the export it claims to be") -> None:
    """Verification fails, alone and against the source, and so does opening the export."""
    for check in (
        (lambda: verify(folder, source), lambda: read_export(folder))
        if source is None
        else [lambda: verify(folder, source)]
    ):
        with pytest.raises(PrunerError, match=message):
            check()


def test_a_weight_that_is_not_the_sources_is_told(folder: Path, source: Checkpoint, form: str) -> None:
    edit_compact(folder, lambda tensors: tensors[SECOND[form]][0, 0].mul_(1 + 1e-4))
    told(folder, source, r"own values in ")


@pytest.mark.parametrize("value", [50.0, torch.nan, torch.inf])
def test_weights_of_another_scale_are_told_without_the_source(folder: Path, form: str, value: float) -> None:
    edit_compact(folder, lambda tensors: tensors[FIRST[form]][:].fill_(value))
    told(folder, None, "certificate")


def test_a_bias_that_is_not_the_sources_is_told(folder: Path, source: Checkpoint, form: str) -> None:
    name = {"smaller": "rnn.bias_ih_l0", "unequal": "rnn.layers.0.lstm.bias_ih_l0", "rows": "rnn.layers.0.ih_bias"}
    edit_compact(folder, lambda tensors: tensors[name[form]][0].add_(1e-4))
    told(folder, source, f"own values in {name[form]}")


def test_a_folded_consumer_that_is_not_the_sources_is_told(originals: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(originals / "smaller" / "export", tmp_path / "export"))
    edit_compact(folder, lambda tensors: tensors["head.weight"].neg_())
    told(folder, open_checkpoint(originals / "smaller" / "model.pt"), "own values in head.weight")


@pytest.mark.parametrize("columns", [3, 5, 8])
def test_a_consumer_of_another_width_is_told(originals: Path, tmp_path: Path, columns: int) -> None:
    folder = Path(shutil.copytree(originals / "smaller" / "export", tmp_path / "export"))
    edit_compact(folder, lambda tensors: tensors.update({"head.weight": torch.zeros(5, columns)}))
    told(folder, None, "4 columns in 'head.weight'")


INDICES: dict[str, Callable[[Tensor], Tensor]] = {
    "another": lambda kept: torch.cat([kept[:-1], kept[-1:] - 1 if kept[-1] - kept[-2] > 1 else 31 - kept[-1:]]),
    "one less": lambda kept: kept[:-1].clone(),
    "twice": lambda kept: torch.cat([kept[:-1], kept[-2:-1]]),
    "backwards": lambda kept: kept.flip(0),
    "negative": lambda kept: -1 - kept,
    "too large": lambda kept: kept + 1000,
    "huge": lambda kept: kept + 2**62,
    "none": lambda kept: kept[:0].clone(),
    "of another type": lambda kept: kept.to(torch.int32),
    "floats": lambda kept: kept.float(),
    "of two dimensions": lambda kept: kept[None].clone(),
    "a number": lambda kept: kept[0].clone(),
}


@pytest.mark.parametrize("form", ["unequal", "rows"], indirect=True)
@pytest.mark.parametrize("edit", INDICES.values(), ids=INDICES)
def test_indices_that_are_not_those_of_the_masks_are_told(folder: Path, form: str, edit: Any) -> None:
    name = "rnn.layers.0.kept" if form == "unequal" else "rnn.layers.1.rows_hh"
    edit_compact(folder, lambda tensors: tensors.update({name: edit(tensors[name])}))
    told(folder, None, name.replace(".", r"\."))


@pytest.mark.parametrize(
    "edit",
    [
        lambda tensor: torch.zeros(len(tensor), tensor.shape[1] + 1),
        lambda tensor: torch.zeros(len(tensor) + 4, tensor.shape[1]),
        lambda tensor: tensor[:-4].clone(),
        lambda tensor: tensor[:0].clone(),
        lambda tensor: tensor.flatten(),
        lambda tensor: tensor.double(),
        lambda tensor: tensor.half(),
        lambda tensor: tensor.to(torch.int64),
        lambda tensor: tensor.to(torch.complex64),
    ],
    ids=["wider", "taller", "shorter", "empty", "flat", "float64", "float16", "int64", "complex"],
)
def test_tensors_of_other_shapes_and_types_are_told_before_they_run(folder: Path, form: str, edit: Any) -> None:
    """Unequal layers inside one nn.LSTM can abort the process, so nothing may reach a forward pass."""
    for name in (FIRST[form], SECOND[form]):
        edit_compact(folder, lambda tensors, name=name: tensors.update({name: edit(tensors[name])}))
        told(folder)


def test_a_whole_smaller_layer_under_plain_names_is_told(originals: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(originals / "smaller" / "export", tmp_path / "export"))
    layer = {"rnn.weight_ih_l1": (12, 4), "rnn.weight_hh_l1": (12, 3), "rnn.bias_ih_l1": (12,), "rnn.bias_hh_l1": (12,)}
    edit_compact(folder, lambda tensors: tensors.update({name: torch.zeros(shape) for name, shape in layer.items()}))
    told(folder, None, r"rnn\.weight_ih_l1")


def test_a_missing_tensor_is_told(folder: Path, form: str) -> None:
    edit_compact(folder, lambda tensors: tensors.pop(SECOND[form]))
    told(folder)


LAYER = ("lstms", 0, "layers", 0)
STATEMENTS: list[tuple[tuple[Any, ...], Any]] = [
    (("form",), "masked"),
    (("form",), "dense"),
    (("lstms", 0, "stored_as"), "LSTM "),
    (("lstms", 0, "stored_as"), "LSTM"),
    (("lstms", 0, "stored_as"), "CompactLSTM"),
    (("lstms", 0, "stored_as"), "RowCompactLSTM"),
    (("lstms", 0, "name"), "encoder"),
    (("lstms", 0, "kind"), "LSTMCell"),
    (("lstms", 0, "hidden_size"), 4),
    (("lstms", 0, "hidden_size"), 7),
    (("lstms", 0, "hidden_size"), 9),
    (("lstms", 0, "input_size"), 4),
    (("lstms", 0, "num_layers"), 1),
    (("lstms", 0, "num_layers"), 3),
    (("lstms", 0, "proj_size"), 2),
    (("lstms", 0, "bidirectional"), True),
    (("lstms", 0, "bias"), False),
    (("lstms", 0, "dtype"), "float64"),
    (("lstms", 0, "parameters"), 7),
    (("lstms", 0, "source_tensors", "bias_ih_l0"), "rnn.bias_hh_l0"),
    (("lstms", 0, "source_tensors", "weight_ih_l0"), "head.weight"),
    (("lstms", 0, "tensors"), {}),
    (("lstms", 0, "tensors", "weight_ih_l0"), ["rnn.weight_ih_l1"]),
    (("lstms", 0, "consumers"), ["head.bias"]),
    (("lstms", 0, "consumers"), [["head.weight"]]),
    ((*LAYER, "kept_units"), [0, 1, 2]),
    ((*LAYER, "kept_units"), [4, 5, 6, 7]),
    ((*LAYER, "kept_units"), []),
    ((*LAYER, "kept_rows", "hf"), 1),
    ((*LAYER, "hidden_size", "after"), 3),
    ((*LAYER, "hidden_size", "before"), 9),
    ((*LAYER, "layer"), 1),
    ((*LAYER, "direction"), "reverse"),
    (("totals", "parameters", "after"), 1),
    (("totals", "macs_per_step", "after"), 1),
    (("totals", "zeros", "after"), 1),
    (("certificate", "dtype"), "float32"),
    (("certificate", "max_abs_difference"), 0.5),
    (("certificate", "max_abs_output"), 1e9),
    (("certificate", "in_own_dtype", "dtype"), "float64"),
    (("certificate", "in_own_dtype", "max_abs_difference"), 0.5),
    (("recipe", "granularity"), "columns"),
]


@pytest.mark.parametrize(("path", "value"), STATEMENTS, ids=str)
def test_a_false_statement_about_a_compact_export_is_told(folder: Path, path: tuple[Any, ...], value: Any) -> None:
    before = (folder / "manifest.json").read_text()
    edit_manifest(folder, path, value)
    if json.loads((folder / "manifest.json").read_text()) == json.loads(before):
        return  # it is true of this form
    told(folder, None, "expected")


def test_another_recipe_is_told_with_the_source(folder: Path, source: Checkpoint) -> None:
    edit_manifest(folder, ("recipe", "sparsity"), 0.75)
    told(folder, source, "masks that the recipe gives")


def flipped(mask: Tensor) -> Tensor:
    """The same number of rows or units kept, not the same ones."""
    return mask.reshape(4, -1).flip(1).flatten()


MASKS: dict[str, Callable[[Tensor], Tensor]] = {
    "others kept": flipped,
    "all kept": torch.ones_like,
    "none kept": torch.zeros_like,
    "one more": lambda mask: mask.scatter(0, (mask == 0).nonzero()[0], 1),
    "one less": lambda mask: mask.scatter(0, mask.nonzero()[0], 0),
    "too short": lambda mask: mask[:-4].clone(),
    "too long": lambda mask: torch.cat([mask, mask[:4]]),
}


@pytest.mark.parametrize("edit", MASKS.values(), ids=MASKS)
def test_other_masks_are_told(folder: Path, source: Checkpoint, form: str, edit: Any) -> None:
    original = safetensors.torch.load_file(folder / "masks.safetensors")["rnn.weight_hh_l0"]
    assert not torch.equal(edit(original), original)
    edit_masks(folder, lambda masks: masks.update({"rnn.weight_hh_l0": edit(masks["rnn.weight_hh_l0"])}))
    told(folder)
    told(folder, source)


@pytest.mark.parametrize("edit", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("form", ["smaller", "unequal"], indirect=True)
def test_other_units_in_all_gates_are_told(folder: Path, source: Checkpoint, edit: Any) -> None:
    def edit_layer(masks: dict[str, Tensor]) -> None:
        masks.update({name: edit(mask) for name, mask in masks.items() if name.endswith("_l0")})

    if edit in (MASKS["one more"], MASKS["one less"]):
        return  # no whole units, as the test above has it
    edit_masks(folder, edit_layer)
    told(folder, None, "expected")
    told(folder, source, "expected")


def test_an_lstm_listed_twice_is_told(folder: Path, form: str) -> None:
    manifest = read_manifest(folder)
    manifest["lstms"] *= 2
    manifest["totals"]["macs_per_step"]["after"] *= 2
    write_manifest(folder, manifest)
    told(folder, None, "expected every tensor in one LSTM")


HUGE = [
    {"hidden_size": 2**24},
    {"input_size": 2**24},
    {"num_layers": 1000},
    {"num_layers": 2**24},
    {"hidden_size": 2**24, "input_size": 2**24, "num_layers": 1000},
    {"hidden_size": 2**62},
    {"proj_size": 2**24, "hidden_size": 2**24 - 1},
    {"input_size": 10**400},
]


@pytest.mark.parametrize("sizes", HUGE, ids=lambda sizes: str(sizes)[:60])
def test_huge_sizes_in_the_manifest_are_told_at_once(folder: Path, sizes: dict[str, int]) -> None:
    for key, value in sizes.items():
        edit_manifest(folder, ("lstms", 0, key), value)
    with Allocations() as allocations:
        told(folder, None, "expected")
    assert allocations.largest < 2**20


def test_a_huge_input_that_no_stored_row_reads_is_told_at_once(tmp_path: Path) -> None:
    """All rows dropped, so that the file can claim any width: a random input of it would fill the memory."""
    checkpoint = saved_in(tmp_path, named(random_lstm(), "rnn."))
    folder = run(checkpoint, Recipe(1.0)).save(tmp_path / "export", "compact")
    assert verify(folder, checkpoint)
    edit_manifest(folder, ("lstms", 0, "input_size"), 2**24)
    edit_manifest(folder, ("lstms", 0, "parameters"), 16 * (2**24 + 4 + 2))
    edit_compact(folder, lambda tensors: tensors.update({"rnn.layers.0.weight_ih_rows": torch.zeros(0, 2**24)}))
    with Allocations() as allocations:
        told(folder, None, "an LSTM of at most")
    assert allocations.largest < 2**20


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda value: repr(value)[:20])
def test_no_value_in_the_manifest_of_a_compact_export_breaks_the_check(tmp_path: Path, hostile: Any) -> None:
    tensors = named(random_lstm(input_size=1, hidden_size=2, num_layers=2, bias=False), "r.")
    checkpoint = saved_in(tmp_path, tensors)
    folder = run(checkpoint, Recipe(0.5, "units", layer_sparsity={0: 0})).save(tmp_path / "export")
    manifest = read_manifest(folder)
    broken = {}
    for path in paths(manifest):
        if path[0] in ("source", "files", "versions"):
            continue  # those of a masked export, in test_verify.py
        write_manifest(folder, manifest)
        edit_manifest(folder, path, hostile)
        try:
            verify(folder)
        except PrunerError:
            continue
        except Exception as error:
            broken[path] = error
    assert not broken


def test_the_zip_of_a_compact_export_passes_too(folder: Path, source: Checkpoint, tmp_path: Path) -> None:
    packed = tmp_path / "export.zip"
    packed.write_bytes(pack(folder))
    assert verify(packed, source) == verify(folder, source)


@pytest.mark.parametrize("factor", [1 + 1e-6, torch.nan], ids=["a little off", "NaN"])
def test_a_compact_model_that_does_not_compute_what_the_masks_say_is_not_exported(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factor: float
) -> None:
    make, recipe = FORMS[form]
    result = run(saved_in(tmp_path, make()), recipe)
    write = export.write

    def wrong(checkpoint: Checkpoint, changed: dict[str, Tensor | None], path: Path) -> None:
        tensor = changed[FIRST[form]]
        assert tensor is not None
        write(checkpoint, {**changed, FIRST[form]: tensor * factor}, path)

    monkeypatch.setattr(export, "write", wrong)
    with pytest.raises(PrunerError, match=r"found a difference of .*nothing was exported"):
        result.save(tmp_path / "export", "compact")
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]


def test_a_compact_model_that_does_not_fit_together_is_not_exported(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, recipe = FORMS[form]
    result = run(saved_in(tmp_path, make()), recipe)
    monkeypatch.setattr(
        export,
        "write",
        lambda checkpoint, changed, path: torch.save(
            {
                **checkpoint.tensors,
                **{name: tensor[1:].clone() for name, tensor in changed.items() if tensor is not None},
            },
            path,
        ),
    )
    with pytest.raises(PrunerError, match="fit together"):
        result.save(tmp_path / "export", "compact")
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]


def test_the_forms_of_a_result_share_nothing_with_its_source(form: str, tmp_path: Path) -> None:
    make, recipe = FORMS[form]
    checkpoint = saved_in(tmp_path, make())
    copies = {name: tensor.clone() for name, tensor in checkpoint.tensors.items()}
    result = run(checkpoint, recipe)
    for name, made in pruned_by(checkpoint, recipe, result.masks).forms.items():
        for tensor in made.changed.values():
            if tensor is not None:
                tensor.zero_()
        assert made.name == name
    assert all(torch.equal(checkpoint.tensors[name], copies[name]) for name in copies)
