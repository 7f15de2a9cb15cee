"""What stays of a pruned LSTM takes over from what goes: folded in, then healed.

Each step is a room of its own, and is kept only where it helps on calibration data that was held back; `Step` says so.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pruner.calibration.calibration import Calibration
from pruner.calibration.observations import Statistics
from pruner.compact.masked_and_compact import NO_COMPENSATION, Compensation
from pruner.compensation import fold
from pruner.compensation.fold import Shrunk, shrunk_units, without_rows
from pruner.compensation.heal import WATCHED, Budget, heal
from pruner.compensation.judge import Judge
from pruner.compensation.lessons import Lessons
from pruner.compensation.student import Student
from pruner.compensation.whole import Batches, Model, Whole, judge
from pruner.errors import PrunerError
from pruner.files.checkpoint import Checkpoint
from pruner.files.consumer_choice import consumers_of
from pruner.files.consumers import load_consumers
from pruner.lstm.kept import Kept, Part, Reconstruction, consumer_part, counts, row_masks, unit_masks, unit_parts
from pruner.lstm.lstm import LSTM
from pruner.lstm.measure import Forward
from pruner.lstm.traces import layers_of
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


def check_data(recipe: Recipe, calibration: Calibration | None) -> None:
    """Raise PrunerError unless there are the calibration inputs that the recipe's criterion and compensation need; to heal,
    inputs that are not random: a model that learns on those forgets the real ones."""
    if recipe.needs_data and calibration is None:
        raise PrunerError(
            "expected calibration inputs for this recipe, whose criterion or compensation needs them, found none; give "
            "some, or choose the criterion l1 without compensation"
        )
    if recipe.compensation == "heal" and calibration is not None and calibration.source == "gaussian":
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
    forward: Forward | None = None,
    seen: Seen | None = None,
) -> Compensation:
    """Compensate every pruned LSTM of a checkpoint as the recipe's `compensation` says, one after the other.

    `masks` are the recipe's, `statistics` those of the dense LSTMs on the part of `calibration` to fit on, by LSTM name.
    `forward` stands in for "LSTM, then consumers": what is left is healed to give its answers, and judged by them. `seen`
    watches: it is called with whatever is judged, more often than healing would look.
    Raises PrunerError where a layer is left without units, and as `check_data` does.
    """
    if recipe.compensation == "none":
        return NO_COMPENSATION
    check_data(recipe, calibration)
    consumers, lstms = consumers_of(checkpoint, recipe), checkpoint.select(recipe.lstms)
    changed, reconstructions, done = dict[str, Tensor](), dict[str, Reconstruction](), []
    for lstm, part in zip(lstms, split(progress, *[1] * len(lstms)), strict=True):
        tensors, reconstruction, steps = compensate_lstm(
            lstm,
            checkpoint.tensors,
            masks,
            recipe,
            consumers[lstm.name],
            statistics[lstm.name],
            calibration,
            Budget.of(recipe, len(lstms)),
            device,
            part,
            forward and Model.of(checkpoint, lstm, forward, recipe.task, device),
            seen,
        )
        changed |= tensors
        if reconstruction is not None:
            reconstructions[lstm.name] = reconstruction
        done.append({"name": lstm.name, "steps": [step.told() for step in steps]})
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


def compensate_lstm(
    lstm: LSTM,
    tensors: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    recipe: Recipe,
    consumers: list[str],
    statistics: Statistics,
    calibration: Calibration,
    budget: Budget,
    device: str = "cpu",
    progress: Progress = silent,
    model: Model | None = None,
    seen: Seen | None = None,
) -> tuple[dict[str, Tensor], Reconstruction | None, list[Step]]:
    """Fit one pruned LSTM and its consumers: (new tensors of full size, reconstruction of the removed units, steps).

    `masks` are the recipe's; `statistics` are those of the dense LSTM on the part of `calibration` to fit on. What
    masks drop is zero in the new tensors, and so are the columns that read dropped units. `progress` as in `heal`; a `model`
    answers in place of the consumers; `seen` as in `compensate`.
    """
    fit_on, held_back = calibration.split()
    task = recipe.task if consumers else None  # of other LSTMs' consumers
    dense = Shrunk(layers_of(lstm, tensors, device), load_consumers(tensors, consumers, device))
    rows: dict[Any, tuple[Tensor, Tensor]] | None = None
    kept: Kept | None = None
    if recipe.granularity == "units":
        kept = {place: mask.nonzero().flatten().to(device) for place, mask in unit_masks(lstm, masks).items()}
        if 0 in counts(kept.values()):
            raise PrunerError(
                f"expected units left in every layer of {lstm.title} to take over from those removed, found a layer "
                "without; lower its sparsity, or choose compensation 'none'"
            )
        bare, folded = (
            shrunk_units(dense.layers, dense.consumers, kept, lstm, statistics, way) for way in (False, True)
        )
    else:
        rows = row_masks(lstm, masks)
        bare, folded = (
            Shrunk(without_rows(dense.layers, rows, means), dense.consumers)
            for means in (None, statistics if lstm.bias else None)
        )
    progress(0.0, f"Compensating {lstm.title}: what is held back")
    teacher = Student(dense, lstm, None, None).requires_grad_(False)
    student_of = partial(Student, lstm=lstm, kept=kept, masks=rows)
    loss: Callable[[Shrunk], float]
    if model is None:
        loss = Judge(lstm, tensors, held_back, dense.layers, dense.consumers, kept, task, device).loss
    else:
        loss = judge(model, teacher, student_of, kept, held_back, device)
    if seen is not None:
        loss, budget = (
            _watched(loss, lambda now: _written(now, kept, lstm, tensors), seen),
            replace(budget, looks=WATCHED),
        )
    steps = [Step("fold" if kept else "mean into bias", loss(bare), loss(folded), {})]
    now = folded if steps[0].kept else bare
    if recipe.compensation == "heal":
        student: Student | Whole = student_of(now)
        if model is None:
            lessons: Lessons | Batches = Lessons(lstm, tensors, fit_on, teacher, teacher.widths(), task, device)
        else:
            student, lessons = Whole(student_of(now), model, kept), Batches(model, teacher, fit_on, device)
        healed = heal(student, lessons, loss, budget, progress, lstm.title)
        spent = {"seconds": round(healed.seconds, 1), "updates": healed.updates, "stopped": healed.stopped}
        steps.append(Step("heal", healed.losses[0], min(healed.losses), spent))
        now = healed.shrunk
    progress(1.0, f"Compensated {lstm.title}")
    return _written(now, kept, lstm, tensors), now.reconstruction, steps


def _watched(
    loss_of: Callable[[Shrunk], float], written: Callable[[Shrunk], dict[str, Tensor]], seen: Seen
) -> Callable[[Shrunk], float]:
    def loss(shrunk: Shrunk) -> float:
        found = loss_of(shrunk)
        seen(written(shrunk), found)
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
