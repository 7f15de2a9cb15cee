"""LSTMs that this project made smaller, as they lie in a file -> the masked ones of full size that they compute.

They are told by the names of their tensors in the modules of `load_pruned.py`: one layer and direction after the other.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from pruner.files.computed_weights import Weights, beginning, compute
from pruner.lstm.gates import GATES, SIDES
from pruner.lstm.kept import Part, row_parts, unit_parts
from pruner.lstm.lstm import LSTM, Skipped
from pruner.lstm.rebuilt import gone_beside, names_of_maps, rebuilt_of
from pruner.lstm.sizes import Shape, parameters_in

STANDS_FOR = "stands_for"  # (hidden size, layers, directions), of an LSTMCell (hidden size,)
# How much more than is stored may be made of it: an eighth of the units is a sixty-fourth of the weights.
MOST, MOST_MORE, ALWAYS = 2**28, 256, 2**22

_MOST_TOLD = 8  # layers and directions

_INDICES = re.compile(r"(?P<lstm>(.*\.)?)layers\.0\.(?P<what>kept|rows_hh)", re.DOTALL)
_INSIDE = re.compile(r"(?P<layers>.*)\.\d+\.lstm", re.DOTALL)
_PLACE = re.compile(r"layers\.\d+\.(kept|rows_hh)")  # one a layer and direction
_REBUILT = re.compile(r"layers\.(\d+)\.reconstruction\.(weight|bias)")


class _NotAsItWasMade(Exception):
    pass


@dataclass(frozen=True)
class _Small:
    """A compact LSTM of a file, with its tensors by their names in its module."""

    name: str
    units: bool  # else rows
    tensors: dict[str, Tensor]
    prefix: str

    @property
    def what(self) -> str:
        return "CompactLSTM" if self.units else "RowCompactLSTM"

    @cached_property
    def count(self) -> int:
        """Its layers and directions."""
        return sum(_PLACE.fullmatch(name) is not None for name in self.tensors)

    @cached_property
    def left(self) -> str:
        """What is left of each layer and direction, of the first ones where there are many."""
        which, what = ("kept", "hidden units") if self.units else ("rows_hh", "recurrent rows")
        sizes = [str(len(self.tensors[f"layers.{index}.{which}"])) for index in range(min(self.count, _MOST_TOLD))]
        return f"{', '.join(sizes)}{' …' if self.count > _MOST_TOLD else ''} {what}"


def widen_compact(weights: Weights, as_stored: bool = False) -> list[Skipped]:
    """Put the weights of the masked LSTM in the place of those of every compact one, and say why others stay as they are:
    all of them, `as_stored`.

    >>> from pruner.compact.load_pruned import CompactLSTM
    >>> stored = CompactLSTM(3, 8, [torch.tensor([0, 2, 5])]).state_dict()
    >>> weights = Weights(dict(stored), {name: name for name in stored})
    >>> widen_compact(weights), tuple(weights.tensors["weight_hh_l0"].shape)
    ([], (32, 8))
    """
    declined = []
    for small in list(_found(weights.tensors)):
        try:
            if as_stored:
                raise _NotAsItWasMade("to prune more, prune the file that it was made from")
            lstm = _facts(small)
            wide = _widened(small, lstm, weights)
        except _NotAsItWasMade as reason:
            declined.append(
                Skipped(
                    small.name,
                    f"a {small.what} of this project, pruned already ({small.left} left), which load_pruned.py loads; "
                    f"{reason}",
                )
            )
            continue
        plainly = (
            f"a Reconstructing{lstm.kind}" if any(map(_REBUILT.fullmatch, small.tensors)) else f"an nn.{lstm.kind}"
        )
        remedy = f"put {plainly} in the place of the {small.what} {lstm.title}"
        for plain, (value, parts) in wide.items():
            compute(weights, plain, value, parts, remedy)
        weights.notes.append(
            f"{lstm.title} is a {small.what} of this project, pruned already ({small.left} left of "
            f"{lstm.hidden_size if small.units else len(GATES) * lstm.hidden_size}). It is shown at its dense size, zeros "
            "in what is gone, and a sparsity counts from there"
        )
        if small.units:
            weights.gone[lstm.name] = {
                place: gone_beside(small.tensors[f"layers.{index}.kept"], lstm.hidden_size)
                for index, place in enumerate(lstm.places)
            }
    return declined


def outside_of(compact: list[Skipped], lstms: list[LSTM]) -> list[LSTM]:
    """The LSTMs that are no part of one of the compact ones."""
    places = {f"{whole.name}.layers" if whole.name else "layers" for whole in compact}
    inside = {lstm.name for lstm in lstms if (match := _INSIDE.fullmatch(lstm.name)) and match["layers"] in places}
    return [lstm for lstm in lstms if lstm.name not in inside]


def _found(tensors: Mapping[str, Tensor]) -> Iterator[_Small]:
    """Every compact LSTM among named tensors; what only looks like one is none."""
    names = sorted(tensors)
    for match in filter(None, map(_INDICES.fullmatch, names)):
        prefix = match["lstm"]
        inside = {name.removeprefix(prefix): tensors[name] for name in beginning(names, f"{prefix}layers.")}
        if f"{prefix}{STANDS_FOR}" in tensors:
            inside[STANDS_FOR] = tensors[f"{prefix}{STANDS_FOR}"]
        small = _Small(prefix.removesuffix("."), match["what"] == "kept", inside, prefix)
        if all(_looks_like_one(small, index) for index in range(small.count)):
            yield small


def _looks_like_one(small: _Small, index: int) -> bool:
    indices = small.tensors.get(f"layers.{index}.{'kept' if small.units else 'rows_hh'}")
    weight = small.tensors.get(f"layers.{index}.{'lstm.weight_hh_l0' if small.units else 'weight_hh_rows'}")
    if indices is None or weight is None or indices.dtype != torch.int64 or indices.dim() != 1 or weight.dim() != 2:
        return False
    return len(weight) == len(indices) * (len(GATES) if small.units else 1)


def _facts(small: _Small) -> LSTM:
    """What is known of it at full size. Raises _NotAsItWasMade."""
    said = small.tensors.get(STANDS_FOR)
    if said is None:
        raise _NotAsItWasMade(
            "its dense size is not in the file; to prune more, load it and save it by this version, or prune the file that "
            "it was made from"
        )
    sizes = said.tolist() if said.dtype == torch.int64 and said.shape in ((1,), (3,)) else [0]
    hidden_size, layers, directions = sizes if len(sizes) == 3 else [*sizes, 1, 1]
    first = small.tensors.get("layers.0.lstm.weight_ih_l0" if small.units else "layers.0.weight_ih_rows")
    projection = small.tensors.get("layers.0.lstm.weight_hr_l0" if small.units else "layers.0.projection")
    if not 0 < hidden_size <= MOST or directions not in (1, 2) or layers * directions != small.count:
        raise _odd(f"{small.count} layers and directions of one size", f"{sizes}")
    if first is None or first.dim() != 2 or (projection is not None and projection.dim() != 2):
        raise _odd("weights that are matrices", "others")
    bias = any("bias" in name and not _REBUILT.fullmatch(name) for name in small.tensors)
    lstm = LSTM(
        *(small.name, "LSTMCell" if len(sizes) == 1 else "LSTM", layers, directions == 2, first.shape[1], hidden_size),
        *(0 if projection is None else len(projection), bias, str(first.dtype).removeprefix("torch."), 0, {}),
    )
    stored = sum(tensor.numel() for tensor in small.tensors.values())
    if parameters_in(lstm.shapes().values()) > min(MOST, max(ALWAYS, MOST_MORE * stored)):
        raise _odd("a dense size that fits what is stored", f"{hidden_size} hidden units for {stored:,} numbers")
    return LSTM(**{**vars(lstm), "tensors": {standard: f"{small.prefix}{standard}" for standard in lstm.shapes()}})


def _widened(small: _Small, lstm: LSTM, weights: Weights) -> dict[str, tuple[Tensor, tuple[str, ...]]]:
    """{name in the file as it would be: the tensor of full size and what it is made of}. Raises _NotAsItWasMade."""
    parts, shapes, maps = _parts(small, lstm), lstm.shapes(), _maps(small, lstm)
    own = {inner for inner, _, _ in parts.values()} | set(maps.values())
    rest = [name for name in small.tensors if name not in own and name != STANDS_FOR]
    if strange := [name for name in rest if not name.endswith((".kept", ".rows_ih", ".rows_hh"))]:
        raise _odd("its own tensors alone", strange[0])
    found: dict[str, tuple[Tensor, tuple[str, ...]]] = {}
    for standard, (inner, part, shape) in parts.items():
        tensor = small.tensors.get(inner)
        if tensor is None or tuple(tensor.shape) != shape or str(tensor.dtype) != f"torch.{lstm.dtype}":
            raise _odd(
                f"{inner} of shape {shape}", "none" if tensor is None else f"{tuple(tensor.shape)} {tensor.dtype}"
            )
        plain = lstm.tensors[standard]
        if plain in weights.tensors:
            raise _odd(f"{plain} once", "it beside the smaller one")
        # The indices go with the first tensor: all are written anew where one is.
        more = [] if found else [*rest, STANDS_FOR]
        found[plain] = part.widen(tensor, shapes[standard]), tuple(f"{small.prefix}{name}" for name in (inner, *more))
    for plain, inner in maps.items():
        if plain in weights.tensors:
            raise _odd(f"{plain} once", "it beside the smaller one")
        found[plain] = small.tensors[inner], (f"{small.prefix}{inner}",)
    if maps and rebuilt_of(lstm, {plain: value for plain, (value, _) in found.items()}) is None:
        raise _odd("maps that fit its units", "others")
    return found


def _maps(small: _Small, lstm: LSTM) -> dict[str, str]:
    """{name in the file as it would be: name in the module} of what rebuilds units of its last layer, if it has that.
    Raises _NotAsItWasMade."""
    there = {name for name in small.tensors if _REBUILT.fullmatch(name)}
    if not there:
        return {}
    found = {}
    for standard, plain in names_of_maps(lstm).items():
        kind, *where = standard.replace("_", ".").split(".")
        place = f"layers.{len(lstm.places) - lstm.directions + int(where[0])}."
        found[plain] = place + ("kept" if kind == "kept" else f"{kind}.{where[1]}")
    if not small.units or not there <= set(found.values()) <= small.tensors.keys():
        raise _odd("what rebuilds units of its last layer", "others")
    return found


def _parts(small: _Small, lstm: LSTM) -> dict[str, tuple[str, Part, Shape]]:
    """{PyTorch's name: its name in the module, what is left of it, and the shape of that}. Raises _NotAsItWasMade."""
    found: dict[str, tuple[str, Part, Shape]] = {}
    if small.units:
        kept = dict(zip(lstm.places, _indices(small, "kept", lstm.hidden_size, lstm.proj_size + 1), strict=True))
        shapes = lstm.shapes({place: len(units) for place, units in kept.items()})
        named = {place: f"layers.{index}.lstm." for index, place in enumerate(lstm.places)}
        inside = {
            f"{kind}{lstm.suffix(*place)}": f"{named[place]}{kind}_l0"
            for place in lstm.places
            for kind in lstm.place_shapes(place[0])
        }
        tensors = {standard: standard for standard in shapes}
        for standard, part in unit_parts(LSTM(**{**vars(lstm), "tensors": tensors}), kept).items():
            found[standard] = inside[standard], part, shapes[standard]
        return found
    rows = [_indices(small, f"rows_{side}", len(GATES) * lstm.hidden_size, 0) for side in SIDES]
    wide = lstm.shapes()
    for standard, inner, part in row_parts(lstm, list(zip(*rows, strict=True))):
        count = wide[standard][0] if part.rows is None else len(part.rows)
        found[standard] = inner, part, (count, *wide[standard][1:])
    return found


def _indices(small: _Small, which: str, below: int, fewest: int) -> Sequence[Tensor]:
    """Those of each layer and direction. Raises _NotAsItWasMade unless they increase and stay below."""
    found = [small.tensors.get(f"layers.{index}.{which}", torch.zeros(0)) for index in range(small.count)]
    for each in found:
        good = each.dtype == torch.int64 and each.dim() == 1 and len(each) >= fewest
        if good and len(each):
            good = int(each[0]) >= 0 and int(each[-1]) < below and bool((each.diff() > 0).all())
        if not good:
            raise _odd(f"increasing indices below {below:,}", "others")
    return found


def _odd(expected: str, found: str) -> _NotAsItWasMade:
    return _NotAsItWasMade(
        f"expected {expected} in it, found {found}; to prune more, prune the file that it was made from"
    )
