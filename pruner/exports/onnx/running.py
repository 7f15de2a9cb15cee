"""LSTMs of an ONNX model in ONNX Runtime, and how far they are from PyTorch's."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from pruner.compact.layout import Layout
from pruner.errors import PrunerError
from pruner.exports.onnx.comparing import largest
from pruner.exports.onnx.parts import Interface, Part, interfaces
from pruner.files.consumers import load_consumers
from pruner.files.runtime.session import does_not_run
from pruner.lstm.measure import Drift, difference, outputs, random_input


class Session(Protocol):
    """What is needed of a session of ONNX Runtime."""

    def get_inputs(self) -> Sequence[Any]: ...

    def run(self, names: Sequence[str], given: Mapping[str, Any]) -> Sequence[Any]: ...


class OnnxLSTM(nn.Module):
    """An LSTM of a session, called like the `nn.LSTM` it came from, or, of an LSTMCell, like the one that applies it step by
    step. Inputs are (B, T, I), or (T, B, I) where the graph is not `batch_first`.

    Other LSTMs of the session get zeros to read. Raises PrunerError where ONNX Runtime refuses an input.
    """

    def __init__(self, session: Session, interface: Interface, batch_first: bool = True) -> None:
        super().__init__()
        self.cell, self.batch_first = "h_1" in interface.own, batch_first
        self._session, self._interface = session, interface
        self._others = {
            needed.name: np.zeros([size if isinstance(size, int) else 1 for size in needed.shape], np.float32)
            for needed in session.get_inputs()
            if needed.name != interface.own["input"]
        }

    def forward(
        self,
        input: Tensor,  # noqa: A002 - nn.LSTM's own name for it
        hx: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """As `nn.LSTM`."""
        return self.read(input, hx)[0]

    def read(
        self, sequences: Tensor, hx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[tuple[Tensor, tuple[Tensor, Tensor]], dict[str, Tensor]]:
        """The same, and what each consumer makes of the output, by the consumers' names in the file."""
        states = {} if hx is None else {"h_0": hx[0], "c_0": hx[1]}
        if not self.cell:
            own, consumed = self._run({"input": sequences, **states})
            return (own["output"], (own["h_n"], own["c_n"])), consumed
        time = 1 if self.batch_first else 0
        states = {name: state[0] for name, state in states.items()}
        outputs, consumed_by_step = [], []
        for step in sequences.unbind(time):
            own, consumed = self._run({"input": step, **states})
            states = {"h_0": own["h_1"], "c_0": own["c_1"]}
            outputs.append(own["h_1"])
            consumed_by_step.append(consumed)
        joined = {name: torch.stack([each[name] for each in consumed_by_step], time) for name in consumed_by_step[0]}
        return (torch.stack(outputs, time), (states["h_0"][None], states["c_0"][None])), joined

    def _run(self, given: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Outputs by what `nn.LSTM` calls them, and those of consumers."""
        names = self._interface.own
        fed = {names[name]: tensor.detach().float().cpu().numpy() for name, tensor in given.items()}
        outputs = {name: told for name, told in names.items() if name not in ("input", "h_0", "c_0")}
        consumers = self._interface.consumers
        try:
            found = self._session.run([*outputs.values(), *consumers.values()], {**self._others, **fed})
        except PrunerError:
            raise
        except Exception as error:  # those of ONNX Runtime have no common class
            raise does_not_run(error) from error
        tensors = [torch.from_numpy(np.array(array, np.float32)) for array in found]
        own, consumed = tensors[: len(outputs)], tensors[len(outputs) :]
        return dict(zip(outputs, own, strict=True)), dict(zip(consumers, consumed, strict=True))


class _InPieces(nn.Module):
    """An LSTM that reads few sequences (B, T, I) at a time from a zero state, so that what runs it needs little memory."""

    def __init__(self, lstm: OnnxLSTM, steps: int) -> None:
        super().__init__()
        self.lstm, self.steps = lstm, steps

    def forward(self, sequences: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """As `nn.LSTM` with `batch_first`."""
        pieces = sequences.split(max(1, self.steps // sequences.shape[1]))
        read = [self.lstm.read(_turned(self.lstm, piece))[0] for piece in pieces]
        output = torch.cat([_turned(self.lstm, own) for own, _ in read])
        h_n, c_n = (torch.cat([states[which] for _, states in read], 1) for which in (0, 1))
        return output, (h_n, c_n)


def in_pieces(lstms: Mapping[str, OnnxLSTM], steps: int) -> dict[str, nn.Module]:
    """LSTMs that run at most so many steps at a time, of all sequences together, but no less than one sequence."""
    return {name: _InPieces(lstm, steps) for name, lstm in lstms.items()}


def lstms_of(session: Session, parts: Sequence[Part], batch_first: bool = True) -> dict[str, OnnxLSTM]:
    """{LSTM name: module} of a session of a model that holds these."""
    named = zip(parts, interfaces(parts), strict=True)
    return {part.lstm.name: OnnxLSTM(session, interface, batch_first) for part, interface in named}


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
        (output, states), consumed = lstm.read(_turned(lstm, inputs))
        own.append(_difference(expected, [_turned(lstm, output), *states]))
        for consumer in load_consumers(tensors, (each.name for each in part.consumers)):
            columns = layout.trimmed.columns if consumer.name in layout.consumers else None
            taken = expected[0] if columns is None else expected[0].index_select(-1, columns)
            read.append(_difference([consumer(taken)], [_turned(lstm, consumed[consumer.name])]))
    return largest(own) | ({"consumers": largest(read)} if read else {})


def _difference(expected: Sequence[Tensor], found: Sequence[Tensor]) -> Drift:
    shapes = [[tuple(each.shape) for each in tensors] for tensors in (expected, found)]
    if shapes[0] != shapes[1]:
        raise PrunerError(f"expected outputs of the shapes {shapes[0]}, found {shapes[1]}; export again")
    return difference(expected, found)


def _turned(lstm: OnnxLSTM, steps: Tensor) -> Tensor:
    """Steps that are batch first in the order of a module, or back."""
    return steps if lstm.batch_first else steps.transpose(0, 1)
