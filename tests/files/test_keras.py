"""Keras: LSTMs compute as Keras' own, in every layout of file; others are declined by name; readers only where proven."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor

from pruner.errors import PrunerError
from pruner.files import formats
from pruner.files.checkpoint import Checkpoint
from pruner.files.contents import Learned
from pruner.files.opening import open_checkpoint
from pruner.lstm.module import build
from tests.helpers.keras_models import (
    Weights,
    both_ways,
    dense_weights,
    functional,
    keras_lstm,
    layer,
    lstm_layer,
    lstm_weights,
    saved_h5,
    saved_keras,
    saved_new_weights,
    sequential,
)

X = np.random.default_rng(1).normal(size=(2, 7, 3))  # (batch, steps, features)
TOLERANCE = 1e-5

MODEL = sequential(
    layer("InputLayer", "in", batch_shape=[None, 7, 3]),
    both_ways("both", lstm_layer("wrapped", 4)),
    layer("Dropout", "drop", rate=0.1),
    lstm_layer("second", 5, use_bias=False, return_sequences=False),
    layer("Dense", "head", units=2, activation="softmax"),
)
FORWARD, BACKWARD = lstm_weights(3, 4), lstm_weights(3, 4, seed=1)
SECOND, HEAD = lstm_weights(8, 5, bias=False), dense_weights(5, 2)
OLD = {
    "both/both/forward_wrapped/lstm_cell": FORWARD,
    "both/both/backward_wrapped/lstm_cell": BACKWARD,
    "second/second/lstm_cell_2": SECOND,
    "head/head": HEAD,
}
OLDEST = {  # Keras 2.0 to 2.3 names no cells
    "both/both/forward_wrapped": FORWARD,
    "both/both/backward_wrapped": BACKWARD,
    "second/second": SECOND,
    "head/head": HEAD,
}
NEW = {
    "layers/bidirectional/forward_layer/cell": FORWARD,
    "layers/bidirectional/backward_layer/cell": BACKWARD,
    "layers/lstm/cell": SECOND,
    "layers/dense": HEAD,
}
FIRST_NEW = {path.replace("layers", "_layer_checkpoint_dependencies"): weights for path, weights in NEW.items()}
LAYOUTS = {
    "h5 of Keras 2": (saved_h5(MODEL, OLD), "Keras h5"),
    "h5 of Keras 2.0": (saved_h5(MODEL, OLDEST), "Keras h5"),
    "keras of Keras 3": (saved_keras(MODEL, NEW), "Keras"),
    "keras of Keras 2.12": (saved_keras(MODEL, FIRST_NEW), "Keras"),
    "weights of Keras 2": (saved_h5(None, OLD), "Keras h5"),
    "weights of Keras 3": (
        saved_new_weights(
            NEW,
            {"layers/bidirectional": "both", "layers/lstm": "second", "layers/dense": "head", "layers/lstm/cell": "c"},
        ),
        "Keras h5",
    ),
}


def run(checkpoint: Checkpoint, name: str, inputs: np.ndarray) -> Tensor:
    (lstm,) = checkpoint.select([name])
    return build(lstm, checkpoint.tensors)(torch.from_numpy(inputs).float())[0]


def assert_equal(found: Tensor, expected: np.ndarray) -> None:
    torch.testing.assert_close(found, torch.from_numpy(expected).float(), atol=TOLERANCE, rtol=0)


def learned(data: bytes) -> dict[str, Learned]:
    return dict(formats.read(data, "model.h5").learned)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_lstms_compute_as_keras_does_whatever_the_layout(layout: str) -> None:
    data, format_ = LAYOUTS[layout]
    checkpoint = open_checkpoint(data, "model")
    assert checkpoint.format == format_
    facts = [(lstm.name, lstm.bidirectional, lstm.bias, lstm.hidden_size) for lstm in checkpoint.lstms]
    assert facts == [("both", True, True, 4), ("second", False, False, 5)]
    backwards = keras_lstm(X[:, ::-1], BACKWARD)[:, ::-1]
    between = np.concatenate([keras_lstm(X, FORWARD), backwards], 2)
    assert_equal(run(checkpoint, "both", X), between)
    assert_equal(run(checkpoint, "second", between), keras_lstm(between, SECOND))
    assert torch.equal(checkpoint.tensors["head.weight"], torch.from_numpy(HEAD["kernel"].T))
    assert torch.equal(checkpoint.tensors["head.bias"], torch.from_numpy(HEAD["bias"]))
    assert not checkpoint.tensors["both.bias_hh_l0"].any()
    assert not any("optimizer" in name or "Adam" in name for name in checkpoint.tensors)
    assert checkpoint.skipped == []


@pytest.mark.parametrize("layout", LAYOUTS)
def test_only_files_with_a_model_prove_what_they_compute(layout: str) -> None:
    contents = formats.read(LAYOUTS[layout][0], "model")
    if layout.startswith("weights"):
        assert "taken to have Keras' own activations" in contents.notes[0]
        assert contents.learned["second"].consumers == ()
        return
    assert contents.notes == ()
    both, second = contents.learned["both"], contents.learned["second"]
    assert (both.batch_first, both.returns_sequences, both.consumers) == (True, True, ("second.weight_ih_l0",))
    assert (second.batch_first, second.returns_sequences, second.consumers) == (True, False, ("head.weight",))
    assert second.classes == {"second": "LSTM"}


def test_models_within_models_are_named_by_all_their_names() -> None:
    inner = sequential(lstm_layer("rec", 4))
    inner["config"]["name"] = "inner"
    model = sequential(lstm_layer("rec", 3), inner)
    first, within = lstm_weights(3, 3), lstm_weights(3, 4)
    files = (
        saved_h5(model, {"rec/rec/lstm_cell": first, "inner/rec/lstm_cell": within}),
        saved_keras(model, {"layers/lstm/cell": first, "layers/sequential/layers/lstm/cell": within}),
    )
    for data in files:
        checkpoint = open_checkpoint(data, "model")
        assert [lstm.name for lstm in checkpoint.lstms] == ["inner.rec", "rec"]
        assert_equal(run(checkpoint, "inner.rec", X), keras_lstm(X, within))


def test_layers_of_one_kind_are_told_apart_by_their_numbers() -> None:
    sizes = {"a": 2, "b": 3, "c": 4}
    model = sequential(*(lstm_layer(name, units) for name, units in sizes.items()))
    cells = {
        f"layers/lstm{end}/cell": weights
        for end, weights in (("", lstm_weights(3, 2)), ("_1", lstm_weights(2, 3)), ("_2", lstm_weights(3, 4)))
    }
    found = open_checkpoint(saved_keras(model, cells), "model").lstms
    assert {lstm.name: lstm.hidden_size for lstm in found} == sizes


def test_an_rnn_of_an_lstm_cell_is_an_lstm() -> None:
    cell = {key: value for key, value in lstm_layer("c", 4)["config"].items() if key != "return_sequences"}
    model = sequential(layer("RNN", "rec", cell={"class_name": "LSTMCell", "config": cell}, return_sequences=True))
    weights = lstm_weights(3, 4)
    assert_equal(run(open_checkpoint(saved_h5(model, {"rec/rec/c": weights}), "m"), "rec", X), keras_lstm(X, weights))


def test_cudnn_lstms_keep_both_biases_and_each_gate_as_cudnn_does() -> None:
    """The rule of Keras' own loader: a column block of (I, H) holds the rows of (H, I), one after the other."""
    plain = lstm_weights(3, 4)
    gates = [gate.T.reshape(3, 4) for gate in np.split(plain["kernel"], 4, axis=1)]
    cudnn = {
        "kernel": np.concatenate(gates, 1),
        "recurrent_kernel": np.concatenate([gate.T for gate in np.split(plain["recurrent_kernel"], 4, axis=1)], 1),
        "bias": np.concatenate([plain["bias"], np.ones(16, np.float32)]),
    }
    model = sequential(layer("CuDNNLSTM", "rec", units=4, return_sequences=True))
    checkpoint = open_checkpoint(saved_h5(model, {"rec/rec": cudnn}), "m")
    assert_equal(run(checkpoint, "rec", X), keras_lstm(X, plain | {"bias": plain["bias"] + 1}))


