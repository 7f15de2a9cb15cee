"""Keras files of exports: everything else stays as it is or is told, and `verify` notices what was altered."""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from pruner import PrunerError, Recipe, open_checkpoint, run
from pruner.exports import read_me
from pruner.exports.export import pack
from pruner.exports.verify import verify
from tests.helpers.exports import read_manifest, rehash
from tests.helpers.keras_models import (
    both_ways,
    dense_weights,
    functional,
    layer,
    lstm_layer,
    lstm_weights,
    saved_h5,
    saved_keras,
    saved_new_weights,
    sequential,
)

REC, HEAD = lstm_layer("rec", 4, return_sequences=False), layer("Dense", "head", units=2)
MODEL = sequential(layer("InputLayer", "in", batch_input_shape=[None, 7, 3]), REC, HEAD)
OLD = {"rec/rec/lstm_cell": lstm_weights(3, 4), "head/head": dense_weights(4, 2)}
NEW = {"layers/lstm/cell": lstm_weights(3, 4), "layers/dense": dense_weights(4, 2)}
SOURCES = {
    "pruned.h5": saved_h5(MODEL, OLD),
    "pruned.keras": saved_keras(MODEL, NEW),
    "pruned.weights.h5": saved_new_weights(NEW),
    "pruned_weights.h5": saved_h5(None, OLD),
}


def exported(data: bytes, folder: Path, form: str = "compact", **settings: Any) -> Path:
    checkpoint = open_checkpoint(data, "model")
    known = {"granularity": "units", "consumers": (), **settings}
    return run(checkpoint, Recipe(0.5, **known)).save(folder / "out", form)


def notes(folder: Path, about: str) -> list[str]:
    return [note for note in read_manifest(folder)["notes"] if about in note]


def with_oddities(data: bytes) -> bytes:
    """A file with what Keras seldom writes, and what nobody writes."""
    file = io.BytesIO(data)
    with h5py.File(file, "a") as root:
        head = root["model_weights/head/head"]
        kernel = head["kernel:0"][()]
        del head["kernel:0"]
        head.create_dataset("kernel:0", data=kernel.astype(">f4")).attrs["unit"] = "mV"
        head.attrs["numbers"] = np.array([[1, 2]], "<i2")
        head.attrs["flag"] = True
        root["model_weights"].attrs["layer_names"] = np.array([b"rec", b"head"])
        root["model_weights"].attrs["weight_names"] = np.array([])
        root["model_weights/seeds/state:0"] = np.array([1, 2**32 - 1], "<u4")
        root.create_group("model_weights/empty")
        root["model_weights/texts"] = np.array([b"a", b"b"])
        root.attrs["mixed"] = np.array([(1, 2.0)], [("a", "i4"), ("b", "f4")])
    return file.getvalue()


@pytest.mark.parametrize("form", ["masked", "compact"])
def test_what_is_not_pruned_stays_as_it_is_or_is_told(form: str, tmp_path: Path) -> None:
    data = with_oddities(SOURCES["pruned.h5"])
    folder = exported(data, tmp_path, form)
    assert notes(folder, "plain numbers") == [
        "pruned.h5: left out, since they are no plain numbers: @mixed, model_weights/texts"
    ]
    with h5py.File(io.BytesIO(data)) as before, h5py.File(folder / "pruned.h5") as after:
        found = after["model_weights"]
        kernel = found["head/head/kernel:0"]
        assert (kernel.dtype, kernel.attrs["unit"]) == (np.dtype(">f4"), "mV")
        assert kernel.shape == ((2, 2) if form == "compact" else (4, 2))
        assert (found["seeds/state:0"].dtype, list(found["seeds/state:0"])) == (np.dtype("<u4"), [1, 2**32 - 1])
        assert found["head/head"].attrs["numbers"].dtype == np.dtype("<i2")
        assert found["head/head"].attrs["flag"] and found["head/head"].attrs["numbers"].tolist() == [[1, 2]]
        assert [name if isinstance(name, str) else name.decode() for name in found.attrs["layer_names"]] == [
            "rec",
            "head",
        ]
        assert found.attrs["weight_names"].shape == (0,) and "empty" in found
        assert ("optimizer_weights" in after) == (form == "masked")
        text = after.attrs["model_config"]
        assert (text == before.attrs["model_config"]) == (form == "masked")
        model = json.loads(text)
    units = model["config"]["layers"][1]["config"].pop("units")
    assert units == (2 if form == "compact" else 4)
    model["config"]["layers"][1]["config"]["units"] = 4
    assert model == MODEL
    assert verify(folder, open_checkpoint(data, "model"))


