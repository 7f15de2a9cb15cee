"""The one place that shrinks and widens: kept hidden units -> rows of packed tensors, columns of what reads them.

Kept units are (K,) int64 indices, increasing, by place (layer and direction). Row `gate * H + unit` of a packed tensor
belongs to a unit, and column `direction * H + unit` of what reads both directions of a layer side by side.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pruner.lstm.gates import GATES, SIDES, split_gates
from pruner.lstm.lstm import LSTM, Place

Kept = Mapping[Place, Tensor]


@dataclass(frozen=True)
class Part:
    """The rows and columns of a tensor that stay, as indices; None for all of them."""

    rows: Tensor | None = None
    columns: Tensor | None = None

    def shrink(self, tensor: Tensor) -> Tensor:
        """A tensor (R, C, ...) -> a new one of the rows and columns that stay."""
        chosen = tensor if self.rows is None else tensor.index_select(0, self.rows.to(tensor.device))
        chosen = chosen if self.columns is None else chosen.index_select(1, self.columns.to(tensor.device))
        return chosen.clone(memory_format=torch.contiguous_format) if chosen is tensor else chosen.contiguous()

    def widen(self, small: Tensor, shape: Sequence[int]) -> Tensor:
        """The inverse: a new tensor of the full `shape`, zeros where rows and columns were removed."""
        wide = small.new_zeros(tuple(shape))
        rows = self.rows if self.rows is not None else torch.arange(wide.shape[0])
        rows = rows.to(small.device)
        if self.columns is None:
            wide[rows] = small
        else:
            wide[rows[:, None], self.columns.to(small.device)] = small
        return wide


def packed_rows(units: Tensor, hidden_size: int) -> Tensor:
    """(K,) units -> (4K,) rows of a packed tensor, gate by gate."""
    return torch.cat([gate * hidden_size + units for gate in range(len(GATES))])


def output_columns(units: Sequence[Tensor], hidden_size: int) -> Tensor:
    """The columns of what reads several outputs of H units side by side, given the kept units of each."""
    return torch.cat([block * hidden_size + each for block, each in enumerate(units)])


def unit_masks(lstm: LSTM, masks: Mapping[str, Tensor]) -> dict[Place, Tensor]:
    """The (H,) bool masks of whole units, by place, from the (4H,) masks of packed weights by their names in the file."""
    return {place: split_gates(ih)[0] for place, (ih, _) in row_masks(lstm, masks).items()}


def row_masks(lstm: LSTM, masks: Mapping[str, Tensor]) -> dict[Place, tuple[Tensor, Tensor]]:
    """The (4H,) bool masks of weight_ih and weight_hh, by place, from masks by the names in the file."""
    names = lstm.weight_names()
    return {place: (masks[names[*place, "ih"]], masks[names[*place, "hh"]]) for place in lstm.places}


def units_to_hold(mask: Tensor, proj_size: int) -> Tensor:
    """The (K,) indices of the units that a (H,) mask keeps, and that a compact LSTM holds.

    PyTorch needs at least one unit, and more units than a projection has rows, so a few dropped units may stay: being zero,
    they change nothing but the size.
    """
    units = mask.nonzero().flatten()
    spare = (~mask).nonzero().flatten()[: max(0, proj_size + 1 - len(units))]
    return torch.cat([units, spare]).sort().values


def last_layer(lstm: LSTM, kept: Kept) -> list[Tensor]:
    """The kept units of each direction of the last layer."""
    return layer_of(lstm, kept, lstm.num_layers - 1)


def layer_of(lstm: LSTM, kept: Kept, layer: int) -> list[Tensor]:
    """The kept units of each direction of a layer."""
    return [kept[layer, direction] for direction in range(lstm.directions)]


def last_units(lstm: LSTM, masks: Mapping[str, Tensor]) -> list[Tensor]:
    """The (K,) units that masks of whole ones keep in each direction of the last layer."""
    return [units.nonzero().flatten() for units in list(unit_masks(lstm, masks).values())[-lstm.directions :]]


def unit_parts(lstm: LSTM, kept: Kept) -> dict[str, Part]:
    """{PyTorch's name: what stays of that tensor} when every place keeps these units.

    With a projection whoever reads the output is untouched: only the projection itself has a column a unit.
    """
    parts: dict[str, Part] = {}
    for layer, direction in lstm.places:
        own = kept[layer, direction]
        rows = packed_rows(own, lstm.hidden_size)
        below = None
        if layer and not lstm.proj_size:
            below = output_columns(layer_of(lstm, kept, layer - 1), lstm.hidden_size)
        found = {
            "weight_ih": Part(rows, below),
            "weight_hh": Part(rows, None if lstm.proj_size else own),
            "bias_ih": Part(rows),
            "bias_hh": Part(rows),
            "weight_hr": Part(None, own),
        }
        suffix = lstm.suffix(layer, direction)
        parts |= {f"{kind}{suffix}": part for kind, part in found.items() if f"{kind}{suffix}" in lstm.tensors}
    return parts


def row_parts(lstm: LSTM, kept: Sequence[tuple[Tensor, Tensor]]) -> Iterator[tuple[str, str, Part]]:
    """(name in an `nn.LSTM`, name in its `RowCompactLSTM`, what stays of that tensor), tensor by tensor."""
    for index, place in enumerate(lstm.places):
        suffix, prefix = lstm.suffix(*place), f"layers.{index}."
        for side, rows in zip(SIDES, kept[index], strict=True):
            yield f"weight_{side}{suffix}", f"{prefix}weight_{side}_rows", Part(rows)
            if lstm.bias:
                yield f"bias_{side}{suffix}", f"{prefix}{side}_bias", Part()
        if lstm.proj_size:
            yield f"weight_hr{suffix}", f"{prefix}projection", Part()


def consumer_part(lstm: LSTM, kept: Kept) -> Part:
    """What stays of a tensor (V, D*H, ...) that reads the output of the last layer; all of it behind a projection."""
    if lstm.proj_size:
        return Part()
    return Part(None, output_columns(last_layer(lstm, kept), lstm.hidden_size))


def whole(lstm: LSTM) -> dict[Place, Tensor]:
    """Every unit kept at every place."""
    return {place: torch.arange(lstm.hidden_size) for place in lstm.places}


def counts(kept: Iterable[Tensor]) -> set[int]:
    """The different numbers of kept units."""
    return {len(units) for units in kept}