DECLINED = {
    "relu": (lstm_layer("rec", 4, activation="relu"), "expected activation tanh, which nn.LSTM has, found relu"),
    "hard sigmoid": (
        lstm_layer("rec", 4, recurrent_activation={"class_name": "function", "config": "hard_sigmoid"}),
        "expected recurrent_activation sigmoid, which nn.LSTM has, found hard_sigmoid",
    ),
    "no activation": (lstm_layer("rec", 4, activation=None), "found nothing"),
    "one backwards": (
        both_ways("rec", lstm_layer("w", 4), backward_layer=lstm_layer("b", 4, activation="elu")),
        "found elu",
    ),
    "peepholes": (
        layer("RNN", "rec", cell={"class_name": "Addons>PeepholeLSTMCell", "config": {"units": 4}}),
        "expected an RNN of one LSTMCell, found one of PeepholeLSTMCell",
    ),
    "GRU": (layer("GRU", "rec", units=4), "a GRU: 3 gates, an LSTM has 4"),
    "GRU, both ways": (both_ways("rec", layer("GRU", "w", units=4)), "a GRU: 3 gates, an LSTM has 4"),
    "plain RNN": (layer("SimpleRNN", "rec", units=4), "a plain RNN: no gates, an LSTM has 4"),
    "convolutions": (layer("ConvLSTM2D", "rec", filters=4), "a ConvLSTM2D, not an LSTM"),
    "other units": (lstm_layer("rec", 5), "expected weights of 5 units, found those of 4"),
    "no weights": (
        lstm_layer("rec", 4, weights_elsewhere=True),
        "expected the weights of one LSTM, found 0 in the file",
    ),
}


