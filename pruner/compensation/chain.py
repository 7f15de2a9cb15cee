"""What stays of a pruned LSTM takes over from what goes: folded in, then healed.

Each step is a room of its own, and is kept only where it helps on calibration data that was held back; `Step` says so.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pruner.calibration.calibration import Calibration
from pruner.calibration.observations import Statistics
from pruner.compact.masked_and_compact import NO_COMPENSATION, Compensation
from pruner.compensation import fold
from pruner.compensation.fold import Shrunk
from pruner.compensation.heal import WATCHED, Budget, Healed, heal
from pruner.compensation.judge import Judge
from pruner.compensation.lessons import Lessons
from pruner.compensation.start import Start, joined, start_of
from pruner.compensation.whole import Batches, Model, Whole, judge
from pruner.errors import PrunerError
from pruner.files.checkpoint import Checkpoint
from pruner.files.consumer_choice import along, consumers_of, feeders, task_of
from pruner.lstm.kept import Kept, Part, consumer_part, unit_parts
from pruner.lstm.lstm import LSTM
from pruner.lstm.measure import ForwardPass
from pruner.lstm.rebuilt import Reconstruction
from pruner.progress import Progress, silent, split
from pruner.recipe import Recipe

# What an LSTM and its consumers have become (tensors of full size by their names in the file), and the loss on what is held
# back: with nothing done, folded, and at each look while it heals.
Seen = Callable[[dict[str, Tensor], float], object]


@dataclass(frozen=True)
class Step:
    """One step of the chain: the loss on held-back calibration data without and with it, and what else is known of it."""

    name: str
    before: float
    after: float
    facts: dict[str, Any]

    @property
    def kept(self) -> bool:
        return self.after < self.before

    def told(self) -> dict[str, Any]:
        """As the manifest has it."""
        found = asdict(self)
        return {**{key: found[key] for key in ("name", "before", "after")}, "kept": self.kept, **self.facts}


@dataclass(frozen=True)
class Left:
    """What is left of an LSTM after its chain: the tensors that changed, at full size under their names in the file, what
    reconstructs the removed units where nobody said who reads them, and the steps."""

    lstm: LSTM
    tensors: dict[str, Tensor]
    reconstruction: Reconstruction | None
    steps: list[Step]

    @classmethod
    def of(cls, start: Start, shrunk: Shrunk, steps: list[Step], checkpoint: Checkpoint) -> "Left":
        tensors = _written(shrunk, start.kept, start.lstm, checkpoint.tensors)
        return cls(start.lstm, tensors, shrunk.reconstruction, steps)


def check_data(recipe: Recipe, calibration: Calibration | None) -> None:
    """Raise PrunerError unless there are the calibration inputs that the recipe's criterion and compensation need; to heal,
    inputs that are not random: a model that learns on those forgets the real ones."""
    if recipe.needs_data and calibration is None:
        raise PrunerError(
            "expected calibration inputs for this recipe, whose criterion or compensation needs them, found none; give "
            "some, or choose the criterion l1 without compensation"
        )
    if recipe.compensation == "heal" and calibration is not None and not calibration.is_real:
        raise PrunerError(
            "expected real or sampled inputs for compensation 'heal', found random ones, which would make the model "
            "worse on real ones; give inputs, or choose compensation 'fold'"
        )


def compensate(
    checkpoint: Checkpoint,
    recipe: Recipe,
    masks: Mapping[str, Tensor],
    statistics: Mapping[str, Statistics],
    calibration: Calibration,
    device: str = "cpu",
    progress: Progress = silent,
    forward: ForwardPass | None = None,
    seen: Seen | None = None,
) -> Compensation:
    """Compensate every pruned LSTM of a checkpoint as the recipe's `compensation` says, one after the other.

    `masks` are the recipe's, `statistics` those of the dense LSTMs on the part of `calibration` to fit on, by LSTM name.
    `forward` stands in for "LSTM, then consumers": all that is left is healed together to give its answers, and judged by
    them. Without it `seen` may watch: it is called with whatever is judged, more often than healing would look. Raises
    PrunerError where a layer is left without units, and as `check_data` does.
    """
    if recipe.compensation == "none":
        return NO_COMPENSATION
    check_data(recipe, calibration)
    consumers, lstms = consumers_of(checkpoint, recipe), checkpoint.select(recipe.lstms)

    def start(lstm: LSTM, tensors: Mapping[str, Tensor]) -> Start:
        return start_of(lstm, tensors, masks, recipe, consumers[lstm.name], statistics[lstm.name], device)

    if forward is None:
        left = _one_by_one(checkpoint, recipe, consumers, start, calibration, device, progress, seen)
    else:
        starts = [start(lstm, checkpoint.tensors) for lstm in lstms]
        left = _together(checkpoint, starts, recipe, calibration, forward, device, progress)
    changed = {name: tensor for each in left for name, tensor in each.tensors.items()}
    reconstructions = {each.lstm.name: each.reconstruction for each in left if each.reconstruction is not None}
    left.sort(key=lambda each: lstms.index(each.lstm))
    done = [{"name": each.lstm.name, "steps": [step.told() for step in each.steps]} for each in left]
    facts = {
        "calibration": {
            "source": calibration.source,
            "name": calibration.name,
            "sha256": calibration.sha256,
            "steps": calibration.steps(),
        },
        "ridge": fold.RIDGE,
        "lstms": done,
    }
    return Compensation(changed, reconstructions, facts)


def _one_by_one(
    checkpoint: Checkpoint,
    recipe: Recipe,
    consumers: Mapping[str, list[str]],
    start_with: Callable[[LSTM, Mapping[str, Tensor]], Start],
    calibration: Calibration,
    device: str,
    progress: Progress,
    seen: Seen | None,
) -> list[Left]:
    """Fit each pruned LSTM and its consumers to what they gave before, after those LSTMs that read it: what is left of them
    takes over from what goes of it. `progress` as in `heal`, `seen` as in `compensate`."""
    order = along(feeders(checkpoint, consumers), checkpoint.select(recipe.lstms), backwards=True)
    tensors, left, budget = dict(checkpoint.tensors), list[Left](), Budget.of(recipe, len(order))
    fit_on, held_back = calibration.split()
    for lstm, part in zip(order, split(progress, *[1] * len(order)), strict=True):
        start, task = start_with(lstm, tensors), task_of(checkpoint, recipe, consumers[lstm.name])
        part(0.0, f"Compensating {lstm.title}: what is held back")
        dense = start.dense
        loss: Callable[[Shrunk], float]
        both = dense.layers, dense.consumers
        loss = Judge(lstm, checkpoint.tensors, held_back, *both, start.kept, task, device, start.rebuilt).loss
        if seen is not None:
            loss, budget = _watched(loss, start, checkpoint, seen), replace(budget, looks=WATCHED)
        steps = [Step(**start.step(loss(start.bare), loss(start.folded)), facts={})]
        now = start.folded if steps[0].kept else start.bare
        if recipe.compensation == "heal":
            teacher = start.teacher()
            lessons = Lessons(lstm, checkpoint.tensors, fit_on, teacher, teacher.widths(), task, device)
            healed = heal(start.student(now), lessons, loss, budget, part, lstm.title)
            steps.append(_healing(healed, 1))
            now = healed.shrunk
        part(1.0, f"Compensated {lstm.title}")
        left.append(Left.of(start, now, steps, checkpoint))
        tensors |= left[-1].tensors
    return left


def _together(
    checkpoint: Checkpoint,
    starts: list[Start],
    recipe: Recipe,
    calibration: Calibration,
    forward: ForwardPass,
    device: str,
    progress: Progress,
) -> list[Left]:
    """Fit all pruned LSTMs and their consumers to what the whole model gave before."""
    fit_on, held_back = calibration.split()
    progress(0.0, "Compensating the model: what is held back")
    lstms = [start.lstm for start in starts]
    first = next(lstm for lstm in lstms if lstm.name not in calibration.fed)  # whose inputs are those of the model
    model = Model(checkpoint, lstms, [start.teacher() for start in starts], forward, device)
    loss = judge(model, first, [start.student for start in starts], held_back)
    now = [start.bare for start in starts]
    losses = [loss(joined(starts, now))]
    steps: list[list[Step]] = []
    for place, start in enumerate(starts):
        folded = [*now[:place], start.folded, *now[place + 1 :]]
        steps.append([Step(**start.step(losses[-1], loss(joined(starts, folded))), facts={})])
        if steps[-1][0].kept:
            now = folded
            losses.append(steps[-1][0].after)
    now = joined(starts, now)
    if recipe.compensation == "heal":
        lessons = Batches(model, fit_on, first)
        students = [start.student(shrunk) for start, shrunk in zip(starts, now, strict=True)]
        titles = ", ".join(lstm.title for lstm in lstms)
        healed = heal(Whole(students, model), lessons, loss, Budget.of(recipe, 1), progress, titles)
        for own in steps:
            own.append(_healing(healed, len(starts)))
        now = healed.shrunk
    progress(1.0, "Compensated the model")
    return [Left.of(start, shrunk, own, checkpoint) for start, shrunk, own in zip(starts, now, steps, strict=True)]


def _healing(healed: Healed[Any], lstms: int) -> Step:
    """The step of one of so many LSTMs that were healed together, and share the time."""
    spent = {"seconds": round(healed.seconds / lstms, 1), "updates": healed.updates, "stopped": healed.stopped}
    return Step("heal", healed.losses[0], min(healed.losses), spent)


def _watched(
    loss_of: Callable[[Shrunk], float], start: Start, checkpoint: Checkpoint, seen: Seen
) -> Callable[[Shrunk], float]:
    def loss(shrunk: Shrunk) -> float:
        found = loss_of(shrunk)
        seen(_written(shrunk, start.kept, start.lstm, checkpoint.tensors), found)
        return found

    return loss


@torch.no_grad()
def _written(shrunk: Shrunk, kept: Kept | None, lstm: LSTM, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The shrunk model at full size, zeros where units were removed, under the names in the file and in their dtypes."""
    values: dict[str, Tensor] = {}  # by PyTorch's names
    for layer, direction in lstm.places:
        weights, suffix = shrunk.layers[layer][direction], lstm.suffix(layer, direction)
        values |= {f"weight_ih{suffix}": weights.ih, f"weight_hh{suffix}": weights.hh}
        values |= {f"bias_ih{suffix}": weights.bias, f"bias_hh{suffix}": torch.zeros_like(weights.bias)}
        if weights.hr is not None:
            values[f"weight_hr{suffix}"] = weights.hr
    parts = {} if kept is None else unit_parts(lstm, kept)
    changed = {}
    for standard, name in lstm.tensors.items():
        changed[name] = _widened(parts.get(standard, Part()), values[standard], tensors[name])
    trimmed = Part() if kept is None else consumer_part(lstm, kept)
    for consumer in shrunk.consumers:
        changed[consumer.name] = _widened(trimmed, consumer.weight, tensors[consumer.name])
        if consumer.bias_name is not None and consumer.bias is not None:
            changed[consumer.bias_name] = _widened(Part(), consumer.bias, tensors[consumer.bias_name])
    return changed


def _widened(part: Part, values: Tensor, like: Tensor) -> Tensor:
    return part.widen(values.cpu().to(like.dtype), like.shape)
