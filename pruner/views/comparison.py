"""Two choices against each other: where their recipes differ, and which rows only one of them drops."""

from collections.abc import Iterable, Mapping

import pandas as pd
import torch
from torch import Tensor

from pruner.importance.weights import as_table
from pruner.lstm.gates import BLOCKS, split_gates
from pruner.lstm.lstm import LSTM
from pruner.recipe import Recipe


def differing_settings(a: Recipe, now: Recipe) -> pd.DataFrame:
    """One line a setting that differs: setting, A, now."""
    before, after = a.to_dict(), now.to_dict()
    lines = [
        (name.replace("_", " "), _told(before[name]), _told(after[name]))
        for name in before
        if before[name] != after[name]
    ]
    return pd.DataFrame(lines, columns=["setting", "A", "now"])


def _told(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {each:g}" for key, each in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(value) or "none"
    return "all" if value is None else f"{value}"


def by_block(
    lstms: Iterable[LSTM],
    masks_a: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    saliency_a: Mapping[str, Tensor],
    saliency: Mapping[str, Tensor],
) -> pd.DataFrame:
    """One line a block: rows dropped by both, by A only and now only, the overlap of the two (Jaccard index), and the rank
    correlation of their saliencies. Masks (4H,) bool, True = kept, and saliencies (4H,) by the names in the file."""
    lines = []
    for lstm in lstms:
        for (layer, direction, side), name in lstm.weight_names().items():
            fallen_a, fallen = ~split_gates(masks_a[name]), ~split_gates(masks[name])
            values_a, values = split_gates(saliency_a[name]), split_gates(saliency[name])
            for gate, block in enumerate(BLOCKS[side]):
                both = int((fallen_a[gate] & fallen[gate]).sum())
                either = int((fallen_a[gate] | fallen[gate]).sum())
                lines.append(
                    {
                        "LSTM": lstm.title,
                        "layer": layer,
                        "direction": "reverse" if direction else "forward",
                        "block": block,
                        "both": both,
                        "only A": int(fallen_a[gate].sum()) - both,
                        "only now": int(fallen[gate].sum()) - both,
                        "overlap": both / either if either else 1.0,
                        "rank correlation": rank_correlation(values_a[gate], values[gate]),
                    }
                )
    return pd.DataFrame(lines)


def by_row(
    lstms: Iterable[LSTM],
    masks_a: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    saliency_a: Mapping[str, Tensor],
    saliency: Mapping[str, Tensor],
) -> pd.DataFrame:
    """One line a row: where it stands, its saliency and whether it is kept, in A and now. Arguments as in `by_block`."""
    tables = []
    for lstm in lstms:
        a, now = as_table(lstm, saliency_a, masks_a), as_table(lstm, saliency, masks)
        both = now.rename(columns={"saliency": "saliency now", "kept": "kept now"})
        tables.append(both.assign(**{"saliency A": a["saliency"], "kept A": a["kept"]}))
    return pd.concat(tables)


def rank_correlation(a: Tensor, b: Tensor) -> float:
    """Spearman's coefficient of two scores (H,) of the same rows, ties in order; 1 where there is nothing to rank."""
    if len(a) < 2:
        return 1.0
    ranks = torch.stack([values.argsort(stable=True).argsort().double() for values in (a, b)])
    return float(torch.corrcoef(ranks)[0, 1])
