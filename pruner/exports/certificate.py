"""The certificate of an export: what was written computes what was previewed."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pruner.compact.layout import Layout
from pruner.lstm.measure import BATCH_SIZE, SEQUENCE_LENGTH, Drift, difference, outputs, random_input

TOLERANCE = 1e-9


def certify(masked: Iterable[nn.Module], layouts: Sequence[Layout], written: Mapping[str, Tensor]) -> dict[str, Any]:
    """Run LSTMs as previewed and as written side by side: random input, zero state, all three outputs.

    `written` holds the tensors of the file. In float64 the two may differ by `TOLERANCE` of the largest output (what is
    added in another order is rounded otherwise); what they differ by in the model's own type is stated beside it.
    """
    found: dict[torch.dtype | None, list[Drift]] = {torch.float64: [], None: []}
    for reference, layout in zip(masked, layouts, strict=True):
        module, inputs = layout.module(written), layout.as_it_reads(random_input(layout.lstm))
        for dtype, drifts in found.items():
            previewed, stored = (
                copy.deepcopy(each) if dtype is None else copy.deepcopy(each).to(dtype) for each in (reference, module)
            )
            drifts.append(difference(outputs(previewed, inputs), outputs(stored, inputs)))
    exact = _largest(found[torch.float64])
    own = {"dtype": ", ".join(sorted({layout.lstm.dtype for layout in layouts})), **_largest(found[None])}
    return {
        **exact,
        "sequence_length": SEQUENCE_LENGTH,
        "batch_size": BATCH_SIZE,
        "dtype": "float64",
        "holds": exact["max_abs_difference"] <= TOLERANCE * exact["max_abs_output"],
        "in_own_dtype": own,
    }


def _largest(drifts: list[Drift]) -> dict[str, float]:
    return {
        "max_abs_difference": max((drift.max_abs_difference for drift in drifts), default=0.0),
        "max_abs_output": max((drift.max_abs_output for drift in drifts), default=0.0),
    }


def same_certificate(found: Mapping[str, Any], stated: Any) -> bool:
    """Outputs differ by rounding between machines, so their scale is compared, and of the differences that both hold."""
    if not isinstance(stated, dict) or found.keys() != stated.keys():
        return False
    scale, gap, own = "max_abs_output", "max_abs_difference", "in_own_dtype"
    numbers = all(isinstance(stated[key], float) for key in (scale, gap))
    close = numbers and abs(found[scale] - stated[scale]) <= 1e-3 * abs(found[scale])
    close = close and 0 <= stated[gap] <= TOLERANCE * stated[scale]
    exact = all(found[key] == stated[key] for key in found if key not in (scale, gap, own))
    return close and exact and _same_in_own_dtype(found[own], stated[own])


def _same_in_own_dtype(found: Mapping[str, Any], stated: Any) -> bool:
    if not isinstance(stated, dict) or found.keys() != stated.keys() or found["dtype"] != stated["dtype"]:
        return False
    numbers = [key for key in found if key != "dtype"]
    largest = abs(found["max_abs_output"])
    return all(
        isinstance(stated[key], float)
        # An overflow in a narrow type makes infinities and NaN, here as there.
        and (repr(stated[key]) == repr(found[key]) or abs(found[key] - stated[key]) <= 1e-3 * largest)
        for key in numbers
    )
