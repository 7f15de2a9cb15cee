"""One gate's block of a packed weight as a picture: all of it, reduced, or a window of it as it is."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from pruner.lstm.gates import GATES, split_gates
from pruner.lstm.lstm import LSTM
from pruner.views.colours import CLIP_QUANTILE

MAX_CELLS = 250_000  # of one figure
REDUCTIONS = ("mean absolute", "signed mean")


@dataclass(frozen=True)
class Cells:
    """A matrix to draw, float32 (rows, columns): each cell stands for `per_cell` x `per_cell` weights, at the edges for as
    many as are left. Row and column of the block's first weight in it are `first_row` and `first_column`."""

    values: Tensor
    first_row: int = 0
    first_column: int = 0
    per_cell: int = 1

    @property
    def signed(self) -> bool:
        return bool((self.values < 0).any())


def weight_block(lstm: LSTM, tensors: Mapping[str, Tensor], layer: int, direction: int, side: str, gate: str) -> Tensor:
    """One of the eight blocks, a view (H, I) or (H, R) of its packed weight: row j holds the weights with which
    that gate of unit j reads."""
    return split_gates(tensors[lstm.weight_names()[layer, direction, side]].detach())[GATES.index(gate)]


def reduce_block(block: Tensor, reduction: str, max_cells: int = MAX_CELLS) -> Cells:
    """A whole block (H, C) in at most `max_cells` cells, each the mean over a square of weights as small as that allows."""
    per_cell = 1
    while math.ceil(block.shape[0] / per_cell) * math.ceil(block.shape[1] / per_cell) > max_cells:
        per_cell += 1
    bands = []
    for band in block.split(per_cell * max(1, 2**20 // (per_cell * block.shape[1]))):  # so that no large copy is made
        weights = as_floats(band).abs() if reduction == "mean absolute" else as_floats(band)
        bands.append(F.avg_pool2d(weights[None], per_cell, ceil_mode=True, count_include_pad=False)[0])
    return Cells(torch.cat(bands).cpu(), per_cell=per_cell)


def as_floats(tensor: Tensor) -> Tensor:
    """The numbers of a tensor of any dtype as float32: of complex ones their sizes, of bare bits the integers they are."""
    if tensor.is_complex():
        return tensor.abs().float()
    if str(tensor.dtype).startswith("torch.bits"):
        tensor = tensor.view(torch.uint8 if tensor.element_size() == 1 else torch.uint16)
    return tensor.float()


def cut_window(block: Tensor, first_row: int, first_column: int, size: int) -> Cells:
    """`size` x `size` weights of a block (H, C) as they are, moved so far up and left that as many of them as can be lie
    inside."""
    row = max(0, min(first_row, block.shape[0] - size))
    column = max(0, min(first_column, block.shape[1] - size))
    return Cells(block[row : row + size, column : column + size].float().cpu(), row, column)


def clip_limit(values: Tensor, quantile: float = CLIP_QUANTILE) -> float:
    """The absolute value at which colours stop: one that so few finite values exceed, one in 200 or none, and never zero."""
    sizes = values[values.isfinite()].abs()
    if not len(sizes):
        return 1.0
    limit = float(torch.quantile(sizes, quantile)) or float(sizes.max())
    return max(limit, torch.finfo(torch.float32).tiny)
