"""The configuration of a Keras model with other numbers of units in its LSTMs."""

from collections.abc import Iterator, Mapping
from typing import Any

from pruner.files.keras_config import Layer, NotProven, layers_of, route_of

_DESCRIBED = ("build_config", "inbound_nodes", "batch_input_shape", "input_shape")  # under which shapes of inputs lie
_WRAPPED = ("layer", "backward_layer", "cell")


def why_whole(layer: Layer) -> str | None:
    """Why an LSTM of a model must keep its units; None where everything that depends on them is known."""
    if layer.many_inputs:
        return "it is given more than its inputs, a state perhaps"
    try:
        route_of(layer)
    except NotProven as reason:
        return str(reason)
    return None


def resize(config: dict[str, Any], units: Mapping[str, int]) -> None:
    """Give LSTMs, by the names of their layers, other numbers of units, and all that their outputs reach the new width.

    Works in place. Raises NotProven as `route_of` does.
    """
    for layer in layers_of(config):
        if layer.name not in units:
            continue
        route, own = route_of(layer), list(_settings_with_units(layer.settings))
        directions = 2 if layer.class_name == "Bidirectional" else 1
        before, after = directions * own[0]["units"], directions * units[layer.name]
        for settings in own:
            settings["units"] = units[layer.name]
        for each in (*route.passed, *route.readers):
            _set_width(each.entry, before, after, False)


def _settings_with_units(settings: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Those of the LSTM in each direction, or of its cell."""
    wrapped = [settings[key]["config"] for key in _WRAPPED if isinstance(settings.get(key), dict)]
    for inside in wrapped:
        yield from _settings_with_units(inside)
    if not wrapped:
        yield settings


def _set_width(value: Any, before: int, after: int, described: bool) -> None:
    """Set the last size of every shape that describes an input."""
    if isinstance(value, dict):
        for key, item in value.items():
            _set_width(item, before, after, described or key in _DESCRIBED)
    elif isinstance(value, list):
        if described and value and value[-1] == before and all(item is None or type(item) is int for item in value):
            value[-1] = after
        for item in value:
            _set_width(item, before, after, described)
