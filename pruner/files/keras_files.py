"""The LSTMs of Keras models, under PyTorch's names and in PyTorch's layout.

Keras packs the gates of an LSTM into columns, in the order i, f, c, o: `kernel` (I, 4H), `recurrent_kernel` (H, 4H) and one
`bias` (4H,). That is PyTorch's order, transposed. Older files (`.h5`) keep a layer's weights under its name and theirs,
those of Keras 3 (`.keras`, `.weights.h5`) under the kind of the layer and a number.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from pruner.errors import PrunerError, shown
from pruner.files import arrays, hdf5, json_state
from pruner.files.contents import Contents, Learned
from pruner.files.hdf5 import Group
from pruner.files.keras_config import Layer, NotAnLSTM, layers_of, lstm_of, readers_of
from pruner.files.zip_archive import Archive

KERAS_H5, KERAS = "Keras h5", "Keras"
WEIGHTS, CONFIG = "model.weights.h5", "config.json"

HDF5 = "HDF5"

_MAX_INFLATION, _SPARE = 4, 2**20  # weights hardly compress; the structure around them does
_OLD_LAYERS = "_layer_checkpoint_dependencies"  # what the first versions of the new layout call its layers
_ROLES = ("kernel", "recurrent_kernel", "bias")
_BACKWARDS = "the model feeds it from the last step to the first: turn calibration inputs round"
_ASSUMED = (
    "the file holds weights without the model: its LSTMs are taken to have Keras' own activations, tanh and sigmoid; "
    "check that in the code that made them"
)

Path = tuple[str, ...]
Weights = dict[str, np.ndarray]  # by their roles


def matches(data: memoryview) -> bool:
    return bytes(data[:8]) == hdf5.MAGIC


def read_h5(data: memoryview, name: str) -> Contents:
    """The LSTMs of a Keras model or weights file; any other HDF5 file's arrays under the names that lead to them.

    Raises PrunerError for a file that is damaged.
    """
    root = hdf5.read(data, name)
    text = root.text("model_config")
    config = json_state.load(memoryview(text.encode()), name) if text else None
    return _contents(KERAS_H5, root, config, name)


def read_zip(archive: Archive, name: str) -> Contents:
    """The LSTMs of a `.keras` file. Raises PrunerError for one that is damaged."""
    entry = archive.ending_with(WEIGHTS)[0]
    weights = archive.unpacked(entry, _MAX_INFLATION * archive.entries[entry].packed + _SPARE)
    configs = archive.ending_with(CONFIG)
    config = json_state.load(archive.unpacked(configs[0], json_state.MAX_SIZE), name) if configs else None
    return _contents(KERAS, hdf5.read(weights, name), config, name)


def _contents(format_: str, root: Group, config: dict[str, Any] | None, name: str) -> Contents:
    store = _Store(root)
    try:
        layers = layers_of(config) if config else []
    except (ValueError, AttributeError, TypeError) as error:
        raise PrunerError(
            f"expected the layers of a Keras model, found a damaged configuration: {name} ({error}); save the model again"
        ) from error
    reader = _Reader(store, layers)
    for layer in layers:
        reader.read_layer(layer)
    notes: tuple[str, ...] = ()
    if not any(store.of(layer) for layer in layers):  # weights alone, or a model whose layers only code knows
        reader.read_cells()
        notes = (_ASSUMED,) if reader.learned else ()
    is_keras = bool(config or reader.learned or reader.skipped)
    reader.read_others()
    container = {key: arrays.stored(array) for key, array in reader.tensors.items()}
    return Contents(format_ if is_keras else HDF5, container, {}, reader.learned, tuple(reader.skipped), notes)


class _Store:
    """The weights of a file, in either layout: {the path to each: the array}."""

    def __init__(self, root: Group) -> None:
        self.is_new = "layers" in root.groups or _OLD_LAYERS in root.groups
        self.names: dict[Path, str] = {}  # what layers are called, where the new layout says so
        self.arrays: dict[Path, np.ndarray] = {}
        self._below: dict[Path, list[Path]] = {}
        for path, array in (root if self.is_new else root.groups.get("model_weights", root)).all_arrays():
            path = _with_layers(path)
            if path[0] not in ("optimizer", "optimizer_weights"):
                self.arrays[path] = array
                for end in range(1, len(path)):
                    self._below.setdefault(path[:end], []).append(path)
        self._learn_names(root, ())
        self.used: set[Path] = set()

    def _learn_names(self, group: Group, path: Path) -> None:
        if "vars" in group.groups and (name := group.groups["vars"].text("name")):
            self.names[_with_layers(path)] = name
        for key, inner in group.groups.items():
            self._learn_names(inner, (*path, key))

    def of(self, layer: Layer) -> dict[Path, np.ndarray]:
        """The weights of a layer."""
        if self.is_new:
            return self.below(layer.place)
        inside = layer.names[1:]
        found = self.below(layer.names[:1])
        return {path: array for path, array in found.items() if all(name in path[1:] for name in inside)}

    def below(self, path: Path) -> dict[Path, np.ndarray]:
        return {found: self.arrays[found] for found in self._below.get(path, [])}


def _by_roles(weights: dict[Path, np.ndarray]) -> dict[Path, Weights]:
    """The weights that lie side by side, by their roles: the old layout says them, the new one numbers them."""
    found: dict[Path, Weights] = {}
    for path, array in weights.items():
        found.setdefault(path[:-1], {})[path[-1].partition(":")[0]] = array
    for path, group in found.items():
        numbered = [group[key] for key in sorted(group) if key.isdigit()]
        if path[-1:] == ("vars",) and numbered:
            is_cell = len(numbered) > 1 and numbered[1].ndim == 2
            found[path] = dict(zip(_ROLES if is_cell else ("kernel", "bias"), numbered, strict=False))
    return found


def _cells(weights: dict[Path, np.ndarray]) -> dict[Path, Weights]:
    """The recurrent cells among some weights, by the path to each."""
    return {
        path: group
        for path, group in _by_roles(weights).items()
        if all(role in group and group[role].ndim == 2 for role in _ROLES[:2])
    }


def _with_layers(path: Path) -> Path:
    return tuple("layers" if part == _OLD_LAYERS else part for part in path)


class _Reader:
    """Gathers tensors under PyTorch's names, layer by layer."""

    def __init__(self, store: _Store, layers: list[Layer]) -> None:
        self._store = store
        self._lstms: dict[int, str] = {}
        self.tensors: dict[str, np.ndarray] = {}
        self.learned: dict[str, Learned] = {}
        self.skipped: list[tuple[str, str]] = []

    def read_layer(self, layer: Layer) -> None:
        try:
            found = lstm_of(layer)
            if found is not None:
                self._read_lstm(layer, found)
        except NotAnLSTM as reason:
            self.skipped.append((layer.name, str(reason)))
        dense = layer.inner() if layer.class_name == "TimeDistributed" else layer
        if dense and dense.class_name in ("Dense", "Embedding"):
            self._read_plain(layer, dense.class_name)

    def _read_lstm(self, layer: Layer, found: Layer) -> None:
        weights = self._store.of(layer)
        both = layer.class_name == "Bidirectional"
        tensors = dict[str, np.ndarray]()
        for suffix, side in (("_l0", "forward"), ("_l0_reverse", "backward"))[: 2 if both else 1]:
            cells = _cells(
                {
                    path: array
                    for path, array in weights.items()
                    if not both or any(part.startswith(side) for part in path)
                }
            )
            if len(cells) != 1:
                raise NotAnLSTM(f"expected the weights of one LSTM{f', {side}' * both}, found {len(cells)} in the file")
            tensors |= _lstm_tensors(next(iter(cells.values())), suffix, found.class_name == "CuDNNLSTM")
        units = found.settings.get("units")
        if tensors["weight_hh_l0"].shape[1] != units:
            raise NotAnLSTM(
                f"expected weights of {shown(units, 20)} units, found those of {tensors['weight_hh_l0'].shape[1]}"
            )
        self._take(layer.name, tensors, weights)
        consumers = [
            f"{reader.name}.{standard}"
            for reader in readers_of(layer) or []
            for standard in _weights_reading_input(reader)
        ]
        self.learned[layer.name] = Learned(
            batch_first=not found.settings.get("time_major", False),
            classes={layer.name: "LSTM"},
            consumers=tuple(consumers),
            returns_sequences=bool(found.settings.get("return_sequences", False)),
            notes=(_BACKWARDS,) if found.settings.get("go_backwards") else (),
        )

    def _read_plain(self, layer: Layer, class_name: str) -> None:
        """A Dense layer or an embedding, as `nn.Linear` and `nn.Embedding` have them."""
        weights = self._store.of(layer)
        for group in _by_roles(weights).values():
            matrix = group.get("kernel", group.get("embeddings"))
            if matrix is not None and matrix.ndim == 2:
                tensors = {"weight": matrix.T if class_name == "Dense" else matrix}
                self._take(layer.name, tensors | ({"bias": group["bias"]} if "bias" in group else {}), weights)

    def read_cells(self) -> None:
        """The LSTMs among weights whose model the file does not hold: what has their shape is taken for one."""
        cells = _cells(self._store.arrays)
        counts = Counter(_name_of_cell(path, self._store) for path in cells)
        for path, cell in cells.items():
            name, suffix = _name_of_cell(path, self._store)
            if counts[name, suffix] > 1:  # of a model within the model, whose weights lie under one name
                name = ".".join(path)
            try:
                tensors = _lstm_tensors(cell, suffix, False)
            except NotAnLSTM as reason:
                self.skipped.append((name, str(reason)))
                continue
            self._take(name, tensors, self._store.below(path))
            self.learned[name] = Learned(batch_first=True, classes={name: "LSTM"})

    def _take(self, name: str, tensors: dict[str, np.ndarray], weights: dict[Path, np.ndarray]) -> None:
        self.tensors |= {f"{name}.{key}": array for key, array in tensors.items()}
        self._store.used.update(weights)

    def read_others(self) -> None:
        """All other numbers, under the names that lead to them. A kernel and a bias alone are a Dense layer."""
        rest = {path: array for path, array in self._store.arrays.items() if path not in self._store.used}
        for path, group in _by_roles(rest).items():
            if group.keys() == {"kernel", "bias"} and group["kernel"].shape[1:] == group["bias"].shape:
                tensors = {"weight": group["kernel"].T, "bias": group["bias"]}
                self._take(_name_of_cell(path, self._store)[0], tensors, self._store.below(path))
        for path, array in rest.items():
            if path not in self._store.used:
                self.tensors.setdefault(".".join(part.partition(":")[0] for part in path), array)


