"""Keras models go in and come out: Keras loads them, units are gone where the model proves who reads them, and they compute
in Keras what the masked model does there."""

import json
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from pruner import Recipe, open_checkpoint, run
from pruner.calibration.calibration import Calibration
from pruner.exports.keras.facts import KERAS_FILES
from pruner.exports.verify import verify
from pruner.files.consumer_choice import proven
from pruner.result import Result
from tests.helpers import keras_built as built
from tests.helpers.exports import read_manifest
from tests.helpers.keras_built import Builder, Keras
from tests.helpers.models import random_steps

TOLERANCE = 1e-5
HALF = {"rec": [3]}
CUT: dict[str, tuple[Builder, dict[str, list[int]]]] = {
    "one": (built.one, HALF),
    "no bias": (lambda keras: built.one(keras, use_bias=False), HALF),
    "double precision": (lambda keras: built.one(keras, dtype="float64"), HALF),
    "stack": (built.stack, {"rec": [3], "second": [4]}),
    "both ways": (built.both_ways, {"rec": [3, 3], "second": [2, 2]}),
    "words": (built.words, HALF),
    "a cell": (built.of_a_cell, HALF),
    "graph": (lambda keras: built.graph(keras, "head"), HALF),
    "masked": (built.masked, HALF),
    "two readers": (lambda keras: built.graph(keras, "head", "side"), HALF),
}
WHOLE: dict[str, tuple[Builder, str]] = {
    "flattened": (built.flattened, "flat reads it, a Flatten"),
    "attended": (built.attended, "attention reads it, a Attention"),
    "a function": (built.with_a_lambda, "shifted reads it, a Lambda"),
    "a state": (built.given_a_state, "it is given more than its inputs, a state perhaps"),
    "read along": (built.read_along, "shared reads more than its output"),
    "given away": (lambda keras: built.in_a_row(keras, keras.layers.LSTM(built.UNITS, name="rec")), "gives its output"),
}
ENDS = (".keras", ".h5")
ONLY = {"masked": ".keras", "attended": ".keras", "a function": ".h5"}  # what Keras itself cannot load from the other


@pytest.fixture(scope="module")
def keras(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keras]:
    """The library on its torch backend, whose settings do not go into anybody's home."""
    with pytest.MonkeyPatch.context() as environment, warnings.catch_warnings():
        environment.setenv("KERAS_BACKEND", "torch")
        environment.setenv("KERAS_HOME", str(tmp_path_factory.mktemp("keras")))
        warnings.simplefilter("ignore")
        import keras

        yield keras


@pytest.fixture(autouse=True)
def _keras_warns() -> Iterator[None]:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        yield


def pruned(path: Path, **settings: Any) -> Result:
    """A model with half of its units, whose consumers are those that the file proves."""
    checkpoint = open_checkpoint(path)
    known = {"consumers": proven(checkpoint, checkpoint.lstms), "granularity": "units", **settings}
    inputs = None
    if "compensation" in settings:
        sizes = {lstm.name: lstm.input_size for lstm in checkpoint.lstms}
        groups = {name: [random_steps(30, 16, size, seed=3, dtype=torch.float32)] for name, size in sizes.items()}
        inputs = Calibration("file", groups)
    return run(checkpoint, Recipe(0.5, **known), calibration=inputs)


def load(keras: Keras, path: Path) -> Any:
    return keras.saving.load_model(path, compile=False, safe_mode=False)


def keras_file(folder: Path) -> Path:
    return next(path for path in folder.iterdir() if path.name in KERAS_FILES)


def check(keras: Keras, result: Result, source: Path, folder: Path) -> Any:
    """The export holds, and its Keras file computes what the masked model does; the model that Keras makes of it."""
    sentences = verify(folder, result.checkpoint)
    assert any("everything else in" in sentence for sentence in sentences)
    model, dense = load(keras, keras_file(folder)), load(keras, source)
    before = built.outputs(keras, dense)
    expected = built.outputs(keras, built.give(dense, result.pruned.tensors()))
    np.testing.assert_allclose(built.outputs(keras, model), expected, rtol=0, atol=TOLERANCE)
    assert np.abs(expected - before).max() > 100 * TOLERANCE
    return model


@pytest.mark.parametrize(("kind", "end"), [(kind, end) for kind in CUT for end in ENDS if ONLY.get(kind, end) == end])
def test_units_are_gone_where_the_model_proves_who_reads_them(
    keras: Keras, kind: str, end: str, tmp_path: Path
) -> None:
    build, expected = CUT[kind]
    source = built.saved(built.trained(build(keras)), tmp_path, end)
    result = pruned(source)
    folder = result.save(tmp_path / "out")
    assert built.sizes(check(keras, result, source, folder)) == expected
    notes = read_manifest(folder)["notes"]
    assert [note for note in notes if "pruned." in note] == [
        f"pruned{end}: the states of the optimizer, whose tensors have the old shapes, are left out: it begins anew"
    ]


