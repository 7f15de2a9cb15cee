"""Checkpoint + recipe -> result, with progress and cancellation."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from pruner.calibration.inputs import Calibration
from pruner.calibration.observations import Statistics, gather
from pruner.compact.masked_and_compact import DEFAULT_FORM, FORMS, Form, compact_form, masked_form
from pruner.compensation.chain import NO_COMPENSATION, Compensation, check_data, compensate
from pruner.compensation.order_trial import with_the_better_order
from pruner.errors import PrunerError
from pruner.exports import export
from pruner.files.checkpoint import Checkpoint
from pruner.files.consumers import consumers_of
from pruner.files.names import settled
from pruner.importance.masks import check_layers, score_lstm
from pruner.lstm.find import LSTM, build
from pruner.lstm.measure import (
    Cost,
    Drift,
    Latency,
    cost_of_file,
    cost_of_form,
    difference,
    latency,
    outputs,
    random_input,
)
from pruner.recipe import Recipe, check_choice

LATENCY_BATCHES = (1, 32)

Progress = Callable[[float, str], None]
Quality = Callable[[Mapping[str, Tensor], Mapping[str, nn.Module]], float]


@dataclass(frozen=True)
class Result:
    """A pruned checkpoint, with what it was made from and what was measured. Immutable.

    `costs`, `quality` and `latency` are keyed by form: dense, masked, compact.
    """

    checkpoint: Checkpoint
    recipe: Recipe
    device: str
    masks: dict[str, Tensor]  # (4H,) bool by the names in the file, True = kept
    forms: dict[str, Form]  # masked and compact
    costs: dict[str, Cost]
    drift: dict[str, Drift]  # by LSTM name: the output, masked against dense, on held-back or random inputs
    quality: dict[str, float] | None  # where a quality was given
    latency: dict[int, dict[str, Latency]] | None  # by batch size, where it was asked for
    compensation: Compensation = NO_COMPENSATION

    def save(self, folder: str | os.PathLike[str], form: str | None = None) -> Path:
        """Write the export folder in one form: masked or compact, by default masked for rows and compact for units.

        Raises PrunerError if the folder is in use or cannot be written, or the export does not compute what the masks say.
        """
        name = form or DEFAULT_FORM[self.recipe.granularity]
        check_choice("form", name, FORMS)
        costs = self.costs["dense"], self.costs[name]
        return export.save(
            folder, self.checkpoint, self.recipe, self.masks, self.forms, name, costs, self.compensation.facts
        )


def available_devices() -> dict[str, str]:
    """{device: what it is called}, the CPU first, then each CUDA device found."""
    devices = {"cpu": "CPU"}
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            devices[f"cuda:{index}"] = torch.cuda.get_device_name(index)
    return devices


def gather_statistics(
    checkpoint: Checkpoint,
    recipe: Recipe,
    calibration: Calibration,
    device: str = "cpu",
    progress: Progress = lambda *_: None,
) -> dict[str, Statistics]:
    """What the recipe's LSTMs do on the calibration inputs that are not held back, by their names.

    Raises PrunerError for calibration data that has nothing for one of them or too little to hold some back.
    """
    lstms, consumers = checkpoint.select(recipe.lstms), consumers_of(checkpoint, recipe)
    fit_on, _ = calibration.split()
    found = {}
    for index, lstm in enumerate(lstms):
        if lstm.name not in fit_on.sequences:
            raise PrunerError(f"expected calibration inputs for {lstm.title}, found none; give some, or leave it out")

        def report(part: float, what: str, index: int = index) -> None:
            progress((index + part) / len(lstms), what)

        readers, tensors = consumers[lstm.name], checkpoint.tensors
        own = gather(lstm, tensors, fit_on, readers, recipe.task, device, report)
        if recipe.task is not None:
            own = with_the_better_order(lstm, tensors, own, calibration, readers, recipe.task, device, report)
        found[lstm.name] = own
    return found


def choose_masks(
    checkpoint: Checkpoint,
    recipe: Recipe,
    progress: Progress = lambda *_: None,
    statistics: Mapping[str, Statistics] | None = None,
) -> dict[str, Tensor]:
    """The masks of a recipe, from the checkpoint's own weights or from statistics: {name in the file: (4H,) bool}.

    Raises PrunerError if the recipe does not fit the checkpoint or needs missing statistics, or a weight is not finite.
    """
    lstms = checkpoint.select(recipe.lstms)
    check_layers(recipe, lstms)
    consumers = consumers_of(checkpoint, recipe)
    masks = {}
    for index, lstm in enumerate(lstms):
        progress(index / len(lstms), f"Scoring {lstm.title}")
        own = statistics[lstm.name] if statistics else None
        scores = score_lstm(lstm, checkpoint.tensors, recipe.criterion, consumers[lstm.name], own, recipe.seed)
        masks.update(scores.masks(lstm, recipe))
    return masks


def forms_of(
    checkpoint: Checkpoint,
    recipe: Recipe,
    masks: Mapping[str, Tensor],
    compensation: Compensation = NO_COMPENSATION,
) -> dict[str, Form]:
    """The masked and the compact form of a checkpoint under masks. Raises PrunerError for consumers that do not fit."""
    lstms = checkpoint.select(recipe.lstms)
    consumers = consumers_of(checkpoint, recipe)
    small = compact_form(checkpoint, lstms, masks, recipe.granularity, consumers, compensation, recipe.needs_data)
    return {"masked": masked_form(checkpoint, lstms, masks, compensation), "compact": small}


def held_back_input(lstm: LSTM, checkpoint: Checkpoint, calibration: Calibration) -> Tensor:
    """A batch (B, T, I) of the calibration inputs that are held back."""
    return next(calibration.split()[1].inputs(lstm, checkpoint.tensors))


def run(
    checkpoint: Checkpoint,
    recipe: Recipe,
    device: str = "cpu",
    progress: Progress = lambda *_: None,
    quality: Quality | None = None,
    timed: bool = False,
    calibration: Calibration | None = None,
    statistics: Mapping[str, Statistics] | None = None,
) -> Result:
    """Prune a checkpoint in memory and measure what came of it.

    `calibration` holds the inputs that scores from data and compensation need. `statistics` are what `gather_statistics`
    found on them; they are gathered here if they are needed and not given.

    `progress(fraction, what)` is called between steps; raise `Cancelled` in it to stop. `quality(tensors, lstms)` rates
    the whole model from its tensors and its runnable LSTMs, both keyed by name. `timed` measures
    latency, too. Masks are chosen on the CPU; the models run on `device`. Raises PrunerError for a device that is not there,
    or a recipe that needs calibration inputs where there are none.
    """
    devices = available_devices()
    device = "cuda:0" if device == "cuda" else device
    if device not in devices:
        raise PrunerError(f"expected a device among {', '.join(devices)}; found {device!r}; run on cpu instead")
    compensation = NO_COMPENSATION
    recipe = settled(checkpoint, recipe)
    check_data(checkpoint, recipe, calibration)
    to_gather = recipe.needs_data and statistics is None
    start = 0.15 if to_gather else 0.0  # of the choice of masks
    if to_gather and calibration is not None:
        statistics = gather_statistics(
            checkpoint, recipe, calibration, device, lambda done, what: progress(start * done, what)
        )
    masks = choose_masks(
        checkpoint, recipe, lambda done, what: progress(start + (0.2 - start) * done, what), statistics
    )
    if statistics is not None and calibration is not None:
        compensation = compensate(
            checkpoint,
            recipe,
            masks,
            statistics,
            calibration,
            device,
            lambda done, what: progress(0.2 + 0.1 * done, what),
        )
    progress(0.3, "Making the masked and the compact form")
    forms = forms_of(checkpoint, recipe, masks, compensation)
    modules: dict[str, dict[str, nn.Module]] = {
        "dense": {lstm.name: build(lstm, checkpoint.tensors, device) for lstm in checkpoint.lstms}
    }
    modules |= {name: form.modules(checkpoint, device) for name, form in forms.items()}
    drift = {}
    lstms = checkpoint.select(recipe.lstms)
    for index, lstm in enumerate(lstms):
        progress(0.4 + 0.2 * index / len(lstms), f"Measuring the drift of {lstm.title}")
        inputs = random_input(lstm) if calibration is None else held_back_input(lstm, checkpoint, calibration)
        before, _, _ = outputs(modules["dense"][lstm.name], inputs)
        progress(0.4 + 0.2 * (index + 0.5) / len(lstms), f"Measuring the drift of {lstm.title}")
        after, _, _ = outputs(modules["masked"][lstm.name], inputs)
        drift[lstm.name] = difference([before], [after])
    rated = None
    if quality is not None:
        rated = {}
        # Compact modules return their full width, so the rest of the model is that of the masked form.
        masked = forms["masked"].tensors(checkpoint)
        for index, (name, tensors) in enumerate(
            {"dense": checkpoint.tensors, "masked": masked, "compact": masked}.items()
        ):
            progress(0.6 + 0.08 * index, f"Measuring the quality, {name}")
            moved = {key: tensor.to(device) for key, tensor in tensors.items()}
            rated[name] = quality(moved, modules[name])
    times = None
    if timed:
        times = {}
        for index, batch_size in enumerate(LATENCY_BATCHES):
            progress(0.84 + 0.05 * index, f"Measuring the time, batch {batch_size}")
            times[batch_size] = latency(modules, checkpoint.lstms, batch_size)
    progress(0.95, "Measuring the size")
    costs = {"dense": cost_of_file(checkpoint)}
    costs |= {name: cost_of_form(checkpoint, form) for name, form in forms.items()}
    result = Result(checkpoint, recipe, device, masks, forms, costs, drift, rated, times, compensation)
    progress(1.0, "Done")
    return result
