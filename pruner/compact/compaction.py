"""Remove what masks dropped, exactly: a smaller module in place of an `nn.LSTM`, and back again."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, overload

import torch
from torch import Tensor, nn

from pruner.compact.load_pruned import (
    CompactLSTM,
    CompactLSTMCell,
    ReconstructingLSTM,
    ReconstructingLSTMCell,
    RowCompactLSTM,
    RowCompactLSTMCell,
    inside,
)
from pruner.lstm.describing import described
from pruner.lstm.kept import Part, row_parts, unit_parts, units_to_hold
from pruner.lstm.lstm import LSTM

Compact = CompactLSTM | RowCompactLSTM | CompactLSTMCell | RowCompactLSTMCell


def compact_units(lstm: nn.LSTM, masks: Sequence[Tensor]) -> CompactLSTM:
    """The `CompactLSTM` of a masked `nn.LSTM`, equal to it from a zero state in `output`, `h_n` and `c_n`.

    `masks` holds a (H,) bool mask for each layer and direction in the order of `nn.LSTM`. The rows and biases of dropped
    units must be zero in `lstm` already.
    """
    facts = described(lstm)
    kept = dict(zip(facts.places, (units_to_hold(mask, lstm.proj_size) for mask in masks), strict=True))
    small = CompactLSTM(lstm.input_size, lstm.hidden_size, list(kept.values()), **settings_of(lstm))
    for name, part in unit_parts(facts, kept).items():
        _take(small, inside(name, lstm.bidirectional), lstm, name, part)
    return small.train(lstm.training)


def compact_rows(lstm: nn.LSTM, masks: Sequence[tuple[Tensor, Tensor]]) -> RowCompactLSTM:
    """The `RowCompactLSTM` of a masked `nn.LSTM`, equal to it from any state.

    `masks` holds the (4H,) bool masks of `weight_ih` and `weight_hh` for each layer and direction; rows that they drop must
    be zero in `lstm` already. Biases are kept whole: a dropped row's gate is constant, not gone.
    """
    kept = [(ih.nonzero().flatten(), hh.nonzero().flatten()) for ih, hh in masks]
    small = RowCompactLSTM(lstm.input_size, lstm.hidden_size, kept, **settings_of(lstm))
    for source, name, part in row_parts(described(lstm), kept):
        _take(small, name, lstm, source, part)
    return small.train(lstm.training)


@overload
def expand(small: CompactLSTM | RowCompactLSTM) -> nn.LSTM: ...


@overload
def expand(small: Compact) -> nn.LSTM | nn.LSTMCell: ...


def expand(small: Compact) -> nn.LSTM | nn.LSTMCell:
    """The masked `nn.LSTM` or `nn.LSTMCell` of full size that a compact one computes: zeros where rows and units were
    removed, what was frozen frozen. Of one that reconstructs its removed units, the `ReconstructingLSTM` or its cell."""
    dense, wide = _wide(small, small.state_dict())
    parts = list(wide_parts(small, described(dense)))
    for name, own, widen in parts:
        wide[name] = widen(small.get_parameter(own).detach())
    dense.load_state_dict(wide)
    for name, own, _ in parts:
        dense.get_parameter(name).requires_grad_(small.get_parameter(own).requires_grad)
    return dense.train(small.training)


def wide_parts(small: Any, facts: LSTM) -> Iterator[tuple[str, str, Callable[[Tensor], Tensor]]]:
    """(PyTorch's name, its name in a compact module, what makes of numbers beside it those beside the one of full size) of
    every parameter of the LSTM that is known by `facts`; the numbers are zero where rows and columns were removed."""
    shapes = facts.shapes()
    if isinstance(small, RowCompactLSTM | RowCompactLSTMCell):
        rows: list[Any] = [(layer.rows_ih, layer.rows_hh) for layer in small.layers]
        for name, own, part in row_parts(facts, rows):
            turned = own.endswith("weight_hh_rows")  # so in files; turned in memory
            own = own.replace("weight_hh_rows", "weight_hh_columns")
            yield name, own, partial(_widened, part, shapes[name], turned)
    else:
        kept = {place: layer.kept for place, layer in zip(facts.places, small.layers, strict=True)}
        for name, part in unit_parts(facts, kept).items():
            yield name, inside(name, facts.bidirectional), partial(_widened, part, shapes[name], False)


def _widened(part: Part, shape: tuple[int, ...], turned: bool, values: Tensor) -> Tensor:
    return part.widen(values.t() if turned else values, shape)


def _wide(small: Any, state: Mapping[str, Tensor]) -> tuple[nn.LSTM | nn.LSTMCell, dict[str, Tensor]]:
    """The module of full size, and its state dict so far: what reconstructs removed units as it is, the rest open."""
    cell = isinstance(small, CompactLSTMCell | RowCompactLSTMCell)
    sizes: Any = (small.input_size, small.hidden_size, *(() if cell else (small.num_layers,)))
    last = [f"layers.{index}." for index in range(len(small.layers))][-(1 if cell else small.directions) :]
    settings = settings_of(small)
    if f"{last[0]}reconstruction.weight" not in state:
        plain = nn.LSTMCell(*sizes, **settings) if cell else nn.LSTM(*sizes, **settings)
        return plain, plain.state_dict()
    kept = [state[f"{prefix}kept"] for prefix in last]
    filling: Any = ReconstructingLSTMCell if cell else ReconstructingLSTM
    lstm = filling(*sizes, kept, **settings)
    wide = lstm.state_dict()
    for direction, prefix in enumerate(last):
        wide[f"kept_{direction}"] = state[f"{prefix}kept"]
        for kind in ("weight", "bias"):
            wide[f"reconstruction.{direction}.{kind}"] = state[f"{prefix}reconstruction.{kind}"]
    return lstm, wide


def settings_of(lstm: nn.LSTM | nn.LSTMCell | Compact) -> dict[str, Any]:
    """What to build another module of the same kind, device and type with, beside its sizes."""
    weight = next(lstm.parameters())
    names = ("bias", "batch_first", "dropout", "bidirectional", "proj_size")
    return {name: getattr(lstm, name) for name in names if hasattr(lstm, name)} | {
        "device": weight.device,
        "dtype": weight.dtype,
    }


@torch.no_grad()
def _take(small: nn.Module, name: str, lstm: nn.LSTM, source: str, part: Part) -> None:
    """Copy what stays of a parameter, which stays frozen if it was."""
    values = lstm.get_parameter(source)
    kept = part.shrink(values)
    if name.endswith("weight_hh_rows"):  # so in files; turned in memory
        name, kept = name.replace("weight_hh_rows", "weight_hh_columns"), kept.t()
    target = small.get_parameter(name)
    target.copy_(kept)
    target.requires_grad_(values.requires_grad)
