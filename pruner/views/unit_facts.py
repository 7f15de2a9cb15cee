"""What the weights say about one hidden unit: its ranks, its biases, whom it reads and who reads it."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from pruner.importance.scores import Scores
from pruner.lstm.gates import ALL_BLOCKS, GATE_TITLES, GATES, SIDES, split_gates
from pruner.lstm.lstm import LSTM
from pruner.views.biases import gate_biases


def ranks_from_top(scores: Tensor) -> Tensor:
    """(.., N) scores -> (.., N) int64 ranks, 1 for the highest. Equal scores keep the order in which a mask drops them: the
    lower unit falls first."""
    order = scores.argsort(dim=-1, stable=True)
    places = torch.arange(scores.shape[-1], 0, -1, device=scores.device).expand_as(order)
    return torch.empty_like(order).scatter_(-1, order, places)


def unit_table(lstm: LSTM, layer: int, direction: int, scored: Scores, masks: Mapping[str, Tensor]) -> pd.DataFrame:
    """One line a hidden unit of one layer and direction: its score and rank, and whether each of the eight blocks keeps its
    row. A weight that `masks` does not hold is kept whole."""
    scores = scored.units[layer, direction].cpu()
    kept = _decisions(lstm, layer, direction, masks)
    return pd.DataFrame(
        {
            "unit": range(lstm.hidden_size),
            "score": scores.numpy(),
            "rank": ranks_from_top(scores).numpy(),
            "blocks that keep it": kept.sum(0).numpy(),
            **{block: kept[index].numpy() for index, block in enumerate(ALL_BLOCKS)},
        }
    )


def standings(
    lstm: LSTM, layer: int, direction: int, unit: int, scored: Scores, masks: Mapping[str, Tensor]
) -> pd.DataFrame:
    """The eight rows of a unit among those of their blocks: saliency, share of the block's median, rank from the top, and
    whether the row is kept."""
    saliency = eight_blocks(lstm, layer, direction, scored.saliency)
    medians = saliency.median(1).values
    return pd.DataFrame(
        {
            "block": ALL_BLOCKS,
            "gate": [GATE_TITLES[gate] for gate in GATES] * len(SIDES),
            "saliency": saliency[:, unit].numpy(),
            "over median": (saliency[:, unit] / medians).numpy(),
            "rank": ranks_from_top(saliency)[:, unit].numpy(),
            "kept": _decisions(lstm, layer, direction, masks)[:, unit].numpy(),
        }
    )


def eight_blocks(lstm: LSTM, layer: int, direction: int, packed: Mapping[str, Tensor]) -> Tensor:
    """(8, H) from the (4H,) values of both packed weights of a layer and direction, in the order of `ALL_BLOCKS`."""
    names = lstm.weight_names()
    return torch.cat([split_gates(packed[names[layer, direction, side]]).cpu() for side in SIDES])


def _decisions(lstm: LSTM, layer: int, direction: int, masks: Mapping[str, Tensor]) -> Tensor:
    names = [lstm.weight_names()[layer, direction, side] for side in SIDES]
    whole = torch.ones(len(GATES) * lstm.hidden_size, dtype=torch.bool)
    return eight_blocks(lstm, layer, direction, {name: masks.get(name, whole) for name in names})


@dataclass(frozen=True)
class Rest:
    """A unit's gates when its input and all hidden states are zero: what is left is the biases, `weight_ih`'s and
    `weight_hh`'s together (zero without any)."""

    biases: dict[str, float]  # by gate

    @property
    def gates(self) -> dict[str, float]:
        """sigmoid(b_i), sigmoid(b_f), tanh(b_g) and sigmoid(b_o)."""
        return {
            gate: math.tanh(bias) if gate == "g" else float(torch.tensor(bias, dtype=torch.float64).sigmoid())
            for gate, bias in self.biases.items()
        }

    @property
    def half_life(self) -> float:
        """Steps after which half of the cell state is left: ln(1/2) / ln(sigmoid(b_f))."""
        remembered = self.gates["f"]
        if remembered in (0.0, 1.0):
            return math.inf if remembered else 0.0
        return math.log(0.5) / math.log(remembered)


def at_rest(lstm: LSTM, tensors: Mapping[str, Tensor], layer: int, direction: int, unit: int) -> Rest:
    biases = gate_biases(lstm, tensors, layer, direction)[:, unit]
    return Rest(dict(zip(GATES, biases.tolist(), strict=True)))


