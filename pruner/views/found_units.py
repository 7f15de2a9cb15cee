"""Units by what they do: how closely each follows a condition over what is read."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pruner.calibration.alphabet import Alphabet
from pruner.calibration.calibration import Calibration
from pruner.errors import PrunerError
from pruner.lstm.lstm import LSTM
from pruner.lstm.sizes import macs_per_step
from pruner.lstm.traces import layers_of, run_layers, turned
from pruner.views.conditions import Condition, is_binary

STEPS = 256  # at most, of a sequence
SEQUENCES = 32  # at most
MAX_MACS = 10e9  # multiply-accumulates: some seconds on one core
FOLLOWED = ("h", "c")  # the output of a unit, before a projection, and its cell state


@dataclass(frozen=True)
class Found:
    """How closely the units of a layer and direction follow a condition, from `steps` steps of inputs.

    `table` has a line a unit, in the order of their numbers: its correlations `h` and `c`, and, of a condition that holds or
    not, the mean output `where it holds` and `elsewhere`. `chance` is the largest correlation of each, without its sign, of
    any unit with the same condition of another sequence, which it cannot know; NaN where there is only one.
    """

    table: pd.DataFrame
    chance: dict[str, float]
    steps: int
    share: float | None  # of the steps where the condition holds; None for a number

    def ranked(self, by: str) -> pd.DataFrame:
        """The units that follow most closely first, by `h` or `c`, whatever the sign."""
        return self.table.sort_values(by, key=np.abs, ascending=False, kind="stable", ignore_index=True)


def to_look_at(calibration: Calibration, lstm: LSTM, layer: int) -> list[Tensor]:
    """As many sequences, (N, T) or (N, T, I), as can be run in some seconds, with their burn-in."""
    macs = lstm.directions * sum(macs_per_step(lstm.place_shapes(below).values()) for below in range(layer + 1))
    count = max(2, min(SEQUENCES, int(MAX_MACS / (macs * STEPS))))
    return calibration.sample(count, STEPS).sequences[lstm.name]


def find_units(
    lstm: LSTM,
    tensors: Mapping[str, Tensor],
    layer: int,
    direction: int,
    calibration: Calibration,
    alphabet: Alphabet,
    condition: Condition,
) -> Found:
    """Correlate the units of one layer and direction with a condition over the symbols of inputs.

    Raises PrunerError where the condition is the same everywhere, and so can be followed by nothing.
    """
    groups = []
    for sequences in to_look_at(calibration, lstm, layer):
        wanted = np.array([condition(read) for read in alphabet.read(sequences)])
        groups.append((calibration.looked_up(sequences, tensors), torch.from_numpy(wanted)))
    return correlate(lstm, tensors, layer, direction, groups, calibration.burn_in)


@torch.no_grad()
def correlate(
    lstm: LSTM,
    tensors: Mapping[str, Tensor],
    layer: int,
    direction: int,
    groups: Iterable[tuple[Tensor, Tensor]],
    burn_in: int = 0,
) -> Found:
    """The same with groups of inputs (N, T, I) and what is wanted of each of their steps, (N, T) float64; the first
    `burn_in` steps are left out."""
    layers = layers_of(lstm, tensors)[: layer + 1]
    own, others, held = _Sums(), _Sums(), np.zeros((2, lstm.hidden_size))
    binary = True
    for inputs, wanted in groups:
        traced = run_layers(layers, inputs.transpose(0, 1))[0][layer][direction]
        values = torch.stack([turned(traced.units, direction), turned(traced.cells[1:], direction)])[
            :, burn_in:
        ].double()
        aims = wanted.T[burn_in:]
        binary = binary and is_binary(aims.numpy())
        own.add(values, aims)
        if len(wanted) > 1:
            others.add(values, aims.roll(1, dims=1))
        held += torch.stack([(values[0] * aims[..., None]).sum((0, 1)), values[0].sum((0, 1))]).numpy()
    if own.constant:
        raise PrunerError(
            f"expected steps where the condition holds and others where it does not, found {own.steps:,} steps that are "
            "all alike; choose another condition"
        )
    correlations = own.correlations()
    table = pd.DataFrame({"unit": range(lstm.hidden_size), **dict(zip(FOLLOWED, correlations, strict=True))})
    if binary:
        table["where it holds"] = held[0] / own.total
        table["elsewhere"] = (held[1] - held[0]) / (own.steps - own.total)
    by_chance = np.abs(others.correlations()).max(1) if others.steps else np.full(len(FOLLOWED), np.nan)
    share = own.total / own.steps if binary else None
    return Found(table, dict(zip(FOLLOWED, by_chance.tolist(), strict=True)), own.steps, share)


class _Sums:
    """What a correlation is made of, added up group by group."""

    def __init__(self) -> None:
        self.steps, self.total, self._squares = 0, 0.0, 0.0
        self._values: np.ndarray | float = 0.0
        self._value_squares: np.ndarray | float = 0.0
        self._products: np.ndarray | float = 0.0

    def add(self, values: Tensor, aims: Tensor) -> None:
        """Values (K, T, N, H) of the units, and what is wanted of them (T, N)."""
        self.steps += aims.numel()
        self.total += float(aims.sum())
        self._squares += float(aims.square().sum())
        self._values = self._values + values.sum((1, 2)).numpy()
        self._value_squares = self._value_squares + values.square().sum((1, 2)).numpy()
        self._products = self._products + torch.einsum("ktnh,tn->kh", values, aims).numpy()

    @property
    def constant(self) -> bool:
        return self.steps * self._squares - self.total**2 <= 1e-9 * max(self.steps * self._squares, 1.0)

    def correlations(self) -> np.ndarray:
        """(K, H) Pearson correlations; 0 for a unit that never moves."""
        spread = self.steps * self._value_squares - np.square(self._values)
        still = spread <= 1e-12 * self.steps * self._value_squares
        wide = self.steps * self._squares - self.total**2
        shared = self.steps * self._products - self._values * self.total
        found: np.ndarray = np.where(still, 0.0, shared / np.sqrt(np.where(still, 1.0, spread) * max(wide, 1e-300)))
        return found
