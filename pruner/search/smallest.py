"""The smallest model that answers like the whole one, or the best one of a size: candidates folded, healed and judged.

Statistics are gathered once and units removed in the order of the brain surgeon. A few sizes are healed briefly, side by
side; from how their loss grows with what is removed, and falls with time, follows which size a longer healing brings to the
target.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pandas as pd

from pruner.calibration.calibration import Calibration
from pruner.calibration.observations import Statistics
from pruner.errors import PrunerError
from pruner.files.checkpoint import Checkpoint
from pruner.lstm.measure import ForwardPass, Quality
from pruner.pipeline import choose_masks, gather_statistics
from pruner.progress import Progress, silent, split
from pruner.recipe import COST_CRITERIA, Recipe
from pruner.search.candidates import (
    Candidate,
    Target,
    candidate_of,
    frontier_of,
    sparsity_for,
)
from pruner.search.workers import as_they_come
from pruner.search.worth import dense_value

FIRST = (0.4, 0.55, 0.7, 0.85)  # sparsities that are healed briefly
BRIEFLY = 0.15  # of the budget
LONGER_HELPS = 0.55  # what a loss after the brief healing comes to after the whole one, until that was measured
MARGIN = 0.9  # of the target is aimed at
STEP = 0.06  # of sparsity, between neighbouring candidates
MOST_SPARSITY, LEAST_SPARSITY = 0.95, 0.05
ROUNDS = 3  # of whole healings, between what was borne and what was not
LEAST_LOSS = 1e-6  # which has a logarithm


@dataclass(frozen=True)
class Shrunk:
    """What was found, everything that was tried on the way, and what was done in a few sentences."""

    chosen: Candidate
    tried: list[Candidate]
    told: list[str]

    def frontier(self) -> pd.DataFrame:
        """One line a candidate, see `frontier_of`."""
        return frontier_of(self.tried, self.chosen)


def shrink(
    checkpoint: Checkpoint,
    recipe: Recipe,
    calibration: Calibration,
    target: Target,
    quality: Quality | None = None,
    progress: Progress = silent,
    statistics: Mapping[str, Statistics] | None = None,
    seen: Callable[[Candidate], object] = lambda candidate: None,
    device: str = "cpu",
    forward: ForwardPass | None = None,
) -> Shrunk:
    """Find the smallest model of a checkpoint that reaches the target, or the best one of the size that it says.

    `recipe` fixes what is to be fixed (LSTMs, consumers, task, criterion, budget); its sparsity is what is sought.
    `quality` judges where there is one, else the answers on the held-back part of `calibration`, those of the whole model
    where its `forward` pass is known. Candidates run side by side through joblib, each healed on `device` for the recipe's
    budget; `seen` is called with each as it comes. `progress(fraction, what)` is called several times a second; it may raise
    to stop, or return True: the best of what was tried is then taken.

    Random inputs heal nothing, candidates are folded only; and they cannot tell what a model is worth: without a `quality`
    a model of a size is unknown, one that keeps its quality refused. Raises PrunerError for that, and where no size reaches
    the target.
    """
    if calibration.source == "gaussian":
        recipe = replace(recipe, compensation="fold" if recipe.compensation == "heal" else recipe.compensation)
    gathering, searching = split(progress, 1, 8)
    if statistics is None:
        statistics = gather_statistics(checkpoint, recipe, calibration, device=device, progress=gathering)
    search = _Search(checkpoint, recipe, calibration, statistics, quality, searching, seen, device, forward)
    if target.what is not None:
        return search.of_size(target)
    if calibration.source == "gaussian" and quality is None:
        raise search.no_promise(target)
    return search.keeping(target)


class _Enough(Exception):
    """Nobody waits for more candidates; those that there are will do."""


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
        seen: Callable[[Candidate], object],
        device: str,
        forward: ForwardPass | None,
    ) -> None:
        self._checkpoint, self._recipe, self._progress, self._seen = checkpoint, recipe, progress, seen
        self._statistics = statistics
        dense = None if quality is None else dense_value(checkpoint, quality)
        self._common = (calibration, statistics, quality, dense, device, forward)
        self._tried: list[Candidate] = []
        self._rounds, self._enough = 0, False

    def keeping(self, target: Target) -> Shrunk:
        """The smallest that keeps the quality."""
        self._try(self._of_sparsities(FIRST), BRIEFLY)
        for _ in range(ROUNDS):
            low, high = self._borne(target), self._not_borne(target)
            if high - low <= STEP:
                break
            near = self._predicted(target.loss * MARGIN)
            least, most = low + STEP / 4, high - STEP / 4
            self._try(
                self._of_sparsities(
                    sorted({_within(near - STEP / 2, least, most), _within(near + STEP / 2, least, most)})
                )
            )
        chosen = min((each for each in self._tried if each.loss <= target.loss), key=_size, default=None)
        if chosen is None and self._tried and self._enough:
            chosen = min(self._tried, key=_loss)
        if chosen is None:
            raise self._none_bears(target)
        return Shrunk(chosen, self._tried, self._told(chosen, target))

    def of_size(self, target: Target) -> Shrunk:
        """The best of a size, with layers alike or their units ranked together."""
        ways = [self._recipe]
        if self._recipe.allocation == "uniform" and self._recipe.criterion in COST_CRITERIA and not _own(self._recipe):
            ways.append(replace(self._recipe, allocation="global"))
        self._try([replace(way, sparsity=self._sparsity_for(way, target)) for way in ways])
        if not self._tried:
            raise PrunerError("expected time to heal one candidate at least, found none; let it run for longer")
        best = min(self._tried, key=_loss)
        how = "all layers ranked together" if best.recipe.allocation == "global" else "of every layer alike"
        removed = (
            f"{best.recipe.sparsity:.0%} of the units, {how}, had to go for {target.amount:.0%} of the {target.what}."
        )
        return Shrunk(best, self._tried, [removed, best.verdict.sentence])

    def _sparsity_for(self, way: Recipe, target: Target) -> float:
        by_shape = way.allocation == "uniform" and not _own(way)
        masks = None if by_shape else partial(choose_masks, self._checkpoint, statistics=self._statistics)
        return sparsity_for(self._checkpoint, way, target, masks)

    def no_promise(self, target: Target) -> PrunerError:
        """What to say where only random inputs are known."""
        self._try(self._of_sparsities(FIRST))
        drifts = ", ".join(f"{each.verdict.after:.3f} at {each.recipe.sparsity:.0%}" for each in self._tried)
        return PrunerError(
            f"expected inputs to tell how much can go, found random ones, on which nobody can; the output drift on them is "
            f"{drifts} of the units gone; give inputs, or ask for a size (macs=0.5, say)"
        )

    def _told(self, chosen: Candidate, target: Target) -> list[str]:
        longest = max(each.seconds for each in self._tried)
        kept = chosen.loss <= target.loss
        which = f"the smallest that loses at most {target.loss:.1%}" if kept else "the one that loses the least"
        return [
            *(["The search was ended early."] if self._enough else []),
            f"Of {len(self._tried)} candidates, healed for up to {longest:.0f} seconds, {which} has {chosen.macs:.0%} of "
            f"the multiply-accumulates. {chosen.verdict.sentence}",
        ]

    def _none_bears(self, target: Target) -> PrunerError:
        if not self._tried:
            return PrunerError("expected time to heal one candidate at least, found none; let it run for longer")
        best = min(self._tried, key=_loss)
        return PrunerError(
            f"expected a size that loses at most {target.loss:.1%}, found {best.loss:.1%} at the least, with "
            f"{best.recipe.sparsity:.0%} of the units gone; ask for less, give more inputs or a longer budget"
        )

    def _of_sparsities(self, sparsities: Iterable[float]) -> list[Recipe]:
        return [replace(self._recipe, sparsity=round(sparsity, 3)) for sparsity in sparsities]

    def _try(self, recipes: Sequence[Recipe], share: float = 1.0) -> None:
        """Heal candidates side by side for a share of the budget, until all are there or enough are."""
        if self._enough:
            return
        self._rounds += 1
        steps = self._recipe.steps and max(1, round(self._recipe.steps * share))
        light = replace(self._checkpoint, container={})
        calls = [
            (light, replace(recipe, budget=recipe.budget * share, steps=steps), *self._common) for recipe in recipes
        ]
        found: dict[int, Candidate] = {}

        def look(waiting: bool) -> None:
            done = f"Round {self._rounds}: {len(found)} of {len(calls)} candidates healed"
            part = 0.4 * len(found) / len(calls)
            if self._progress(1 - 0.6**self._rounds * (1 - part), "Waiting for other work" if waiting else done):
                raise _Enough

        try:
            for index, candidate in as_they_come(candidate_of, calls, look):
                whole = replace(candidate.pruned, checkpoint=self._checkpoint)
                found[index] = replace(candidate, pruned=whole)
                self._seen(found[index])
        except _Enough:
            self._enough = True
        self._tried += [found[index] for index in sorted(found)]

    def _borne(self, target: Target) -> float:
        """The highest sparsity that was borne; longer healing would bear it, too."""
        return max((each.recipe.sparsity for each in self._tried if each.loss <= target.loss), default=0.0)

    def _not_borne(self, target: Target) -> float:
        """The lowest sparsity above that which was not, though healed for the whole budget."""
        borne = self._borne(target)
        lost = (each.recipe.sparsity for each in self._whole() if each.loss > target.loss)
        return min((sparsity for sparsity in lost if sparsity > borne), default=MOST_SPARSITY + STEP)

    def _brief(self) -> list[Candidate]:
        return [each for each in self._tried if each.recipe.budget < self._recipe.budget]

    def _whole(self) -> list[Candidate]:
        return [each for each in self._tried if each.recipe.budget >= self._recipe.budget]

    def _predicted(self, loss: float) -> float:
        """The sparsity that would lose so much after a whole healing: straight lines between the logarithms of the losses
        after the brief ones, lowered by what longer healing brings."""
        brief = sorted(self._brief(), key=lambda each: each.recipe.sparsity)
        sparsities = np.array([0.0, *(each.recipe.sparsity for each in brief), 1.0])
        logs = np.log([LEAST_LOSS, *(max(each.loss, LEAST_LOSS) for each in brief), 10.0])
        logs = np.maximum.accumulate(logs) + 1e-9 * np.arange(len(logs))
        helped = [
            math.log(max(each.loss, LEAST_LOSS)) - float(np.interp(each.recipe.sparsity, sparsities, logs))
            for each in self._whole()
        ]
        helps = min(0.0, float(np.mean(helped))) if helped else math.log(LONGER_HELPS)
        return _within(
            float(np.interp(math.log(max(loss, LEAST_LOSS)) - helps, logs, sparsities)), LEAST_SPARSITY, MOST_SPARSITY
        )


def _own(recipe: Recipe) -> bool:
    """Whether layers or gates have sparsities of their own, which one ranking knows nothing of."""
    return bool(recipe.layer_sparsity or recipe.gate_sparsity)


def _size(candidate: Candidate) -> tuple[float, float]:
    return candidate.macs, candidate.loss


def _loss(candidate: Candidate) -> float:
    return candidate.loss


def _within(sparsity: float, least: float, most: float) -> float:
    return min(most, max(least, sparsity))