def _lstm_tensors(cell: Weights, suffix: str, cudnn: bool) -> dict[str, np.ndarray]:
    """One LSTM in one direction. Raises NotAnLSTM for weights of other shapes."""
    kernel, recurrent, bias = cell["kernel"], cell["recurrent_kernel"], cell.get("bias")
    shapes = ", ".join(f"{role} {array.shape}" for role, array in cell.items())
    if kernel.ndim != 2 or recurrent.ndim != 2 or 0 in (*kernel.shape, *recurrent.shape):
        raise NotAnLSTM(f"expected a kernel (I, 4H) and a recurrent_kernel (H, 4H), found {shapes}")
    hidden_size, packed = recurrent.shape
    if packed == 3 * hidden_size:
        raise NotAnLSTM("a GRU: 3 gates, an LSTM has 4")
    if packed == hidden_size:
        raise NotAnLSTM("a plain RNN: no gates, an LSTM has 4")
    biases = [] if bias is None else [bias]
    if (
        packed != 4 * hidden_size
        or kernel.shape[1] != packed
        or any(array.shape != ((8 if cudnn else 4) * hidden_size,) for array in biases)
    ):
        raise NotAnLSTM(f"expected a kernel (I, 4H), a recurrent_kernel (H, 4H) and a bias (4H,), found {shapes}")
    tensors = {f"weight_ih{suffix}": kernel.T, f"weight_hh{suffix}": recurrent.T}
    for array in biases:
        zero = np.zeros_like(array[: 4 * hidden_size])
        tensors[f"bias_ih{suffix}"] = array[: 4 * hidden_size]
        tensors[f"bias_hh{suffix}"] = array[4 * hidden_size :] if cudnn else zero
    if cudnn:
        tensors |= _cudnn_weights(kernel, recurrent, suffix)
    return tensors


