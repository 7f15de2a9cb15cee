"""What the manifest of an export says of its ONNX files, and how people are told."""

import math
from collections.abc import Mapping
from typing import Any

FLOAT, INT8 = "pruned.onnx", "pruned.int8.onnx"
ONNX_FILES = (FLOAT, INT8)
TOLERANCE = 1e-5  # of the largest output, for the model in float32
DECLINED = "declined"  # instead of all else: why there are none

# The names of an LSTM's values in a graph by what `nn.LSTM` calls them, "" where there is none, as the manifest has them:
# `input`, `output`, `h_n` and `c_n`, `h_0` and `c_0` of each layer; whether it reads `reverse`, and in `made_by` the name of
# the LSTM whose output is its input, if one's is.
Values = Mapping[str, Any]
OUTPUTS, INITIAL = ("output", "h_n", "c_n"), ("h_0", "c_0")

# Keys and types, as JSON has them; lists and dictionaries of names are looked into below.
_TYPES = {"files": dict, "consumers": dict, "batch_first": bool, "notes": list, "versions": dict}
_OF_A_FILE = {"sha256": str, "bytes": int, "max_abs_difference": float, "max_abs_output": float}
_OF_A_GRAPH = {"files": dict, "values": dict, "states": dict, "notes": list, "versions": dict}
_OF_VALUES = {
    **dict.fromkeys(("input", "output", "h_n", "c_n"), str),
    **dict.fromkeys(("h_0", "c_0", "made_by"), list),
    "reverse": bool,
}
_OF_CONSUMERS = {"max_abs_difference": float, "max_abs_output": float}
_OF_QUALITY = {"name": str, "value": float, "higher_is_better": bool}


def well_formed(found: Mapping[str, Any]) -> bool:
    """Whether a manifest's `onnx` has what it must have, and nothing else.

    Either `declined`, a sentence; or `files`, {name: sha256, bytes, max_abs_difference and max_abs_output of the LSTMs, the
    same of their `consumers` if there are any, and `quality` where it could be measured} for both files; `consumers`, the
    names of those in the graph by the names of their LSTMs; `batch_first`, `notes` and `versions`.

    Of a whole graph: `files`, at least the first, whose `graph` is how far its outputs are from those of the masked graph;
    `values`, the names that those of each LSTM have in the graph; `states`, {input that is a state: output that it is fed
    from, or None}; `notes` and `versions`.
    """
    if found.keys() == {DECLINED}:
        return isinstance(found[DECLINED], str)
    if is_whole(found):
        return _whole_well_formed(found)
    if not _has(found, _TYPES) or found["files"].keys() != set(ONNX_FILES):
        return False
    named = [name for names in found["consumers"].values() for name in (names if isinstance(names, list) else [None])]
    texts = [*named, *found["notes"], *found["versions"].values()]
    return all(map(_file_well_formed, found["files"].values())) and all(isinstance(text, str) for text in texts)


def names_in(values: Mapping[str, Values]) -> list[str]:
    """All values of a graph that are read of its LSTMs."""
    names = [
        name
        for own in values.values()
        for name in (own["input"], *(own[key] for key in OUTPUTS), *(each for key in INITIAL for each in own[key]))
    ]
    return list(dict.fromkeys(filter(None, names)))


def is_whole(found: Mapping[str, Any]) -> bool:
    """Whether the files hold the whole graph of a model that came as ONNX, and not LSTMs and their consumers alone."""
    return "values" in found


def _whole_well_formed(found: Mapping[str, Any]) -> bool:
    if not _has(found, _OF_A_GRAPH) or not {FLOAT} <= found["files"].keys() <= set(ONNX_FILES):
        return False
    if not all(_has(own, _OF_VALUES) for own in found["values"].values()):
        return False
    initial = [name for own in found["values"].values() for key in ("h_0", "c_0", "made_by") for name in own[key]]
    texts = [*initial, *found["notes"], *found["versions"].values(), *filter(None, found["states"].values())]
    files = found["files"].values()
    return all(_file_well_formed(file) and "graph" in file for file in files) and all(
        isinstance(text, str) for text in texts
    )


def _file_well_formed(found: Any) -> bool:
    optional: dict[str, Mapping[str, type]] = {
        "consumers": _OF_CONSUMERS,
        "graph": _OF_CONSUMERS,
        "quality": _OF_QUALITY,
    }
    if not isinstance(found, dict):
        return False
    parts = {key: value for key, value in found.items() if key in optional}
    own = {key: value for key, value in found.items() if key not in optional}
    if not _has(own, _OF_A_FILE) or not all(_has(part, optional[key]) for key, part in parts.items()):
        return False
    pairs = [own, *(parts[key] for key in ("consumers", "graph") if key in parts)]
    measured = [pair[key] for pair in pairs for key in _OF_CONSUMERS]
    return min(measured) >= 0 and all(map(math.isfinite, measured))


def _has(found: Any, types: Mapping[str, type]) -> bool:
    """Whether it is a dictionary of exactly these keys and types."""
    same_keys = isinstance(found, dict) and found.keys() == types.keys()
    return same_keys and all(type(found[key]) is wanted for key, wanted in types.items())


def agrees(measured: Mapping[str, Any]) -> bool:
    """Whether what was measured of the model in float32 is within `TOLERANCE`; NaN is not."""
    pairs = [measured, *(measured[key] for key in ("consumers", "graph") if key in measured)]
    return all(pair["max_abs_difference"] <= TOLERANCE * pair["max_abs_output"] for pair in pairs)


def told(facts: Mapping[str, Any]) -> list[str]:
    """The same in sentences, one a file."""
    if DECLINED in facts:
        return [f"no ONNX files: {facts[DECLINED]}"]
    sentences = []
    for name, file in facts["files"].items():
        sentence = (
            f"{name}: {file['bytes']:,} bytes; in ONNX Runtime it differs from the pruned model by at most "
            f"{file['max_abs_difference']:.2g} where outputs reach {file['max_abs_output']:.2g}"
        )
        if graph := file.get("graph"):
            sentence += (
                f"; the outputs of the whole graph differ from those of the masked one by at most "
                f"{graph['max_abs_difference']:.2g} where they reach {graph['max_abs_output']:.2g}"
            )
        if quality := file.get("quality"):
            sentence += f"; {quality['name']} {quality['value']:.4f}"
        sentences.append(sentence)
    return [*sentences, *facts["notes"]]
