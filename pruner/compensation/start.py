"""What healing starts from: an LSTM without its removed units or rows, bare and folded, beside the dense one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from pruner.calibration.observations import Statistics
from pruner.compensation.fold import Shrunk, shrunk_units, without_rows
from pruner.compensation.student import Student
from pruner.errors import PrunerError
from pruner.files.consumers import Consumer, load_consumers
from pruner.lstm.kept import Kept, consumer_part, counts, packed_rows, row_masks, unit_masks
from pruner.lstm.lstm import LSTM, Place
from pruner.lstm.rebuilt import Rebuilt, rebuilt_of
from pruner.lstm.traces import Weights, layers_of
from pruner.recipe import Recipe


@dataclass(frozen=True)
class Start:
    """One pruned LSTM with its consumers: `dense`, and what is left of it, `bare` and `folded`. `kept` holds its units by
    place, or `rows` its masks, (4H,) bool of both weights by place."""

    lstm: LSTM
    dense: Shrunk
    bare: Shrunk
    folded: Shrunk
    kept: Kept | None
    rows: Mapping[Place, tuple[Tensor, Tensor]] | None
    rebuilt: Rebuilt | None  # what the file has of the kind already

    def teacher(self) -> Student:
        """The dense model, as a student that knows everything."""
        return Student(self.dense, self.lstm, None, None, self.rebuilt).requires_grad_(False)

    def student(self, shrunk: Shrunk) -> Student:
        """What is left, as a module that trains."""
        return Student(shrunk, self.lstm, self.kept, self.rows, self.rebuilt)

    def rows_of(self, direction: int) -> Tensor:
        """The rows of the first layer's weights that stay."""
        assert self.kept is not None  # noqa: S101 - asked where units went
        return packed_rows(self.kept[0, direction], self.lstm.hidden_size)

    def step(self, bare: float, folded: float) -> dict[str, Any]:
        """What the first step of the chain is called, and its losses without and with it."""
        return {"name": "fold" if self.kept else "mean into bias", "before": bare, "after": folded}


def start_of(
    lstm: LSTM,
    tensors: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    recipe: Recipe,
    consumers: list[str],
    statistics: Statistics,
    device: str,
) -> Start:
    """Take the masked units or rows out of an LSTM and of its consumers.

    `masks` are the recipe's; `statistics` are those of the dense LSTM on the inputs to fit on. Raises PrunerError where a
    layer is left without units.
    """
    dense = Shrunk(layers_of(lstm, tensors, device), load_consumers(tensors, consumers, device))
    rebuilt = rebuilt_of(lstm, tensors)
    if recipe.granularity == "rows":
        rows = row_masks(lstm, masks)
        bare, folded = (
            Shrunk(without_rows(dense.layers, rows, means), dense.consumers)
            for means in (None, statistics if lstm.bias else None)
        )
        return Start(lstm, dense, bare, folded, None, rows, rebuilt)
    kept = {place: mask.nonzero().flatten().to(device) for place, mask in unit_masks(lstm, masks).items()}
    if 0 in counts(kept.values()):
        raise PrunerError(
            f"expected units left in every layer of {lstm.title} to take over from those removed, found a layer "
            "without; lower its sparsity, or choose compensation 'none'"
        )
    bare, folded = (shrunk_units(dense.layers, dense.consumers, kept, lstm, statistics, way) for way in (False, True))
    return Start(lstm, dense, bare, folded, kept, None, rebuilt)


def joined(starts: Sequence[Start], left: Sequence[Shrunk]) -> list[Shrunk]:
    """What is left of LSTMs inside a model, where the inputs of one that reads another are no consumers but its own.

    `left` is what is left of each by itself: inputs of others are among its consumers, (4H, K) of all their rows and of the
    units that stay. The reader takes them over in the rows that it has, with zeros for the units that went.
    """
    inputs = {name for start in starts for name in start.lstm.input_weights}
    handed = {
        consumer.name: (start, consumer)
        for start, own in zip(starts, left, strict=True)
        for consumer in own.consumers
        if start.kept is not None
    }
    found = []
    for start, own in zip(starts, left, strict=True):
        first = [
            _reading(weights, *handed[name], start.rows_of(direction)) if name in handed else weights
            for direction, (name, weights) in enumerate(zip(start.lstm.input_weights, own.layers[0], strict=True))
        ]
        outside = [consumer for consumer in own.consumers if consumer.name not in inputs]
        found.append(replace(own, layers=[first, *own.layers[1:]], consumers=outside))
    return found


def _reading(weights: Weights, feeder: Start, consumer: Consumer, rows: Tensor) -> Weights:
    """The weights of a first layer that read another LSTM as a consumer of that does, whose rows these are."""
    (dense,) = (each for each in feeder.dense.consumers if each.name == consumer.name)
    assert feeder.kept is not None  # noqa: S101 - rows that go change no consumer
    ih = consumer_part(feeder.lstm, feeder.kept).widen(consumer.weight, dense.weight.shape)[rows]
    if consumer.bias is None or dense.bias is None:
        return replace(weights, ih=ih)
    return replace(weights, ih=ih, bias=weights.bias + (consumer.bias - dense.bias)[rows])
