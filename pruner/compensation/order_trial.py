"""Whether hidden units go in a better order when it counts who reads them, too: judged on inputs that were held back."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from torch import Tensor

from pruner.calibration.calibration import Calibration
from pruner.calibration.observations import Statistics
from pruner.compensation.chain import compensate_lstm
from pruner.importance.scores import score_lstm
from pruner.lstm.lstm import LSTM
from pruner.progress import Progress, silent
from pruner.recipe import Recipe

SPARSITY = 0.5  # at which the two orders are tried


def with_the_better_order(
    lstm: LSTM,
    tensors: Mapping[str, Tensor],
    statistics: Statistics,
    calibration: Calibration,
    consumers: Iterable[str],
    task: str,
    device: str = "cpu",
    progress: Progress = silent,
) -> Statistics:
    """The statistics of an LSTM with a task, in which `reading` is the importance itself where that loses less.

    Half of the units are folded away in either order of the brain surgeon, and the loss is that on held-back inputs.
    `progress` as in `gathering.gather`.
    """
    by_cost_alone = replace(
        statistics,
        layers={place: replace(layer, reading=layer.importance) for place, layer in statistics.layers.items()},
    )
    recipe = Recipe(SPARSITY, "units", "obs", compensation="fold", consumers=tuple(consumers), task=task)

    def report(*_: object) -> None:
        progress(1.0, f"Trying orders of removal in {lstm.title}")

    def lost(tried: Statistics) -> float:
        report()
        masks = score_lstm(lstm, tensors, "obs", recipe.consumers, tried).masks(lstm, recipe)
        report()
        readers = list(recipe.consumers)
        _, _, (fold,) = compensate_lstm(lstm, tensors, masks, recipe, readers, statistics, calibration, device, report)
        return fold.after

    return min(statistics, by_cost_alone, key=lost)