@pytest.mark.parametrize("kind", WHOLE)
def test_elsewhere_they_are_zeros_and_that_is_told(keras: Keras, kind: str, tmp_path: Path) -> None:
    build, reason = WHOLE[kind]
    end = ONLY.get(kind, ENDS[len(kind) % 2])
    source = built.saved(built.trained(build(keras)), tmp_path, end)
    result = pruned(source, consumers=())
    folder = result.save(tmp_path / "out")
    assert built.sizes(check(keras, result, source, folder)) == {"rec": [built.UNITS]}
    (note,) = (note for note in read_manifest(folder)["notes"] if "rec" in note)
    assert note.startswith(f"pruned{end}: rec keeps its 6 units, zeros in it: ") and reason in note


@pytest.mark.parametrize(
    ("granularity", "form", "end"),
    [
        ("rows", "masked", ".h5"),
        ("rows", "compact", ".keras"),
        ("units", "masked", ".keras"),
        ("units", "masked", ".h5"),
    ],
)
def test_masked_models_keep_all_but_values(keras: Keras, granularity: str, form: str, end: str, tmp_path: Path) -> None:
    source = built.saved(built.trained(built.both_ways(keras)), tmp_path, end)
    result = pruned(source, granularity=granularity, consumers=())
    folder = result.save(tmp_path / "out", form)
    assert built.sizes(check(keras, result, source, folder)) == {"rec": [6, 6], "second": [4, 4]}
    assert has_optimizer(keras_file(folder))
    told = "pruned" + end + ": the LSTMs have their full size, zeros in it: Keras multiplies no single rows"
    assert (told in read_manifest(folder)["notes"]) == ((granularity, form) == ("rows", "compact"))


def has_optimizer(path: Path) -> bool:
    with h5py.File(zipfile.ZipFile(path).open("model.weights.h5") if path.suffix == ".keras" else path) as root:
        return "optimizer" in root or "optimizer_weights" in root


def test_both_directions_have_as_many_units(keras: Keras, tmp_path: Path) -> None:
    """Keras gives them one number; a few removed ones stay as zeros."""
    model = built.trained(built.both_ways(keras))
    backwards = model.get_layer("rec").backward_layer
    backwards.set_weights([each * np.float32(0.1) for each in backwards.get_weights()])
    source = built.saved(model, tmp_path, ".keras")
    result = pruned(source, allocation="global", consumers=())
    folder = result.save(tmp_path / "out")
    (first, second) = (len(each["kept_units"]) for each in read_manifest(folder)["lstms"][0]["layers"])
    assert first > second
    assert built.sizes(check(keras, result, source, folder))["rec"] == [first, first]
    told = f"pruned.keras: both directions of rec have {first} units, since Keras gives them one number: of "
    assert any(note.startswith(told) for note in read_manifest(folder)["notes"])


def test_one_lstm_of_several_is_pruned(keras: Keras, tmp_path: Path) -> None:
    source = built.saved(built.trained(built.stack(keras)), tmp_path, ".h5")
    result = pruned(source, lstms=("rec",), consumers=())
    assert built.sizes(check(keras, result, source, result.save(tmp_path / "out"))) == {"rec": [3], "second": [8]}


def test_what_is_compensated_goes_in(keras: Keras, tmp_path: Path) -> None:
    source = built.saved(built.trained(built.one(keras)), tmp_path, ".keras")
    result = pruned(source, compensation="fold")
    assert {"head.weight", "head.bias"} <= result.pruned.compensation.tensors.keys()
    assert built.sizes(check(keras, result, source, result.save(tmp_path / "out"))) == HALF


@pytest.mark.parametrize("form", ["masked", "compact"])
def test_readers_take_up_what_is_reconstructed(keras: Keras, form: str, tmp_path: Path) -> None:
    """Of an LSTM that another one reads: PyTorch's compact module returns all outputs, Keras' reader makes up for them."""
    source = built.saved(built.trained(built.stack(keras)), tmp_path, ".h5")
    result = pruned(source, compensation="fold")
    assert result.pruned.compensation.reconstructions.keys() == {"rec"}
    folder = result.save(tmp_path / "out", form)
    assert any("everything else in pruned.h5" in sentence for sentence in verify(folder, result.checkpoint))
    model = load(keras, keras_file(folder))
    assert built.sizes(model) == {"rec": [3 if form == "compact" else 6], "second": [4 if form == "compact" else 8]}
    modules, tensors = result.pruned.modules("masked"), result.pruned.tensors()
    steps, _ = modules["second"](modules["rec"](torch.from_numpy(built.NUMBERS))[0])
    expected = steps[:, -1] @ tensors["head.weight"].T + tensors["head.bias"]
    np.testing.assert_allclose(built.outputs(keras, model), expected.numpy(), rtol=0, atol=TOLERANCE)


