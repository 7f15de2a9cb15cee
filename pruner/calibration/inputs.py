"""Inputs to gather statistics from: real ones from a file, sampled from the model itself, or random."""

import os
from collections.abc import Collection, Sequence
from itertools import groupby

import torch
from torch import Tensor
from torch.nn import functional as F

from pruner.calibration.array_files import MAX_DIMENSIONS, MAX_OF_GRAPHS, read_inputs
from pruner.calibration.calibration import BURN_IN, Calibration
from pruner.calibration.graph_inputs import of_graph, through_graph
from pruner.errors import PrunerError, shown
from pruner.files.checkpoint import Checkpoint
from pruner.files.consumers import bias_beside
from pruner.files.onnx_graph import ONNX
from pruner.lstm.lstm import DTYPES, LSTM, title_of
from pruner.lstm.module import build
from pruner.lstm.sampling import drawn
from pruner.progress import Progress, silent

ROOT = "root"  # what an array for the LSTM at the root, whose name is empty, may be called
SEED = 0
SEQUENCES, LENGTH = 64, 128  # of random inputs
STREAMS, STEPS = 160, 512  # of inputs sampled from a model
TEMPERATURE = 1.2  # warmer than the model itself, which would repeat what it knows by heart of its training data

_STEPS_BETWEEN_PROGRESS = 16


def read_calibration(
    source: str | os.PathLike[str] | bytes,
    name: str,
    checkpoint: Checkpoint,
    lstms: Sequence[LSTM],
    embedding: str | None = None,
    time_major: bool = False,
    *,
    fed: Collection[str] = (),
    isolated: bool = False,
) -> Calibration:
    """Inputs from a `.npy`, `.npz`, `.csv`, `.safetensors`, `.pt` or `.pth` file called `name`, or from its bytes.

    An array is called like the LSTM that reads it ("root" for the one at the root); where one LSTM is wanted and the file
    holds one array, its name does not matter. Those of other LSTMs of the checkpoint are left aside. Its shape is
    (N, T, I), or (T, I) for one sequence, or, with an embedding, (N, T) or (T,) for token ids; `time_major` swaps N and T.
    Those that are `fed` by other LSTMs may be missing (`fed.complete` finds their inputs). A CSV file holds one step a
    line, and knows its own order. Of a checkpoint that came as ONNX, arrays may be called and shaped like the inputs of its
    graph, which is run to tell what its LSTMs read (see `graph_inputs`). `isolated` reads the file in a process of its own,
    with limits on memory and time. Raises PrunerError for what cannot be used.
    """
    most = MAX_OF_GRAPHS if checkpoint.format == ONNX else MAX_DIMENSIONS
    arrays = read_inputs(source, name, isolated=isolated, most_dimensions=most)
    given = of_graph(arrays, checkpoint, lstms) if embedding is None else None
    if given is not None:
        arrays, time_major = through_graph(given, name, checkpoint, lstms), False
    time_major = time_major and not name.lower().endswith(".csv")
    sequences = {}
    for lstm, found in _matched(arrays, name, checkpoint, lstms, fed):
        where = f"{name}, inputs of {lstm.title}"
        if embedding is None or lstm.name in fed:
            read = [_as_inputs(array, lstm, time_major, where) for array in found]
        else:
            vocabulary = len(_embedding(checkpoint, embedding, lstm))
            read = [_as_ids(array, vocabulary, time_major, where) for array in found]
        sequences[lstm.name] = _grouped(read)
    return Calibration("file", sequences, embedding, name=name)


def gaussian(checkpoint: Checkpoint, lstms: Sequence[LSTM], embedding: str | None = None) -> Calibration:
    """Random inputs (64, 128, I), the same every time: standard normal, or with the mean and covariance of an embedding.

    Raises PrunerError for an embedding that does not fit an LSTM.
    """
    generator = torch.Generator().manual_seed(SEED)
    sequences = {}
    for lstm in lstms:
        inputs = torch.randn(SEQUENCES, LENGTH, lstm.input_size, generator=generator)
        if embedding is not None:
            rows = _embedding(checkpoint, embedding, lstm).float()
            inputs = rows.mean(0) + inputs @ _square_root(torch.cov(rows.T, correction=0))
        sequences[lstm.name] = [inputs]
    return Calibration("gaussian", sequences, embedding, BURN_IN)


