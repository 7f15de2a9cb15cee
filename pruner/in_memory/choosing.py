"""Which rows and units of a model in memory fall, from its present weights."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pruner.errors import PrunerError
from pruner.importance.data import random_score
from pruner.importance.masks import dropped_rows, dropped_together, keep_highest, keep_mask, rounded_up, row_ranks
from pruner.importance.weights import column_norms, row_saliency, unit_score
from pruner.in_memory.row_mask import is_masked, values
from pruner.in_memory.sites import Site
from pruner.lstm.describing import described
from pruner.lstm.gates import GATES, SIDES
from pruner.lstm.lstm import Place
from pruner.recipe import Recipe

FALLEN = -1.0  # the score of what fell before and may not come back: below all others, which are norms


@dataclass(frozen=True)
class Choice:
    """How masks are chosen: by the recipe's criterion, allocation and rounding; whether what fell may come back."""

    recipe: Recipe
    regrow: bool

    def rows(self, module: Any, name: str, mask: Tensor, sparsity: float) -> Tensor:
        """The next (4H,) mask of a packed weight: each gate loses its own lowest rows."""
        if self.recipe.criterion == "random":
            score = _drawn_rows(module, name, self.recipe.seed).to(mask.device)
        else:
            score = _finite(row_saliency(values(module, name), self.recipe.criterion), name)
        chosen = keep_mask(row_ranks(self._fallen_last(score, mask)), (sparsity,) * len(GATES))
        return self._next(chosen, mask)

    def units(self, site: Site, place: Place, shares: Mapping[Place, float], readers: list[Tensor]) -> Tensor:
        """The next (4H,) mask of a layer and direction: whole units fall. `shares` holds the sparsity of every place that is
        pruned, `readers` what reads the last layer."""
        scores = {each: self._unit_scores(site, each, readers) for each in shares}
        if self.recipe.allocation == "global":
            recipe = replace(self.recipe, sparsity=shares[place])
            dropped = dict(
                zip(scores, dropped_together(list(scores.values()), _widths(site, scores), recipe), strict=True)
            )
        else:
            dropped = {place: dropped_rows(len(scores[place]), shares[place])}
        size = len(scores[place])
        kept = rounded_up(size, dropped[place], self.recipe.round_to)
        return self._next(keep_highest(scores[place], size - kept).repeat(len(GATES)), _unit_mask(site, place))

    def _unit_scores(self, site: Site, place: Place, readers: list[Tensor]) -> Tensor:
        mask = _unit_mask(site, place).view(len(GATES), -1)[0]
        if self.recipe.criterion == "random":
            sizes = [described(site.inside(each)[1]).hidden_size for each in site.facts.places]
            drawn = random_score(sum(sizes), self.recipe.seed).split(sizes)
            score = drawn[site.facts.places.index(place)].to(mask.device)
        else:
            saliencies = [row_saliency(weight, self.recipe.criterion) for weight in _weights(site, place)]
            read = None
            if self.recipe.criterion == "group":
                read = column_norms(site.outgoing(place, readers), len(mask), mask.device)
            score = _finite(unit_score(saliencies, self.recipe.criterion, read), f"{site.path} layer {place[0]}")
        return self._fallen_last(score, mask)

    def _fallen_last(self, score: Tensor, mask: Tensor) -> Tensor:
        return score if self.regrow else torch.where(mask, score, FALLEN)

    def _next(self, chosen: Tensor, mask: Tensor) -> Tensor:
        return chosen if self.regrow else chosen & mask


def _finite(score: Tensor, where: str) -> Tensor:
    """The scores. Raises PrunerError where one of them is not finite: it has no rank."""
    if not bool(score.isfinite().all()):
        raise PrunerError(
            f"expected finite weights, found NaN or infinite values in {where}; go back to a checkpoint from before"
        )
    return score


def _weights(site: Site, place: Place) -> Iterator[Tensor]:
    """The packed weights (4K, ...) of a place, without their masks."""
    _, module, inner = site.inside(place)
    suffix = described(module).suffix(*inner)
    return (values(module, f"weight_{side}{suffix}") for side in SIDES)


def _widths(site: Site, places: Mapping[Place, Tensor]) -> list[int]:
    """How many weights each unit has in its eight rows, by place."""
    return [len(GATES) * sum(weight.shape[1] for weight in _weights(site, place)) for place in places]


def _unit_mask(site: Site, place: Place) -> Tensor:
    """The (4H,) mask that is on the first weight of a place."""
    _, module, inner = site.inside(place)
    name = f"weight_ih{described(module).suffix(*inner)}"
    if not is_masked(module, name):
        weight = values(module, name)
        return torch.ones(len(weight), dtype=torch.bool, device=weight.device)
    return module.parametrizations[name][0].mask


def _drawn_rows(module: Any, name: str, seed: int) -> Tensor:
    """Random scores (4H,) of a weight, as those of a whole LSTM are drawn: one weight after the other."""
    lstm = described(module)
    names = list(lstm.weight_names().values())
    return random_score(len(names) * len(GATES) * lstm.hidden_size, seed).chunk(len(names))[names.index(name)]
