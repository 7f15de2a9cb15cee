"""Checkpoint + recipe -> pruned model: what was gathered, the masks, the compensation, the masked and the compact form.

Everything that prunes a checkpoint does so here: runs, sweeps, lessons, benchmarks, and the check of an export.
"""

from collections.abc import Mapping

from torch import Tensor

from pruner.calibration.calibration import Calibration
from pruner.calibration.gathering import gather
from pruner.calibration.observations import Statistics
from pruner.compact.masked_and_compact import NO_COMPENSATION, Pruned, pruned_by
from pruner.compensation.chain import Seen, check_data, compensate
from pruner.errors import PrunerError
from pruner.files.checkpoint import Checkpoint
from pruner.files.consumer_choice import consumers_of, task_of
from pruner.files.names import settled
from pruner.importance.masks import check_layers
from pruner.importance.scores import score_lstm
from pruner.lstm.measure import ForwardPass
from pruner.progress import Progress, silent, split
from pruner.recipe import Recipe


def prune(
    checkpoint: Checkpoint,
    recipe: Recipe,
    calibration: Calibration | None = None,
    statistics: Mapping[str, Statistics] | None = None,
    masks: Mapping[str, Tensor] | None = None,
    device: str = "cpu",
    progress: Progress = silent,
    forward: ForwardPass | None = None,
    seen: Seen | None = None,
) -> Pruned:
    """Prune a checkpoint in memory.

    `calibration` holds the inputs that scores from data and compensation need. `statistics`, what `gather_statistics` found
    on them, are gathered here if they are needed and not given; `masks` go before those that the recipe would choose. Masks
    are chosen on the CPU; statistics and compensation run on `device`. `forward` and `seen` as in `compensate`. Raises
    PrunerError for a recipe that does not fit the checkpoint or needs calibration inputs where there are none.
    """
    recipe = settled(checkpoint, recipe)
    check_data(recipe, calibration)
    to_gather = recipe.needs_data and statistics is None
    gathering, choosing, compensating, forming = split(
        progress, 3 if to_gather else 0, 1, {"none": 0, "fold": 1, "heal": 12}[recipe.compensation], 1
    )
    if to_gather and calibration is not None:
        statistics = gather_statistics(checkpoint, recipe, calibration, device, gathering)
    chosen = dict(masks or choose_masks(checkpoint, recipe, choosing, statistics))
    compensation = NO_COMPENSATION
    if statistics is not None and calibration is not None:
        compensation = compensate(
            checkpoint, recipe, chosen, statistics, calibration, device, compensating, forward, seen
        )
    forming(0.0, "Making the masked and the compact form")
    return pruned_by(checkpoint, recipe, chosen, compensation)


def gather_statistics(
    checkpoint: Checkpoint,
    recipe: Recipe,
    calibration: Calibration,
    device: str = "cpu",
    progress: Progress = silent,
) -> dict[str, Statistics]:
    """What the recipe's LSTMs do on the calibration inputs that are not held back, by their names.

    Raises PrunerError for calibration data that has nothing for one of them or too little to hold some back.
    """
    lstms, consumers = checkpoint.select(recipe.lstms), consumers_of(checkpoint, recipe)
    fit_on, _ = calibration.split()
    found = {}
    for lstm, part in zip(lstms, split(progress, *[1] * len(lstms)), strict=True):
        if lstm.name not in fit_on.sequences:
            raise PrunerError(f"expected calibration inputs for {lstm.title}, found none; give some, or leave it out")
        names, task = consumers[lstm.name], task_of(checkpoint, recipe, consumers[lstm.name])
        found[lstm.name] = gather(lstm, checkpoint.tensors, fit_on, names, task, device, part)
    return found


def choose_masks(
    checkpoint: Checkpoint,
    recipe: Recipe,
    progress: Progress = silent,
    statistics: Mapping[str, Statistics] | None = None,
) -> dict[str, Tensor]:
    """The masks of a recipe, from the checkpoint's own weights or from statistics: {name in the file: (4H,) bool}.

    Raises PrunerError if the recipe does not fit the checkpoint or needs missing statistics, or a weight is not finite.
    """
    lstms = checkpoint.select(recipe.lstms)
    check_layers(recipe, lstms)
    consumers = consumers_of(checkpoint, recipe)
    masks = {}
    for lstm, part in zip(lstms, split(progress, *[1] * len(lstms)), strict=True):
        part(0.0, f"Scoring {lstm.title}")
        own = statistics[lstm.name] if statistics else None
        gone = checkpoint.gone.get(lstm.name)
        scores = score_lstm(lstm, checkpoint.tensors, recipe.criterion, consumers[lstm.name], own, recipe.seed, gone)
        masks.update(scores.masks(lstm, recipe))
        checkpoint.source.let_go()
    return masks
