"""Lesson 3: what happens when the rows of all four gates are ranked together."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pruner.importance.masks import dropped_rows, keep_mask, row_ranks
from pruner.importance.weights import score
from pruner.lessons.course import Answer, Lesson
from pruner.lessons.model import model
from pruner.lstm.gates import GATE_TITLES, GATES, split_gates

SHARES = tuple(step / 100 for step in range(0, 65, 5))
SHARE = 0.2
WAYS = {"aware": "each gate by itself", "blind": "all rows together"}


def gate_blind_mask(saliency: Tensor, dropped: int) -> Tensor:
    """(4H,) mask that drops the rows of lowest saliency, whatever gate they belong to."""
    mask = torch.ones(len(saliency), dtype=torch.bool)
    mask[saliency.argsort(stable=True)[:dropped]] = False
    return mask


def misplaced(kept: Tensor) -> int:
    """How many rows end up in another gate's part when those kept, (4,) by gate, are glued and split in four again."""
    belongs = torch.arange(len(kept)).repeat_interleave(kept)
    lands = torch.arange(len(belongs)) * len(kept) // len(belongs)
    return int((belongs != lands).sum())


@dataclass(frozen=True)
class Compared:
    """One sparsity, two ways to rank: by way, the rows (4,) that each gate of each packed weight keeps, and the quality."""

    hidden_size: int
    kept: dict[str, dict[str, Tensor]]  # by way, then "ih" or "hh"
    quality: dict[str, float]


def compare(name: str, share: float) -> Compared:
    """Mask both packed weights of layer 0 of an example both ways, as many rows each time."""
    example = model(name)
    saliency = score(example.lstm, example.tensors)
    hidden_size = example.lstm.hidden_size
    masks: Mapping[str, dict[str, Tensor]] = {
        "aware": {name: keep_mask(row_ranks(each), (share,) * len(GATES)) for name, each in saliency.items()},
        "blind": {
            name: gate_blind_mask(each, len(GATES) * dropped_rows(hidden_size, share))
            for name, each in saliency.items()
        },
    }
    kept = {
        way: {side: split_gates(found[example.weight(side)]).sum(1) for side in ("ih", "hh")}
        for way, found in masks.items()
    }
    return Compared(hidden_size, kept, {way: example.quality(example.masked(found)) for way, found in masks.items()})


def notice(found: Compared, side: str) -> list[str]:
    kept = found.kept["blind"][side]
    lost = (found.hidden_size - kept).tolist()
    least, most = lost.index(min(lost)), lost.index(max(lost))
    told = [
        f"Together, gate {GATES[most]} loses {lost[most]} of its {found.hidden_size} rows and gate {GATES[least]} "
        f"{lost[least]}. All weights of a gate may be small, and the gate still matters.",
    ]
    if wrong := misplaced(kept):
        told.append(
            f"Take the dropped rows out and split the rest in four: {wrong} of {int(kept.sum())} rows land in another "
            "gate. No error tells you: the total still divides by four."
        )
    told.append(
        "For the curves nothing is taken out; dropped rows are zero and stay where they are. Even so, "
        f"{found.quality['blind']:.0%} of the strings are right when all rows are ranked together, and "
        f"{found.quality['aware']:.0%} when each gate ranks its own."
    )
    return told


def titles() -> list[str]:
    return [f"{gate} ({GATE_TITLES[gate]})" for gate in GATES]


LESSON = Lesson(
    name="together",
    title="Why not rank all rows together?",
    question="The rows of lowest saliency go. Why does each gate rank its own rows, and not all of them together?",
    introduction=(
        "How much goes is the **sparsity**: the share of the rows that is dropped. A **mask** says of every row "
        "whether it is kept; the weights of dropped rows count as zero. Below, a small trained model tells at every "
        "symbol of a string which ones may come next by the rules of a grammar; a string counts as right if it is wrong "
        "nowhere. Both rankings drop the same number of rows, once within each gate, once among all 4H rows."
    ),
    code=(keep_mask,),
    check="All rows ranked together, a tensor keeps 21, 23, 21 and 31 rows of i, f, g and o. You remove the others and call "
    "chunk(4) on what is left. What happens?",
    answers=(
        Answer(
            "Four parts of 24 rows, with rows of other gates in them",
            True,
            "The first part holds all 21 rows of i and 3 of f, and so on. Three of the four parts now hold rows "
            "of the next gate.",
        ),
        Answer(
            "An error",
            False,
            "21 + 23 + 21 + 31 = 96 divides by four, so chunk(4) gives four parts of 24 without complaint.",
        ),
        Answer(
            "Four parts of 21, 23, 21 and 31 rows", False, "chunk knows nothing of gates. It cuts into equal parts."
        ),
    ),
    terms=("sparsity", "mask"),
    sources=("upstream", "gates", "magnitude"),
)