def sampled(
    checkpoint: Checkpoint,
    lstm: LSTM,
    embedding: str,
    consumer: str,
    progress: Progress = silent,
) -> Calibration:
    """Token ids (160, 512) drawn from a generative model, each from what it makes of those before, the same every time.

    Ids -> `embedding` (V, I) -> LSTM -> `consumer` (V, R), and the bias (V,) beside it if there is one -> softmax at
    `TEMPERATURE` -> next id, in float32, from a random token and a zero state. `progress(fraction, what)` is called
    every few steps; raise in it to stop. Raises PrunerError where the tensors do not fit together or an LSTM that
    reads backwards cannot generate.
    """
    if lstm.bidirectional:
        raise PrunerError(
            f"expected an LSTM that reads forwards to sample from, found the bidirectional {lstm.title}; "
            "give inputs from a file, or random ones"
        )
    vectors = _embedding(checkpoint, embedding, lstm).float()
    weight = _matrix(checkpoint, consumer, "consumer", lstm.output_size, lstm).float()
    if len(weight) != len(vectors):
        raise PrunerError(
            f"expected an embedding and a consumer of as many tokens, found {len(vectors)} in {shown(embedding)} and "
            f"{len(weight)} in {shown(consumer)}; name those of one vocabulary"
        )
    bias_name = bias_beside(checkpoint.tensors, consumer)
    bias = None if bias_name is None else checkpoint.tensors[bias_name].float()
    module = build(lstm, checkpoint.tensors).float()
    generator = torch.Generator().manual_seed(SEED)

    def draw(shares: Tensor) -> Tensor:
        if not shares.isfinite().all():
            raise PrunerError(
                f"expected finite outputs of {shown(consumer)}, found NaN or infinity at step {step}; "
                "give inputs from a file, or random ones"
            )
        return torch.multinomial(shares, 1, generator=generator)

    ids = torch.randint(len(vectors), (STREAMS, STEPS), generator=generator)
    next_ids = drawn(
        ids[:, :1],
        lambda read: F.embedding(read, vectors),
        module,
        lambda output: F.linear(output, weight, bias),
        draw,
        TEMPERATURE,
    )
    for step in range(1, STEPS):
        if step % _STEPS_BETWEEN_PROGRESS == 1:
            progress(step / STEPS, f"Sampling inputs of {lstm.title}, step {step} of {STEPS}")
        ids[:, step : step + 1] = next(next_ids)
    return Calibration("sampled", {lstm.name: [ids]}, embedding, BURN_IN)


def _matched(
    arrays: dict[str, list[Tensor]], name: str, checkpoint: Checkpoint, lstms: Sequence[LSTM], fed: Collection[str]
) -> list[tuple[LSTM, list[Tensor]]]:
    """Each LSTM with the arrays of its name."""
    known = {lstm.name for lstm in checkpoint.lstms}
    listed = ", ".join(name or ROOT for name in sorted(known))
    needy = [lstm for lstm in lstms if lstm.name not in fed]
    by_name: dict[str, list[Tensor]] = {}
    for key, found in arrays.items():
        lstm_name = "" if key == ROOT and ROOT not in known else key
        if len(arrays) == len(needy) == 1 and (not key or lstm_name not in known):
            lstm_name = needy[0].name
        if lstm_name not in known:
            raise PrunerError(
                f"expected arrays called like LSTMs of the checkpoint ({listed}), found "
                f"{shown(key) if key else 'one without a name'}: {name}; rename it, or save several in a .npz file"
            )
        if lstm_name in by_name:
            raise PrunerError(f"expected one array for {title_of(lstm_name)}, found two: {name}; remove one")
        by_name[lstm_name] = found
    for lstm in needy:
        if lstm.name not in by_name:
            raise PrunerError(
                f"expected inputs for every LSTM to prune, found none for {lstm.title}: {name}; add an array called "
                f"{shown(lstm.name or ROOT)}, or leave that LSTM out"
            )
    return [(lstm, by_name[lstm.name]) for lstm in lstms if lstm.name in by_name]