@pytest.mark.parametrize("case", DECLINED)
def test_what_an_lstm_of_pytorch_cannot_compute_is_declined_by_name(case: str) -> None:
    described, reason = DECLINED[case]
    stored = {} if described["config"].get("weights_elsewhere") else {"rec/rec/lstm_cell": lstm_weights(3, 4)}
    if described["class_name"] == "Bidirectional":
        stored = {f"rec/rec/{side}_w": lstm_weights(3, 4) for side in ("forward", "backward")}
    checkpoint = open_checkpoint(saved_h5(sequential(described), stored | {"other": {"kernel": np.ones(3)}}), "m")
    assert checkpoint.lstms == []
    assert [(skipped.name, reason in skipped.reason) for skipped in checkpoint.skipped] == [("rec", True)]


@pytest.mark.parametrize(("gates", "reason"), [(3, "a GRU: "), (1, "a plain RNN: ")])
def test_recurrent_weights_without_a_model_are_told_by_their_shape(gates: int, reason: str) -> None:
    stored = {"a/a/cell": lstm_weights(3, 4, gates=gates), "b/b/cell": lstm_weights(3, 4)}
    checkpoint = open_checkpoint(saved_h5(None, stored), "m")
    assert [lstm.name for lstm in checkpoint.lstms] == ["b"]
    assert [(skipped.name, skipped.reason[: len(reason)]) for skipped in checkpoint.skipped] == [("a", reason)]


def test_weights_of_several_lstms_under_one_name_are_told_apart() -> None:
    stored = {
        "inner/a/lstm_cell": lstm_weights(3, 4),
        "inner/b/lstm_cell": lstm_weights(4, 2),
        "c/c": lstm_weights(2, 5),
    }
    found = open_checkpoint(saved_h5(None, stored), "m").lstms
    assert {lstm.name: lstm.hidden_size for lstm in found} == {"inner.a.lstm_cell": 4, "inner.b.lstm_cell": 2, "c": 5}


def test_a_layer_that_goes_backwards_is_read_and_said_to() -> None:
    data = saved_h5(sequential(lstm_layer("rec", 4, go_backwards=True)), {"rec/rec": lstm_weights(3, 4)})
    assert [lstm.name for lstm in open_checkpoint(data, "m").lstms] == ["rec"]
    assert "from the last step to the first" in learned(data)["rec"].notes[0]


