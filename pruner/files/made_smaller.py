"""LSTMs that this project made smaller already, told by the names of their tensors in the modules of `load_pruned.py`."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from pruner.lstm.gates import GATES
from pruner.lstm.lstm import Skipped

_INDICES = re.compile(r"(?P<lstm>(.*\.)?)layers\.\d+\.(?P<what>kept|rows_hh)", re.DOTALL)


def compact_lstms(tensors: Mapping[str, Tensor]) -> list[Skipped]:
    """Every compact LSTM among named tensors, and why it is not pruned once more.

    >>> from pruner.compact.load_pruned import CompactLSTM
    >>> compact_lstms(CompactLSTM(3, 8, [torch.tensor([0, 2, 5])]).state_dict())[0].reason[:52]
    'a CompactLSTM of this project, pruned already (3 hid'
    """
    found: dict[str, list[tuple[str, str]]] = {}
    for name, tensor in tensors.items():
        match = _INDICES.fullmatch(name)
        if match and tensor.dtype == torch.int64 and tensor.dim() == 1:
            told = _of_units(name, tensors) if match["what"] == "kept" else _of_rows(name, tensors)
            if told is not None:
                found.setdefault(match["lstm"].removesuffix("."), []).append(told)
    return [
        Skipped(
            name,
            f"a {layers[0][0]} of this project, pruned already ({', '.join(left for _, left in layers)} left), which "
            "load_pruned.py loads; to prune more, prune the file that it was made from",
        )
        for name, layers in found.items()
    ]


def is_inside(lstm: str, compact: list[Skipped]) -> bool:
    """Whether an LSTM of this name is a part of one of the compact ones."""
    places = (f"{whole.name}.layers." if whole.name else "layers." for whole in compact)
    return lstm.endswith(".lstm") and any(lstm.startswith(place) for place in places)


def _of_units(kept: str, tensors: Mapping[str, Tensor]) -> tuple[str, str] | None:
    """What the module is called, and what is left of a layer and direction; None where the tensors are another's."""
    recurrent = tensors.get(f"{kept.removesuffix('kept')}lstm.weight_hh_l0")
    if recurrent is None or len(recurrent) != len(GATES) * len(tensors[kept]):
        return None
    return "CompactLSTM", f"{len(tensors[kept])} hidden units"


def _of_rows(rows: str, tensors: Mapping[str, Tensor]) -> tuple[str, str] | None:
    base = rows.removesuffix("rows_hh")
    recurrent, projection = tensors.get(f"{base}weight_hh_rows"), tensors.get(f"{base}projection")
    if recurrent is None or recurrent.dim() != 2 or len(recurrent) != len(tensors[rows]):
        return None
    hidden_size = recurrent.shape[1] if projection is None else projection.shape[-1]
    return "RowCompactLSTM", f"{len(recurrent)} of {len(GATES) * hidden_size} recurrent rows"