def _as_inputs(array: Tensor, lstm: LSTM, time_major: bool, where: str) -> Tensor:
    """Stored numbers as float32 (N, T, I)."""
    shape = tuple(array.shape)
    if len(shape) == 2:
        array = array[None]
    elif len(shape) == 3 and time_major:
        array = array.transpose(0, 1)
    if array.dim() != 3 or shape[-1] != lstm.input_size:
        order = "(T, N, I)" if time_major else "(N, T, I)"
        raise PrunerError(
            f"expected inputs {order} or (T, I) with I = {lstm.input_size}, as {lstm.title} reads them, found shape "
            f"{shape}: {where}; reshape the array, or name the embedding if these are token ids"
        )
    _check_length(array, where)
    inputs = array.float().contiguous()
    if not inputs.isfinite().all():
        raise PrunerError(f"expected finite inputs, found NaN or infinity as float32: {where}; remove or replace those")
    return inputs


def _as_ids(array: Tensor, vocabulary: int, time_major: bool, where: str) -> Tensor:
    """Stored token ids as int64 (N, T). A CSV file, and many others, hold them as floats in one column."""
    shape = tuple(array.shape)
    if len(shape) == 3 and shape[2] == 1:
        array = array[..., 0]
    if array.dim() == 1:
        array = array[None]
    elif time_major and array.dim() == 2:
        array = array.T
    numbers = array.double() if array.is_floating_point() else array.long()
    if array.dim() != 2 or not torch.equal(numbers, numbers.round()):
        raise PrunerError(
            f"expected token ids for the embedding, whole numbers {'(T, N)' if time_major else '(N, T)'} or (T,), found "
            f"{str(array.dtype).removeprefix('torch.')} of shape {shape}: {where}; without embedding they are inputs"
        )
    _check_length(array, where)
    low, high = numbers.min().item(), numbers.max().item()
    if low < 0 or high >= vocabulary:
        found = f"the smallest {low:.0f}" if low < 0 else f"the largest {high:.0f}"
        raise PrunerError(
            f"expected token ids from 0 to {vocabulary - 1}, since the embedding has {vocabulary} rows, found {found}: "
            f"{where}; use the model's own vocabulary"
        )
    return numbers.long().contiguous()


def _check_length(array: Tensor, where: str) -> None:
    count, steps = array.shape[:2]
    if count < 1 or steps < 2:
        raise PrunerError(
            f"expected at least one sequence of at least 2 steps, found {count} of {steps}: {where}; give longer sequences, "
            "or say which dimension is time"
        )


def _grouped(sequences: list[Tensor]) -> list[Tensor]:
    """Neighbours of one length joined, which run faster together."""
    return [torch.cat(list(group)) for _, group in groupby(sequences, lambda sequence: sequence.shape[1])]


def _embedding(checkpoint: Checkpoint, name: str, lstm: LSTM) -> Tensor:
    return _matrix(checkpoint, name, "embedding", lstm.input_size, lstm)


def _matrix(checkpoint: Checkpoint, name: str, role: str, width: int, lstm: LSTM) -> Tensor:
    """A tensor (V, width) of the checkpoint with one row a token."""
    if name not in checkpoint.tensors:
        raise PrunerError(
            f"expected the name of a tensor of the checkpoint as {role}, found {shown(name)}; check the name"
        )
    matrix = checkpoint.tensors[name]
    if matrix.dim() != 2 or matrix.shape[1] != width or not len(matrix) or matrix.dtype not in DTYPES:
        raise PrunerError(
            f"expected floats (V, {width}) as {role} of {lstm.title}, found {shown(name)} of {matrix.dtype} and shape "
            f"{tuple(matrix.shape)}; name a tensor that fits"
        )
    if not matrix.isfinite().all():
        raise PrunerError(f"expected finite numbers in the {role}, found NaN or infinity in {shown(name)}; repair it")
    return matrix


def _square_root(covariance: Tensor) -> Tensor:
    """The symmetric square root, which exists where an embedding has fewer rows than columns too."""
    values, vectors = torch.linalg.eigh(torch.atleast_2d(covariance).double())
    return (vectors * values.clamp(min=0).sqrt() @ vectors.T).float()
