"""What the configuration in a Keras file says of its layers: which there are, what they compute, who reads whom."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from pruner.files.keras_layout import NotAnLSTM

MAX_DEPTH = 20
MAX_LAYERS = 4_000

OPAQUE = ("GRU", "CuDNNGRU", "SimpleRNN", "ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D")  # recurrent, and no LSTM
_LSTMS = ("LSTM", "CuDNNLSTM")
_KEEPS_VALUES = (
    "Dropout",
    "SpatialDropout1D",
    "GaussianNoise",
    "GaussianDropout",
    "RepeatVector",
)  # when a model is used
_KEEPS_ZERO = (  # keep the features of a unit apart, and 0 at 0
    *_KEEPS_VALUES,
    "ReLU",
    "LeakyReLU",
    "GlobalMaxPooling1D",
    "GlobalAveragePooling1D",
    "MaxPooling1D",
    "AveragePooling1D",
)


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer of a model, wherever models lie within models."""

    names: tuple[str, ...]  # of the models around it, without the outermost, and its own
    class_name: str
    settings: dict[str, Any]
    place: tuple[str, ...]  # where the Keras 3 layout keeps it
    entry: dict[str, Any]  # all that the configuration says of it, `settings` among it
    readers: list["Layer"] = field(default_factory=list)  # layers that read its output
    reads: list["Layer"] = field(default_factory=list)  # layers whose outputs it reads
    many_inputs: list[bool] = field(
        default_factory=list
    )  # an entry where it is given more than one input, a state, say
    is_output: list[bool] = field(default_factory=list)  # an entry where the model gives its output away

    @property
    def name(self) -> str:
        return ".".join(self.names)

    def inner(self, key: str = "layer") -> "Layer | None":
        """The layer that this one wraps, or its cell."""
        wrapped = self.settings.get(key)
        if not isinstance(wrapped, dict) or not isinstance(wrapped.get("config"), dict):
            return None
        return Layer(self.names, _class_name(wrapped), wrapped["config"], self.place, wrapped)


def layers_of(model: dict[str, Any]) -> list[Layer]:
    """Every layer of a model's configuration, in its order. Raises ValueError for what is no configuration."""
    found = []
    for layer in _layers(model, (), (), 0):
        found.append(layer)
        if len(found) > MAX_LAYERS:
            raise ValueError(f"more than {MAX_LAYERS:,} layers")
    return found


def _layers(model: dict[str, Any], names: tuple[str, ...], place: tuple[str, ...], depth: int) -> Iterator[Layer]:
    if depth > MAX_DEPTH:
        raise ValueError(f"models nested more than {MAX_DEPTH} deep")
    settings = model.get("config")
    entries = (
        settings if isinstance(settings, list) else settings.get("layers", []) if isinstance(settings, dict) else []
    )
    if not isinstance(entries, list):
        raise ValueError("no list of layers")
    own: dict[str, Layer] = {}
    counts: dict[str, int] = {}
    found: list[tuple[Layer, dict[str, Any]]] = []
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(entry.get("config"), (dict, list)):
            raise ValueError("a layer without settings")
        inside = entry["config"] if isinstance(entry["config"], dict) else {}
        name = str(entry.get("name") or inside.get("name") or f"layer{len(own)}")
        kind = _snake_case(_class_name(entry))
        counts[kind] = counts.get(kind, -1) + 1
        key = f"{kind}_{counts[kind]}" if counts[kind] else kind
        layer = Layer((*names, name), _class_name(entry), inside, (*place, "layers", key), entry)
        own[name] = layer
        found.append((layer, entry))
    _connect(model, own, found)
    for layer, entry in found:
        yield layer
        yield from _layers(entry, layer.names, layer.place, depth + 1)


def _connect(model: dict[str, Any], own: dict[str, Layer], found: list[tuple[Layer, dict[str, Any]]]) -> None:
    """Note who reads whom: the next layer in a Sequential model, those that name each other in another one."""
    if _class_name(model) == "Sequential":
        for (layer, _), (after, _) in pairwise(found):
            layer.readers.append(after)
            after.reads.append(layer)
        for layer, _ in found[-1:]:
            layer.is_output.append(True)
        return
    for layer, entry in found:
        calls = entry.get("inbound_nodes")
        for name in dict.fromkeys(_names_read(calls, 0)):
            if name in own:
                own[name].readers.append(layer)
        inputs = list(_names_read(calls, 0, without="mask"))  # which says of steps whether they count
        layer.reads.extend(own[name] for name in dict.fromkeys(inputs) if name in own)
        if isinstance(calls, list) and len(inputs) > len(calls):
            layer.many_inputs.append(True)
    settings = model.get("config")
    outputs = settings.get("output_layers") if isinstance(settings, dict) else None
    given = set(_names_read(outputs, 0))
    for name, layer in own.items():
        if name in given or not layer.readers:
            layer.is_output.append(True)


def _names_read(value: Any, depth: int, without: str = "") -> Iterator[str]:
    """The layers that a description of inputs names: `["lstm", 0, 0, {}]`, or under `keras_history` in Keras 3."""
    if depth > MAX_DEPTH:
        raise ValueError(f"inputs nested more than {MAX_DEPTH} deep")
    if isinstance(value, dict):
        for key, item in value.items():
            if key != without:
                yield from _names_read(item, depth + 1, without)
    elif isinstance(value, list):
        if len(value) >= 3 and isinstance(value[0], str) and isinstance(value[1], int):
            yield value[0]
        for item in value:
            yield from _names_read(item, depth + 1, without)