def test_where_no_reader_can_take_it_up_there_is_no_file(keras: Keras, tmp_path: Path) -> None:
    source = built.saved(built.trained(built.flattened(keras)), tmp_path, ".keras")
    folder = pruned(source, compensation="fold", consumers=()).save(tmp_path / "out")
    assert not [path for path in folder.iterdir() if path.name in KERAS_FILES]
    assert read_manifest(folder)["notes"][-1] == (
        "pruned.keras: not written, since the removed units of rec are reconstructed from the others, for which a Keras "
        "LSTM has no place, and flat reads it, a Flatten"
    )
    assert verify(folder, open_checkpoint(source))


@pytest.mark.parametrize("named", [True, False])
def test_weights_alone_are_written_and_their_sizes_told(keras: Keras, named: bool, tmp_path: Path) -> None:
    model = built.trained(built.one(keras))
    source = built.saved(model, tmp_path, ".weights.h5")
    checkpoint = open_checkpoint(source)
    (lstm,) = checkpoint.lstms
    (head,) = (name for name in checkpoint.tensors if name.endswith(".weight"))
    result = run(checkpoint, Recipe(0.5, granularity="units", consumers=(head,) if named else ()))
    folder = result.save(tmp_path / "out")
    assert verify(folder, checkpoint)
    units = 3 if named else 6
    small = built.in_a_row(keras, keras.layers.LSTM(units, name="rec"), keras.layers.Dense(2, name="head"))
    small.load_weights(folder / "pruned.weights.h5")
    masked = built.give(
        model, {name.replace(lstm.name, "rec", 1): each for name, each in result.pruned.tensors().items()}
    )
    np.testing.assert_allclose(built.outputs(keras, small), built.outputs(keras, masked), rtol=0, atol=TOLERANCE)
    last = read_manifest(folder)["notes"][-2 if named else -1]
    assert ("no model in it: build yours with 3 units in" in last) == named
    assert ("keeps its 6 units, zeros in it: the file does not say who reads it" in last) == (not named)


def test_a_model_can_be_trained_on(keras: Keras, tmp_path: Path) -> None:
    """As Keras loads it by itself: with its loss, and an optimizer that begins anew."""
    source = built.saved(built.trained(built.stack(keras)), tmp_path, ".keras")
    folder = pruned(source).save(tmp_path / "out")
    model = keras.saving.load_model(keras_file(folder))
    with torch.enable_grad():
        model.fit(built.NUMBERS, np.zeros((4, 2), np.float32), verbose=0)
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(keras_file(folder)) as new:
        assert old.read("metadata.json") == new.read("metadata.json")
        config = [json.loads(archive.read("config.json")) for archive in (old, new)]
    assert config[0]["compile_config"] == config[1]["compile_config"]
    assert "[null, 7, 6]" not in json.dumps(config[1]) and "[null, 7, 3]" in json.dumps(config[1])


FOREIGN = (
    "LettuceLSTM_RTOS__lstm_model.keras",
    "hand-gesture-recongnitio__lstm_model.h5",
    "pypi_asmscan-bilstm__bass-model1.h5",
)


@pytest.mark.parametrize("name", FOREIGN)
def test_real_models_lose_half_of_their_units(
    keras: Keras, name: str, foreign: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Keras 3 refuses what Keras 2 wrote of an LSTM in a wrapper, whether it is pruned or not.
    made = keras.layers.LSTM.from_config.__func__
    old = lambda cls, config: made(cls, {key: value for key, value in config.items() if key != "time_major"})  # noqa: E731
    monkeypatch.setattr(keras.layers.LSTM, "from_config", classmethod(old))
    source = foreign / name
    result = pruned(source)
    folder = result.save(tmp_path / "out")
    assert any("everything else in" in sentence for sentence in verify(folder, result.checkpoint))
    model, masked = load(keras, keras_file(folder)), built.give(load(keras, source), result.pruned.tensors())
    halves = {layer: [each // 2 for each in units] for layer, units in built.sizes(masked).items()}
    assert built.sizes(model) == halves
    shape = (2, *(size or 9 for size in model.inputs[0].shape[1:]))
    inputs = np.random.default_rng(0).integers(0, 26, shape).astype("float32" if len(shape) > 2 else "int64")
    found, expected = (
        keras.ops.convert_to_numpy(each(inputs / 26 if len(shape) > 2 else inputs)) for each in (model, masked)
    )
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)
