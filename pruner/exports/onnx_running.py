"""LSTMs of an ONNX model in ONNX Runtime, and how far they are from PyTorch's."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from pruner.compact.layout import Layout
from pruner.errors import PrunerError, shown
from pruner.exports.onnx_parts import Part
from pruner.files.consumers import load_consumers
from pruner.lstm.measure import Drift, difference, outputs, random_input

QUIET = 3  # errors alone: it warns of every input that can be left out


def session_of(model: bytes) -> onnxruntime.InferenceSession:
    """A session on the CPU with one thread, which computes the same wherever it is.

    Raises PrunerError for what ONNX Runtime refuses.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = QUIET
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no common class
        raise _does_not_run(error) from error


class OnnxLSTM(nn.Module):
    """An LSTM of a session, called like the `nn.LSTM` it came from, or, of an LSTMCell, like the one that applies it step by
    step. Inputs are (B, T, I), or (T, B, I) where the graph is not `batch_first`.

    Other LSTMs of the session get zeros to read. Raises PrunerError if the session does not run.
    """

    def __init__(
        self, session: onnxruntime.InferenceSession, part: Part, several: bool, batch_first: bool = True
    ) -> None:
        super().__init__()
        self.cell, self.batch_first = part.lstm.kind == "LSTMCell", batch_first
        self._session, self._names = session, part.interface(several)
        self._others = {
            needed.name: np.zeros([size if isinstance(size, int) else 1 for size in needed.shape], np.float32)
            for needed in session.get_inputs()
            if needed.name != self._names["input"]
        }

    def forward(
        self,
        input: Tensor,  # noqa: A002 - nn.LSTM's own name for it
        hx: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """As `nn.LSTM`."""
        found = self.everything(input, hx)
        return found["output"], (found["h_n"], found["c_n"])

    def everything(self, sequences: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> dict[str, Tensor]:
        """`output`, `h_n`, `c_n`, and what each consumer makes of the output under the consumer's name."""
        states = {} if hx is None else {"h_0": hx[0], "c_0": hx[1]}
        if not self.cell:
            return self._run({"input": sequences, **states})
        time = 1 if self.batch_first else 0
        states = {name: state[0] for name, state in states.items()}
        steps = []
        for step in sequences.unbind(time):
            found = self._run({"input": step, **states})
            states = {"h_0": found["h_1"], "c_0": found["c_1"]}
            steps.append(found)
        joined = {name: torch.stack([step[name] for step in steps], time) for name in steps[0] if name != "c_1"}
        return {"output": joined.pop("h_1"), "h_n": states["h_0"][None], "c_n": states["c_0"][None], **joined}

    def _run(self, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        fed = {self._names[name]: tensor.detach().float().cpu().numpy() for name, tensor in given.items()}
        wanted = [name for name in self._names if name not in ("input", "h_0", "c_0")]
        try:
            found = self._session.run([self._names[name] for name in wanted], {**self._others, **fed})
        except Exception as error:  # its errors have no common class
            raise _does_not_run(error) from error
        return {name: torch.from_numpy(array) for name, array in zip(wanted, found, strict=True)}


def lstms_of(model: bytes, parts: Sequence[Part], batch_first: bool = True) -> dict[str, OnnxLSTM]:
    """{LSTM name: module} of a model that holds these. Raises PrunerError for one that does not run."""
    session = session_of(model)
    return {part.lstm.name: OnnxLSTM(session, part, len(parts) > 1, batch_first) for part in parts}


def compare(
    lstms: Mapping[str, OnnxLSTM], layouts: Iterable[Layout], tensors: Mapping[str, Tensor], parts: Iterable[Part]
) -> dict[str, Any]:
    """How far LSTMs in ONNX Runtime are from PyTorch's, in float32 on the inputs of the certificate, as the manifest has it:
    of `output`, `h_n` and `c_n`, and, under `consumers`, of what their consumers make of the output.

    `tensors` are those of the export's file.
    """
    own, read = [], []
    for layout, part in zip(layouts, parts, strict=True):
        inputs = random_input(layout.lstm)
        expected = outputs(layout.module(tensors).float(), inputs)
        lstm = lstms[layout.lstm.name]
        found = lstm.everything(inputs if lstm.batch_first else inputs.transpose(0, 1))
        output = found["output"] if lstm.batch_first else found["output"].transpose(0, 1)
        own.append(difference(expected, [output, found["h_n"], found["c_n"]]))
        for consumer in load_consumers(tensors, (each.name for each in part.consumers)):
            columns = layout.trimmed.columns if consumer.name in layout.consumers else None
            taken = expected[0] if columns is None else expected[0].index_select(-1, columns)
            told = found[consumer.name]
            read.append(difference([consumer(taken)], [told if lstm.batch_first else told.transpose(0, 1)]))
    return _largest(own) | ({"consumers": _largest(read)} if read else {})


def _largest(drifts: list[Drift]) -> dict[str, float]:
    return {
        "max_abs_difference": max(drift.max_abs_difference for drift in drifts),
        "max_abs_output": max(drift.max_abs_output for drift in drifts),
    }


def _does_not_run(error: Exception) -> PrunerError:
    return PrunerError(f"expected a model that ONNX Runtime runs, found one it refuses: {shown(str(error), 200)}")
