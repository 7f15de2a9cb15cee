"""What recipes are to be compared with: the dense model, and its weights in two factors, which take no data either."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pruner.calibration.calibration import Calibration
from pruner.compact.costs import size_of_file
from pruner.files.checkpoint import Checkpoint
from pruner.lstm.lstm import LSTM
from pruner.lstm.measure import Rate
from pruner.lstm.module import build
from pruner.lstm.sizes import parameters
from pruner.progress import Progress, silent
from pruner.recipe import Recipe
from pruner.search.worth import dense_value, value_of

DENSE, FACTORS = "dense", "two factors"


@dataclass(frozen=True)
class Reference:
    """A model that no recipe makes, rated as recipes are: see `sweep.Rated`."""

    name: str
    value: float
    parameters: int
    macs_per_step: int


def dense_model(checkpoint: Checkpoint, quality: Rate | None = None) -> Reference:
    """The model that recipes prune."""
    whole = size_of_file(checkpoint)
    return Reference(DENSE, dense_value(checkpoint, quality), whole.parameters, whole.macs_per_step)


def factored_models(
    checkpoint: Checkpoint,
    recipe: Recipe,
    macs: Iterable[int],
    calibration: Calibration | None = None,
    quality: Rate | None = None,
    progress: Progress = silent,
) -> list[Reference]:
    """For each number of multiply-accumulates a step that recipes leave, the model with every packed weight of the recipe's
    LSTMs in two factors which take no more of them together."""
    whole, lstms = size_of_file(checkpoint), checkpoint.select(recipe.lstms)
    packed = parameters(checkpoint.tensors[name] for lstm in lstms for name in lstm.weight_names().values())
    found, sizes = list[Reference](), sorted(set(macs) - {whole.macs_per_step})
    for left in sizes:
        progress(len(found) / len(sizes), "Rating what they are compared with")
        spared = whole.macs_per_step - left
        tensors = {**checkpoint.tensors, **two_factors(checkpoint.tensors, lstms, max(0.0, 1 - spared / packed))}
        modules = {lstm.name: build(lstm, tensors) for lstm in checkpoint.lstms}
        value = value_of(checkpoint, recipe, calibration, quality, tensors, modules)
        found.append(Reference(FACTORS, value, whole.parameters - spared, left))
    return found


def two_factors(tensors: Mapping[str, Tensor], lstms: Sequence[LSTM], share: float) -> dict[str, Tensor]:
    """Each packed weight as the product of the best two factors that hold this share of its numbers, by its name in the file
    (Eckart & Young 1936, "The approximation of one matrix by another of lower rank")."""
    return {name: _low_rank(tensors[name], share) for lstm in lstms for name in lstm.weight_names().values()}


def _low_rank(weight: Tensor, share: float) -> Tensor:
    rows, columns = weight.shape
    rank = max(1, int(share * rows * columns / (rows + columns)))
    left, values, right = torch.linalg.svd(weight.float(), full_matrices=False)
    return ((left[:, :rank] * values[:rank]) @ right[:rank]).to(weight.dtype)
