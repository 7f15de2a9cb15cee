"""Messages of protocol buffers, read field by field.

A parser of the whole message expands every one of its fields, and two bytes are enough for a field; here a file may have
so many fields, only those that are asked for are opened, and weights stay where they lie.
The encoding: https://protobuf.dev/programming-guides/encoding/
"""

import struct
from collections.abc import Iterator

MAX_FIELDS = 500_000  # in all messages of a file that are opened; a graph of ten thousand nodes has a tenth of them

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class MalformedMessage(Exception):
    """The bytes are not the message that they were said to be, or one of too many fields."""


class Message:
    """One message. Fields are asked for by number; those that are not there are empty, or 0."""

    def __init__(self, data: memoryview, budget: list[int] | None = None) -> None:
        """Read the fields of `data`. `budget` is shared by all messages of a file: the number of fields that are left."""
        self.size = len(data)
        self._budget = [MAX_FIELDS] if budget is None else budget
        self._fields: dict[int, list[int | memoryview]] = {}
        for number, value in _fields(data):
            self._budget[0] -= 1
            if self._budget[0] < 0:
                raise MalformedMessage(f"more than {MAX_FIELDS:,} fields")
            self._fields.setdefault(number, []).append(value)

    @property
    def numbers(self) -> set[int]:
        """The numbers of the fields that are there."""
        return set(self._fields)

    def messages(self, number: int) -> list["Message"]:
        """The messages in a field."""
        return [Message(value, self._budget) for value in self.blocks(number)]

    def blocks(self, number: int) -> list[memoryview]:
        """The values of a field as the bytes that they are."""
        values = self._fields.get(number, [])
        if any(isinstance(value, int) for value in values):
            raise MalformedMessage(f"numbers in field {number}")
        return [value for value in values if isinstance(value, memoryview)]

    def texts(self, number: int) -> list[str]:
        return [bytes(value).decode("utf-8", "backslashreplace") for value in self.blocks(number)]

    def text(self, number: int) -> str:
        return "".join(self.texts(number)[-1:])

    def integers(self, number: int) -> list[int]:
        """Signed integers, whether each has a field of its own or all are packed into one."""
        found: list[int] = []
        for value in self._fields.get(number, []):
            packed = [value] if isinstance(value, int) else _varints(value, self._budget)
            found += [number - 2**64 if number >= 2**63 else number for number in packed]
        return found

    def integer(self, number: int, default: int = 0) -> int:
        return [default, *self.integers(number)][-1]  # a field can be there and hold none

    def real(self, number: int) -> float:
        """A single-precision number; 0 where there is none."""
        blocks = self.blocks(number)
        if blocks and len(blocks[-1]) != 4:
            raise MalformedMessage(f"no single-precision number in field {number}")
        return struct.unpack("<f", blocks[-1])[0] if blocks else 0.0


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        kind, number = key & 7, key >> 3
        if number == 0:
            raise MalformedMessage("a field of number 0")
        if kind == _VARINT:
            value, position = _varint(data, position)
            yield number, value
            continue
        if kind == _BYTES:
            length, position = _varint(data, position)
        elif kind in (_FIXED64, _FIXED32):
            length = 8 if kind == _FIXED64 else 4
        else:
            raise MalformedMessage(f"a field of kind {kind}")
        if length > len(data) - position:
            raise MalformedMessage(f"a field of {length:,} bytes where {len(data) - position:,} are left")
        yield number, data[position : position + length]
        position += length


def _varints(data: memoryview, budget: list[int]) -> Iterator[int]:
    position = 0
    while position < len(data):
        budget[0] -= 1
        if budget[0] < 0:
            raise MalformedMessage(f"more than {MAX_FIELDS:,} fields")
        value, position = _varint(data, position)
        yield value


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    """An unsigned integer of up to 64 bits, seven a byte, and where the next field begins."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise MalformedMessage("the end within a number")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & (2**64 - 1), position
    raise MalformedMessage("a number of more than 64 bits")
