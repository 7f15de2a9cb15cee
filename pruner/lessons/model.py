"""The trained examples as the lessons use them."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from torch import Tensor

from pruner import examples
from pruner.calibration.calibration import Calibration
from pruner.calibration.gathering import gather
from pruner.calibration.observations import Statistics
from pruner.examples import Example
from pruner.files.checkpoint import Checkpoint
from pruner.importance.masks import drop_rows
from pruner.lstm.lstm import LSTM
from pruner.lstm.module import build

GRAMMAR, TEXT = "embedded-reber", "pydocs-chars"


@dataclass(frozen=True)
class Model:
    """A trained example with its one LSTM."""

    example: Example
    checkpoint: Checkpoint
    lstm: LSTM

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        return self.checkpoint.tensors

    def weight(self, side: str, layer: int = 0) -> str:
        """The name of a packed weight in the file."""
        return self.lstm.weight_names()[layer, 0, side]

    def masked(self, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """All tensors, with zeros in the rows that the (4H,) masks drop."""
        return {**self.tensors, **{name: drop_rows(self.tensors[name], mask) for name, mask in masks.items()}}

    def quality(self, tensors: Mapping[str, Tensor]) -> float:
        """How good the example is with these tensors in place of its own, on its held-out data."""
        return self.example.quality(tensors, {self.lstm.name: build(self.lstm, tensors)})


@cache
def model(name: str) -> Model:
    """Raises PrunerError if there is no example of this name."""
    example = examples.named(name)
    checkpoint = example.open()
    return Model(example, checkpoint, checkpoint.lstms[0])


@cache
def gathered() -> tuple[Calibration, dict[str, Statistics]]:
    """The training strings of the grammar, and what the hidden units do on them."""
    known = model(GRAMMAR)
    calibration = known.example.calibration(known.checkpoint)
    fit_on, _ = calibration.split()
    consumers, task = [known.example.consumer], known.example.task
    return calibration, {known.lstm.name: gather(known.lstm, known.tensors, fit_on, consumers, task)}
