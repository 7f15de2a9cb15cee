"""A whole graph run in ONNX Runtime: what it gives, and how far its LSTMs are from PyTorch's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat

import numpy as np
import torch
from torch import Tensor, nn

from pruner.compact.layout import Layout
from pruner.errors import PrunerError
from pruner.exports.onnx.facts import INITIAL, OUTPUTS, Values, names_in
from pruner.files.runtime.feeding import Array, Fed, Session, States, calls
from pruner.lstm.measure import Drift, difference

CALLS = 4  # one after another, where states go from each to the next


@dataclass(frozen=True)
class Ran:
    """What the calls of a graph gave: all its outputs, and how far its LSTMs were from PyTorch's, as the manifest has it."""

    outputs: list[Array]
    lstms: dict[str, float]

    def apart(self, other: "Ran") -> dict[str, float]:
        """How far the outputs of two graphs are from each other, as the manifest has it."""
        pairs = list(zip(self.outputs, other.outputs, strict=True))
        if any(one.shape != another.shape for one, another in pairs):
            raise PrunerError("expected a graph whose outputs have the shapes of those of the masked one, found others")
        ours, theirs = ([torch.from_numpy(pair[side].astype(np.float64)) for pair in pairs] for side in (0, 1))
        return largest([difference(theirs, ours)])


def run_whole(
    session: Session,
    outputs: Sequence[str],
    fed: Fed,
    states: States,
    layouts: Sequence[Layout],
    tensors: Mapping[str, Tensor],
    values: Mapping[str, Values],
) -> Ran:
    """Run a graph that tells its `outputs` and the `values` of its LSTMs; `tensors` are those of the export's file.

    Raises PrunerError for what ONNX Runtime refuses, and where LSTMs give other shapes than PyTorch's.
    """
    modules = [layout.module(tensors).float() for layout in layouts]
    by_name = {layout.lstm.name: layout for layout in layouts}
    found, drifts = list[Array](), list[Drift]()
    feeds = repeat(fed, CALLS if states.continued else 1)
    for given in calls(session, feeds, states, [*outputs, *names_in(values)]):
        found += [given[name] for name in outputs]
        for layout, module in zip(layouts, modules, strict=True):
            own = values[layout.lstm.name]
            before = [by_name[name] for name in own["made_by"] if name in by_name]
            drifts += _drift(layout, module, own, given, before[0] if before else None)
    return Ran(found, largest(drifts))


@torch.inference_mode()
def _drift(
    layout: Layout, module: nn.Module, values: Values, given: Mapping[str, Array], before: Layout | None
) -> list[Drift]:
    """How far the last layer of an LSTM in a graph is from PyTorch's, on what the graph feeds its first: perhaps the output
    of the LSTM `before` it."""
    lstm, directions = layout.lstm, layout.lstm.directions
    told = {
        name: torch.from_numpy(np.array(array, np.float32)) for name, array in given.items() if array.dtype.kind == "f"
    }
    try:
        steps = _turned(told[values["input"]], values)
        if before is not None and steps.shape[-1] < lstm.input_size:
            narrow, steps = steps, steps.new_zeros(*steps.shape[:-1], lstm.input_size)
            steps[..., before.trimmed.columns] = narrow
        zeros = torch.zeros(directions, steps.shape[1], lstm.hidden_size)
        state = [torch.cat([told[name] if name else zeros for name in values[which]]) for which in INITIAL]
        output, (h_n, c_n) = module(steps.transpose(0, 1), (state[0], state[1]))
        by_direction = output.unflatten(-1, (directions, lstm.hidden_size)).permute(1, 2, 0, 3)  # (T, D, B, H)
        expected = dict(
            zip(OUTPUTS, (_turned(by_direction, values), h_n[-directions:], c_n[-directions:]), strict=True)
        )
        found = {which: told[values[which]] for which in OUTPUTS if values[which]}
        return [difference([_as_wide(expected[which], each, layout)], [each]) for which, each in found.items()]
    except (RuntimeError, ValueError, KeyError, IndexError, TypeError) as error:
        raise PrunerError(
            f"expected {lstm.title} in the graph to be called like nn.LSTM, found that it is not ({error})"
        ) from error


def _turned(steps: Tensor, values: Values) -> Tensor:
    """Steps (T, ..) in the order in which the LSTM reads them."""
    return steps.flip(0) if values["reverse"] else steps


def _as_wide(expected: Tensor, found: Tensor, layout: Layout) -> Tensor:
    """Outputs (.., D, B, H) of full width, or of the units that are in the graph where nothing reads the others."""
    if found.shape[-1] == expected.shape[-1]:
        return expected
    each = [expected[..., direction, :, units] for direction, units in enumerate(layout.last_units)]
    return torch.stack(each, -3)


def largest(drifts: Sequence[Drift]) -> dict[str, float]:
    """The largest difference and output of all, as the manifest has them."""
    return {
        "max_abs_difference": max(drift.max_abs_difference for drift in drifts),
        "max_abs_output": max(drift.max_abs_output for drift in drifts),
    }
