"""ONNX models of strangers, looked at and run in a process of its own, with limits on memory, time and output."""

import json
import math
import os
import struct
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from pruner.errors import PrunerError, label

_RUNNER = Path(__file__).with_name("isolated_runner.py")  # a script: what it imports stays in its own process
_SECONDS, _MOST_TEXT, _MOST_BYTES = 120, 2**20, 2**30
_DTYPES = frozenset(["|b1", "|i1", "|u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<f2", "<f4", "<f8"])
_LENGTH = struct.Struct("<Q")

Array = NDArray[Any]


@dataclass(frozen=True)
class Value:
    """What a model is given or gives: its name, its type as ONNX Runtime has it (`tensor(float)`), and its shape, in which
    a text or None stands for a size that is not fixed."""

    name: str
    type: str
    shape: tuple[int | str | None, ...]


class IsolatedSession:
    """Called like a session of ONNX Runtime: `run`, `get_inputs` and `get_outputs`; `metadata` is the model's.

    It is good until its runner opens the next. Raises PrunerError for what ONNX Runtime refuses, and for what takes more
    than its share.
    """

    def __init__(self, runner: "Runner", told: Mapping[str, Any]) -> None:
        self._runner = runner
        self.metadata: dict[str, str] = told["metadata"]
        self._inputs, self._outputs = (
            [Value(name, kind, tuple(shape)) for name, kind, shape in told[which]] for which in ("inputs", "outputs")
        )

    def get_inputs(self) -> list[Value]:
        return self._inputs

    def get_outputs(self) -> list[Value]:
        return self._outputs

    def run(self, names: Sequence[str], given: Mapping[str, Array]) -> list[Array]:
        asked = [name for name in dict.fromkeys(names) if name not in given]
        if not asked:
            return [given[name] for name in names]
        _, found = self._runner.ask(packed({"outputs": asked, "inputs": list(given)}, list(given.values())))
        known = {**given, **dict(zip(asked, found, strict=True))}
        return [known[name] for name in names]


class Runner:
    """The process, for one model after another; it ends when nobody holds it any more, or after `seconds`."""

    def __init__(self, seconds: int | None = None) -> None:
        seconds = seconds or _SECONDS
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and script
            [sys.executable, "-P", str(_RUNNER), str(seconds), str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        )
        timer = threading.Timer(seconds, self._process.kill)
        timer.daemon = True
        timer.start()
        weakref.finalize(self, _stop, self._process, timer)

    def lstms(self, model: bytes) -> IsolatedSession:
        """A session of a model that holds LSTMs and what reads them alone, as `harmless` says."""
        return self._opened(model, whole=False, values=())

    def whole(self, model: bytes, values: Sequence[str] = ()) -> IsolatedSession:
        """A session of any model that `strangers` lets in, with inner `values` of its graph among its outputs."""
        return self._opened(model, whole=True, values=values)

    def ask(self, message: bytes) -> tuple[dict[str, Any], list[Array]]:
        sent, answers = self._process.stdin, self._process.stdout
        assert sent is not None and answers is not None  # noqa: S101 - both are pipes
        try:
            sent.write(message)
            sent.flush()
            told, arrays = received(answers)
        except (OSError, ValueError, KeyError, TypeError, EOFError, RecursionError) as error:
            raise PrunerError(
                "expected an ONNX model that runs within limits of memory and time, found one that took more or stopped its "
                "process; use a smaller one"
            ) from error
        if "error" in told:
            raise PrunerError(label(str(told["error"]), 400))
        return told, arrays

    def _opened(self, model: bytes, whole: bool, values: Sequence[str]) -> IsolatedSession:
        told, _ = self.ask(packed({"model": len(model), "whole": whole, "values": list(values)}) + model)
        return IsolatedSession(self, told)


def packed(told: Mapping[str, Any], arrays: Sequence[Array] = ()) -> bytes:
    """A message between the two processes: JSON, and arrays."""
    little = [np.ascontiguousarray(array, array.dtype.newbyteorder("<")) for array in arrays]
    shapes = [(array.dtype.str, np.shape(given)) for array, given in zip(little, arrays, strict=True)]
    text = json.dumps({**told, "arrays": shapes}).encode()
    return b"".join([_LENGTH.pack(len(text)), text, *(array.tobytes() for array in little)])


def received(stream: IO[bytes]) -> tuple[dict[str, Any], list[Array]]:
    """The next message. Raises EOFError where it ends too early, ValueError and the like where it is none."""
    told = json.loads(_exactly(stream, _size(stream)))
    kinds = [(dtype, shape) for dtype, shape in told["arrays"]]
    if any(dtype not in _DTYPES for dtype, _ in kinds) or any(size < 0 for _, shape in kinds for size in shape):
        raise ValueError("no arrays of numbers")
    sizes = [np.dtype(dtype).itemsize * math.prod(shape) for dtype, shape in kinds]
    if sum(sizes) > _MOST_BYTES:
        raise ValueError("too many numbers")
    return told, [
        np.frombuffer(_exactly(stream, size), dtype).reshape(shape)
        for size, (dtype, shape) in zip(sizes, kinds, strict=True)
    ]


def _size(stream: IO[bytes]) -> int:
    (size,) = _LENGTH.unpack(_exactly(stream, _LENGTH.size))
    if size > _MOST_TEXT:
        raise ValueError(f"more than {_MOST_TEXT} bytes")
    return int(size)


def _exactly(stream: IO[bytes], count: int) -> bytes:
    data = stream.read(count)
    if len(data) < count:
        raise EOFError
    return data


def _stop(process: subprocess.Popen[bytes], timer: threading.Timer) -> None:
    timer.cancel()
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with suppress(OSError):  # what was still to be written is read by nobody
                stream.close()
