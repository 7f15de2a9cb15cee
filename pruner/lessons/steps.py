"""Lesson 4: the pruner, one step at a time."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pruner.importance.masks import dropped_rows, keep_mask, row_ranks
from pruner.importance.weights import ROW_NORMS, row_saliency
from pruner.lessons.course import Answer, Lesson
from pruner.lessons.model import model
from pruner.lstm.gates import GATES, split_gates
from pruner.lstm.lstm import LSTM

CODE: dict[str, Callable[..., Any]] = {
    "Packed": LSTM.weight_names,
    "Split": split_gates,
    "Norms": ROW_NORMS["l1"],
    "Lowest": row_ranks,
    "Mask": keep_mask,
}
STEPS = tuple(CODE)
SHARE = 0.25


@dataclass(frozen=True)
class Stages:
    """One packed weight on its way to a mask."""

    tensor: str
    weight: Tensor  # (4H, I)
    saliency: Tensor  # (4, H)
    ranks: Tensor  # (4, H)
    dropped: int  # rows of each gate
    mask: Tensor  # (4H,)

    @property
    def hidden_size(self) -> int:
        return self.ranks.shape[1]


def stages(name: str, side: str) -> Stages:
    """All that the pruner makes of one packed weight of layer 0 of an example, at the sparsity `SHARE`."""
    example = model(name)
    tensor = example.weight(side)
    weight = example.tensors[tensor]
    saliency = row_saliency(weight)
    ranks = row_ranks(saliency)
    hidden_size = ranks.shape[1]
    mask = keep_mask(ranks, (SHARE,) * len(GATES))
    return Stages(tensor, weight, split_gates(saliency), ranks, dropped_rows(hidden_size, SHARE), mask)


def notice(found: Stages, step: str) -> list[str]:
    rows, columns = found.weight.shape
    hidden_size, dropped = found.hidden_size, found.dropped
    return {
        "Packed": [
            f"`{found.tensor}` has {rows} rows of {columns} weights: four gates of {hidden_size} hidden units.",
            "Rows close to the colour of the background have small weights. Look for them: they are not spread evenly.",
        ],
        "Split": [
            f"The same numbers as four blocks of {hidden_size} rows. Nothing is copied and nothing is computed.",
            "From here on no gate knows of another.",
        ],
        "Norms": [
            f"Each row of {columns} weights becomes one number, its saliency: {rows} numbers in all.",
            f"The highest is {found.saliency.max():.3g}, the lowest {found.saliency.min():.3g}.",
        ],
        "Lowest": [
            f"A sparsity of {SHARE:.0%} means k = int({hidden_size} × {SHARE}) = {dropped} rows of each gate, "
            "rounded down.",
            "The dotted line is the cut. It stands at another height in each gate, and each loses the same number of "
            "rows.",
        ],
        "Mask": [
            f"The four choices, one behind the other, are the mask: {rows} times kept or dropped, {4 * dropped} of "
            "them dropped.",
            "Masking sets the weights of these rows to zero. The tensor keeps its shape, and the biases stay as they "
            "are.",
        ],
    }[step]


LESSON = Lesson(
    name="steps",
    title="The pruner, step by step",
    question="How does a mask come from the weights of one packed tensor?",
    introduction=(
        "What chooses the mask is called the pruner. It takes four small steps: split into gates, take the norm of "
        f"each row, find the k lowest of each gate, write the mask. Here at a sparsity of {SHARE:.0%}, on the packed "
        "tensors of the trained grammar model. Each tensor goes through them by itself, so the two rows of one gate "
        "of one unit can meet different ends."
    ),
    code=tuple(CODE.values())[1:],
    check="A layer has H = 30 hidden units, the sparsity is 0.25. How many rows does each gate lose?",
    answers=(
        Answer("8", False, "30 × 0.25 = 7.5 is rounded down, not up: k = int(7.5) = 7."),
        Answer(
            str(dropped_rows(30, 0.25)),
            True,
            "k = int(30 × 0.25) = int(7.5) = 7, in each of the four gates: 28 of 120 rows of the tensor.",
        ),
        Answer("30 over all gates together", False, "Each gate loses its own k rows. Together that is 4 × 7 = 28."),
    ),
    terms=(),
    sources=("upstream",),
)
