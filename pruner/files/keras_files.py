"""The LSTMs of Keras models, under PyTorch's names and in PyTorch's layout, as `keras_layout` has it.

Older files (`.h5`) keep a layer's weights under its name and theirs,
those of Keras 3 (`.keras`, `.weights.h5`) under the kind of the layer and a number.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pruner.errors import PrunerError, shown
from pruner.files import arrays, hdf5, json_state
from pruner.files.contents import Contents, Learned
from pruner.files.hdf5 import Group
from pruner.files.keras_config import Layer, layers_of, lstm_of, readers_of
from pruner.files.keras_layout import SAME, TRANSPOSED, NotAnLSTM, Place, Weights, lstm_places, lstm_tensors
from pruner.files.zip_archive import Archive

KERAS_H5, KERAS = "Keras h5", "Keras"
WEIGHTS, CONFIG = "model.weights.h5", "config.json"

HDF5 = "HDF5"

_MAX_INFLATION, _SPARE = 4, 2**20  # weights hardly compress; the structure around them does
OPTIMIZERS = ("optimizer", "optimizer_weights")  # what their states lie under
_OLD_LAYERS = "_layer_checkpoint_dependencies"  # what the first versions of the new layout call its layers
_ROLES = ("kernel", "recurrent_kernel", "bias")
_BACKWARDS = "the model feeds it from the last step to the first: turn calibration inputs round"
_ASSUMED = (
    "the file holds weights without the model: its LSTMs are taken to have Keras' own activations, tanh and sigmoid; "
    "check that in the code that made them"
)

Path = tuple[str, ...]
Roles = dict[str, Path]  # of the arrays of one layer or cell


def matches(data: memoryview) -> bool:
    return bytes(data[:8]) == hdf5.MAGIC


@dataclass(frozen=True)
class Parts:
    """A Keras file taken apart: its HDF5 file and the configuration of its model, as JSON; of a `.keras` file the archive,
    too, and the entry with the weights."""

    format: str
    root: Group
    config: memoryview | None
    archive: Archive | None = None
    entry: str = ""


def read_h5(data: memoryview, name: str) -> Contents:
    """The LSTMs of a Keras model or weights file; any other HDF5 file's arrays under the names that lead to them.

    Raises PrunerError for a file that is damaged.
    """
    return _contents(parts_of_h5(data, name), name)


def read_zip(archive: Archive, name: str) -> Contents:
    """The LSTMs of a `.keras` file. Raises PrunerError for one that is damaged."""
    return _contents(parts_of_zip(archive, name), name)


def parts_of_h5(data: memoryview, name: str) -> Parts:
    root = hdf5.read(data, name)
    text = root.text("model_config")
    return Parts(KERAS_H5, root, memoryview(text.encode()) if text else None)


def parts_of_zip(archive: Archive, name: str) -> Parts:
    entry = archive.ending_with(WEIGHTS)[0]
    weights = archive.unpacked(entry, _MAX_INFLATION * archive.entries[entry].packed + _SPARE)
    configs = archive.ending_with(CONFIG)
    config = archive.unpacked(configs[0], json_state.MAX_SIZE) if configs else None
    return Parts(KERAS, hdf5.read(weights, name), config, archive, entry)


def _contents(parts: Parts, name: str) -> Contents:
    reader = gather(parts, name)
    is_keras = bool(parts.config or reader.learned or reader.skipped)
    notes = (_ASSUMED,) if reader.is_assumed else ()
    container = {key: arrays.stored(array) for key, array in reader.tensors.items()}
    return Contents(parts.format if is_keras else HDF5, container, {}, reader.learned, tuple(reader.skipped), notes)


def gather(parts: Parts, name: str) -> "Gathered":
    """Everything in a file, under PyTorch's names. Raises PrunerError for a damaged configuration."""
    config = json_state.load(parts.config, name) if parts.config else None
    try:
        layers = layers_of(config) if config else []
    except (ValueError, AttributeError, TypeError) as error:
        raise PrunerError(
            f"expected the layers of a Keras model, found a damaged configuration: {name} ({error}); save the model again"
        ) from error
    found = Gathered(_Store(parts.root))
    found.read(layers)
    return found


class _Store:
    """The weights of a file, in either layout: {the path to each: the array}."""

    def __init__(self, root: Group) -> None:
        self.is_new = "layers" in root.groups or _OLD_LAYERS in root.groups
        self.names: dict[Path, str] = {}  # what layers are called, where the new layout says so
        self.arrays: dict[Path, np.ndarray] = {}
        self.real: dict[Path, Path] = {}  # where each lies in the file
        self._below: dict[Path, list[Path]] = {}
        inside = () if self.is_new or "model_weights" not in root.groups else ("model_weights",)
        for real, array in (root.groups[inside[0]] if inside else root).all_arrays(inside):
            path = _with_layers(real[len(inside) :])
            if path[0] not in OPTIMIZERS and arrays.dtype_name(array.dtype) is not None:
                self.arrays[path], self.real[path] = array, real
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


def _by_roles(weights: Mapping[Path, np.ndarray]) -> dict[Path, Roles]:
    """The weights that lie side by side, by their roles: the old layout says them, the new one numbers them."""
    found: dict[Path, Roles] = {}
    for path in weights:
        found.setdefault(path[:-1], {})[path[-1].partition(":")[0]] = path
    for path, group in found.items():
        numbered = [group[key] for key in sorted(group) if key.isdigit()]
        if path[-1:] == ("vars",) and numbered:
            is_cell = len(numbered) > 1 and weights[numbered[1]].ndim == 2
            found[path] = dict(zip(_ROLES if is_cell else ("kernel", "bias"), numbered, strict=False))
    return found


