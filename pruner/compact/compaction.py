"""Remove what masks dropped, exactly: a smaller module in place of an `nn.LSTM`, and back again."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pruner.compact.load_pruned import CompactLSTM, ReconstructingLSTM, RowCompactLSTM, inside
from pruner.lstm.describing import described
from pruner.lstm.kept import Part, row_parts, unit_parts, units_to_hold


def compact_units(lstm: nn.LSTM, masks: Sequence[Tensor]) -> CompactLSTM:
    """The `CompactLSTM` of a masked `nn.LSTM`, equal to it from a zero state in `output`, `h_n` and `c_n`.

    `masks` holds a (H,) bool mask for each layer and direction in the order of `nn.LSTM`. The rows and biases of dropped
    units must be zero in `lstm` already.
    """
    facts = described(lstm)
    kept = dict(zip(facts.places, (units_to_hold(mask, lstm.proj_size) for mask in masks), strict=True))
    small = CompactLSTM(lstm.input_size, lstm.hidden_size, list(kept.values()), **_settings(lstm))
    for name, part in unit_parts(facts, kept).items():
        _take(small, inside(name, lstm.bidirectional), lstm, name, part)
    return small.train(lstm.training)


def compact_rows(lstm: nn.LSTM, masks: Sequence[tuple[Tensor, Tensor]]) -> RowCompactLSTM:
    """The `RowCompactLSTM` of a masked `nn.LSTM`, equal to it from any state.

    `masks` holds the (4H,) bool masks of `weight_ih` and `weight_hh` for each layer and direction; rows that they drop must
    be zero in `lstm` already. Biases are kept whole: a dropped row's gate is constant, not gone.
    """
    kept = [(ih.nonzero().flatten(), hh.nonzero().flatten()) for ih, hh in masks]
    small = RowCompactLSTM(lstm.input_size, lstm.hidden_size, kept, **_settings(lstm))
    for source, name, part in row_parts(described(lstm), kept):
        _take(small, name, lstm, source, part)
    return small.train(lstm.training)


def expand(small: CompactLSTM | RowCompactLSTM) -> nn.LSTM:
    """The masked `nn.LSTM` of full size that a compact one computes: zeros where rows and units were removed. Of one that
    reconstructs its removed units, the `ReconstructingLSTM`."""
    state = small.state_dict()
    lstm, wide = _wide(small, state)
    facts = described(lstm)
    if isinstance(small, RowCompactLSTM):
        prefixes = (f"layers.{index}.rows_" for index in range(len(small.layers)))
        rows = [(state[f"{prefix}ih"], state[f"{prefix}hh"]) for prefix in prefixes]
        for source, name, part in row_parts(facts, rows):
            wide[source] = part.widen(state[name], wide[source].shape)
    else:
        kept = {place: state[f"layers.{index}.kept"] for index, place in enumerate(facts.places)}
        for name, part in unit_parts(facts, kept).items():
            wide[name] = part.widen(state[inside(name, small.bidirectional)], wide[name].shape)
    lstm.load_state_dict(wide)
    return lstm.train(small.training)


def _wide(small: CompactLSTM | RowCompactLSTM, state: Mapping[str, Tensor]) -> tuple[nn.LSTM, dict[str, Tensor]]:
    """The module of full size, and its state dict so far: what reconstructs removed units as it is, the rest open."""
    sizes = small.input_size, small.hidden_size, small.num_layers
    last = [f"layers.{index}." for index in range(len(small.layers))][-small.directions :]
    if f"{last[0]}reconstruction.weight" not in state:
        lstm = nn.LSTM(*sizes, **_settings(small))
        return lstm, lstm.state_dict()
    lstm = ReconstructingLSTM(*sizes, [state[f"{prefix}kept"] for prefix in last], **_settings(small))
    wide = lstm.state_dict()
    for direction, prefix in enumerate(last):
        wide[f"kept_{direction}"] = state[f"{prefix}kept"]
        for kind in ("weight", "bias"):
            wide[f"reconstruction.{direction}.{kind}"] = state[f"{prefix}reconstruction.{kind}"]
    return lstm, wide


def _settings(lstm: nn.LSTM | CompactLSTM | RowCompactLSTM) -> dict[str, Any]:
    weight = next(lstm.parameters())
    names = ("bias", "batch_first", "dropout", "bidirectional", "proj_size")
    return {name: getattr(lstm, name) for name in names} | {"device": weight.device, "dtype": weight.dtype}


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