def lstm_of(layer: Layer) -> Layer | None:
    """The LSTM that a layer is or wraps, in one direction or both; None for another kind of layer.

    Raises NotAnLSTM for a recurrent layer that `nn.LSTM` cannot be.
    """
    found = layer
    if layer.class_name == "Bidirectional":
        found = layer.inner() or layer
    elif layer.class_name in ("TimeDistributed", "Wrapper"):
        return None
    if found.class_name == "RNN":
        cell = found.inner("cell")
        if cell is None or cell.class_name != "LSTMCell":
            raise NotAnLSTM(
                f"expected an RNN of one LSTMCell, found one of {cell.class_name if cell else 'another kind'}"
            )
        found = Layer(layer.names, "LSTM", {**found.settings, **cell.settings}, layer.place, found.entry)
    if found.class_name in OPAQUE:
        raise NotAnLSTM(_REASONS.get(found.class_name.removeprefix("CuDNN"), f"a {found.class_name}, not an LSTM"))
    if found.class_name not in _LSTMS:
        return None
    backward = layer.inner("backward_layer") or found
    for direction in (found, backward):
        if direction.class_name == "LSTM":
            _check_activations(direction.settings)
    if backward.class_name != found.class_name:
        raise NotAnLSTM(f"expected the same kind of layer in both directions, found a {backward.class_name} backwards")
    return found


_REASONS = {
    "GRU": "a GRU: 3 gates, an LSTM has 4",
    "SimpleRNN": "a plain RNN: no gates, an LSTM has 4",
}


def _check_activations(settings: dict[str, Any]) -> None:
    for key, expected in (("activation", "tanh"), ("recurrent_activation", "sigmoid")):
        found = _function_name(settings.get(key))
        if found != expected:
            raise NotAnLSTM(f"expected {key} {expected}, which nn.LSTM has, found {found[:60]}")


def _function_name(value: Any) -> str:
    """The name of a function, as Keras 2 and 3 write it."""
    while isinstance(value, dict):
        value = value.get("config", {}) if isinstance(value.get("config"), str) else value.get("class_name")
    return str(value).lower() if value is not None else "nothing"


class NotProven(Exception):
    """It cannot be told who reads a layer; the message says what stands in the way."""


@dataclass(frozen=True)
class Route:
    """What becomes of an LSTM's output: layers that it passes, and those that read it, Dense, also over time, and LSTMs."""

    passed: list[Layer]
    readers: list[Layer]


def route_of(layer: Layer) -> Route:
    """Who reads an LSTM's output. Raises NotProven where anything else might, or where a reader reads more than that."""
    if layer.class_name == "Bidirectional" and layer.settings.get("merge_mode") != "concat":
        raise NotProven("its directions do not stay side by side")
    if (layer.inner() or layer).settings.get("return_state"):
        raise NotProven("it gives its states away")
    found = Route([], [])
    ahead, seen = [layer], {id(layer)}
    while ahead:
        current = ahead.pop()
        if current.is_output:
            raise NotProven("the model gives its output away")
        for reader in current.readers:
            if id(reader) in seen:
                continue
            seen.add(id(reader))
            if _reads_units(reader):
                found.readers.append(reader)
            elif _keeps_units(reader):
                found.passed.append(reader)
                ahead.append(reader)
            else:
                raise NotProven(f"{reader.name} reads it, a {reader.class_name}")
    if not found.readers:
        raise NotProven("nothing in the model reads it")
    known = {id(each) for each in (layer, *found.passed)}
    for reader in (*found.passed, *found.readers):
        if reader.many_inputs or any(id(source) not in known for source in reader.reads):
            raise NotProven(f"{reader.name} reads more than its output")
    return found


def _reads_units(reader: Layer) -> bool:
    inner = reader.inner()
    kind = inner.class_name if reader.class_name == "TimeDistributed" and inner else reader.class_name
    return kind in ("Dense", "Bidirectional", *_LSTMS)


def _keeps_units(reader: Layer) -> bool:
    """Whether a layer keeps the features of a unit apart, and 0 at 0."""
    inner = reader.inner()
    kind = inner.class_name if reader.class_name == "TimeDistributed" and inner else reader.class_name
    function = _function_name(reader.settings.get("activation")) if kind == "Activation" else None
    return kind in _KEEPS_ZERO or function in ("relu", "tanh", "linear")


def keeps_values(layer: Layer) -> bool:
    """Whether a layer that an output passes gives it on as it is, when a model is used."""
    return layer.class_name in _KEEPS_VALUES or _function_name(layer.settings.get("activation")) == "linear"


def readers_of(layer: Layer) -> list[Layer] | None:
    """The layers that read an LSTM's output; None where that is not proven."""
    try:
        return route_of(layer).readers
    except NotProven:
        return None


def _class_name(entry: dict[str, Any]) -> str:
    """The name of a class, without the package that it is registered under."""
    return str(entry.get("class_name", "")).rpartition(">")[2]


def _snake_case(name: str) -> str:
    """The name that Keras gives a layer of this class, by its own rule."""
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()
