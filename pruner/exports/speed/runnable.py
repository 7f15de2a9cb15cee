"""LSTMs and their consumers ready to be run over and over, in PyTorch or in ONNX Runtime; they pickle."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from pruner.compact.layout import Layout
from pruner.exports.onnx.parts import Part, interfaces
from pruner.files.consumers import Consumer, load_consumers
from pruner.lstm.measure import SEQUENCE_LENGTH
from pruner.lstm.timing import Call


@dataclass(frozen=True)
class InTorch:
    """LSTMs in float32, each with the size of its inputs and the matrices that read it, as one's own class would run them:
    as narrow as they are stored where the consumers are trimmed."""

    lstms: list[tuple[nn.Module, int, list[Consumer]]]

    def call(self, batch_size: int, threads: int) -> Call:
        """Reads a batch of random steps; the threads are those of the process."""
        inputs = [torch.randn(batch_size, SEQUENCE_LENGTH, size) for _, size, _ in self.lstms]

        @torch.inference_mode()
        def read() -> None:
            for (module, _, consumers), steps in zip(self.lstms, inputs, strict=True):
                output, _ = module(steps)
                for consumer in consumers:
                    consumer(output)

        return read


def in_torch(
    layouts: Sequence[Layout], tensors: Mapping[str, Tensor], consumers: Mapping[str, Sequence[str]]
) -> InTorch:
    """From the tensors of a file; `consumers` are the names of what reads each LSTM, by its name."""
    found = []
    for layout in layouts:
        module = layout.module(tensors, full_width=not layout.consumers).float()
        matrices = [name for name in consumers.get(layout.lstm.name, ()) if tensors[name].dim() == 2]
        found.append((module, layout.lstm.input_size, load_consumers(tensors, matrices)))
    return InTorch(found)


@dataclass(frozen=True)
class InOnnxRuntime:
    """An ONNX file of LSTMs, or of LSTMCells, which it runs one step at a time; `inputs` are {name: size}, `states`
    {name: (name at the next step, size)} of the cells."""

    model: bytes
    inputs: dict[str, int]
    states: dict[str, tuple[str, int]]
    batch_first: bool

    def call(self, batch_size: int, threads: int) -> Call:
        """Reads a batch of random steps with so many threads."""
        from pruner.files.runtime.session import session_of  # onnxruntime takes a second to import

        session, random = session_of(self.model, threads), np.random.default_rng(0)
        axes = (batch_size, SEQUENCE_LENGTH) if self.batch_first else (SEQUENCE_LENGTH, batch_size)
        if not self.states:
            given = {name: random.standard_normal((*axes, size), np.float32) for name, size in self.inputs.items()}
            return partial(session.run, None, given)
        given = {name: random.standard_normal((batch_size, size), np.float32) for name, size in self.inputs.items()}
        zeros = {name: np.zeros((batch_size, size), np.float32) for name, (_, size) in self.states.items()}
        outputs = [output.name for output in session.get_outputs()]

        def read() -> None:
            state = zeros
            for _ in range(SEQUENCE_LENGTH):
                found = dict(zip(outputs, session.run(outputs, {**given, **state}), strict=True))
                state = {name: found[following] for name, (following, _) in self.states.items()}

        return read


def in_onnx_runtime(model: bytes, parts: Sequence[Part], batch_first: bool) -> InOnnxRuntime | None:
    """A file of LSTMs, or the part of it that gives what the consumers of all of them do, which is what PyTorch is timed
    for; None where it holds both LSTMs, which read all steps at once, and cells, which do not."""
    named = [each.own for each in interfaces(parts)]
    sizes = [part.lstm for part in parts]
    inputs = {names["input"]: lstm.input_size for names, lstm in zip(named, sizes, strict=True)}
    states = {
        names[f"{state}_0"]: (names[f"{state}_1"], lstm.hidden_size)
        for names, lstm in zip(named, sizes, strict=True)
        if lstm.kind == "LSTMCell"
        for state in ("h", "c")
    }
    mixed = len({lstm.kind for lstm in sizes}) > 1
    consumers = [list(each.consumers.values()) for each in interfaces(parts)]
    if mixed:
        return None
    if all(consumers) and not states:
        model = _part_that_gives(model, list(inputs), [name for names in consumers for name in names])
    return InOnnxRuntime(model, inputs, states, batch_first)


def _part_that_gives(model: bytes, inputs: list[str], outputs: list[str]) -> bytes:
    """The nodes that some outputs need, from a zero state. ONNX Runtime computes all that it is given, whatever it is asked
    for (`RunOptions.only_execute_path_to_fetches` is for training: its issues 16013 and 16483)."""
    import onnx  # it takes a second to import
    from onnx.utils import Extractor

    part = Extractor(onnx.load_model_from_string(model)).extract_model(inputs, outputs)
    return bytes(part.SerializeToString())