def _cudnn_weights(kernel: np.ndarray, recurrent: np.ndarray, suffix: str) -> dict[str, np.ndarray]:
    """CuDNNLSTM keeps each gate as cuDNN does: its columns hold a matrix that is already (H, I), row after row."""
    hidden_size = recurrent.shape[0]
    inputs = [gate.reshape(hidden_size, -1) for gate in np.split(np.ascontiguousarray(kernel), 4, axis=1)]
    return {
        f"weight_ih{suffix}": np.concatenate(inputs),
        f"weight_hh{suffix}": np.concatenate(np.split(recurrent, 4, axis=1)),
    }


def _weights_reading_input(reader: Layer) -> Iterator[str]:
    if reader.class_name in ("Dense", "TimeDistributed"):
        yield "weight"
    else:
        yield "weight_ih_l0"
        if reader.class_name == "Bidirectional":
            yield "weight_ih_l0_reverse"


def _name_of_cell(path: Path, store: _Store) -> tuple[str, str]:
    """(name, suffix of its tensors) of an LSTM that only its weights tell of."""
    suffix = "_l0_reverse" if any(part.startswith("backward") for part in path) else "_l0"
    if not store.is_new:
        return path[0], suffix
    layers = [index + 2 for index, part in enumerate(path[:-1]) if part == "layers"]
    return ".".join(store.names.get(path[:end], path[end - 1]) for end in layers) or path[0], suffix
