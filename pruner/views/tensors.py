"""All tensors of a file, for those who want to see more of it than its LSTMs: what each is, as a picture and in numbers."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from torch import Tensor

from pruner.errors import label
from pruner.lstm.lstm import LSTM
from pruner.views.colours import LINE_COLORS
from pruner.views.weight_view import MAX_CELLS, Cells, as_floats, reduce_block

BINS = 64
MOST_IN_A_LINE = 4096  # cells of a picture with a single row or column: more than a screen has
AT_ONCE = 2**22  # numbers that are copied at a time


def tensor_table(tensors: Mapping[str, Tensor], lstms: Iterable[LSTM]) -> pd.DataFrame:
    """A line a tensor, in the order of the file: name, shape, dtype, how many numbers and bytes, and of which LSTM it is."""
    owners = {name: lstm.title for lstm in lstms for name in lstm.tensors.values()}
    return pd.DataFrame(
        [
            {
                "tensor": label(name),
                "shape": " × ".join(map(str, tensor.shape)) or "scalar",
                "dtype": str(tensor.dtype).removeprefix("torch."),
                "numbers": tensor.numel(),
                "bytes": tensor.numel() * tensor.element_size(),
                "LSTM": owners.get(name, ""),
            }
            for name, tensor in tensors.items()
        ],
        columns=["tensor", "shape", "dtype", "numbers", "bytes", "LSTM"],
    )


def as_matrix(tensor: Tensor) -> Tensor:
    """A tensor of any shape as rows and columns: a list as one row, and all dimensions behind the first folded into one."""
    return tensor.detach().reshape(1, -1) if tensor.dim() < 2 else tensor.detach().flatten(1)


def picture(tensor: Tensor, reduction: str) -> Cells | None:
    """A tensor in so few cells that they can be drawn; None without numbers. See `weight_view.reduce_block`."""
    matrix = as_matrix(tensor)
    if not matrix.numel():
        return None
    return reduce_block(matrix, reduction, MAX_CELLS if min(matrix.shape) > 1 else MOST_IN_A_LINE)


@dataclass(frozen=True)
class Distribution:
    """Where the numbers of a tensor lie: `counts` of the finite ones in bins between `edges`, of which there is one more.

    Without a finite number there are no bins, and `lowest`, `highest`, `mean` and `deviation` are NaN.
    """

    counts: np.ndarray
    edges: np.ndarray
    lowest: float
    highest: float
    mean: float
    deviation: float
    zeros: int
    not_finite: int


def distribution(tensor: Tensor) -> Distribution:
    """Of all numbers of a tensor of any dtype, as float32, read in parts, so that no large copy is made."""
    low, high, total, squares = math.inf, -math.inf, 0.0, 0.0
    zeros = finite = 0
    for part in _parts(tensor):
        zeros += len(part) - int(part.count_nonzero())
        known = _finite(part)
        if len(known):
            finite += len(known)
            lowest, highest = known.aminmax()
            low, high = min(low, lowest.item()), max(high, highest.item())
            total += known.sum(dtype=torch.float64).item()
            squares += torch.linalg.vector_norm(known, dtype=torch.float64).square().item()
    if not finite:
        nothing, unknown = np.zeros(0), math.nan
        return Distribution(nothing, nothing, unknown, unknown, unknown, unknown, zeros, tensor.numel())
    around = max(0.5, abs(low) / 1000)
    reach = (low, high) if high > low else (low - around, low + around)
    counts = sum(_finite(part).double().histc(BINS, *reach).numpy() for part in _parts(tensor))
    mean = total / finite
    deviation = math.sqrt(max(squares / finite - mean * mean, 0.0))
    edges = np.linspace(*reach, BINS + 1)
    return Distribution(np.asarray(counts), edges, low, high, mean, deviation, zeros, tensor.numel() - finite)


def _parts(tensor: Tensor) -> Iterator[Tensor]:
    for part in tensor.detach().reshape(-1).split(AT_ONCE):
        yield as_floats(part)


def _finite(part: Tensor) -> Tensor:
    finite = part.isfinite()
    return part if finite.all() else part[finite]


def distribution_figure(found: Distribution) -> go.Figure:
    """How many numbers of a tensor lie where."""
    bars = go.Bar(
        x=((found.edges[:-1] + found.edges[1:]) / 2).astype(np.float32),
        y=found.counts.astype(np.int64),
        width=float(found.edges[1] - found.edges[0]),
        marker={"color": LINE_COLORS[0], "line": {"width": 0}},
        hovertemplate="about %{x:.4g}<br>%{y:,} numbers<extra></extra>",
    )
    layout = {
        "height": 240,
        "margin": {"l": 0, "r": 0, "t": 10, "b": 0},
        "bargap": 0,
        "xaxis": {"title": {"text": "value"}},
        "yaxis": {"title": {"text": "numbers"}},
    }
    return go.Figure([bars], layout)