REC, DENSE = lstm_layer("rec", 4), layer("Dense", "head", units=2)
OVER_TIME = layer("TimeDistributed", "head", layer=layer("Dense", "inner", units=2))
READERS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "Dense over time": (sequential(REC, OVER_TIME), ("head.weight",)),
    "an activation that keeps 0": (
        sequential(REC, layer("Activation", "a", activation="relu"), DENSE),
        ("head.weight",),
    ),
    "one that does not": (sequential(REC, layer("Activation", "a", activation="sigmoid"), DENSE), ()),
    "another kind of layer": (sequential(REC, layer("BatchNormalization", "n"), DENSE), ()),
    "the output": (sequential(REC), ()),
    "directions added up": (sequential(both_ways("rec", lstm_layer("w", 4), merge_mode="sum"), DENSE), ()),
    "states besides": (sequential(lstm_layer("rec", 4, return_state=True), DENSE), ()),
    "a graph": (functional((REC, []), (DENSE, ["rec"]), outputs=["head"]), ("head.weight",)),
    "a graph of Keras 3": (functional((REC, []), (DENSE, ["rec"]), outputs=["head"], new=True), ("head.weight",)),
    "two heads": (
        functional((REC, []), (DENSE, ["rec"]), (layer("Dense", "side", units=1), ["rec"]), outputs=["head", "side"]),
        ("head.weight", "side.weight"),
    ),
    "a head, and added to something": (
        functional((REC, []), (DENSE, ["rec"]), (layer("Add", "sum"), ["rec", "head"]), outputs=["sum"]),
        (),
    ),
    "a head that reads another, too": (
        functional((layer("Dense", "side", units=4), []), (REC, []), (DENSE, ["rec", "side"]), outputs=["head"]),
        (),
    ),
    "the state of another": (
        functional(
            (layer("InputLayer", "in"), []), (REC, []), (lstm_layer("head", 2), ["in", "rec"]), outputs=["head"]
        ),
        (),
    ),
    "a head, and given away": (functional((REC, []), (DENSE, ["rec"]), outputs=["head", "rec"]), ()),
}


@pytest.mark.parametrize("case", READERS)
def test_readers_are_offered_where_the_model_proves_them(case: str) -> None:
    model, consumers = READERS[case]
    stored: dict[str, Weights] = {"head/head": dense_weights(4, 2), "side/side": dense_weights(4, 1)}
    stored |= {
        f"rec/{side}rec": lstm_weights(3, 4) for side in (("forward_", "backward_") if "added up" in case else ("",))
    }
    data = saved_h5(model, stored)
    assert set(learned(data)["rec"].consumers) == set(consumers)
    tensors = open_checkpoint(data, "m").tensors
    assert all(tensors[consumer].shape[1] == 4 for consumer in consumers)


def test_other_arrays_keep_the_names_that_lead_to_them() -> None:
    model = sequential(layer("Embedding", "words", input_dim=9), layer("Conv1D", "conv"), lstm_layer("rec", 4))
    stored = {
        "words/words": {"embeddings": np.ones((9, 3), np.float32)},
        "conv/conv": {"kernel": np.ones((2, 3, 5), np.float32), "bias": np.ones(5, np.float32)},
        "rec/rec": lstm_weights(3, 4),
    }
    tensors = open_checkpoint(saved_h5(model, stored), "m").tensors
    assert tensors["words.weight"].shape == (9, 3)
    assert tensors["conv.conv.kernel"].shape == (2, 3, 5)


def test_hdf5_under_pytorchs_names_opens() -> None:
    file = io.BytesIO()
    with h5py.File(file, "w") as root:
        root["net/rec.weight_ih_l0"] = np.ones((16, 3), ">f4")
        root["net/rec.weight_hh_l0"] = np.ones((16, 4), ">f4")
    checkpoint = open_checkpoint(file.getvalue(), "m")
    assert (checkpoint.format, [lstm.name for lstm in checkpoint.lstms]) == ("HDF5", ["net.rec"])
    assert (checkpoint.tensors["net.rec.weight_hh_l0"] == 1).all()


def test_numbers_that_torch_has_none_of_are_left_out() -> None:
    data = without_model(
        a={"data": np.ones((2, 2), np.uint64)},
        b={"data": np.array([b"text"])},
        c={"data": np.ones(2, ">f8")},
        d={"data": 3},
    )
    tensors = open_checkpoint(data, "m").tensors
    assert {name: tensor.dtype for name, tensor in tensors.items()} == {"c": torch.float64, "d": torch.int64}


def without_model(**items: Any) -> bytes:
    file = io.BytesIO()
    with h5py.File(file, "w") as root:
        for name, settings in items.items():
            root.create_dataset(name, **settings)
    return file.getvalue()


def in_circles() -> bytes:
    file = io.BytesIO()
    with h5py.File(file, "w") as root:
        group = root.create_group("a")
        group["a"] = group
    return file.getvalue()


def many_links() -> bytes:
    """Two links a group, twenty groups deep: a million paths to one array."""
    file = io.BytesIO()
    with h5py.File(file, "w") as root:
        group = root
        for _ in range(20):
            inner = group.create_group("a")
            group["b"] = inner
            group = inner
    return file.getvalue()


def many_names() -> bytes:
    """One array under a hundred names."""
    file = io.BytesIO()
    with h5py.File(file, "w") as root:
        root["a0"] = np.ones((256, 256), np.float32)
        for number in range(1, 100):
            root[f"a{number}"] = root["a0"]
    return file.getvalue()


