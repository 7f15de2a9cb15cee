"""A pruned checkpoint with what was measured of it, ready to export."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from pruner.calibration.calibration import Calibration
from pruner.calibration.drift import held_back_loss, measure_drift
from pruner.calibration.fed import complete
from pruner.calibration.observations import Statistics
from pruner.compact.costs import Cost, cost_of_file, cost_of_form
from pruner.compact.layout import dense_layout
from pruner.compact.masked_and_compact import DEFAULT_FORM, FORMS, Compensation, Form, Pruned
from pruner.errors import PrunerError
from pruner.exports import export
from pruner.exports.verdict import Verdict, by_answers, by_quality, unknown
from pruner.files.checkpoint import Checkpoint
from pruner.files.learned import with_batch_first
from pruner.lstm.measure import (
    Drift,
    Forward,
    ForwardPass,
    Latency,
    Modules,
    Quality,
    Rate,
    difference,
    latency,
    outputs_by_layer,
    sample_of,
)
from pruner.lstm.module import build
from pruner.pipeline import prune
from pruner.progress import Progress, silent, split
from pruner.recipe import Recipe, check_choice

LATENCY_BATCHES = (1, 32)
MOST_TIMED = 2**25  # weights of an LSTM: its forms are timed in turns, so they all lie in memory side by side


@dataclass(frozen=True)
class Result:
    """A pruned checkpoint, with what it was made from and what was measured. Immutable.

    `costs` (parameters, bytes, multiply-accumulates of a time step), `quality` and `latency` (milliseconds) are keyed by
    form: dense, masked, compact; `drift` and the (4H,) `masks` by the names in the file.

        >>> import tempfile
        >>> from pruner import Recipe, run
        >>> from pruner.examples import named
        >>> result = run(named("embedded-reber").open(), Recipe(sparsity=0.25))
        >>> int((~result.masks["lstm.weight_ih_l0"]).sum())  # 8 of the 32 rows of each of the four gates
        32
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     sorted(file.name for file in result.save(f"{folder}/pruned").iterdir())
        ['README.md', 'example.py', 'load_pruned.py', 'manifest.json', 'masks.safetensors', 'pruned.safetensors']
    """

    pruned: Pruned
    device: str
    costs: dict[str, Cost]
    drift: dict[str, Drift]  # by LSTM name: the output, masked against dense, on held-back or random inputs
    answers: float | None  # how much worse they are on held-back inputs, where there were some, see `held_back_loss`
    quality: dict[str, float] | None  # where a quality was given
    latency: dict[int, dict[str, Latency]] | None  # by batch size, where it was asked for
    judge: Quality | None = None  # what `quality` is, where that is known
    task: str | None = None  # what the answers are, see `Recipe`

    @property
    def checkpoint(self) -> Checkpoint:
        return self.pruned.checkpoint

    @property
    def recipe(self) -> Recipe:
        return self.pruned.recipe

    @property
    def masks(self) -> dict[str, Tensor]:
        """(4H,) bool by the names in the file, True = kept."""
        return self.pruned.masks

    @property
    def forms(self) -> dict[str, Form]:
        """Masked and compact."""
        return self.pruned.forms

    @property
    def compensation(self) -> Compensation:
        return self.pruned.compensation

    @property
    def verdict(self) -> Verdict:
        """What the pruned model is worth by the best measure there is: its quality, else its answers, else none."""
        if self.quality is not None and self.judge is not None:
            before, after = self.quality["dense"], self.quality["masked"]
            return by_quality(self.judge.name, self.judge.higher_is_better, before, after)
        if self.answers is not None:
            return by_answers(self.answers, self.task == "softmax")
        return unknown(max(drift.relative for drift in self.drift.values()))

    def save(
        self,
        folder: str | os.PathLike[str],
        form: str | None = None,
        batch_first: bool | None = None,
        *,
        onnx: bool = False,
        more: Callable[[Path], None] | None = None,
    ) -> Path:
        """Write the export folder in one form: masked or compact, by default masked for rows and compact for units; with
        `onnx` it holds `pruned.onnx` and `pruned.int8.onnx`, too, or the manifest says why it does not. Of a checkpoint that
        came as ONNX these hold its whole graph, and the first is written unasked. `more(folder)` writes what else belongs
        there. The export is whole or not there: it is written beside its place, and put there last.

        `batch_first`, as the model's `nn.LSTM` has it, is for whoever loads the export, where the file does not say. Raises
        PrunerError if it says otherwise, the folder is in use or cannot be written, the export does not compute what the
        masks say, or the source changed since it was opened.
        """
        name = form or DEFAULT_FORM[self.recipe.granularity]
        check_choice("form", name, FORMS)
        pruned = replace(self.pruned, checkpoint=with_batch_first(self.checkpoint, batch_first))
        costs = self.costs["dense"], self.costs[name]
        return export.save(folder, pruned, name, *costs, self.verdict, onnx, self.judge, more)


def available_devices() -> dict[str, str]:
    """{device: what it is called}, the CPU first, then each CUDA device found."""
    devices = {"cpu": "CPU"}
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            devices[f"cuda:{index}"] = torch.cuda.get_device_name(index)
    return devices


def run(
    checkpoint: Checkpoint,
    recipe: Recipe,
    device: str = "cpu",
    progress: Progress = silent,
    quality: Rate | None = None,
    timed: bool = False,
    calibration: Calibration | None = None,
    statistics: Mapping[str, Statistics] | None = None,
    forward: Forward | None = None,
) -> Result:
    """Prune a checkpoint in memory and measure what came of it.

    `calibration` holds the inputs that scores from data and compensation need. `statistics` are what
    `pipeline.gather_statistics` found on them; they are gathered here if they are needed and not given.

    `progress(fraction, what)` is called between steps; raise `Cancelled` in it to stop. `quality(tensors, lstms)` rates
    the whole model from its tensors and its runnable LSTMs, both keyed by name. `timed` measures latency, too, unless an
    LSTM has more than `MOST_TIMED` weights. Masks are chosen on the CPU; the models run on `device`. Raises PrunerError for
    a device that is not there, or a recipe that needs calibration inputs where there are none.

    `forward(tensors, lstms, batch) -> (..., V)` is the model's own forward pass, where that is more than an LSTM whose
    output the consumers read. It gets batches of the calibration inputs as they are and calls the LSTMs like `nn.LSTM`s with
    `batch_first`; what is pruned is healed to give its answers, and judged by them.

        >>> from pruner import Recipe, open_checkpoint, run
        >>> from pruner.examples import named
        >>> result = run(named("embedded-reber").open(), Recipe(sparsity=0.5, granularity="units"))
        >>> result.costs["dense"].macs_per_step, result.costs["compact"].macs_per_step
        (4992, 1472)
    """
    devices = available_devices()
    device = "cuda:0" if device == "cuda" else device
    if device not in devices:
        raise PrunerError(f"expected a device among {', '.join(devices)}; found {device!r}; run on cpu instead")
    if calibration is not None:
        calibration = complete(calibration, checkpoint, recipe)
    pruning, measuring = split(progress, 1 if recipe.compensation != "heal" else 5, 1)
    own = None if forward is None else ForwardPass(forward, recipe.task)
    pruned = prune(checkpoint, recipe, calibration, statistics, device=device, progress=pruning, forward=own)
    result = measured(pruned, device, quality, timed, calibration, measuring, own)
    progress(1.0, "Done")
    return result


def measured(
    pruned: Pruned,
    device: str = "cpu",
    quality: Rate | None = None,
    timed: bool = False,
    calibration: Calibration | None = None,
    progress: Progress = silent,
    forward: ForwardPass | None = None,
) -> Result:
    """What a pruned checkpoint costs, how far its outputs moved, how good and how fast it is; arguments as in `run`."""
    checkpoint, recipe = pruned.checkpoint, pruned.recipe
    drifting, rating, timing, counting = split(progress, 2, 2 if quality else 0, 1 if timed else 0, 1)
    timed = timed and max(lstm.parameters for lstm in checkpoint.lstms) <= MOST_TIMED
    modules: dict[str, Modules] = {}
    real = calibration if calibration is not None and calibration.is_real else None
    if timed or real is not None or quality is not None:
        modules["dense"] = {lstm.name: build(lstm, checkpoint.tensors, device) for lstm in checkpoint.lstms}
        modules |= {form: pruned.modules(form, device) for form in FORMS}
    answers = None
    if real is None:
        drift = _drift_on_random_inputs(pruned, device, drifting)
    else:
        before, after = modules["dense"], modules["masked"]
        drift = measure_drift(checkpoint, recipe, real, before, after, drifting)
        # A whole model may hand states on, which masked ones drop.
        judged = after if forward is None else modules["compact"]
        answers = held_back_loss(checkpoint, recipe, real, before, judged, pruned.tensors(), forward)
    rated = None if quality is None else _rated(pruned, modules, quality, device, rating)
    times = _timed(checkpoint, modules, timing) if timed else None
    counting(0.0, "Measuring the size")
    costs = {"dense": cost_of_file(checkpoint)}
    costs |= {name: cost_of_form(checkpoint, form) for name, form in pruned.forms.items()}
    judge = quality if isinstance(quality, Quality) else None
    task = recipe.task if forward is None else forward.task
    return Result(pruned, device, costs, drift, answers, rated, times, judge, task)


def _drift_on_random_inputs(pruned: Pruned, device: str, progress: Progress) -> dict[str, Drift]:
    """How far the output of every pruned LSTM moved, of large ones on fewer steps; one layer is in memory at a time."""
    checkpoint, tensors, layouts = pruned.checkpoint, pruned.tensors(), pruned.forms["masked"].layouts
    source, found = checkpoint.source, {}
    for layout, part in zip(layouts, split(progress, *[1] * len(layouts)), strict=True):
        lstm = layout.lstm
        part(0.0, f"Measuring the drift of {lstm.title}")
        inputs = sample_of(lstm)
        dense = dense_layout(lstm, checkpoint.tensors).layers
        before = source.in_turn(layer.module(checkpoint.tensors).to(device) for layer in dense)
        after = source.in_turn(layer.module(tensors).to(device) for layer in layout.layers)
        (reference, *_), (moved, *_) = (*outputs_by_layer(before, inputs), *outputs_by_layer(after, inputs))
        found[lstm.name] = difference([reference], [moved])
    return found


def _rated(
    pruned: Pruned, modules: Mapping[str, Modules], quality: Rate, device: str, progress: Progress
) -> dict[str, float]:
    masked = pruned.tensors()
    tensors = {"dense": pruned.checkpoint.tensors, "masked": masked, "compact": masked}
    rated = {}
    for (name, own), part in zip(tensors.items(), split(progress, *[1] * len(tensors)), strict=True):
        part(0.0, f"Measuring the quality, {name}")
        rated[name] = quality({key: tensor.to(device) for key, tensor in own.items()}, modules[name])
    return rated


def _timed(checkpoint: Checkpoint, modules: Mapping[str, Modules], progress: Progress) -> dict[int, dict[str, Latency]]:
    times = {}
    for batch_size, part in zip(LATENCY_BATCHES, split(progress, *[1] * len(LATENCY_BATCHES)), strict=True):
        part(0.0, f"Measuring the time, batch {batch_size}")
        times[batch_size] = latency(modules, checkpoint.lstms, batch_size)
    return times
