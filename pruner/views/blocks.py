"""The eight blocks of every layer and direction as figures: where their rows lie, and how many are next to nothing."""

import math
from collections.abc import Mapping

import pandas as pd
import torch
from torch import Tensor

from pruner.lstm.gates import BLOCKS, GATE_TITLES, GATES, split_gates
from pruner.lstm.lstm import LSTM

NEAR_ZERO = 0.1  # a row is near zero if its saliency is at most this share of its block's median
BINS = 16  # of a distribution
REACH = 2.0  # a distribution spans from 0 to this many medians; its last bin holds all that lies above


def block_table(lstm: LSTM, saliency: Mapping[str, Tensor], criterion: str = "l1") -> pd.DataFrame:
    """One line a block, in the order of the computation: where it stands and how the saliency of its rows is distributed.

    `saliency` holds (4H,) of every packed weight, by its name in the file. `median per weight` compares between blocks of
    different widths: the median over the number of columns, with the Euclidean norm `l2` over its square root. `near zero`
    is a share from 0 to 1, see `NEAR_ZERO`; `distribution` is a list of counts, see `distribution`.
    """
    lines = []
    for (layer, direction, side), name in lstm.weight_names().items():
        gates = split_gates(saliency[name]).cpu()
        columns = lstm.columns(layer, side)
        medians = gates.median(1).values
        facts = {
            "lowest": gates.amin(1),
            "median": medians,
            "mean": gates.mean(1),
            "highest": gates.amax(1),
            "median per weight": medians / (math.sqrt(columns) if criterion == "l2" else columns),
            "highest over median": gates.amax(1) / medians,
            "near zero": near_zero(gates).double().mean(1),
            "distribution": distribution(gates),
        }
        values = {fact: tensor.tolist() for fact, tensor in facts.items()}
        for index, (gate, block) in enumerate(zip(GATES, BLOCKS[side], strict=True)):
            place = {
                "lstm": lstm.name,
                "layer": layer,
                "direction": "reverse" if direction else "forward",
                "block": block,
                "gate": GATE_TITLES[gate],
                "rows": lstm.hidden_size,
                "columns": columns,
            }
            lines.append(place | {fact: of_gates[index] for fact, of_gates in values.items()})
    return pd.DataFrame(lines)


def near_zero(gates: Tensor) -> Tensor:
    """Which rows of the blocks (4, H) have a saliency of at most `NEAR_ZERO` of their block's median. Where more than half
    of a block is zero, so is its median, and its zero rows are those near zero."""
    return gates <= NEAR_ZERO * gates.median(1, keepdim=True).values


def distribution(gates: Tensor) -> Tensor:
    """(4, H) saliencies -> (4, BINS) counts from 0 to `REACH` medians of each block. The last bin holds all above.

    A block whose median is zero is spread from 0 to its highest row instead.
    """
    medians, highest = gates.median(1, keepdim=True).values, gates.amax(1, keepdim=True)
    span = torch.where(medians > 0, REACH * medians, highest).clamp(min=torch.finfo(gates.dtype).tiny)
    bins = (gates / span * BINS).long().clamp(0, BINS - 1)
    counts = torch.zeros(len(gates), BINS, dtype=torch.int64, device=gates.device)
    return counts.scatter_add_(1, bins, torch.ones_like(bins))
