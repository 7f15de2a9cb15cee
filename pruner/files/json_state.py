"""State dicts as JSON, whose tensors are nested lists of numbers: GuitarML and others write them."""

import json
from typing import Any

import numpy as np

from pruner.errors import PrunerError, shown
from pruner.files import arrays
from pruner.files.contents import Contents

JSON = "JSON state dict"
MAX_SIZE = 64 * 2**20

_SPARE_MEMORY = 150 * 2**20
_MANIFEST = {"source", "recipe", "certificate"}  # keys that the manifest of an export has
_NESTING = 2  # state dicts are looked for this many objects deep
_MAX_RANK = 8
_SPACE = b" \t\r\n"


def matches(data: memoryview) -> bool:
    return bytes(data[:64]).removeprefix(b"\xef\xbb\xbf").lstrip(_SPACE)[:1] == b"{"


def read(data: memoryview, name: str) -> Contents:
    """An object with lists of numbers in it, which become float32 tensors. Raises PrunerError where there are none."""
    container = load(data, name)
    found = 0

    def arrays_in(value: dict[str, Any], depth: int) -> dict[str, Any]:
        nonlocal found
        made: dict[str, Any] = {}
        for key, item in value.items():
            array = _array(item) if isinstance(item, list) else None
            found += array is not None
            nested = isinstance(item, dict) and depth < _NESTING
            made[key] = arrays_in(item, depth + 1) if nested else item if array is None else arrays.stored(array)
        return made

    contents = arrays_in(container, 0)
    if not found or container.keys() >= _MANIFEST:  # whose shapes are lists of numbers, too
        raise PrunerError(f"expected a state dict in {name}, found JSON {_what_else(container)}")
    return Contents(JSON, contents)


def load(data: memoryview, name: str) -> dict[str, Any]:
    """A JSON object. Raises PrunerError for what is none, or would take much more memory than the file does."""
    if len(data) > MAX_SIZE:
        raise PrunerError(
            f"expected JSON of at most {MAX_SIZE:,} bytes, found {len(data):,}: {name}; save the tensors as .safetensors"
        )
    try:
        text = str(data, "utf-8-sig")
        _check_memory(text, name)
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PrunerError(
            f"expected complete JSON, found a damaged file: {name} ({shown(str(error), 160)}); save or download it again"
        ) from error
    if not isinstance(found, dict):
        raise PrunerError(f"expected a JSON object, found a {type(found).__name__}: {name}; save a state dict in it")
    return found


def _check_memory(text: str, name: str) -> None:
    """Refuse what would take much more memory than the file: a list at each bracket, a value at each comma, a name at each
    colon."""
    memory = 72 * (text.count("[") + text.count("{")) + 32 * text.count(",") + 150 * text.count(":")
    if memory > len(text) + _SPARE_MEMORY:
        raise PrunerError(
            f"expected JSON that takes not much more memory than the file, found {len(text):,} characters that would take "
            f"{memory:,} bytes: {name}; save the tensors as .safetensors"
        )


def _array(value: list[Any]) -> np.ndarray | None:
    """Nested lists of numbers as an array; None for lists of anything else, or of different lengths."""
    first, rank = value, 0
    while isinstance(first, list) and first and rank <= _MAX_RANK:
        first, rank = first[0], rank + 1
    if isinstance(first, bool) or not isinstance(first, (int, float)) or rank > _MAX_RANK:
        return None
    try:
        array = np.array(value, np.float64)
    except (ValueError, TypeError, OverflowError):
        return None
    with np.errstate(over="ignore"):
        return array.astype(np.float32)


def _what_else(container: dict[str, Any]) -> str:
    keys = set(container)
    if {"class_name", "config"} <= keys:
        return "of a Keras model's layers, without its weights; open the .h5 or .keras file that holds them"
    if "weight_map" in keys:
        return "that lists files with weights; join those, or open the one that holds the whole LSTM"
    if keys >= _MANIFEST:
        return "of an export of this project; open the pruned file beside it"
    listed = ", ".join(shown(key, 40) for key in list(container)[:5])
    return f"without lists of numbers ({listed or 'empty'}); open the file that holds the weights"
