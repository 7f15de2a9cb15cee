"""The ONNX file of a stranger, looked at and run in a process of its own, with limits on memory, time and output."""

import json
import math
import os
import struct
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from pruner.errors import PrunerError, label

_RUNNER = Path(__file__).with_name("isolated_runner.py")  # a script: what it imports stays in its own process
_SECONDS, _MOST_TEXT, _MOST_NUMBERS = 120, 2**20, 2**28
_LENGTH = struct.Struct("<Q")

Numbers = NDArray[np.float32]


@dataclass(frozen=True)
class Input:
    """What a model needs to be given."""

    name: str
    shape: tuple[int | str | None, ...]


class IsolatedSession:
    """Called like a session of ONNX Runtime: `run` and `get_inputs`; `metadata` is that of the model.

    Raises PrunerError for a model that is refused (see `harmless`), and for one that takes more than its share.
    """

    def __init__(self, model: bytes) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and script
            [sys.executable, "-P", str(_RUNNER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        )
        timer = threading.Timer(_SECONDS, self._process.kill)
        timer.daemon = True
        timer.start()
        weakref.finalize(self, _stop, self._process, timer)
        told, _ = self._asked(_LENGTH.pack(len(model)) + model)
        self.metadata: dict[str, str] = told["metadata"]
        self._inputs = [Input(name, tuple(shape)) for name, shape in told["inputs"]]

    def get_inputs(self) -> list[Input]:
        return self._inputs

    def run(self, names: Sequence[str], given: Mapping[str, Numbers]) -> list[Numbers]:
        return self._asked(packed({"outputs": list(names), "inputs": list(given)}, list(given.values())))[1]

    def _asked(self, message: bytes) -> tuple[dict[str, Any], list[Numbers]]:
        sent, answers = self._process.stdin, self._process.stdout
        assert sent is not None and answers is not None  # noqa: S101 - both are pipes
        try:
            sent.write(message)
            sent.flush()
            told, arrays = received(answers)
        except (OSError, ValueError, KeyError, TypeError, EOFError, RecursionError) as error:
            raise PrunerError(
                "expected an ONNX model that runs within limits of memory and time, found one that took more or stopped its "
                "process; export again"
            ) from error
        if "error" in told:
            raise PrunerError(label(str(told["error"]), 400))
        return told, arrays


def packed(told: Mapping[str, Any], arrays: Sequence[Numbers] = ()) -> bytes:
    """A message between the two processes: JSON, and arrays of float32."""
    text = json.dumps({**told, "shapes": [array.shape for array in arrays]}).encode()
    return b"".join(
        [_LENGTH.pack(len(text)), text, *(np.ascontiguousarray(array, "<f4").tobytes() for array in arrays)]
    )


def received(stream: IO[bytes]) -> tuple[dict[str, Any], list[Numbers]]:
    """The next message. Raises EOFError where it ends too early, ValueError and the like where it is none."""
    told = json.loads(_exactly(stream, received_size(stream, _MOST_TEXT)))
    shapes = told["shapes"]
    if sum(math.prod(shape) for shape in shapes) > _MOST_NUMBERS or any(size < 0 for shape in shapes for size in shape):
        raise ValueError("too many numbers")
    return told, [np.frombuffer(_exactly(stream, 4 * math.prod(shape)), "<f4").reshape(shape) for shape in shapes]


def received_size(stream: IO[bytes], most: int) -> int:
    (size,) = _LENGTH.unpack(_exactly(stream, _LENGTH.size))
    if size > most:
        raise ValueError(f"more than {most} bytes")
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
            stream.close()
