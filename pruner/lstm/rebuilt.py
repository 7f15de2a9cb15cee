"""Hidden units that an earlier round removed, and that come back in an LSTM's output as those that are left tell them.

Such a round folded what went into no consumer, since it knew none. A file holds the maps beside the LSTM, under the names of
a `ReconstructingLSTM`: `kept_0`, `reconstruction.0.weight` and `reconstruction.0.bias` of the first direction.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence

from pruner.lstm.lstm import LSTM

# For each direction of the last layer, weight (R, K) and bias (R,) that give the removed units from the kept ones.
Reconstruction = list[tuple[Tensor, Tensor]]

_Result = tuple[Tensor | PackedSequence, tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Rebuilt:
    """For each direction of the last layer the (K,) units that are left, and the weight (R, K) and bias (R,) that tell the
    others of them."""

    hidden_size: int
    kept: list[Tensor]
    maps: Reconstruction

    @property
    def gone(self) -> dict[int, Tensor]:
        """The (H,) bool mask of removed units for each direction."""
        return {direction: gone_beside(units, self.hidden_size) for direction, units in enumerate(self.kept)}

    def fill(self, output: Tensor) -> Tensor:
        """An output (.., D*H), or the last states of one layer side by side, with what is gone as it is told."""
        parts = []
        for own, kept, (weight, bias) in zip(output.split(self.hidden_size, -1), self.kept, self.maps, strict=True):
            units = kept.to(own.device)
            told = F.linear(own.index_select(-1, units), weight.to(own), bias.to(own))
            parts.append(own.index_copy(-1, without(units, self.hidden_size), told))
        return torch.cat(parts, -1)

    def fill_state(self, h_n: Tensor) -> Tensor:
        """The same of final states (L*D, .., H), in their last layer."""
        *below, last = h_n.split([len(h_n) - len(self.kept), len(self.kept)])
        filled = self.fill(torch.cat(list(last), -1)).split(self.hidden_size, -1)
        return torch.cat([*below, torch.stack(filled)])

    def after(self, kept: list[Tensor], told: Reconstruction | None) -> Reconstruction:
        """The maps that give all removed units when only `kept` ones are left of each direction, from what these tell of the
        units that went since, as `told` says or nothing."""
        found = []
        for direction, (units, before, (weight, bias)) in enumerate(zip(kept, self.kept, self.maps, strict=True)):
            gone, size = without(units, self.hidden_size), self.hidden_size
            wide = weight.new_zeros(size, len(units)).index_copy(0, units, torch.eye(len(units)).to(weight))
            constant = bias.new_zeros(size)
            if told is not None:
                wide[gone], constant[gone] = (each.to(weight) for each in told[direction])
            earlier = without(before, size)
            wide[earlier] = weight @ wide[before]
            constant[earlier] = bias + weight @ constant[before]
            found.append((wide[gone], constant[gone]))
        return found


def without(units: Tensor, hidden_size: int) -> Tensor:
    """(K,) kept units -> (H - K,) removed ones, or the other way round."""
    return gone_beside(units, hidden_size).nonzero().flatten()


def gone_beside(units: Tensor, hidden_size: int) -> Tensor:
    """(K,) kept units -> the (H,) bool mask of removed ones."""
    gone = torch.ones(hidden_size, dtype=torch.bool, device=units.device)
    gone[units] = False
    return gone


def names_of_maps(lstm: LSTM) -> dict[str, str]:
    """{name in a `ReconstructingLSTM`'s state dict: name in the file} of what rebuilds units."""
    prefix = f"{lstm.name}." if lstm.name else ""
    return {
        name: f"{prefix}{name}"
        for direction in range(lstm.directions)
        for name in (f"kept_{direction}", *(f"reconstruction.{direction}.{kind}" for kind in ("weight", "bias")))
    }


def rebuilt_of(lstm: LSTM, tensors: Mapping[str, Tensor]) -> Rebuilt | None:
    """What rebuilds units of an LSTM, from the tensors of its file; None where there is no such thing, whole and fitting."""
    names = names_of_maps(lstm)
    if lstm.proj_size or not all(name in tensors for name in names.values()):
        return None
    kept, maps = list[Tensor](), []
    for direction in range(lstm.directions):
        units = tensors[names[f"kept_{direction}"]]
        weight, bias = (tensors[names[f"reconstruction.{direction}.{kind}"]] for kind in ("weight", "bias"))
        if units.dtype != torch.int64 or units.dim() != 1 or not _increase(units.tolist(), lstm.hidden_size):
            return None
        gone = lstm.hidden_size - len(units)
        if weight.shape != (gone, len(units)) or bias.shape != (gone,):
            return None
        if {weight.dtype, bias.dtype} != {getattr(torch, lstm.dtype)}:
            return None
        kept.append(units)
        maps.append((weight, bias))
    return Rebuilt(lstm.hidden_size, kept, maps)


def maps_in(lstm: LSTM, tensors: Mapping[str, Tensor]) -> list[str]:
    """The names in the file of what rebuilds units of an LSTM; none where there is no such thing."""
    return [] if rebuilt_of(lstm, tensors) is None else list(names_of_maps(lstm).values())


def fills(module: nn.LSTM | nn.LSTMCell, rebuilt: Rebuilt) -> None:
    """Have an `nn.LSTM` or `nn.LSTMCell` of full size give what is gone as it is told."""
    module.register_forward_hook(_Filling(rebuilt))


@dataclass(frozen=True)
class _Filling:
    rebuilt: Rebuilt

    def __call__(self, module: nn.Module, inputs: Any, result: Any) -> _Result | tuple[Tensor, Tensor]:
        if isinstance(module, nn.LSTMCell):
            h, c = result
            return self.rebuilt.fill(h), c
        output, (h_n, c_n) = result
        if isinstance(output, PackedSequence):
            return output._replace(data=self.rebuilt.fill(output.data)), (self.rebuilt.fill_state(h_n), c_n)
        return self.rebuilt.fill(output), (self.rebuilt.fill_state(h_n), c_n)


def _increase(units: list[int], below: int) -> bool:
    return bool(units) and units == sorted({unit for unit in units if 0 <= unit < below})