def _cells(weights: Mapping[Path, np.ndarray]) -> dict[Path, Roles]:
    """The recurrent cells among some weights, by the path to each."""
    return {
        path: roles
        for path, roles in _by_roles(weights).items()
        if all(role in roles and weights[roles[role]].ndim == 2 for role in _ROLES[:2])
    }


def _with_layers(path: Path) -> Path:
    return tuple("layers" if part == _OLD_LAYERS else part for part in path)


class Gathered:
    """Tensors under PyTorch's names, gathered layer by layer; `places` says what each array of the file is made of, if it
    were to be made again, by the names that lead to it."""

    def __init__(self, store: _Store) -> None:
        self._store = store
        self.is_new = store.is_new
        self.is_assumed = False  # whether nothing but weights tells of the LSTMs
        self.tensors: dict[str, np.ndarray] = {}
        self.places: dict[Path, Place] = {}
        self.learned: dict[str, Learned] = {}
        self.skipped: list[tuple[str, str]] = []

    def read(self, layers: list[Layer]) -> None:
        for layer in layers:
            self._read_layer(layer)
        if not any(self._store.of(layer) for layer in layers):  # weights alone, or a model whose layers only code knows
            self._read_cells()
            self.is_assumed = bool(self.learned)
        self._read_others()

    def _read_layer(self, layer: Layer) -> None:
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
        both, cudnn = layer.class_name == "Bidirectional", found.class_name == "CuDNNLSTM"
        tensors = dict[str, np.ndarray]()
        places = dict[Path, Place]()
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
            roles = next(iter(cells.values()))
            tensors |= lstm_tensors(self._arrays(roles), suffix, cudnn)
            made = lstm_places(layer.name, suffix, cudnn)
            places |= {path: made[role] for role, path in roles.items() if role in made}
        units = found.settings.get("units")
        if tensors["weight_hh_l0"].shape[1] != units:
            raise NotAnLSTM(
                f"expected weights of {shown(units, 20)} units, found those of {tensors['weight_hh_l0'].shape[1]}"
            )
        self._take(layer.name, tensors, weights, places)
        consumers = [
            f"{reader.name}.{standard}"
            for reader in readers_of(layer) or []
            for standard in weights_reading_input(reader)
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
        for roles in _by_roles(weights).values():
            path = roles.get("kernel", roles.get("embeddings"))
            if path is not None and weights[path].ndim == 2:
                self._take_plain(layer.name, path, roles.get("bias"), weights, class_name == "Dense")

    def _read_cells(self) -> None:
        """The LSTMs among weights whose model the file does not hold: what has their shape is taken for one."""
        cells = _cells(self._store.arrays)
        counts = Counter(_name_of_cell(path, self._store) for path in cells)
        for path, roles in cells.items():
            name, suffix = _name_of_cell(path, self._store)
            if counts[name, suffix] > 1:  # of a model within the model, whose weights lie under one name
                name = ".".join(path)
            try:
                tensors = lstm_tensors(self._arrays(roles), suffix, False)
            except NotAnLSTM as reason:
                self.skipped.append((name, str(reason)))
                continue
            made = lstm_places(name, suffix, False)
            places = {path: made[role] for role, path in roles.items() if role in made}
            self._take(name, tensors, self._store.below(path), places)
            self.learned[name] = Learned(batch_first=True, classes={name: "LSTM"})

    def _take(self, name: str, tensors: Weights, weights: Mapping[Path, Any], places: Mapping[Path, Place]) -> None:
        self.tensors |= {f"{name}.{key}": array for key, array in tensors.items()}
        self.places |= {self._store.real[path]: place for path, place in places.items()}
        self._store.used.update(weights)

    def _take_plain(
        self, name: str, matrix: Path, bias: Path | None, weights: Mapping[Path, Any], transposed: bool
    ) -> None:
        arrays_of = self._store.arrays
        tensors = {"weight": arrays_of[matrix].T if transposed else arrays_of[matrix]}
        places = {matrix: Place((f"{name}.weight",), TRANSPOSED if transposed else SAME)}
        if bias is not None:
            tensors["bias"], places[bias] = arrays_of[bias], Place((f"{name}.bias",), SAME)
        self._take(name, tensors, weights, places)

    def _arrays(self, roles: Roles) -> Weights:
        return {role: self._store.arrays[path] for role, path in roles.items()}

    def _read_others(self) -> None:
        """All other numbers, under the names that lead to them. A kernel and a bias alone are a Dense layer."""
        rest = {path: array for path, array in self._store.arrays.items() if path not in self._store.used}
        for path, roles in _by_roles(rest).items():
            if roles.keys() == {"kernel", "bias"} and rest[roles["kernel"]].shape[1:] == rest[roles["bias"]].shape:
                name, below = _name_of_cell(path, self._store)[0], self._store.below(path)
                self._take_plain(name, roles["kernel"], roles["bias"], below, True)
        for path, array in rest.items():
            name = ".".join(part.partition(":")[0] for part in path)
            if path not in self._store.used and name not in self.tensors:
                self.tensors[name], self.places[self._store.real[path]] = array, Place((name,), SAME)


def weights_reading_input(reader: Layer) -> Iterator[str]:
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
