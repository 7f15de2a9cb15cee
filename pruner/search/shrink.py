"""The smallest model that answers like the whole one, or the best one of a size: candidates folded, healed and judged.

Statistics are gathered once and units removed in the order of the brain surgeon. A few sizes are healed briefly, side by
side; from how their loss falls with size, and with time, follows which size a longer healing brings to the target.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import pandas as pd
import torch

from pruner.calibration.calibration import Calibration
from pruner.calibration.drift import held_back_loss
from pruner.calibration.observations import Statistics
from pruner.compact.costs import size_of_file, size_of_form, size_when_compact
from pruner.compact.masked_and_compact import Pruned
from pruner.errors import PrunerError
from pruner.exports.verdict import Verdict, by_answers, by_quality
from pruner.files.checkpoint import Checkpoint
from pruner.importance.masks import dropped_rows
from pruner.lstm.gates import GATES
from pruner.lstm.measure import Quality, one_thread
from pruner.lstm.module import build
from pruner.pipeline import gather_statistics, prune
from pruner.progress import Progress, silent, split
from pruner.recipe import Recipe
from pruner.search.workers import as_they_come

FIRST = (0.4, 0.55, 0.7, 0.85)  # sparsities that are healed briefly
BRIEFLY = 0.15  # of the budget
LONGER_HELPS = 0.55  # what a loss after the brief healing comes to after the whole one, at most
MARGIN = 0.9  # of the target is aimed at
STEP = 0.06  # of sparsity, between neighbouring candidates
MOST_SPARSITY, LEAST_SPARSITY = 0.95, 0.05
MORE_ROUNDS = 2  # of whole healings, between what was borne and what was not


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


@dataclass(frozen=True)
class Shrunk:
    """What was found, everything that was tried on the way, and what was done in a few sentences."""

    chosen: Candidate
    tried: list[Candidate]
    told: list[str]

    def frontier(self) -> pd.DataFrame:
        """One line a candidate: its sparsity, seconds of healing, sizes left and quality, the smallest first."""
        lines = [
            {
                "sparsity": each.recipe.sparsity,
                "seconds": each.seconds,
                "macs": each.macs,
                "parameters": each.parameters,
                "quality": each.verdict.after,
                "loss": each.verdict.loss,
                "chosen": each is self.chosen,
            }
            for each in self.tried
        ]
        return pd.DataFrame(lines).sort_values(["macs", "seconds"], ignore_index=True)


def shrink(
    checkpoint: Checkpoint,
    recipe: Recipe,
    calibration: Calibration,
    target: Target,
    quality: Quality | None = None,
    progress: Progress = silent,
    statistics: Mapping[str, Statistics] | None = None,
) -> Shrunk:
    """Find the smallest model of a checkpoint that reaches the target, or the best one of the size that it says.

    `recipe` fixes what is to be fixed (LSTMs, consumers, task, criterion, budget); its sparsity is what is sought.
    `quality` judges where there is one, else the answers on the held-back part of `calibration`. Candidates run side by
    side through joblib, each healed for the recipe's budget. `progress(fraction, what)` is called several times a second;
    raise in it to stop. Raises PrunerError for random inputs, and where no size reaches the target.
    """
    if calibration.source == "gaussian":
        raise PrunerError(
            "expected real or sampled inputs to shrink with, found random ones, on which nobody can tell what a model is "
            "worth; give inputs"
        )
    gathering, searching = split(progress, 1, 8)
    if statistics is None:
        statistics = gather_statistics(checkpoint, recipe, calibration, progress=gathering)
    search = _Search(checkpoint, recipe, calibration, statistics, quality, searching)
    if target.what is not None:
        return search.of_size(target)
    return search.keeping(target)


class _Search:
    """Candidates of one checkpoint, tried in rounds."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        recipe: Recipe,
        calibration: Calibration,
        statistics: Mapping[str, Statistics],
        quality: Quality | None,
        progress: Progress,
    ) -> None:
        self._checkpoint, self._recipe, self._progress = checkpoint, recipe, progress
        self._common = (calibration, statistics, quality, _dense_quality(checkpoint, quality))
        self._tried: list[Candidate] = []
        self._rounds = 0

    def keeping(self, target: Target) -> Shrunk:
        """The smallest that keeps the quality."""
        self._try(FIRST, BRIEFLY)
        predicted = self._predicted(target.loss * MARGIN)
        told = [f"Healed {len(FIRST)} sizes briefly; about {predicted:.0%} of the units looked like what can go."]
        self._try([_bounded(predicted - STEP / 2), _bounded(predicted + STEP / 2)], 1.0)
        for _ in range(MORE_ROUNDS):
            low, high = self._borne(target), self._not_borne(target)
            if high - low <= STEP:
                break
            self._try([low + (high - low) / 3, low + 2 * (high - low) / 3], 1.0)
        chosen = min((each for each in self._tried if each.loss <= target.loss), key=_size, default=None)
        if chosen is None:
            best = min(self._tried, key=lambda each: each.loss)
            raise PrunerError(
                f"expected a size that loses at most {target.loss:.1%}, found {best.loss:.1%} at the least, with "
                f"{best.recipe.sparsity:.0%} of the units gone; ask for less, give more inputs or a longer budget"
            )
        told.append(
            f"Of {len(self._tried)} candidates, healed for up to {max(each.seconds for each in self._tried):.0f} seconds, "
            f"the smallest that loses at most {target.loss:.1%} has {chosen.macs:.0%} of the multiply-accumulates. "
            f"{chosen.verdict.sentence}"
        )
        return Shrunk(chosen, self._tried, told)

    def of_size(self, target: Target) -> Shrunk:
        """The best of a size, with layers alike or ranked together."""
        sparsities = [_sparsity_for(self._checkpoint, self._recipe, target)]
        self._try(sparsities, 1.0)
        best = min(self._tried, key=lambda each: each.loss)
        told = [f"{sparsities[0]:.0%} of the units had to go for {target.amount:.0%} of the {target.what}."]
        return Shrunk(best, self._tried, [*told, best.verdict.sentence])

    def _try(self, sparsities: Sequence[float], share: float) -> None:
        """Heal candidates side by side for a share of the budget."""
        self._rounds += 1
        steps = self._recipe.steps and max(1, round(self._recipe.steps * share))
        base = replace(self._recipe, budget=self._recipe.budget * share, steps=steps)
        recipes = [replace(base, sparsity=round(sparsity, 3)) for sparsity in sparsities]
        light = replace(self._checkpoint, container={})
        calls = [(light, recipe, *self._common) for recipe in recipes]
        done = 0

        def look(waiting: bool) -> None:
            what = "Waiting for other work" if waiting else f"Round {self._rounds}: {done} of {len(calls)} sizes healed"
            self._progress(1 - 0.6**self._rounds * (1 - 0.4 * done / len(calls)), what)

        found: dict[int, Candidate] = {}
        for index, candidate in as_they_come(_tried, calls, look):
            done += 1
            whole = replace(candidate.pruned, checkpoint=self._checkpoint)
            found[index] = replace(candidate, pruned=whole)
        self._tried += [found[index] for index in range(len(calls))]

    def _borne(self, target: Target) -> float:
        """The highest sparsity that was borne; longer healing would bear it, too."""
        return max((each.recipe.sparsity for each in self._tried if each.loss <= target.loss), default=0.0)

    def _not_borne(self, target: Target) -> float:
        """The lowest sparsity above that which was not, though healed for the whole budget."""
        borne, longest = self._borne(target), max(each.seconds for each in self._tried)
        lost = [
            each.recipe.sparsity
            for each in self._tried
            if each.loss > target.loss and each.seconds >= longest / 2 and each.recipe.sparsity > borne
        ]
        return min(lost, default=1.0)

    def _predicted(self, loss: float) -> float:
        """The sparsity that would lose so much after a whole healing, from the brief ones: straight lines between the
        logarithms of their losses."""
        points = sorted((each.recipe.sparsity, max(each.loss * LONGER_HELPS, 1e-6)) for each in self._tried)
        if points[0][1] >= loss:
            return _bounded(points[0][0] * loss / points[0][1])
        for (low, before), (high, after) in pairwise(points):
            if after >= loss:
                part = (math.log(loss) - math.log(before)) / max(math.log(after) - math.log(before), 1e-9)
                return _bounded(low + min(1.0, max(0.0, part)) * (high - low))
        return _bounded(points[-1][0] + STEP)


