"""What shrinking tries: a recipe of some sparsity, pruned, judged and counted; and the sparsities that leave a size."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import pandas as pd
import torch
from torch import Tensor

from pruner.calibration.calibration import Calibration
from pruner.calibration.drift import held_back_loss, measure_drift
from pruner.calibration.observations import Statistics
from pruner.compact.costs import size_of_file, size_of_form, size_when_compact
from pruner.compact.masked_and_compact import Pruned
from pruner.errors import PrunerError
from pruner.exports.verdict import Verdict, by_answers, by_quality, unknown
from pruner.files.checkpoint import Checkpoint
from pruner.importance.masks import dropped_rows
from pruner.lstm.gates import GATES
from pruner.lstm.measure import ForwardPass, Quality, one_thread
from pruner.lstm.module import build
from pruner.pipeline import prune
from pruner.recipe import Recipe

Masks = Mapping[str, Tensor]  # (4H,) bool by the names in the file


@dataclass(frozen=True)
class Target:
    """What is asked for: the share `keep` of the quality at least, or the share `amount` of `macs` or `size` at most."""

    keep: float | None = 0.97
    what: str | None = None
    amount: float | None = None

    @property
    def loss(self) -> float:
        """By what share the quality may be worse."""
        return 1 - self.keep if self.keep is not None else math.inf


@dataclass(frozen=True)
class Candidate:
    """A recipe that was tried: the pruned model, the shares of multiply-accumulates and parameters left, its verdict."""

    pruned: Pruned
    macs: float
    parameters: float
    verdict: Verdict
    seconds: float

    @property
    def recipe(self) -> Recipe:
        return self.pruned.recipe

    @property
    def loss(self) -> float:
        return math.inf if self.verdict.loss is None else self.verdict.loss


def frontier_of(tried: Iterable[Candidate], chosen: Candidate | None = None) -> pd.DataFrame:
    """One line a candidate: its sparsity, seconds of healing, sizes left and quality, the smallest first."""
    lines = [
        {
            "sparsity": each.recipe.sparsity,
            "allocation": each.recipe.allocation,
            "seconds": each.seconds,
            "macs": each.macs,
            "parameters": each.parameters,
            "quality": each.verdict.after,
            "loss": each.verdict.loss,
            "chosen": each is chosen,
        }
        for each in tried
    ]
    return pd.DataFrame(lines).sort_values(["macs", "seconds"], ignore_index=True)


def candidate_of(
    checkpoint: Checkpoint,
    recipe: Recipe,
    calibration: Calibration,
    statistics: Mapping[str, Statistics],
    quality: Quality | None,
    dense_quality: float | None,
    device: str,
    forward: ForwardPass | None,
    stop: Callable[[float, str], None],
) -> Candidate:
    """Prune by a recipe, healing on `device` and with one thread of the CPU for all else, and judge what came of it."""
    with one_thread():
        pruned = prune(checkpoint, recipe, calibration, statistics, device=device, progress=stop, forward=forward)
        compact = pruned.modules("compact")
        dense = {lstm.name: build(lstm, checkpoint.tensors) for lstm in checkpoint.lstms}
        if quality is not None and dense_quality is not None:
            after = quality(pruned.tensors(), compact)
            verdict = by_quality(quality.name, quality.higher_is_better, dense_quality, after)
        elif not calibration.is_real:
            moved = measure_drift(checkpoint, recipe, None, dense, compact)
            verdict = unknown(max(drift.relative for drift in moved.values()))
        else:
            loss = held_back_loss(checkpoint, recipe, calibration, dense, compact, pruned.tensors(), forward)
            verdict = by_answers(loss, (recipe.task if forward is None else forward.task) == "softmax")
    before, after_size = size_of_file(checkpoint), size_of_form(checkpoint, pruned.forms["compact"])
    healed = [step for lstm in pruned.compensation.facts.get("lstms", []) for step in lstm["steps"]]
    return Candidate(
        pruned,
        after_size.macs_per_step / before.macs_per_step,
        after_size.parameters / before.parameters,
        verdict,
        sum(step.get("seconds", 0.0) for step in healed),
    )


def sparsity_for(
    checkpoint: Checkpoint, recipe: Recipe, target: Target, masks: Callable[[Recipe], Masks] | None = None
) -> float:
    """The least sparsity, in whole per cent, of which a recipe leaves no more than the target's amount; 0 where earlier
    rounds did.

    `masks` chooses those of a recipe; without it every layer loses alike, which shapes alone tell. Raises PrunerError if no
    sparsity does.
    """
    amount = target.amount or 0.0

    def share(percent: int) -> float:
        wanted = replace(recipe, sparsity=percent / 100)
        return _share_left(checkpoint, wanted, (masks or partial(_first_units, checkpoint))(wanted), target)

    low, high = -1, 99
    if (least := share(high)) > amount:
        raise PrunerError(
            f"expected a share of {target.what} that can be left, {least:.2%} at the least, found {target.amount}; ask for "
            "more"
        )
    while high - low > 1:  # less is left the more is dropped
        middle = (low + high) // 2
        low, high = (low, middle) if share(middle) <= amount else (middle, high)
    return high / 100


def _first_units(checkpoint: Checkpoint, recipe: Recipe) -> Masks:
    """Masks that drop the first units of every layer, as many as fall whichever they are, and those that are gone."""
    found: dict[str, Tensor] = {}
    for lstm in checkpoint.select(recipe.lstms):
        dropped, gone = dropped_rows(lstm.hidden_size, recipe.sparsity), checkpoint.gone.get(lstm.name, {})
        for place in lstm.places:
            fallen = max(dropped, int(gone[place].sum()) if place in gone else 0)
            kept = (torch.arange(lstm.hidden_size) >= fallen).repeat(len(GATES))
            found |= dict.fromkeys(lstm.packed_names(*place), kept)
    return found


def _share_left(checkpoint: Checkpoint, recipe: Recipe, masks: Masks, target: Target) -> float:
    whole, left = size_of_file(checkpoint), size_when_compact(checkpoint, recipe, masks)
    if target.what == "macs":
        return left.macs_per_step / whole.macs_per_step
    return left.tensor_bytes / whole.tensor_bytes
