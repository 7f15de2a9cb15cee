"""The certificate of an export: what was written computes what was previewed."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pruner.compact.layout import Layout
from pruner.files.source import Source
from pruner.lstm.measure import (
    BATCH_SIZE,
    SEQUENCE_LENGTH,
    Drift,
    difference,
    outputs_by_layer,
    random_input,
    sample_length,
)

TOLERANCE = 1e-9

Layers = Iterator[nn.Module]  # of one LSTM, from the first to the last


def certify(
    masked: Iterable[Layers], written: Iterable[Layers], layouts: Sequence[Layout], length: int
) -> dict[str, Any]:
    """Run LSTMs as previewed and as written side by side, layer by layer, on `length` steps of random input from a zero
    state, and compare all three outputs.

    In float64 the two may differ by `TOLERANCE` of the largest output (what is added in another order is rounded
    otherwise); what they differ by in the model's own type is stated beside it.
    """
    in_own_dtype, exactly = list[Drift](), list[Drift]()
    for reference, stored, layout in zip(masked, written, layouts, strict=True):
        inputs = layout.as_it_reads(random_input(layout.lstm, length=length))
        both = (outputs_by_layer(each, inputs, (None, torch.float64)) for each in (reference, stored))
        pairs = zip(*both, strict=True)
        for found, (previewed, read) in zip((in_own_dtype, exactly), pairs, strict=True):
            found.append(difference(previewed, read))
    exact = _largest(exactly)
    own = {"dtype": ", ".join(sorted({layout.lstm.dtype for layout in layouts})), **_largest(in_own_dtype)}
    return {
        **exact,
        "sequence_length": length,
        "batch_size": BATCH_SIZE,
        "dtype": "float64",
        "holds": exact["max_abs_difference"] <= TOLERANCE * exact["max_abs_output"],
        "in_own_dtype": own,
    }


def length_to_certify(layouts: Sequence[Layout], stated: Any = None) -> int:
    """The steps to certify LSTMs on: a bounded number for large ones, or as many as a certificate states that was made on
    more."""
    least = sample_length(layout.lstm for layout in layouts)
    number = stated.get("sequence_length") if isinstance(stated, dict) else None
    return number if type(number) is int and least < number <= SEQUENCE_LENGTH else least


def as_stored(layouts: Sequence[Layout], tensors: Mapping[str, Tensor], source: Source) -> Iterator[Layers]:
    """The layers of each LSTM from the tensors of a file; what was read for one is let go before the next."""
    for layout in layouts:
        yield source.in_turn(layer.module(tensors) for layer in layout.layers)


def as_twins(layouts: Sequence[Layout], tensors: Mapping[str, Tensor], source: Source) -> Iterator[Layers]:
    """The same of the masked LSTMs of full size that a file stands for."""
    for layout in layouts:
        yield source.in_turn(layer.masked_twin(tensors) for layer in layout.layers)


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
