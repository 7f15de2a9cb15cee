"""What a set of masks leaves and takes, in numbers."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from pruner.importance.masks import unit_agreement
from pruner.lstm.kept import row_masks
from pruner.lstm.lstm import LSTM


@dataclass(frozen=True)
class Summary:
    """What a set of masks leaves and takes, over one or more LSTMs."""

    rows: int
    dropped_rows: int
    weights: int  # in the rows
    dropped_weights: int
    saliency_kept: float  # share of the summed saliency of all rows, 0 to 1
    units: int  # hidden units of every layer and direction
    dropped_units: int  # of these, units that all eight blocks drop


def summarize(lstms: Iterable[LSTM], masks: Mapping[str, Tensor], saliency: Mapping[str, Tensor]) -> Summary:
    """Count what the masks of some LSTMs drop; `masks` and `saliency` are (4H,) by the names in the file."""
    rows = dropped = weights = dropped_weights = units = dropped_units = 0
    total = kept = 0.0
    for lstm in lstms:
        for (layer, _, side), name in lstm.weight_names().items():
            mask = masks[name].cpu()
            fallen = len(mask) - int(mask.sum())
            columns = lstm.columns(layer, side)
            rows, dropped = rows + len(mask), dropped + fallen
            weights, dropped_weights = weights + len(mask) * columns, dropped_weights + fallen * columns
            total, kept = total + float(saliency[name].sum()), kept + float(saliency[name].cpu()[mask].sum())
        for pair in row_masks(lstm, masks).values():
            agreement = unit_agreement(list(pair))
            units, dropped_units = units + len(agreement), dropped_units + int((agreement == 0).sum())
    return Summary(rows, dropped, weights, dropped_weights, kept / total if total else 1.0, units, dropped_units)
