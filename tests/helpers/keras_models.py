"""Keras files made on the spot, in the layouts of Keras 2 and 3, and what Keras' LSTMs compute, in plain NumPy.

`h5py` writes and reads the arrays: another reader than the project's.
"""

import io
import json
import zipfile
from collections.abc import Callable
from typing import Any

import h5py
import numpy as np

Weights = dict[str, np.ndarray]
Saver = Callable[[dict[str, Any], dict[str, Any]], bytes]


def lstm_weights(inputs: int, units: int, bias: bool = True, gates: int = 4, seed: int = 0) -> Weights:
    """Weights in Keras' layout."""
    generator = np.random.default_rng([inputs, units, gates, seed])
    shapes: dict[str, tuple[int, ...]] = {"kernel": (inputs, gates * units), "recurrent_kernel": (units, gates * units)}
    shapes |= {"bias": (gates * units,)} if bias else {}
    return {role: generator.normal(0, 0.5, shape).astype(np.float32) for role, shape in shapes.items()}


def dense_weights(inputs: int, outputs: int) -> Weights:
    generator = np.random.default_rng([inputs, outputs])
    return {
        "kernel": generator.normal(0, 0.5, (inputs, outputs)).astype(np.float32),
        "bias": generator.normal(0, 0.5, outputs).astype(np.float32),
    }


def lstm_layer(name: str, units: int, **settings: Any) -> dict[str, Any]:
    usual = {"activation": "tanh", "recurrent_activation": "sigmoid", "use_bias": True, "return_sequences": True}
    return layer("LSTM", name, **{**usual, "units": units, **settings})


def both_ways(name: str, inner: dict[str, Any], **settings: Any) -> dict[str, Any]:
    return layer("Bidirectional", name, **{"layer": inner, "merge_mode": "concat", **settings})


def layer(class_name: str, name: str, **settings: Any) -> dict[str, Any]:
    return {"class_name": class_name, "config": {"name": name, **settings}}


def sequential(*layers: dict[str, Any]) -> dict[str, Any]:
    return {"class_name": "Sequential", "config": {"name": "sequential", "layers": list(layers)}}


def functional(*layers: tuple[dict[str, Any], list[str]], outputs: list[str], new: bool = False) -> dict[str, Any]:
    """A graph of layers, each with the names of those that it reads, as Keras 2 or Keras 3 writes that."""

    def nodes(reads: list[str]) -> list[Any]:
        if new:
            return (
                [{"args": [{"config": {"keras_history": [name, 0, 0]}} for name in reads], "kwargs": {}}]
                if reads
                else []
            )
        return [[[name, 0, 0, {}] for name in reads]] if reads else []

    made = [
        {**described, "name": described["config"]["name"], "inbound_nodes": nodes(reads)} for described, reads in layers
    ]
    given = [[name, 0, 0] for name in outputs]
    return {"class_name": "Functional", "config": {"name": "model", "layers": made, "output_layers": given}}


def saved_h5(config: dict[str, Any] | None, weights: dict[str, Any]) -> bytes:
    """The layout of Keras 2: a layer's weights under its name and theirs. `weights`: {path of a group: its arrays}."""
    return _saved(weights, ":0", "model_weights" if config else "", config)


def saved_new_weights(weights: dict[str, Any], names: dict[str, str] | None = None) -> bytes:
    """The layout of Keras 3: groups by the kind of a layer and a number; its weights are numbered."""
    file = io.BytesIO()
    with h5py.File(file, "w") as root:
        for path, arrays in weights.items():
            group = root.require_group(f"{path}/vars")
            for number, array in enumerate(arrays.values()):
                group[str(number)] = array
        for path, name in (names or {}).items():
            root.require_group(f"{path}/vars").attrs["name"] = name
        root["optimizer/vars/0"] = np.ones((3, 3), np.float32)
    return file.getvalue()


def saved_keras(config: dict[str, Any], weights: dict[str, Any]) -> bytes:
    """A `.keras` file."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.8.0"}))
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("model.weights.h5", saved_new_weights(weights))
    return file.getvalue()


def _saved(weights: dict[str, Any], end: str, inside: str, config: dict[str, Any] | None) -> bytes:
    file = io.BytesIO()
    with h5py.File(file, "w") as root:
        if config is not None:
            root.attrs["model_config"] = json.dumps(config).encode()
            root["optimizer_weights/Adam/kernel:0"] = np.ones((3, 3), np.float32)
        for path, arrays in weights.items():
            group = root.require_group(f"{inside}/{path}".strip("/"))
            for role, array in arrays.items():
                group[f"{role}{end}"] = array
    return file.getvalue()


def keras_lstm(inputs: np.ndarray, weights: Weights) -> np.ndarray:
    """What Keras' LSTM computes of (batch, steps, features): gates in the order i, f, c, o, all in columns."""
    units = weights["recurrent_kernel"].shape[0]
    state = carry = np.zeros((len(inputs), units), np.float64)
    outputs = []
    for step in range(inputs.shape[1]):
        packed = inputs[:, step] @ weights["kernel"] + state @ weights["recurrent_kernel"] + weights.get("bias", 0)
        i, f, c, o = np.split(packed, 4, axis=1)
        carry = _sigmoid(f) * carry + _sigmoid(i) * np.tanh(c)
        state = _sigmoid(o) * np.tanh(carry)
        outputs.append(state)
    return np.stack(outputs, 1)


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-values))