def inputs_of(lstm: LSTM, tensors: Mapping[str, Tensor], layer: int, direction: int, unit: int) -> pd.DataFrame:
    """What the unit's four gates read from below: an `input` a line, or where a layer lies below, a hidden unit of it.

    Here and in the functions that follow, `i`, `f`, `g`, `o` are the weights of the four gates, `strength` is the sum of
    their absolute values, and the strongest come first. With a projection the weights are those from unit to unit,
    `weight @ weight_hr`.
    """
    weights = _packed(lstm, tensors, layer, direction, "ih")[:, unit]
    if layer == 0:
        return _neighbours([{}], [weights.float()]).rename(columns={"unit": "input"})
    places, found = [], []
    for below, columns in enumerate(weights.split(lstm.output_size, 1)):
        places.append(_place(layer - 1, below))
        found.append(_through_projection(lstm, tensors, layer - 1, below, columns))
    return _neighbours(places, found)


def predecessors(lstm: LSTM, tensors: Mapping[str, Tensor], layer: int, direction: int, unit: int) -> pd.DataFrame:
    """The hidden units of its own layer that the unit's four gates read, a step later."""
    weights = _packed(lstm, tensors, layer, direction, "hh")[:, unit]
    return _neighbours([_place(layer, direction)], [_through_projection(lstm, tensors, layer, direction, weights)])


def successors(lstm: LSTM, tensors: Mapping[str, Tensor], layer: int, direction: int, unit: int) -> pd.DataFrame:
    """The hidden units whose gates read this one: those of its own layer a step later, then those of the next layer."""
    places = [_place(layer, direction)]
    found = [_read_by(lstm, tensors, layer, direction, unit, _packed(lstm, tensors, layer, direction, "hh"))]
    if layer + 1 < lstm.num_layers:
        own = slice(direction * lstm.output_size, (direction + 1) * lstm.output_size)
        for above in range(lstm.directions):
            weights = _packed(lstm, tensors, layer + 1, above, "ih")[:, :, own]
            places.append(_place(layer + 1, above))
            found.append(_read_by(lstm, tensors, layer, direction, unit, weights))
    return _neighbours(places, found)


def read_by_heads(
    lstm: LSTM, tensors: Mapping[str, Tensor], direction: int, unit: int, consumers: Iterable[str]
) -> pd.DataFrame:
    """The outputs of the `consumers` of the last layer that read the unit: a `tensor` and an `output` of it a line, with the
    `weight`, of a convolution the sum over its places, and their sum of absolute values, `strength`; strongest first."""
    tables = [
        pd.DataFrame(
            {
                "tensor": name,
                "output": range(len(tensors[name])),
                "weight": column.sum(1).cpu().numpy(),
                "strength": column.abs().sum(1).cpu().numpy(),
            }
        )
        for name in consumers
        for column in [
            tensors[name].detach()[:, direction * lstm.output_size + unit].float().reshape(len(tensors[name]), -1)
        ]
    ]
    columns = ["tensor", "output", "weight", "strength"]
    table = pd.concat(tables) if tables else pd.DataFrame(columns=columns)
    return table.sort_values("strength", ascending=False, kind="stable", ignore_index=True)


def _packed(lstm: LSTM, tensors: Mapping[str, Tensor], layer: int, direction: int, side: str) -> Tensor:
    """A packed weight as a view (4, H, columns)."""
    return split_gates(tensors[lstm.weight_names()[layer, direction, side]].detach())


def _projection(lstm: LSTM, tensors: Mapping[str, Tensor], layer: int, direction: int) -> Tensor | None:
    name = lstm.tensors.get(f"weight_hr{lstm.suffix(layer, direction)}")
    return None if name is None else tensors[name].detach().float()


def _through_projection(
    lstm: LSTM, tensors: Mapping[str, Tensor], layer: int, direction: int, weights: Tensor
) -> Tensor:
    """(4, R) weights that read a layer's output -> (4, H) that read its hidden units."""
    projection = _projection(lstm, tensors, layer, direction)
    return weights.float() if projection is None else weights.float() @ projection


def _read_by(
    lstm: LSTM, tensors: Mapping[str, Tensor], layer: int, direction: int, unit: int, weights: Tensor
) -> Tensor:
    """(4, H): with what weight each unit's gates read the given one, from weights (4, H, R) that read its layer."""
    projection = _projection(lstm, tensors, layer, direction)
    return weights[:, :, unit].float() if projection is None else weights.float() @ projection[:, unit]


def _place(layer: int, direction: int) -> dict[str, object]:
    return {"layer": layer, "direction": "reverse" if direction else "forward"}


def _neighbours(places: list[dict[str, object]], weights: list[Tensor]) -> pd.DataFrame:
    """A line a neighbour, strongest first, from where each group stands and its weights (4, N)."""
    table = pd.concat(
        pd.DataFrame(place | {"unit": range(found.shape[1])} | dict(zip(GATES, found.cpu().numpy(), strict=True)))
        for place, found in zip(places, weights, strict=True)
    )
    table["strength"] = table[list(GATES)].abs().sum(axis=1)
    return table.sort_values("strength", ascending=False, kind="stable", ignore_index=True)
