"""Remove what masks dropped, exactly: a smaller module in place of an `nn.LSTM`, and back again."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pruner.compact.load_pruned import CompactLSTM, ReconstructingLSTM, RowCompactLSTM
from pruner.lstm.gates import GATES, SIDES, layer_suffix


def compact_units(
    lstm: nn.LSTM, keep: Sequence[Tensor], reconstruction: Sequence[tuple[Tensor, Tensor]] | None = None
) -> CompactLSTM:
    """The `CompactLSTM` of a masked `nn.LSTM`, equal to it from a zero state in `output`, `h_n` and `c_n`.

    `keep` holds a (H,) bool mask for each layer and direction. The rows and biases of dropped units must be zero in `lstm`
    already. `reconstruction` holds weight (R, K) and bias (R,) for each direction of the last layer, if its removed
    units are to be reconstructed.
    """
    kept = [kept_units(mask, lstm.proj_size) for mask in keep]
    small = CompactLSTM(
        lstm.input_size, lstm.hidden_size, kept, **_settings(lstm), reconstruct=reconstruction is not None
    )
    first_of_last = len(kept) - small.directions
    for side, (weight, bias) in enumerate(reconstruction or ()):
        place = f"layers.{first_of_last + side}.reconstruction."
        with torch.no_grad():
            small.get_parameter(f"{place}weight").copy_(weight)
            small.get_parameter(f"{place}bias").copy_(bias)
    for index, suffix in _places(lstm):
        own = kept[index]
        rows = torch.cat([gate * lstm.hidden_size + own for gate in range(len(GATES))])
        read: Tensor | None = None  # the columns of what comes from below; None for all of them
        if index >= small.directions and not lstm.proj_size:
            first = (index // small.directions - 1) * small.directions
            below = kept[first : first + small.directions]
            read = torch.cat([side * lstm.hidden_size + units for side, units in enumerate(below)])
        prefix = f"layers.{index}.lstm."
        _take(small, f"{prefix}weight_ih_l0", lstm, f"weight_ih{suffix}", rows, read)
        _take(small, f"{prefix}weight_hh_l0", lstm, f"weight_hh{suffix}", rows, None if lstm.proj_size else own)
        if lstm.bias:
            _take(small, f"{prefix}bias_ih_l0", lstm, f"bias_ih{suffix}", rows)
            _take(small, f"{prefix}bias_hh_l0", lstm, f"bias_hh{suffix}", rows)
        if lstm.proj_size:
            _take(small, f"{prefix}weight_hr_l0", lstm, f"weight_hr{suffix}", None, own)
    return small.train(lstm.training)


def compact_rows(lstm: nn.LSTM, masks: Sequence[tuple[Tensor, Tensor]]) -> RowCompactLSTM:
    """The `RowCompactLSTM` of a masked `nn.LSTM`, equal to it from any state.

    `masks` holds the (4H,) bool masks of `weight_ih` and `weight_hh` for each layer and direction; rows that they drop must
    be zero in `lstm` already. Biases are kept whole: a dropped row's gate is constant, not gone.
    """
    kept = [(ih.nonzero().flatten(), hh.nonzero().flatten()) for ih, hh in masks]
    small = RowCompactLSTM(lstm.input_size, lstm.hidden_size, kept, **_settings(lstm))
    for index, suffix in _places(lstm):
        for side, rows in zip(SIDES, kept[index], strict=True):
            _take(small, f"layers.{index}.weight_{side}_rows", lstm, f"weight_{side}{suffix}", rows)
        if lstm.bias:
            _take(small, f"layers.{index}.ih_bias", lstm, f"bias_ih{suffix}")
            _take(small, f"layers.{index}.hh_bias", lstm, f"bias_hh{suffix}")
        if lstm.proj_size:
            _take(small, f"layers.{index}.projection", lstm, f"weight_hr{suffix}")
    return small.train(lstm.training)


def kept_units(mask: Tensor, proj_size: int) -> Tensor:
    """The (K,) indices of the units that a (H,) mask keeps, and that a compact LSTM holds.

    PyTorch needs at least one unit, and more units than a projection has rows, so a few dropped units may stay: being zero,
    they change nothing but the size.
    """
    units = mask.nonzero().flatten()
    spare = (~mask).nonzero().flatten()[: max(0, proj_size + 1 - len(units))]
    return torch.cat([units, spare]).sort().values


def expand(small: CompactLSTM | RowCompactLSTM) -> nn.LSTM:
    """The masked `nn.LSTM` of full size that a compact one computes: zeros where rows and units were removed. Of one that
    reconstructs its removed units, the `ReconstructingLSTM`."""
    weight = next(small.parameters())
    state = small.state_dict()
    sizes = small.input_size, small.hidden_size, small.num_layers
    last = (small.num_layers - 1) * small.directions
    if f"layers.{last}.reconstruction.weight" in state:
        units = [state[f"layers.{last + side}.kept"] for side in range(small.directions)]
        lstm: nn.LSTM = ReconstructingLSTM(*sizes, units, **_settings(small))
    else:
        lstm = nn.LSTM(*sizes, **_settings(small))
    wide = {name: torch.zeros_like(tensor) for name, tensor in lstm.state_dict().items()}
    for name in wide:
        if name.startswith("kept_"):
            wide[name] = state[f"layers.{last + int(name.removeprefix('kept_'))}.kept"]
        elif name.startswith("reconstruction."):
            _, side, kind = name.split(".")
            wide[name] = state[f"layers.{last + int(side)}.reconstruction.{kind}"]
    for index, suffix in _places(lstm):
        prefix = f"layers.{index}."
        if isinstance(small, RowCompactLSTM):
            for side in SIDES:
                wide[f"weight_{side}{suffix}"][state[f"{prefix}rows_{side}"]] = state[f"{prefix}weight_{side}_rows"]
            if lstm.bias:
                wide[f"bias_ih{suffix}"], wide[f"bias_hh{suffix}"] = (
                    state[f"{prefix}ih_bias"],
                    state[f"{prefix}hh_bias"],
                )
            if lstm.proj_size:
                wide[f"weight_hr{suffix}"] = state[f"{prefix}projection"]
            continue
        own = state[f"{prefix}kept"]
        rows = torch.cat([gate * small.hidden_size + own for gate in range(len(GATES))])
        read = torch.arange(wide[f"weight_ih{suffix}"].shape[1], device=weight.device)
        if index >= small.directions and not small.proj_size:
            first = (index // small.directions - 1) * small.directions
            below = [state[f"layers.{first + side}.kept"] for side in range(small.directions)]
            read = torch.cat([side * small.hidden_size + units for side, units in enumerate(below)])
        back = torch.arange(small.proj_size, device=weight.device) if small.proj_size else own
        wide[f"weight_ih{suffix}"][rows[:, None], read] = state[f"{prefix}lstm.weight_ih_l0"]
        wide[f"weight_hh{suffix}"][rows[:, None], back] = state[f"{prefix}lstm.weight_hh_l0"]
        if lstm.bias:
            wide[f"bias_ih{suffix}"][rows] = state[f"{prefix}lstm.bias_ih_l0"]
            wide[f"bias_hh{suffix}"][rows] = state[f"{prefix}lstm.bias_hh_l0"]
        if lstm.proj_size:
            wide[f"weight_hr{suffix}"][:, own] = state[f"{prefix}lstm.weight_hr_l0"]
    lstm.load_state_dict(wide)
    return lstm.train(small.training)


def _settings(lstm: nn.LSTM | CompactLSTM | RowCompactLSTM) -> dict[str, Any]:
    weight = next(lstm.parameters())
    names = ("bias", "batch_first", "dropout", "bidirectional", "proj_size")
    return {name: getattr(lstm, name) for name in names} | {"device": weight.device, "dtype": weight.dtype}


def _places(lstm: nn.LSTM) -> Iterator[tuple[int, str]]:
    """(index, suffix of the tensors' names) of each layer and direction, in the order of `nn.LSTM`."""
    directions = 2 if lstm.bidirectional else 1
    for index in range(lstm.num_layers * directions):
        yield index, layer_suffix(*divmod(index, directions))


@torch.no_grad()
def _take(
    small: nn.Module, name: str, lstm: nn.LSTM, source: str, rows: Tensor | None = None, columns: Tensor | None = None
) -> None:
    """Copy some rows and columns (None: all) of a parameter, which stays frozen if it was."""
    values, target = lstm.get_parameter(source), small.get_parameter(name)
    chosen = values if rows is None else values[rows]
    target.copy_(chosen if columns is None else chosen[:, columns])
    target.requires_grad_(values.requires_grad)