def zipped_config(config: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.weights.h5", saved_new_weights(NEW))
        archive.writestr("config.json", config)
    return file.getvalue()


def nested_models(depth: int) -> dict[str, Any]:
    model = sequential(lstm_layer("rec", 4))
    for _ in range(depth):
        model = sequential(model)
    return model


HDF5_FILE = saved_h5(MODEL, OLD)
HOSTILE = {
    "cut": (HDF5_FILE[: len(HDF5_FILE) // 2], "found a damaged one"),
    "a mark alone": (HDF5_FILE[:8], "found a damaged one"),
    "zeros": (HDF5_FILE[:8] + bytes(1000), "found a damaged one"),
    "circles": (in_circles(), "nested more than 30 deep"),
    "a hundred names": (many_names(), "more arrays than the file has bytes"),
    "a million paths": (many_links(), "more structure than the file has bytes"),
    "compressed": (
        without_model(a={"data": np.zeros((100, 100)), "compression": "gzip"}),
        "found 'a' in chunks or compressed: .*h5repack",
    ),
    "a configuration of another kind": (saved_h5({"config": {"layers": 3}}, OLD), "found a damaged configuration"),
    "layers without settings": (saved_h5({"config": {"layers": [3]}}, OLD), "found a damaged configuration"),
    "models in models": (saved_h5(nested_models(30), OLD), "found a damaged configuration"),
    "no JSON": (zipped_config(b"{"), "complete JSON, found a damaged file"),
    "JSON of brackets": (
        zipped_config(b'{"config":[' + b"[]," * 6_000_000 + b"0]}"),
        "JSON that takes not much",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_refused_in_one_sentence(case: str) -> None:
    data, reason = HOSTILE[case]
    with pytest.raises(PrunerError, match=f"^expected .*{reason}"):
        open_checkpoint(data, "model")


def test_an_array_that_claims_more_than_the_file_is_refused() -> None:
    data = without_model(a={"data": np.ones((257, 263), np.float32)})
    shape = np.array([257, 263], "<u8").tobytes()
    assert data.count(shape) >= 1
    with pytest.raises(PrunerError, match="found a damaged one"):
        open_checkpoint(data.replace(shape, np.array([2**31, 2**31], "<u8").tobytes()), "model")


def legacy_weights(file: Any, name: str) -> Weights:
    """The arrays of one layer, as h5py reads them."""
    found: Weights = {}
    file[f"model_weights/{name}"].visititems(
        lambda path, item: (
            found.update({path.rpartition("/")[2].partition(":")[0]: item[()]}) if hasattr(item, "shape") else None
        )
    )
    return found


@pytest.mark.parametrize("file", ["hand-gesture-recongnitio__lstm_model.h5", "pypi_asmscan-bilstm__bass-model1.h5"])
def test_real_models_compute_as_their_arrays_say(file: str, foreign: Path) -> None:
    checkpoint = open_checkpoint(foreign / file)
    checked = 0
    with h5py.File(foreign / file) as root:
        for lstm in checkpoint.lstms:
            if not lstm.bidirectional:
                weights = legacy_weights(root, lstm.name)
                inputs = np.random.default_rng(0).normal(size=(2, 9, lstm.input_size))
                assert_equal(run(checkpoint, lstm.name, inputs), keras_lstm(inputs, weights))
                checked += 1
    assert checked


def test_a_real_file_of_keras_3_computes_as_its_arrays_say(foreign: Path) -> None:
    path = foreign / "LettuceLSTM_RTOS__lstm_model.keras"
    with zipfile.ZipFile(path) as archive, h5py.File(io.BytesIO(archive.read("model.weights.h5"))) as root:
        assert json.loads(archive.read("config.json"))["class_name"] == "Sequential"
        arrays = [root[f"layers/lstm/cell/vars/{number}"][()] for number in range(3)]
        dense = root["layers/dense/vars/0"][()]
    weights = dict(zip(("kernel", "recurrent_kernel", "bias"), arrays, strict=True))
    checkpoint = open_checkpoint(path)
    inputs = np.random.default_rng(0).normal(size=(2, 12, 9))
    assert_equal(run(checkpoint, "lstm", inputs), keras_lstm(inputs, weights))
    assert torch.equal(checkpoint.tensors["dense.weight"], torch.from_numpy(dense.T))
    assert learned(path.read_bytes())["lstm"].consumers == ("dense.weight",)
