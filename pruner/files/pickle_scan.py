"""What a pickle would build, read without building it.

`torch.load(weights_only=True)` runs nothing that a pickle names. It can still be made to take any amount of memory (a
bytearray of any length) or to overrun the stack of the process (hashing a key nested a hundred thousand tuples deep), so
names and nesting are looked at first.
"""

import io
import pickletools
import re
from dataclasses import dataclass

MAX_DEPTH = 200  # nested containers; checkpoints need about ten

_TENSOR_MACHINERY = re.compile(
    r"torch\.\w+|torch\.cuda\.\w+|torch\.(_utils|_tensor|storage|serialization|nn\.parameter|sparse)\.\w+"
    r"|collections\.(OrderedDict|Counter)|_codecs\.encode|(__builtin__|builtins)\.(set|complex)"
)


class MalformedPickle(Exception):
    """The bytes are not the pickles that they were said to be."""


@dataclass(frozen=True)
class Scan:
    """Names outside torch's tensor machinery in a chain of pickles, in order, and the deepest nesting of containers."""

    strangers: list[str]
    depth: int


def scan(data: bytes, pickles: int) -> Scan:
    """Read the first `pickles` pickles of some bytes. Raises MalformedPickle if they are not all there."""
    stream, names, deepest = io.BytesIO(data), dict[str, None](), 0
    for _ in range(pickles):
        depth = _read_one(stream, names)
        deepest = max(deepest, depth)
    return Scan([name for name in names if not _TENSOR_MACHINERY.fullmatch(name)], deepest)


def _read_one(stream: io.BytesIO, names: dict[str, None]) -> int:
    """Follow one pickle's operations on a stack that holds, instead of each value, how deeply it nests."""
    stack: list[int] = []
    marks: list[int] = []
    memo: dict[object, int] = {}
    strings = ["", ""]
    deepest = 0
    try:
        for operation, argument, _ in pickletools.genops(stream):
            if operation.name == "GLOBAL":
                names[str(argument).replace(" ", ".")] = None
            elif operation.name == "STACK_GLOBAL":
                names[".".join(strings[-2:])] = None
            elif isinstance(argument, str):
                strings.append(argument)
            if operation.name == "MARK":
                marks.append(len(stack))
            elif operation.name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
                memo[len(memo) if operation.name == "MEMOIZE" else argument] = stack[-1]
            elif operation.name in ("GET", "BINGET", "LONG_BINGET"):
                stack.append(memo[argument])
            else:
                taken = _take(operation, stack, marks)
                given = len(operation.stack_after)
                stack += [1 + max(taken) if taken else 0] * given
                deepest = max(deepest, *stack[len(stack) - given :], 0)
    except Exception as error:  # pickletools raises all sorts for bytes that are no pickle
        raise MalformedPickle(str(error)) from error
    return deepest


def _take(operation: pickletools.OpcodeInfo, stack: list[int], marks: list[int]) -> list[int]:
    """Pop what an operation takes: a number of values, or all down to the last mark and what it names below that."""
    before = operation.stack_before
    count = len(before)
    if pickletools.markobject in before:
        start = marks.pop()
        count = len(stack) - start + before.index(pickletools.markobject)
    if count > len(stack):
        raise MalformedPickle("an operation takes more than there is")
    taken = stack[len(stack) - count :]
    del stack[len(stack) - count :]
    return taken
