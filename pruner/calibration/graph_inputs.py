"""Inputs of a whole ONNX graph -> what its LSTMs read: the graph is run, in a process with limits.

An array is shaped like the graph's input. Where the graph has a batch or a time of fixed size, the array may be a multiple
of that: it is fed in pieces, those along the batch as sequences of their own, those along time as steps of one sequence,
whose states are fed back. That needs a graph that takes its states and gives them.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from pruner.errors import PrunerError, label, shown
from pruner.files.checkpoint import Checkpoint
from pruner.files.onnx_graph import ONNX
from pruner.files.onnx_lstms import Found, Layer, direction_of, find
from pruner.files.onnx_model import Graph
from pruner.files.runtime.feeding import Array, Fed, Session, States, calls, dtype_of, zeros_of
from pruner.files.runtime.isolation import Runner, Value
from pruner.lstm.lstm import LSTM

SECONDS = 600  # for all calls of a graph together
_AT_ONCE = 64  # sequences, where the batch has no fixed size


def of_graph(
    arrays: Mapping[str, list[Tensor]], checkpoint: Checkpoint, lstms: Sequence[LSTM]
) -> dict[str, Tensor] | None:
    """The arrays by the inputs of the graph that a checkpoint came as; None where they are not meant for these.

    They are where all are called like inputs, or where one without a name meets a graph that is given one thing and fits no
    LSTM that is wanted alone.
    """
    if checkpoint.format != ONNX or any(len(group) > 1 for group in arrays.values()):
        return None
    by_name = {key: group[0] for key, group in arrays.items()}
    found, _ = find(checkpoint.source.data)
    inputs = found.graph.inputs - found.graph.initializers.keys()
    if "" in by_name and len(by_name) == 1:
        fits = len(lstms) == 1 and tuple(by_name[""].shape[-1:]) == (lstms[0].input_size,)
        free = inputs - States.of(found.states).fed_back.keys()
        return None if fits or len(free) != 1 else {free.pop(): by_name[""]}
    return by_name if by_name.keys() <= inputs - {lstm.name for lstm in checkpoint.lstms} else None


def through_graph(
    arrays: Mapping[str, Tensor], name: str, checkpoint: Checkpoint, lstms: Sequence[LSTM]
) -> dict[str, list[Tensor]]:
    """{LSTM name: the sequences (N, T, I) that it reads} when the graph of a checkpoint is given arrays of a file `name`.

    Raises PrunerError for arrays that do not fit the graph, a graph that does not run within limits, and LSTMs that it does
    not run once a call.
    """
    found, _ = find(checkpoint.source.data)
    layers = {lstm.name: _first_layer(found, checkpoint, lstm) for lstm in lstms}
    states = States.of(found.states)
    proofs = [(state.initial, state.final) for state in found.states if states.continued]
    wanted = list(
        dict.fromkeys([layer.node.input(0) for layer in layers.values()] + [value for pair in proofs for value in pair])
    )
    session = Runner(SECONDS).whole(bytes(checkpoint.source.data), wanted)
    read: dict[str, list[Tensor]] = {lstm.name: [] for lstm in lstms}
    for feeds in _sequences(session, arrays, states, _axes(found), name):
        given = list(calls(session, feeds, states, wanted))
        for before, after in pairwise(given):
            if not all(np.array_equal(before[final], after[initial]) for initial, final in proofs):
                raise PrunerError(
                    f"expected states that the graph takes as it gave them, found that it moves them: {name}; give the "
                    "inputs of the LSTMs themselves, as arrays of their names"
                )
        for key, layer in layers.items():
            steps = np.concatenate([each[layer.node.input(0)] for each in given])  # (T, B, I)
            steps = steps[::-1] if direction_of(layer.node) == "reverse" else steps
            read[key].append(torch.from_numpy(np.ascontiguousarray(steps.swapaxes(0, 1))))
    return read


def _first_layer(found: Found, checkpoint: Checkpoint, lstm: LSTM) -> Layer:
    """The node that reads the input of an LSTM."""
    name = ".".join(checkpoint.location(next(iter(lstm.tensors.values())))).rpartition(".")[0]
    layers = found.modules.get(name, [])
    if not layers or found.again.get(name) or layers[0].graph is not found.graph or layers[0].node.input(4):
        raise PrunerError(
            f"expected the graph to run {lstm.title} once a call, on whole sequences, found that it does not; give the "
            "inputs of the LSTM itself, as an array of its name"
        )
    return layers[0]


@dataclass(frozen=True)
class _Axes:
    """Which axes of an input are batch and time; no time where no LSTM reads an input of the graph itself."""

    batch: int
    time: int | None


def _axes(found: Found) -> _Axes:
    known = {_is_batch_first(found.graph, layers[0]) for layers in found.modules.values()} - {None}
    return _Axes(1, 0) if known == {False} else _Axes(0, 1 if known == {True} else None)


def _is_batch_first(graph: Graph, layer: Layer) -> bool | None:
    """Whether an LSTM reads an input of the graph turned, or as it is; None where it reads something else."""
    name = layer.node.input(0)
    before = graph.producers.get(name)
    if before is None:
        return False if name in graph.inputs else None
    turned = before.operation == "Transpose" and before.integers("perm") == [1, 0, 2]
    return True if turned and before.input(0) in graph.inputs else None


def _sequences(
    session: Session, arrays: Mapping[str, Tensor], states: States, axes: _Axes, name: str
) -> Iterator[Iterator[Fed]]:
    """For each part of the batch, what the graph is given call after call."""
    inputs = {each.name: each for each in session.get_inputs()}
    missing = inputs.keys() - arrays.keys() - states.fed_back.keys()
    if missing or arrays.keys() - inputs.keys():
        free = _listed(inputs.keys() - states.fed_back.keys())
        raise PrunerError(
            f"expected an array for each input of the graph that is no state ({free}), "
            f"found {_listed(arrays)}: {name}; add or remove some"
        )
    cut = {key: _pieces(array, inputs[key], axes, states, name) for key, array in arrays.items()}
    batches, calls_each = max(map(len, cut.values())), max(len(parts[0]) for parts in cut.values())
    if any(len(parts) not in (1, batches) or len(parts[0]) not in (1, calls_each) for parts in cut.values()):
        raise PrunerError(
            f"expected arrays of as many sequences and steps as each other, found others: {name}; cut them alike"
        )
    for batch in range(batches):
        rows = {key: parts[batch % len(parts)] for key, parts in cut.items()}
        sizes = {
            str(size): rows[key][0].shape[axis]
            for key in rows
            for axis, size in enumerate(inputs[key].shape)
            if not isinstance(size, int)
        }
        zeros = {
            key: zeros_of(value.shape, value.type, sizes)
            for key, value in inputs.items()
            if key in states.fed_back and key not in rows
        }
        yield ({**zeros, **{key: row[call % len(row)] for key, row in rows.items()}} for call in range(calls_each))


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(label, sorted(names)))


def _pieces(array: Tensor, wanted: Value, axes: _Axes, states: States, name: str) -> list[list[Array]]:
    """An array cut along its batch and, in each part, along its time, into pieces of the shape of one call."""
    shape, dtype, title = tuple(wanted.shape), dtype_of(wanted.type), label(wanted.name)
    given = array.numpy() if array.dtype != torch.bfloat16 else array.float().numpy()
    counts = [
        count / max(size, 1) if isinstance(size, int) else 1.0 for count, size in zip(given.shape, shape, strict=False)
    ]
    fits = given.ndim == len(shape) and all(count >= 1 and count == int(count) for count in counts)
    if not fits or any(count > 1 and axis not in (axes.batch, axes.time) for axis, count in enumerate(counts)):
        raise PrunerError(
            f"expected an array of the shape {shown(shape)}, as the graph's input {title}, or a multiple of its batch or "
            f"time, found {tuple(array.shape)}: {name}; reshape it"
        )
    if dtype.kind in "iu" and not np.array_equal(given, np.round(given)):
        raise PrunerError(f"expected whole numbers for the graph's input {title}, found others: {name}; round them")
    time = axes.time if axes.time is not None and axes.time < len(shape) else 0
    steps = int(counts[time]) if time == axes.time else 1
    if steps > 1 and not states.continued:
        raise PrunerError(
            f"expected {shape[time]} steps a call, since the graph does not give every state that it takes, found "
            f"{given.shape[time]} in {title}: {name}; give as many, or the inputs of the LSTMs themselves"
        )
    return [np.split(part, steps, time) for part in _along_the_batch(given.astype(dtype), wanted, axes.batch)]


def _along_the_batch(given: Array, wanted: Value, axis: int) -> list[Array]:
    if axis >= given.ndim:
        return [given]
    size = wanted.shape[axis]
    at_once = size if isinstance(size, int) else _AT_ONCE
    return np.split(given, range(at_once, given.shape[axis], at_once), axis)
