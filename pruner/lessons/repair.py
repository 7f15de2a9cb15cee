"""Lesson 7: what the units that stay know of those that go, and how far that repairs the model."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pruner.calibration.observations import Moments
from pruner.compensation.fold import takeover
from pruner.importance.scores import score_lstm
from pruner.lessons.course import Answer, Lesson
from pruner.lessons.model import GRAMMAR, gathered, model
from pruner.lstm.gates import split_gates
from pruner.pipeline import prune
from pruner.recipe import Recipe

SHARES = tuple(step / 100 for step in range(10, 90, 10))
SHARE = 0.5
TINY = 1e-12  # below this a unit does not move, and there is nothing to explain


def recipe(share: float, compensation: str = "fold") -> Recipe:
    """Units, in the order that their covariance suggests, with or without compensation."""
    example = model(GRAMMAR).example
    return example.complete(Recipe(share, granularity="units", criterion="obs", compensation=compensation))


def correlation(moments: Moments) -> Tensor:
    """The covariance (H, H) of hidden units, each divided by its own spread: from -1 to 1."""
    spread = moments.covariance.diagonal().clamp(min=TINY).sqrt()
    return moments.covariance / torch.outer(spread, spread)


def explained(moments: Moments, kept: Tensor, removed: Tensor) -> Tensor:
    """(R,): the share of each removed unit's variance that the kept units tell, 0 (nothing) to 1 (all of it)."""
    weights, _ = takeover(moments, kept, removed)
    total = moments.covariance[removed, removed]
    among, across = moments.covariance[kept][:, kept], moments.covariance[removed][:, kept]
    left = total - 2 * (weights * across).sum(1) + ((weights @ among) * weights).sum(1)
    return (1 - left / total.clamp(min=TINY)).clamp(0, 1)


@dataclass(frozen=True)
class Repaired:
    """The grammar model without some of its units: which ones (R,) and (K,), what the others tell of them (R,), how all of
    them go together (H, H), and the quality with nothing done and with compensation."""

    removed: Tensor
    kept: Tensor
    explained: Tensor
    correlation: Tensor
    quality: dict[str, float]

    @property
    def best_told(self) -> int:
        """Where in `removed` the unit is that the others tell most of."""
        return int(self.explained.argmax())

    @property
    def twin(self) -> int:
        """The kept unit that goes most closely with it."""
        return int(self.kept[self.correlation[self.removed[self.best_told], self.kept].abs().argmax()])


def repair(share: float) -> Repaired:
    """Remove a share of the units of the grammar model, once as it is and once with compensation."""
    example = model(GRAMMAR)
    calibration, statistics = gathered()
    own = statistics[example.lstm.name]
    scores = score_lstm(example.lstm, example.tensors, "obs", (example.example.consumer,), own)
    masks = scores.masks(example.lstm, recipe(share))
    quality = {}
    for way in ("none", "fold"):
        pruned = prune(example.checkpoint, recipe(share, way), calibration, statistics, masks)
        quality[way] = example.quality(pruned.tensors())
    keep = split_gates(masks[example.weight("ih")])[0]
    kept, removed = keep.nonzero().flatten(), (~keep).nonzero().flatten()
    moments = own.layers[0, 0].units
    return Repaired(removed, kept, explained(moments, kept, removed), correlation(moments), quality)


def notice(found: Repaired) -> list[str]:
    best, worst = found.best_told, int(found.explained.argmin())
    told = [
        f"Hidden units repeat each other. The kept units tell {found.explained[best]:.1%} of how unit "
        f"{int(found.removed[best])} varies; unit {found.twin} goes most closely with it.",
        f"Of unit {int(found.removed[worst])} they tell {found.explained[worst]:.1%}. What they cannot tell is lost.",
        f"With {len(found.removed)} of {len(found.removed) + len(found.kept)} units gone, "
        f"**{found.quality['none']:.1%}** of the strings are right; with compensation "
        f"**{found.quality['fold']:.1%}**. Both models are of the same size.",
    ]
    told.append(
        "It has an end: where too few units are left to hold what the task needs, no weights can bring it back. "
        "Follow the curve to the right. The next lesson goes further: it trains what is left."
    )
    return told


LESSON = Lesson(
    name="repair",
    title="What can be repaired",
    question="Half of the units are gone. Must what they knew be gone, too?",
    introduction=(
        "Whatever reads a hidden unit, the next step, the next layer or the output layer, loses it when it is "
        "removed. But units repeat each other. On the training strings we measure how all of them vary together, "
        "their covariance, and let each of these consumers take from the kept units what they tell of the removed ones. "
        "That changes the weights of the consumers and trains nothing; it is called **compensation**."
    ),
    code=(takeover,),
    check="A unit is removed that goes with no other unit at all. What does compensation do for it?",
    answers=(
        Answer(
            "It puts the unit’s mean into the bias",
            True,
            "The weights that should take over are zero, and the mean is what is left. The rest of what it said is lost.",
        ),
        Answer(
            "It restores the unit",
            False,
            "The kept units tell nothing of it, so there is nothing to restore it from.",
        ),
        Answer(
            "It makes the model worse",
            False,
            "What a consumer gets is fitted by least squares. At worst the fit finds nothing in the kept units and "
            "adds the mean.",
        ),
    ),
    terms=("compensation",),
    sources=("channels",),
)