@pytest.mark.parametrize("name", SOURCES)
def test_each_kind_of_file_comes_back_as_what_it_was(name: str, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(SOURCES[name], "m")
    consumers = tuple(each for each in checkpoint.tensors if each.endswith(".weight")) if "weights" in name else ()
    folder = exported(SOURCES[name], tmp_path, consumers=consumers)
    assert name in read_manifest(folder)["files"]
    again = open_checkpoint(folder / name)
    assert [lstm.hidden_size for lstm in again.lstms] == [2]
    assert again.format == checkpoint.format and again.tensors.keys() == checkpoint.tensors.keys()
    assert any(f"everything else in {name}" in sentence for sentence in verify(folder, checkpoint))
    way = next(way for way in read_me.ways(read_manifest(folder)) if "Keras" in way.title)
    assert (f'load_weights("{name}")' if "weights" in name else f'load_model("{name}")') in way.code
    assert way.code in (folder / "README.md").read_text()


def test_a_zip_is_read_and_checked_in_a_process_of_its_own(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(SOURCES["pruned.keras"], "m", isolated=True)
    folder = run(checkpoint, Recipe(0.5, granularity="units")).save(tmp_path / "out")
    zipped = tmp_path / "out.zip"
    zipped.write_bytes(pack(folder))
    assert any("everything else in" in sentence for sentence in verify(zipped, checkpoint, isolated=True))


def test_cudnn_lstms_are_packed_as_cudnn_does(tmp_path: Path) -> None:
    weights = lstm_weights(3, 4)
    weights["bias"] = np.concatenate([weights["bias"], weights["bias"][::-1]])
    model = sequential(layer("CuDNNLSTM", "rec", units=4), HEAD)
    data = saved_h5(model, {"rec/rec": weights, "head/head": dense_weights(4, 2)})
    folder = exported(data, tmp_path)
    assert verify(folder, open_checkpoint(data, "model"))
    with h5py.File(folder / "pruned.h5") as root:
        shapes = {name: root[f"model_weights/rec/rec/{name}:0"].shape for name in weights}
    assert shapes == {"kernel": (3, 8), "recurrent_kernel": (2, 8), "bias": (16,)}
    masked = exported(data, tmp_path / "masked", "masked") if (tmp_path / "masked").mkdir() is None else None
    with h5py.File(masked / "pruned.h5") as root:
        kernel = root["model_weights/rec/rec/kernel:0"][()]
    kept = kernel != 0
    assert (kernel[kept] == weights["kernel"][kept]).all() and kept.mean() == 0.5


def test_numbers_that_numpy_does_not_have_come_back(tmp_path: Path) -> None:
    """Those of bfloat16, which Keras writes as bytes."""

    def halved(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {
            role: torch.from_numpy(each).bfloat16().view(torch.int16).numpy().view("V2")
            for role, each in weights.items()
        }

    data = saved_keras(MODEL, {path: halved(weights) for path, weights in NEW.items()})
    folder = exported(data, tmp_path)
    assert verify(folder, open_checkpoint(data, "model"))
    small = open_checkpoint(folder / "pruned.keras").tensors
    assert (small["rec.weight_hh_l0"].dtype, small["rec.weight_hh_l0"].shape) == (torch.bfloat16, (8, 2))


SHARED = functional(
    (layer("InputLayer", "in"), []),
    (layer("InputLayer", "other"), []),
    (REC, ["in"]),
    (HEAD, ["rec", "other"]),
    outputs=["head"],
)
UNPROVEN = {
    "directions that do not stay apart": sequential(both_ways("rec", lstm_layer("w", 4), merge_mode="sum"), HEAD),
    "two inputs": SHARED,
    "states besides": sequential(lstm_layer("rec", 4, return_state=True), HEAD),
    "an end": sequential(REC),
}


@pytest.mark.parametrize("kind", UNPROVEN)
def test_consumers_that_only_the_user_names_do_not_cut_a_model(kind: str, tmp_path: Path) -> None:
    """Keras builds the model from its own configuration, whatever anybody says of it."""
    sides = [f"rec/rec/{side}_w" for side in ("forward", "backward")] if "apart" in kind else ["rec/rec/lstm_cell"]
    width = 8 if "apart" in kind else 4
    data = saved_h5(
        UNPROVEN[kind], {**{side: lstm_weights(3, 4) for side in sides}, "head/head": dense_weights(width, 2)}
    )
    consumers = () if kind == "an end" else ("head.weight",)
    folder = exported(data, tmp_path, consumers=consumers)
    assert len(notes(folder, "rec keeps its 4 units, zeros in it")) == 1
    assert [lstm.hidden_size for lstm in open_checkpoint(folder / "pruned.h5").lstms] == [4]
    assert verify(folder, open_checkpoint(data, "model"))


def test_a_reader_whose_weights_are_packed_keeps_its_width(tmp_path: Path) -> None:
    packed = {"kernel": np.ones((2, 2), np.int8), "bias": np.zeros(2, np.float32)}
    data = saved_keras(MODEL, NEW | {"layers/dense": packed})
    folder = exported(data, tmp_path)
    (note,) = notes(folder, "rec keeps its 4 units")
    assert note.endswith("head.weight, which reads it, is no weight of 4 inputs")
    assert verify(folder, open_checkpoint(data, "model"))


def edited_h5(edit: Callable[[Any], Any]) -> Callable[[Path], None]:
    def alter(folder: Path) -> None:
        with h5py.File(folder / "pruned.h5", "a") as root:
            edit(root)

    return alter


def edited_zip(edit: Callable[[dict[str, bytes]], Any]) -> Callable[[Path], None]:
    def alter(folder: Path) -> None:
        with zipfile.ZipFile(folder / "pruned.keras") as archive:
            entries = {name: archive.read(name) for name in archive.namelist()}
        edit(entries)
        with zipfile.ZipFile(folder / "pruned.keras", "w") as archive:
            for name, data in entries.items():
                archive.writestr(name, data)

    return alter


def add(root: Any, path: str, value: float) -> None:
    root[path][...] = root[path][()] + value


def setting(root: Any, old: str, new: str) -> None:
    root.attrs["model_config"] = root.attrs["model_config"].replace(old, new)


CELL = "model_weights/rec/rec/lstm_cell"
# The file, what is done to it, whether that shows without the source, and what is said.
ALTERED: dict[str, tuple[str, Callable[[Path], None], bool, str]] = {
    "a kernel": ("pruned.h5", edited_h5(lambda root: add(root, f"{CELL}/kernel:0", 0.1)), True, "rec.weight_ih_l0"),
    "a bias": ("pruned.h5", edited_h5(lambda root: add(root, f"{CELL}/bias:0", 0.1)), True, "rec.bias_ih_l0"),
    "a reader": (
        "pruned.h5",
        edited_h5(lambda root: add(root, "model_weights/head/head/kernel:0", 1)),
        True,
        "head.weight",
    ),
    "units": (
        "pruned.h5",
        edited_h5(lambda root: setting(root, '"units": 2}}, {', '"units": 3}}, {')),
        True,
        "rec in the Keras file",
    ),
    "a setting": (
        "pruned.h5",
        edited_h5(lambda root: setting(root, "7, 3", "8, 3")),
        False,
        "the configuration in pruned.h5",
    ),
    "an attribute": (
        "pruned.h5",
        edited_h5(lambda root: root.attrs.update(more="text")),
        False,
        "in pruned.h5 as in the source",
    ),
    "an array": ("pruned.h5", edited_h5(lambda root: root.update(more=np.ones(3, "u4"))), False, "more in pruned.h5"),
    "no weights": ("pruned.h5", edited_h5(lambda root: root.pop("model_weights")), True, "in the Keras file"),
    "no HDF5": (
        "pruned.h5",
        lambda folder: (folder / "pruned.h5").write_bytes(b"no"),
        True,
        "pruned.h5 as it was exported",
    ),
    "metadata": (
        "pruned.keras",
        edited_zip(lambda entries: entries.update({"metadata.json": b"{}"})),
        False,
        "the entries",
    ),
    "no model": (
        "pruned.keras",
        edited_zip(lambda entries: entries.pop("model.weights.h5")),
        True,
        "as it was exported",
    ),
}


@pytest.mark.parametrize("what", ALTERED)
def test_verify_notices_what_was_altered(what: str, tmp_path: Path) -> None:
    name, alter, alone, said = ALTERED[what]
    folder = exported(SOURCES[name], tmp_path)
    alter(folder)
    with pytest.raises(PrunerError, match=name):
        verify(folder)
    rehash(folder)
    if alone:
        with pytest.raises(PrunerError, match=f"^expected .*({said}).* is not the export"):
            verify(folder)
    else:
        assert verify(folder)
    with pytest.raises(PrunerError, match=f"^expected .*({said}).* is not the export"):
        verify(folder, open_checkpoint(SOURCES[name], "model"))


def test_values_of_removed_units_that_stay_are_looked_at(tmp_path: Path) -> None:
    folder = exported(SOURCES["pruned.h5"], tmp_path, "masked")
    edited_h5(lambda root: add(root, f"{CELL}/kernel:0", 0.1))(folder)
    rehash(folder)
    with pytest.raises(PrunerError, match="zeros for every removed unit of rec"):
        verify(folder)


def test_a_renamed_file_is_not_the_one(tmp_path: Path) -> None:
    folder = exported(SOURCES["pruned.h5"], tmp_path)
    (folder / "pruned.h5").rename(folder / "pruned_weights.h5")
    manifest = read_manifest(folder)
    manifest["files"]["pruned_weights.h5"] = manifest["files"].pop("pruned.h5")
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(
        PrunerError, match=r"a file that is called pruned_weights.h5, found one that should be pruned.h5"
    ):
        verify(folder)