def _tried(
    checkpoint: Checkpoint,
    recipe: Recipe,
    calibration: Calibration,
    statistics: Mapping[str, Statistics],
    quality: Quality | None,
    dense_quality: float | None,
    stop: Callable[[float, str], None],
) -> Candidate:
    """Prune by a recipe, on the CPU with one thread, and judge what came of it."""
    with one_thread():
        pruned = prune(checkpoint, recipe, calibration, statistics, progress=stop)
        compact = pruned.modules("compact")
        if quality is not None and dense_quality is not None:
            after = quality(pruned.tensors(), compact)
            verdict = by_quality(quality.name, quality.higher_is_better, dense_quality, after)
        else:
            dense = {lstm.name: build(lstm, checkpoint.tensors) for lstm in checkpoint.lstms}
            loss = held_back_loss(checkpoint, recipe, calibration, dense, compact, pruned.tensors())
            verdict = by_answers(loss, recipe.task == "softmax" and bool(recipe.consumers))
    before, after_size = size_of_file(checkpoint), size_of_form(checkpoint, pruned.forms["compact"])
    healed = [step for lstm in pruned.compensation.facts.get("lstms", []) for step in lstm["steps"]]
    return Candidate(
        pruned,
        after_size.macs_per_step / before.macs_per_step,
        after_size.parameters / before.parameters,
        verdict,
        sum(step.get("seconds", 0.0) for step in healed),
    )


def _dense_quality(checkpoint: Checkpoint, quality: Quality | None) -> float | None:
    if quality is None:
        return None
    return quality(checkpoint.tensors, {lstm.name: build(lstm, checkpoint.tensors) for lstm in checkpoint.lstms})


def _sparsity_for(checkpoint: Checkpoint, recipe: Recipe, target: Target) -> float:
    """The least sparsity, in whole per cent, that leaves no more than the target's amount, counted from shapes alone.

    Raises PrunerError if none does.
    """
    whole = size_of_file(checkpoint)
    for percent in range(1, 100):
        masks: dict[str, torch.Tensor] = {}
        for lstm in checkpoint.select(recipe.lstms):
            kept = torch.arange(lstm.hidden_size) >= dropped_rows(lstm.hidden_size, percent / 100)
            masks |= {name: kept.repeat(len(GATES)) for place in lstm.places for name in lstm.packed_names(*place)}
        left = size_when_compact(checkpoint, recipe, masks)
        share = (
            left.macs_per_step / whole.macs_per_step
            if target.what == "macs"
            else left.tensor_bytes / whole.tensor_bytes
        )
        if share <= (target.amount or 0.0):
            return percent / 100
    raise PrunerError(f"expected a share of {target.what} that can be left, found {target.amount}; ask for more")


def _size(candidate: Candidate) -> tuple[float, float]:
    return candidate.macs, candidate.loss


def _bounded(sparsity: float) -> float:
    return min(MOST_SPARSITY, max(LEAST_SPARSITY, sparsity))
