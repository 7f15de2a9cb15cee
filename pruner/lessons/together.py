"""Lesson 3: what happens when the rows of all four gates are ranked together."""

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from pruner.importance.masks import dropped_rows, keep_mask, row_ranks
from pruner.importance.scores import score_lstm
from pruner.importance.weights import score
from pruner.lessons.course import Answer, Lesson
from pruner.lessons.model import GRAMMAR, gathered, model
from pruner.lstm.gates import GATES, SIDES, split_gates

SHARES = tuple(step / 100 for step in range(0, 65, 5))
SHARE = 0.2
WAYS = {
    "aware": "per gate, by L1 norm",
    "blind": "together, by L1 norm",
    "aware by cost": "per gate, by cost",
    "blind by cost": "together, by cost",
}


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
    """One sparsity, four ways to rank: by way, the rows (4,) that each gate of each packed weight keeps, and the quality."""

    hidden_size: int
    kept: dict[str, dict[str, Tensor]]  # by way, then "ih" or "hh"
    quality: dict[str, float]


@cache
def costs() -> dict[str, Tensor]:
    """Of every row (4H,) of both packed weights what dropping it costs, measured on the training strings."""
    example = model(GRAMMAR)
    own = gathered()[1][example.lstm.name]
    return score_lstm(example.lstm, example.tensors, "fisher", (example.example.consumer,), own).saliency


def compare(share: float) -> Compared:
    """Mask both packed weights of the grammar model in four ways, as many rows each time."""
    example = model(GRAMMAR)
    hidden_size = example.lstm.hidden_size
    dropped = len(GATES) * dropped_rows(hidden_size, share)
    masks: dict[str, dict[str, Tensor]] = {}
    for by, scores in (("", score(example.lstm, example.tensors)), (" by cost", costs())):
        masks[f"aware{by}"] = {name: keep_mask(row_ranks(each), (share,) * len(GATES)) for name, each in scores.items()}
        masks[f"blind{by}"] = {name: gate_blind_mask(each, dropped) for name, each in scores.items()}
    kept = {
        way: {side: split_gates(found[example.weight(side)]).sum(1) for side in SIDES} for way, found in masks.items()
    }
    return Compared(hidden_size, kept, {way: example.quality(example.masked(found)) for way, found in masks.items()})


def notice(found: Compared, side: str) -> list[str]:
    kept, quality = found.kept["blind"][side], found.quality
    lost = (found.hidden_size - kept).tolist()
    least, most = lost.index(min(lost)), lost.index(max(lost))
    told = [
        f"By L1 norm, {quality['blind']:.0%} of the strings are right when all rows are ranked together, and "
        f"{quality['aware']:.0%} when each gate ranks its own. Norms of two gates cannot be compared: gate {GATES[most]} "
        f"loses {lost[most]} of its {found.hidden_size} rows and gate {GATES[least]} {lost[least]}, as if it mattered less.",
        "What dropping a row costs can be measured, on strings that the model learnt from: how much what it adds varies, "
        "times how sensitive the loss is to it. Costs mean the same in every gate. Ranked by them, all together leave "
        f"**{quality['blind by cost']:.0%}**, each gate by itself {quality['aware by cost']:.0%}.",
        "So equal shares are right for norms, and the only shares with which the tensor still splits in four equal layers; "
        "with costs from real inputs, unequal shares keep more. Nothing here says which gate it is in another model.",
    ]
    if wrong := misplaced(kept):
        told.append(
            f"Masked rows stay where they are, as zeros. Take them out and split the rest in four, and {wrong} of "
            f"{int(kept.sum())} rows land in another gate. No error tells you: the total still divides by four."
        )
    return told


LESSON = Lesson(
    name="together",
    title="Why not rank all rows together?",
    question="The rows of lowest saliency go. Should each gate rank its own rows, or all of them be ranked together?",
    introduction=(
        "How much goes is the **sparsity**: the share of the rows that is dropped. A **mask** says of every row "
        "whether it is kept; the weights of dropped rows count as zero. Below, a small trained model tells at every "
        "symbol of a string which ones may come next by the rules of a grammar; a string counts as right if it is wrong "
        "nowhere. All rankings drop as many rows: within each gate or among all 4H, by their L1 norm or by what it costs."
    ),
    code=(keep_mask,),
    check="A fifth of the rows goes, ranked in one of these ways. Which one leaves the most strings right?",
    answers=(
        Answer(
            "Each gate ranks its own rows, by L1 norm",
            False,
            "Of the two ways with norms it is the better one. But each gate then loses a fifth of its rows, whether they "
            "cost much or little.",
        ),
        Answer(
            "All rows together, by L1 norm",
            False,
            "All weights of a gate may be small, and the gate still matters. Ranked together, it loses far more than the "
            "others.",
        ),
        Answer(
            "All rows together, by what dropping each costs on real inputs",
            True,
            "Costs can be compared between gates, norms cannot. Who has none, because there are no inputs, lets each gate "
            "rank its own.",
        ),
    ),
    terms=("sparsity", "mask"),
    sources=("upstream", "costs", "gates", "magnitude"),
)
