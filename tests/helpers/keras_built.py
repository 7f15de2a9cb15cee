"""Models that Keras itself builds, saves, loads and runs, on its torch backend. Importing it takes seconds: tests get the
library from a fixture of the one file that needs it, and hand it on."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

Keras = Any  # the module
STEPS, FEATURES, UNITS = 7, 3, 6
NUMBERS = np.random.default_rng(1).normal(size=(4, STEPS, FEATURES)).astype(np.float32)
IDS = np.random.default_rng(2).integers(0, 9, (4, STEPS))


def one(keras: Keras, **settings: Any) -> Any:
    layers = keras.layers
    return in_a_row(keras, layers.LSTM(UNITS, name="rec", **settings), layers.Dense(2, name="head"))


def stack(keras: Keras) -> Any:
    layers = keras.layers
    first = layers.LSTM(UNITS, return_sequences=True, name="rec")
    return in_a_row(keras, first, layers.Dropout(0.1), layers.LSTM(8, name="second"), layers.Dense(2, name="head"))


def both_ways(keras: Keras) -> Any:
    layers = keras.layers
    wrapped = layers.LSTM(UNITS, return_sequences=True)
    return in_a_row(
        keras,
        layers.Bidirectional(wrapped, name="rec"),
        layers.Bidirectional(layers.LSTM(4), name="second"),
        layers.Dense(2),
    )


def words(keras: Keras) -> Any:
    layers = keras.layers
    rec = layers.LSTM(UNITS, return_sequences=True, name="rec")
    over_time = layers.TimeDistributed(layers.Dense(2), name="head")
    return in_a_row(keras, layers.Embedding(9, 5, mask_zero=True), rec, over_time, inputs=keras.Input((STEPS,)))


def of_a_cell(keras: Keras) -> Any:
    layers = keras.layers
    return in_a_row(keras, layers.RNN(layers.LSTMCell(UNITS), name="rec"), layers.Dense(2))


def graph(keras: Keras, *readers: str) -> Any:
    """A functional model whose LSTM layers of these names read."""
    layers = keras.layers
    inputs = keras.Input((STEPS, FEATURES))
    found = layers.LSTM(UNITS, name="rec")(inputs)
    return keras.Model(inputs, [layers.Dense(2, name=reader)(found) for reader in readers])


def masked(keras: Keras) -> Any:
    """A functional model in which some steps do not count."""
    layers = keras.layers
    inputs = keras.Input((STEPS,))
    rec = layers.LSTM(UNITS, return_sequences=True, name="rec")
    found = layers.TimeDistributed(layers.Dense(2))(rec(layers.Embedding(9, 5, mask_zero=True)(inputs)))
    return keras.Model(inputs, found)


def flattened(keras: Keras) -> Any:
    layers = keras.layers
    rec = layers.LSTM(UNITS, return_sequences=True, name="rec")
    return in_a_row(keras, rec, layers.Flatten(name="flat"), layers.Dense(2))


def attended(keras: Keras) -> Any:
    layers = keras.layers
    inputs = keras.Input((STEPS, FEATURES))
    found = layers.LSTM(UNITS, return_sequences=True, name="rec")(inputs)
    return keras.Model(inputs, layers.Dense(2)(layers.Attention(name="attention")([found, found])))


def with_a_lambda(keras: Keras) -> Any:
    layers = keras.layers
    shifted = layers.Lambda(lambda found: found + 1, output_shape=(UNITS,), name="shifted")
    return in_a_row(keras, layers.LSTM(UNITS, name="rec"), shifted, layers.Dense(2))


def given_a_state(keras: Keras) -> Any:
    layers = keras.layers
    inputs = keras.Input((STEPS, FEATURES))
    state = layers.Dense(UNITS)(layers.GlobalMaxPooling1D()(inputs))
    found = layers.LSTM(UNITS, name="rec")(inputs, initial_state=[state, state])
    return keras.Model(inputs, layers.Dense(2)(found))


def read_along(keras: Keras) -> Any:
    """A Dense layer that reads the LSTM, and something else as wide."""
    layers = keras.layers
    inputs = keras.Input((STEPS, FEATURES))
    shared = layers.Dense(2, name="shared")
    other = layers.Dense(UNITS)(layers.GlobalMaxPooling1D()(inputs))
    return keras.Model(inputs, [shared(layers.LSTM(UNITS, name="rec")(inputs)), shared(other)])


def in_a_row(keras: Keras, *layers: Any, inputs: Any = None) -> Any:
    return keras.Sequential([inputs if inputs is not None else keras.Input((STEPS, FEATURES)), *layers])


def trained(model: Any) -> Any:
    """The same with random biases, and the state of an optimizer."""
    generator = np.random.default_rng(3)
    model.set_weights([generator.normal(0, 0.5, each.shape).astype(each.dtype) for each in model.get_weights()])
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    return model


def outputs(keras: Keras, model: Any) -> np.ndarray:
    """What a model makes of inputs of its kind, one output beside the other."""
    found = model(IDS if len(model.inputs[0].shape) == 2 else NUMBERS, training=False)
    each = (
        [keras.ops.convert_to_numpy(keras.ops.cast(one, "float32")) for one in found]
        if isinstance(found, list)
        else None
    )
    if each is None:
        each = [keras.ops.convert_to_numpy(keras.ops.cast(found, "float32"))]
    return np.concatenate([one.reshape(len(one), -1) for one in each], 1)


def give(model: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Put tensors under PyTorch's names into a model: the way back, written apart from the product's."""
    for layer in model.layers:
        cells = {"_l0": layer}
        if hasattr(layer, "backward_layer"):
            cells = {"_l0": layer.forward_layer, "_l0_reverse": layer.backward_layer}
        for suffix, cell in cells.items():
            if f"{layer.name}.weight_hh{suffix}" in tensors:
                own = [tensors[f"{layer.name}.weight_{side}{suffix}"].T.float().numpy() for side in ("ih", "hh")]
                biases = [tensors.get(f"{layer.name}.bias_{side}{suffix}") for side in ("ih", "hh")]
                cell.set_weights([*own, *([sum(biases).float().numpy()] if biases[0] is not None else [])])
        if f"{layer.name}.weight" in tensors and type(layer).__name__ != "Embedding":
            bias = [tensors[f"{layer.name}.bias"].float().numpy()]
            layer.set_weights([tensors[f"{layer.name}.weight"].T.float().numpy(), *bias])
    return model


def sizes(model: Any) -> dict[str, list[int]]:
    """{LSTM: the units of each direction} of a model."""
    found = {}
    for layer in model.layers:
        cells = [getattr(layer, side) for side in ("forward_layer", "backward_layer") if hasattr(layer, side)] or [
            layer
        ]
        units = [getattr(getattr(cell, "cell", cell), "units", None) for cell in cells]
        if any(hasattr(cell, "cell") for cell in cells):
            found[layer.name] = units
    return found


def saved(model: Any, folder: Path, end: str) -> Path:
    path = folder / f"model{end}"
    (model.save_weights if end == ".weights.h5" else model.save)(path)
    return path


Builder = Callable[[Keras], Any]
