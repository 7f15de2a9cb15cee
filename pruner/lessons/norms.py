"""Lesson 2: the saliency of a row, by hand on an LSTM of four hidden units."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pruner.errors import PrunerError, shown
from pruner.importance.masks import row_ranks
from pruner.importance.weights import ROW_NORMS, row_saliency
from pruner.lessons.course import Answer, Lesson
from pruner.lessons.packed import place
from pruner.lstm.gates import GATES

UNITS, INPUTS = 4, 2
# Two weights a row, 16 rows: i, f, g, o of units 0 to 3. Easy to add up in the head.
NUMBERS = (
    "0.5 -0.25; 0.1 0.2; -0.75 0.5; 0.3 -0.4; 0.9 0.6; -0.2 0.15; 0.4 0.4; -1 0.25; "
    "1.2 -0.8; 0.6 0.7; -0.35 0.1; 0.9 -0.45; 0.05 -0.1; 0.55 0.2; -0.3 0.35; 0.15 0.6"
)


def read(text: str) -> Tensor:
    """Numbers as text -> weight_ih (16, 2) in float64. Raises PrunerError if they are not 16 pairs of finite numbers."""
    rows = [row.split() for row in text.split(";")]
    wanted = f"{len(GATES) * UNITS} rows of {INPUTS} numbers, rows apart by ; and numbers by spaces"
    if len(rows) != len(GATES) * UNITS:
        raise PrunerError(f"expected {wanted}, found {len(rows)} rows; add or take away rows")
    for number, row in enumerate(rows):
        if len(row) != INPUTS or not all(map(_is_number, row)):
            raise PrunerError(f"expected {wanted}, found {shown(' '.join(row))} in row {number}; correct that row")
    return torch.tensor([[float(value) for value in row] for row in rows], dtype=torch.float64)


def write(weight: Tensor) -> str:
    """weight_ih (16, 2) -> numbers as text."""
    return "; ".join(" ".join(f"{value:g}" for value in row) for row in weight.tolist())


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


@dataclass(frozen=True)
class ByHand:
    """The weights (16, 2) of the small LSTM, and the saliency (16,) of each row."""

    weight: Tensor
    saliency: Tensor


def by_hand(text: str) -> ByHand:
    """Raises PrunerError as `read` does."""
    weight = read(text)
    return ByHand(weight, row_saliency(weight))


def notice(found: ByHand) -> list[str]:
    lowest, highest = int(found.saliency.argmin()), int(found.saliency.argmax())
    told = []
    for word, row in (("least", lowest), ("most", highest)):
        sum_of = " + ".join(f"{abs(value):g}" for value in found.weight[row].tolist())
        told.append(
            f"{str(place(row, UNITS)).capitalize()} carries the {word} weight: {sum_of} = {found.saliency[row]:.4g}."
        )
    return [
        *told,
        "The sign of a weight does not count: turn one around, and nothing moves.",
        "A norm sees weights only. It knows neither how large the inputs are that they meet, nor the bias.",
    ]


LESSON = Lesson(
    name="norms",
    title="Row saliency",
    question="Which rows of a gate carry weight, and which hardly any?",
    introduction=(
        "Making a model smaller by dropping what matters least is called pruning. A number that says how much something "
        "matters is its **saliency**. The simplest one for a row is its L1 norm: the sum of its absolute weights. "
        "Change the numbers below and watch the sums; then look at the same sums of a trained model."
    ),
    code=(ROW_NORMS["l1"], row_ranks),
    check="Row A is (0.3, −0.4), row B is (0.5, 0.1). Which one has the lower L1 norm?",
    answers=(
        Answer(
            "Row A",
            False,
            "|0.3| + |−0.4| = 0.7 is more than 0.6. Had you taken the root of the sum of squares, the L2 norm, A "
            "would be lower: 0.5 against 0.51. Norms do not always agree.",
        ),
        Answer("Row B", True, "0.5 + 0.1 = 0.6 is less than 0.3 + 0.4 = 0.7. The sign does not count."),
        Answer("Both the same", False, "Add the absolute values: 0.3 + 0.4 = 0.7 and 0.5 + 0.1 = 0.6."),
    ),
    terms=("saliency",),
    sources=("magnitude", "iss"),
)
