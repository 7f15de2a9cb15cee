"""LSTMs that somebody wrote by hand, from `nn.Linear` or matrices of other names: they are pointed out, never guessed.

What their tensors mean lies in code: which rows are which gate, and whether inputs or states come first. The owner can say
so in a mapping (see `mapping`), of which an example is given.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from pruner.lstm.gates import GATES, parse_standard_name
from pruner.lstm.lstm import Skipped

_WORDS = {
    **dict.fromkeys(("i", "input", "inp", "in"), "i"),
    **dict.fromkeys(("f", "forget"), "f"),
    **dict.fromkeys(("g", "c", "u", "a", "cell", "candidate", "cand", "memory", "update"), "g"),
    **dict.fromkeys(("o", "output", "out"), "o"),
}
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|\d+")
_PAIRS = (("ih", "hh"), ("x2h", "h2h"), ("i2h", "h2h"), ("input", "hidden"), ("input", "recurrent"), ("w", "u"))
_LONGEST = 40  # letters of a layer's name that a gate is looked for in
_MOST = 5  # that are pointed out in one file


@dataclass(frozen=True)
class _Found:
    """Names of tensors as a mapping takes them: one that is packed, or four of a gate each, in the order of `GATES`."""

    prefix: str
    sources: dict[str, str | list[str]]


def look_for(tensors: Mapping[str, Tensor]) -> list[Skipped]:
    """What looks like an LSTM of a layout of its own, with the mapping to begin with."""
    tensors = {name: tensor for name, tensor in tensors.items() if parse_standard_name(name.rpartition(".")[2]) is None}
    found = [*_packed(tensors), *_gate_by_gate(tensors)][:_MOST]
    return [Skipped(each.prefix.rstrip("."), _reason(each), _mapping(each)) for each in found]


def _packed(tensors: Mapping[str, Tensor]) -> Iterator[_Found]:
    """Matrices (4H, I) and (4H, H) side by side, whose names tell inputs and states apart."""
    places: dict[tuple[str, str], dict[str, str]] = {}
    for name, tensor in tensors.items():
        if tensor.dim() == 2:
            prefix, own, end = _split(name)
            places.setdefault((prefix, end), {})[own.lower().removeprefix("weight_")] = name
    for (prefix, _), names in places.items():
        for inputs, states in _PAIRS:
            if inputs not in names or states not in names:
                continue
            weights = {"ih": names[inputs], "hh": names[states]}
            rows, columns = tensors[weights["hh"]].shape
            if rows == 4 * columns > 0 and len(tensors[weights["ih"]]) == rows:
                biases = {side: _bias_of(name) for side, name in weights.items() if _bias_of(name) in tensors}
                sources: dict[str, str | list[str]] = {f"weight_{side}_l0": name for side, name in weights.items()}
                yield _Found(prefix, sources | {f"bias_{side}_l0": name for side, name in biases.items()})


def _gate_by_gate(tensors: Mapping[str, Tensor]) -> Iterator[_Found]:
    """Tensors whose names differ by the gate alone: (H, I) and (H, H), or (H, I + H) for both at once."""
    sets: dict[tuple[str, str, tuple[int, ...]], dict[str, str]] = {}
    for name, tensor in tensors.items():
        prefix, own, end = _split(name)
        for gate, rest in _without_gate(own) if tensor.dim() in (1, 2) and len(own) <= _LONGEST else ():
            sets.setdefault((prefix, rest + end, tuple(tensor.shape)), {})[gate] = name
    whole: dict[str, list[tuple[tuple[int, ...], list[str]]]] = {}
    for (prefix, _, shape), names in sets.items():
        if names.keys() == set(GATES):
            whole.setdefault(prefix, []).append((shape, [names[gate] for gate in GATES]))
    for prefix, shaped in whole.items():
        matrices = [(shape, names) for shape, names in shaped if len(shape) == 2]
        units = {shape[0] for shape, _ in matrices}
        if len(units) != 1:
            continue
        size = units.pop()
        sources = _sides(size, matrices)
        if sources:
            biases = [names for shape, names in shaped if shape == (size,)]
            yield _Found(prefix, sources | dict(zip(("bias_ih_l0", "bias_hh_l0"), biases, strict=False)))


def _sides(size: int, matrices: Sequence[tuple[tuple[int, ...], list[str]]]) -> dict[str, str | list[str]]:
    """Which of the matrices of `size` rows read inputs and which states."""
    square = [names for shape, names in matrices if shape[1] == size]
    other = [(shape[1], names) for shape, names in matrices if shape[1] != size]
    if len(square) == 2 and not other:
        return {"weight_ih_l0": square[0], "weight_hh_l0": square[1]}
    if len(square) == 1 and len(other) == 1:
        return {"weight_ih_l0": other[0][1], "weight_hh_l0": square[0]}
    if not square and len(other) == 1 and other[0][0] > size:
        width, names = other[0][0] - size, other[0][1]
        return {
            "weight_ih_l0": [f"{name}[:, :{width}]" for name in names],
            "weight_hh_l0": [f"{name}[:, {width}:]" for name in names],
        }
    return {}


def _without_gate(name: str) -> Iterator[tuple[str, str]]:
    """(gate, the name without it) for each way to read a gate into a name: a word, or a letter at the end of a short one."""
    words = _WORD.findall(name)
    for index, word in enumerate(words):
        before, after = "".join(words[:index]), "".join(words[index + 1 :])
        if word.lower() in _WORDS:
            yield _WORDS[word.lower()], f"{before}*{after}".lower()
        elif len(word) <= 3:
            for place in (0, len(word) - 1):
                if gate := _WORDS.get(word[place].lower()):
                    yield gate, f"{before}{word[:place]}*{word[place + 1 :]}{after}".lower()


def _split(name: str) -> tuple[str, str, str]:
    """(prefix of the module around, own name, ".weight", ".bias" or nothing)."""
    end = next((end for end in (".weight", ".bias") if name.endswith(end)), "")
    prefix, dot, own = name.removesuffix(end).rpartition(".")
    return f"{prefix}{dot}", own, end


def _bias_of(name: str) -> str:
    return f"{name.removesuffix('weight')}bias"


def _mapping(found: _Found) -> dict[str, str | list[str]]:
    name = found.prefix or "lstm."
    return {"gates": "".join(GATES), **{f"{name}{standard}": source for standard, source in found.sources.items()}}


def _reason(found: _Found) -> str:
    return (
        "an LSTM written by hand, it seems: expected the layout of nn.LSTM, weight_ih_l0 (4H, I) and weight_hh_l0 (4H, H) "
        "with rows in the order i, f, g, o; say which tensor is which in a mapping (JSON), gates in the order of your code: "
        f"{json.dumps(_mapping(found))}"
    )
