"""What PyTorch's dynamic quantization leaves of LSTMs, cells and linear layers -> their weights under their own names.

It packs the matrices into objects of its own (`torch.ao.nn.quantized.dynamic`), one for each layer and direction.
"""

import re
from collections.abc import Mapping
from typing import Any

from pruner.files.contents import Name, StandIn, Stored

PACKED = ("param", "_packed_weight_ih", "_packed_weight_hh", "_packed_params")  # attributes that hold packed matrices
NOTE = "quantized by PyTorch; the weights are shown dequantized"

_LSTM = re.compile(r"(.*)_all_weight_values\.(\d{1,4})\.param", re.DOTALL)
_CELL_SIDES = {"_packed_weight_ih": "ih", "_packed_weight_hh": "hh"}
_LINEAR = "_packed_params._packed_params"
_OF_LINEAR = ("scale", "zero_point", "_packed_params.dtype")


def is_packed(value: Any) -> bool:
    """Whether a value is one of the objects that quantization packs matrices into."""
    return _state(value) is not None


def unpacked(
    values: Mapping[str, Any], bidirectional: Mapping[str, bool]
) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """A state dict with plain names in place of packed ones, and what could not be told apart: (name, reason).

    `bidirectional` says of LSTMs, by name, whether they are, where the file does.
    """
    found: dict[str, Any] = {}
    skipped: list[tuple[str, str]] = []
    layers: dict[str, list[tuple[Any, Any]]] = {}
    dropped = set()
    for key, value in values.items():
        prefix, _, last = key.rpartition(".")
        prefix = f"{prefix}." if prefix else ""
        if match := _LSTM.fullmatch(key):
            if match[1] not in layers:
                found[key] = None  # their place
            layers.setdefault(match[1], []).append(value)
        elif last in _CELL_SIDES and (matrix := _matrix(value)):
            found |= _named(prefix, _CELL_SIDES[last], "", matrix)
        elif key.endswith(_LINEAR) and (matrix := _matrix(value)):
            layer = key.removesuffix(_LINEAR)
            found |= {f"{layer}weight": matrix[0]} | ({f"{layer}bias": matrix[1]} if matrix[1] else {})
            dropped |= {f"{layer}{other}" for other in _OF_LINEAR}
        else:
            found[key] = value
    for prefix, cells in layers.items():
        name = prefix.removesuffix(".")
        try:
            found |= _lstm(prefix, cells, bidirectional.get(name))
        except ValueError as error:
            skipped.append((name, str(error)))
    return {key: value for key, value in found.items() if key not in dropped and value is not None}, skipped


def _lstm(prefix: str, cells: list[Any], bidirectional: bool | None) -> dict[str, Stored]:
    """The tensors of an LSTM from its packed layers and directions, in the order of the computation."""
    matrices = [_cell(cell) for cell in cells]
    if bidirectional is None:
        bidirectional = _is_bidirectional([ih[0].shape for ih, _ in matrices])
    directions = ("", "_reverse") if bidirectional else ("",)
    found: dict[str, Stored] = {}
    for number, sides in enumerate(matrices):
        layer, direction = divmod(number, len(directions))
        for side, matrix in zip(("ih", "hh"), sides, strict=True):
            found |= _named(prefix, side, f"_l{layer}{directions[direction]}", matrix)
    return found


def _is_bidirectional(shapes: list[tuple[int, ...]]) -> bool:
    """Told from the widths of what each layer and direction reads. Raises ValueError where both would fit."""
    if any(len(shape) != 2 for shape in shapes):
        raise ValueError("expected packed matrices, found others; open the model before it was quantized")
    if len(shapes) == 1:
        return False
    hidden = shapes[0][0] // 4
    if len(shapes) > 2:
        return shapes[2][1] == 2 * hidden
    if shapes[0][1] == shapes[1][1] == hidden:
        raise ValueError(
            "expected one layer or one direction of a quantized LSTM, found two of the same shape, which can be layers or "
            "directions; save the whole module, or open the model before it was quantized"
        )
    return shapes[0][1] == shapes[1][1]


def _cell(value: Any) -> list[tuple[Stored, Stored | None]]:
    """The two matrices with their biases of one layer and direction."""
    state = _state(value)
    if isinstance(state, tuple) and state and isinstance(state[-1], list):
        matrices = [matrix for part in state[-1] if (matrix := _matrix(part))]
        if len(matrices) == 2:
            return matrices
    raise ValueError("expected two packed matrices a layer, found others; open the model before it was quantized")


def _named(prefix: str, side: str, suffix: str, matrix: tuple[Stored, Stored | None]) -> dict[str, Stored]:
    weight, bias = matrix
    return {f"{prefix}weight_{side}{suffix}": weight} | ({f"{prefix}bias_{side}{suffix}": bias} if bias else {})


def _matrix(value: Any) -> tuple[Stored, Stored | None] | None:
    """A packed matrix, or what is left of one, with its bias."""
    state = _state(value) if isinstance(value, StandIn) else value
    if not isinstance(state, tuple) or len(state) != 2 or not isinstance(state[0], Stored):
        return None
    return (state[0], state[1]) if state[1] is None or isinstance(state[1], Stored) else None


def _state(value: Any) -> Any:
    """What a packed object is made of; None for other things."""
    if not isinstance(value, StandIn) or not isinstance(value.of, Name) or value.of.name != "ScriptObject":
        return None
    return value.state[0] if isinstance(value.state, tuple) and len(value.state) == 2 else None
