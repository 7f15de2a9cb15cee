"""A mapping: which tensors of a file are which of an LSTM that somebody wrote by hand, as its owner says."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pruner.errors import PrunerError, shown
from pruner.files.source import read_small
from pruner.lstm.gates import GATES, parse_standard_name

MAX_SIZE = 2**20  # bytes of a file with a mapping

_SOURCE = re.compile(
    r"(?P<name>.+?)(?:\[(?P<rows>-?\d*:-?\d*)(?:, *(?P<columns>-?\d*:-?\d*))?\])?(?P<turned>\.T)?", re.DOTALL
)


def read_mapping(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The mapping in a JSON file. Raises PrunerError for a file that holds none."""
    return parse_mapping(read_small(Path(path), MAX_SIZE, "a mapping"))


def parse_mapping(text: str | bytes) -> dict[str, Any]:
    """The mapping that JSON says. Raises PrunerError for anything else."""
    try:
        return check_mapping(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise PrunerError(f"expected a mapping in JSON, found {shown(str(error))}; correct it") from error


def check_mapping(mapping: Any) -> dict[str, Any]:
    """A mapping, if it is one: `{"gates": "ifgo", "lstm.weight_ih_l0": source, ...}`.

    The keys are the names that PyTorch would give the tensors of an `nn.LSTM` or `nn.LSTMCell`. A source is the name of a
    tensor in the file, with the rows and columns to take of it and `.T` where it is to be transposed
    (`"x2h.weight[:, :16].T"`), or a list of four, one for each gate. `gates` is the order of the gates in packed tensors and
    in lists. Of two biases one can be left out: it is zero. Raises PrunerError for anything else.
    """
    if not isinstance(mapping, Mapping) or len(mapping) < 2:
        raise _unusable("an object of names", mapping)
    gates = mapping.get("gates", "".join(GATES))
    if not isinstance(gates, str) or sorted(gates) != sorted(GATES):
        raise _unusable('"gates" as an order of the letters i, f, g, o (g is the cell gate)', gates)
    for name, source in mapping.items():
        if name == "gates":
            continue
        if not isinstance(name, str) or parse_standard_name(name.rpartition(".")[2]) is None:
            raise _unusable("names such as lstm.weight_ih_l0", name)
        several = source if isinstance(source, list) else [source]
        if len(several) not in (1, 4) or not all(isinstance(each, str) and each for each in several):
            raise _unusable(f"a tensor's name for {name}, or a list of one a gate", source)
    return {"gates": gates, **mapping}


def apply_mapping(tensors: Mapping[str, Tensor], mapping: Mapping[str, Any], file: str) -> dict[str, Tensor]:
    """The tensors of a file with those that the mapping makes of them in place of those that it names.

    Raises PrunerError where a tensor is not there or does not have the rows and columns that are asked for.
    """
    mapping = check_mapping(mapping)
    made: dict[str, Tensor] = {}
    used: set[str] = set()
    for name, source in mapping.items():
        if name != "gates":
            several = source if isinstance(source, list) else [source]
            parts = [_part(each, tensors, used, file) for each in several]
            made[name] = _in_order(name, parts, mapping["gates"], file)
    for name in list(made):
        other = name.replace("bias_ih", "bias_hh") if "bias_ih" in name else name.replace("bias_hh", "bias_ih")
        if other != name and other not in made:
            made[other] = torch.zeros_like(made[name])
    kept = {name: tensor for name, tensor in tensors.items() if name not in used}
    if taken := sorted(kept.keys() & made.keys()):
        raise PrunerError(
            f"expected new names in the mapping, found {shown(taken[0])}, which {file} has; choose another"
        )
    return {**kept, **made}


def _part(source: str, tensors: Mapping[str, Tensor], used: set[str], file: str) -> Tensor:
    match = _SOURCE.fullmatch(source)
    name, rows, columns, turned = (source, None, None, None) if source in tensors or not match else match.groups()
    if name not in tensors:
        raise PrunerError(
            f"expected the name of a tensor of {file} in the mapping, found {shown(name)}; it has "
            f"{', '.join(shown(each) for each in list(tensors)[:5])}, …"
        )
    used.add(name)
    tensor = tensors[name]
    index = tuple(_slice(text) for text in (rows, columns) if text is not None)
    if len(index) > tensor.dim() or tensor.dim() not in (1, 2):
        raise PrunerError(
            f"expected a matrix or a bias in the mapping, found {shown(source)} of shape {tuple(tensor.shape)}"
        )
    part = tensor[index]
    return part.T if turned else part


def _slice(text: str) -> slice:
    start, _, end = text.partition(":")
    return slice(int(start) if start else None, int(end) if end else None)


def _in_order(name: str, parts: list[Tensor], gates: str, file: str) -> Tensor:
    """Rows of four gates in the order of `gates` -> in PyTorch's. A projection has no gates."""
    if "weight_hr" in name:
        return parts[0].contiguous()
    if len(parts) == 1:
        rows = len(parts[0])
        parts = list(parts[0].chunk(4)) if rows % 4 == 0 and rows else parts
    if len(parts) != 4 or len({part.shape for part in parts}) > 1 or len({part.dtype for part in parts}) > 1:
        found = ", ".join(str(tuple(part.shape)) for part in parts)
        raise PrunerError(f"expected four gates of one shape for {name} in {file}, found {found}; correct the mapping")
    return torch.cat([parts[gates.index(gate)] for gate in GATES])


def _unusable(expected: str, found: object) -> PrunerError:
    example = '{"gates": "ifgo", "lstm.weight_ih_l0": "x2h.weight", "lstm.weight_hh_l0": "h2h.weight"}'
    return PrunerError(f"expected {expected} in a mapping, found {shown(found)}; write it as in {example}")
