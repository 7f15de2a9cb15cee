"""A score for every row of every packed weight: the lower, the sooner the row is dropped."""

from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pruner.errors import PrunerError
from pruner.lstm.gates import BLOCKS, GATES, SIDES, split_gates
from pruner.lstm.lstm import LSTM, Place
from pruner.recipe import row_norm

_BUFFER_ELEMENTS = 2**18  # rows are scored in pieces that stay in cache, so that no copy of the weights is made


def _l1(absolute: Tensor) -> Tensor:
    """Sum of absolute values, (R, C) in float64: the saliency of torch.ao.pruning's LSTMSaliencyPruner."""
    return absolute.sum(1)


def _l2(absolute: Tensor) -> Tensor:
    """Euclidean norm (Wen et al. 2018, "Learning Intrinsic Sparse Structures within LSTM"). Overwrites its input."""
    return absolute.square_().sum(1).sqrt_()


ROW_NORMS: dict[str, Callable[[Tensor], Tensor]] = {"l1": _l1, "l2": _l2}


def row_saliency(weight: Tensor, criterion: str = "l1") -> Tensor:
    """Norm of each row of a weight (R, ...) over all its other dimensions.

    Returns (R,) in float64, whatever the weight's dtype: norms rounded to half precision would rank wrongly, and sums in
    float32 depend on the device that adds them. The weight is neither copied nor changed.
    """
    rows = weight.detach().flatten(1)
    scores = torch.empty(len(rows), dtype=torch.float64, device=rows.device)
    step = max(1, _BUFFER_ELEMENTS // max(1, rows.shape[1]))
    # The sign goes first, in the weight's own type, whose numbers are fewer bytes to read and to write than float64.
    own, wide = (rows.new_empty(rows[:step].shape, dtype=dtype) for dtype in (rows.dtype, torch.float64))
    for start in range(0, len(rows), step):
        piece = rows[start : start + step]
        absolute = torch.abs(piece, out=own[: len(piece)])
        scores[start : start + step] = ROW_NORMS[row_norm(criterion)](wide[: len(piece)].copy_(absolute))
    return scores


def score(lstm: LSTM, tensors: Mapping[str, Tensor], criterion: str = "l1") -> dict[str, Tensor]:
    """{name in the file: (4H,) row saliency} for every packed weight of an LSTM.

    Raises PrunerError, naming the tensor, if a weight or bias is NaN or infinite: such rows have no rank, and such an
    LSTM no output.
    """
    scores = {name: row_saliency(tensors[name], criterion) for name in lstm.weight_names().values()}
    for name in lstm.tensors.values():
        bad = (~scores.get(name, tensors[name]).isfinite()).nonzero()
        if len(bad):
            raise PrunerError(
                f"expected finite weights, found NaN or infinite values in {len(bad)} of {len(tensors[name])} rows of "
                f"{name} (the first is row {int(bad[0, 0])}); repair or retrain the model before pruning it"
            )
    return scores


def score_units(
    lstm: LSTM, rows: Mapping[str, Tensor], criterion: str, tensors: Mapping[str, Tensor], consumers: Iterable[str] = ()
) -> dict[Place, Tensor]:
    """{(layer, direction): (H,) saliency} of hidden units, in float64, from the row saliency of their eight rows.

    `l1` is the sum over the rows; `l2` their common Euclidean norm; `group` that norm with the unit's outgoing columns, in
    its own weight_hh (or weight_hr), in the next layer and in the `consumers` of the last one: all the weights that go when
    the unit goes (Wen et al. 2018, "Learning Intrinsic Sparse Structures within LSTM").
    """
    names = lstm.weight_names()
    scores = {}
    for layer in range(lstm.num_layers):
        for direction in range(lstm.directions):
            saliencies = [rows[names[layer, direction, side]] for side in SIDES]
            read = outgoing_norms(lstm, tensors, layer, direction, consumers) if criterion == "group" else None
            scores[layer, direction] = unit_score(saliencies, criterion, read)
    return scores


def unit_score(saliencies: Iterable[Tensor], criterion: str, outgoing: Tensor | None = None) -> Tensor:
    """(H,) score of whole units by a norm, from the (4H,) row saliencies of their packed weights and, for `group`, the (H,)
    norms of what reads them."""
    saliencies = list(saliencies)
    if criterion == "l1":
        return summed(saliencies)
    squares = torch.stack([split_gates(saliency) for saliency in saliencies]).square().sum((0, 1))
    return squares.sqrt() if outgoing is None else (squares + outgoing.square()).sqrt()


def summed(saliencies: Iterable[Tensor]) -> Tensor:
    """(H,) score of whole units: the sum over the rows of each, from the (4H,) row saliencies of their packed weights."""
    return torch.stack([split_gates(saliency) for saliency in saliencies]).sum((0, 1))


def outgoing_norms(
    lstm: LSTM, tensors: Mapping[str, Tensor], layer: int, direction: int, consumers: Iterable[str] = ()
) -> Tensor:
    """(H,) Euclidean norm of all the weights that read each unit of one layer and direction, in float64.

    Raises PrunerError if one of them is not finite.
    """
    squares = column_norms(outgoing(lstm, tensors, layer, direction, consumers), lstm.hidden_size).square()
    if not squares.isfinite().all():
        raise PrunerError(
            f"expected finite weights, found NaN or infinite values in what reads {lstm.title}; repair or retrain the model "
            "before pruning it"
        )
    return squares.sqrt()


def column_norms(weights: Iterable[Tensor], count: int, device: torch.device | None = None) -> Tensor:
    """(count,) Euclidean norms of the columns of several weights (.., count) below each other, in float64."""
    squares = torch.zeros(count, dtype=torch.float64, device=device)
    for columns in weights:
        squares = squares + torch.linalg.vector_norm(columns, dim=0, dtype=torch.float64).square()
    return squares.sqrt()


def outgoing(
    lstm: LSTM, tensors: Mapping[str, Tensor], layer: int, direction: int, consumers: Iterable[str]
) -> Iterator[Tensor]:
    """The (.., H) weights that read the units of one layer and direction, a column a unit."""
    suffix = lstm.suffix(layer, direction)
    if lstm.proj_size:
        yield tensors[lstm.tensors[f"weight_hr{suffix}"]]
        return
    yield tensors[lstm.tensors[f"weight_hh{suffix}"]]
    if layer + 1 < lstm.num_layers:
        above = [lstm.tensors[f"weight_ih{lstm.suffix(layer + 1, each)}"] for each in range(lstm.directions)]
    else:
        above = list(consumers)
    own = slice(direction * lstm.hidden_size, (direction + 1) * lstm.hidden_size)
    for name in above:
        yield tensors[name][:, own].movedim(1, -1).flatten(0, -2)


def as_table(lstm: LSTM, scores: Mapping[str, Tensor], masks: Mapping[str, Tensor] | None = None) -> pd.DataFrame:
    """One line a row of every packed weight: where it stands, which gate and unit it belongs to, its saliency, and where
    `masks` ({name in the file: (4H,) bool}) are given, whether it is kept; without a mask of its own it is."""
    table = pd.concat(
        pd.DataFrame(
            {
                "lstm": lstm.name,
                "tensor": name,
                "layer": layer,
                "direction": "reverse" if direction else "forward",
                "gate": np.repeat(BLOCKS[side], lstm.hidden_size),
                "unit": np.tile(np.arange(lstm.hidden_size), len(GATES)),
                "row": np.arange(len(GATES) * lstm.hidden_size),
                "saliency": scores[name].cpu().numpy(),
            }
        )
        for (layer, direction, side), name in lstm.weight_names().items()
    )
    if masks is not None:
        kept = [
            masks.get(name, torch.ones(len(scores[name]), dtype=torch.bool)) for name in lstm.weight_names().values()
        ]
        table["kept"] = torch.cat(kept).cpu().numpy()
    return table
