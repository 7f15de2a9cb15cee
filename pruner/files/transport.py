"""Contents from one process to another, as JSON and bytes: nothing of what a file says is pickled or run on the way.

Scalars are themselves; everything else is a list that begins with its tag. Numbers that lie in the file are sent as their
place there, computed ones behind the JSON text. Containers and tensors are numbered as they come, and `["again", number]`
stands for one that was sent before.
"""

import base64
import ctypes
import json
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import fields
from typing import Any, BinaryIO

from pruner.errors import PrunerError
from pruner.files.contents import WIDTHS, Contents, Learned, Name, OddKey, Quantizer, StandIn, Storage, Stored

_ALIGNED = 64  # places of computed numbers


class Garbled(Exception):
    """The other side sent what it should not have."""


def send(contents: Contents, data: memoryview, out: BinaryIO) -> None:
    """Write contents of limited depth, whose tensors lie in `data` or elsewhere."""
    sender = _Sender(data)
    text = json.dumps(sender.encoded(contents)).encode("ascii")
    out.write(text + b" " * (-(len(text) + 1) % _ALIGNED) + b"\n")
    for part in sender.computed:
        out.write(part)
        out.write(bytes(-len(part) % _ALIGNED))


def send_error(message: str, out: BinaryIO) -> None:
    out.write(json.dumps(["error", message]).encode("ascii") + b"\n")


def receive(sent: bytearray, data: memoryview) -> Contents:
    """What `send` wrote, over the same bytes of the file. Raises PrunerError for what `send_error` wrote, and Garbled."""
    end = sent.find(b"\n")
    try:
        encoded = json.loads(memoryview(sent)[: max(end, 0)].tobytes())
        if isinstance(encoded, list) and encoded[:1] == ["error"]:
            raise PrunerError(_text(encoded[1]))
        contents = _Receiver(data, memoryview(sent)[end + 1 :]).decoded(encoded)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        raise Garbled from error
    if not isinstance(contents, Contents):
        raise Garbled
    return contents


class _Sender:
    def __init__(self, data: memoryview) -> None:
        self._start, self._size = _address(data), len(data)
        self.computed: list[memoryview] = []
        self._computed_size = 0
        self._numbers: dict[int, int] = {}
        self._kept: list[Any] = []  # what `_numbers` is keyed by
        self._storages: dict[int, list[Any]] = {}
        self._unfinished: set[int] = set()  # tuples, which cannot be within themselves on the other side

    def encoded(self, value: Any) -> Any:
        if value is None or type(value) in (str, int, float, bool):
            return value
        if id(value) in self._unfinished:
            return self.encoded(OddKey(None))
        if id(value) in self._numbers:
            return ["again", self._numbers[id(value)]]
        self._numbers[id(value)] = len(self._numbers)
        self._kept.append(value)
        tag, encode = _ENCODERS.get(type(value), _OPAQUE)
        if type(value) is not tuple:
            return [tag, *encode(self, value)]
        self._unfinished.add(id(value))
        encoded = [tag, *encode(self, value)]
        self._unfinished.remove(id(value))
        return encoded

    def all(self, values: Iterable[Any]) -> list[Any]:
        return [self.encoded(value) for value in values]

    def items(self, value: dict[Any, Any]) -> list[Any]:
        return self.all(part for item in dict.items(value) for part in item)

    def storage(self, storage: Storage) -> list[Any]:
        if id(storage) not in self._storages:
            self._kept.append(storage)
            self._storages[id(storage)] = [*self.place(storage.data), storage.big_endian, len(self._storages)]
        return self._storages[id(storage)]

    def place(self, data: memoryview) -> list[Any]:
        """[whether in the file, place, length]"""
        place = _address(data) - self._start
        if not len(data) or 0 <= place <= place + len(data) <= self._size:
            return [True, place if len(data) else 0, len(data)]
        place = self._computed_size
        self.computed.append(data.cast("B"))
        self._computed_size += len(data) + -len(data) % _ALIGNED
        return [False, place, len(data)]

    def tensor(self, stored: Stored) -> list[Any]:
        quantizer = stored.quantizer and [
            stored.quantizer.scales,
            stored.quantizer.zero_points,
            stored.quantizer.axis,
        ]
        view = [stored.dtype, stored.shape, stored.stride, stored.offset]
        return [self.storage(stored.storage), *view, stored.parameter, stored.requires_grad, quantizer]


class _Receiver:
    def __init__(self, data: memoryview, computed: memoryview) -> None:
        self._sides = {True: data, False: computed}
        self._storages: dict[int, Storage] = {}
        self._sent: list[Any] = []

    def decoded(self, value: Any) -> Any:
        if not isinstance(value, list):
            return value
        tag, *rest = value
        if tag == "again":
            found = self._sent[rest[0]]
            if found is _UNFINISHED:
                raise ValueError("a tuple within itself")
            return found
        number = len(self._sent)
        self._sent.append(_UNFINISHED)
        self._sent[number] = made = _DECODERS[tag](self, number, rest)
        return made

    def all(self, values: list[Any]) -> list[Any]:
        return [self.decoded(value) for value in values]

    def filled(self, number: int, empty: Any, items: list[Any]) -> Any:
        """A list or dictionary, known by its number before what is in it, which may be itself."""
        self._sent[number] = empty
        if isinstance(empty, list):
            empty += self.all(items)
        else:
            for encoded, item in zip(items[::2], items[1::2], strict=True):
                key = self.decoded(encoded)
                empty[key] = self.decoded(item)
        return empty

    def ordered(self, number: int, metadata: Any, *items: Any) -> OrderedDict[Any, Any]:
        made: OrderedDict[Any, Any] = OrderedDict()
        self._sent[number] = made
        if metadata is not None:
            vars(made)["_metadata"] = self.decoded(metadata)
        return self.filled(number, made, list(items))

    def stand_in(self, number: int, *parts: Any) -> StandIn:
        self._sent[number] = made = StandIn(None)
        made.of, made.arguments, made.state, made.items, made.value = self.all(list(parts))
        return made

    def bytes(self, in_file: bool, place: int, length: int) -> memoryview:
        side = self._sides[in_file]
        if not 0 <= place <= place + length <= len(side):
            raise ValueError("bytes that are not there")
        return side[place : place + length]

    def tensor(self, storage: list[Any], dtype: str, shape: list[int], stride: list[int], *rest: Any) -> Stored:
        *place, big_endian, number = storage
        offset, parameter, requires_grad, quantizer = rest
        if number not in self._storages:
            self._storages[number] = Storage(self.bytes(*place), bool(big_endian))
        scales = quantizer and Quantizer(tuple(map(float, quantizer[0])), tuple(map(float, quantizer[1])), quantizer[2])
        if dtype not in WIDTHS:
            raise ValueError("numbers of no known type")
        return Stored(
            self._storages[number],
            dtype,
            tuple(shape),
            tuple(stride),
            offset,
            bool(parameter),
            bool(requires_grad),
            scales or None,
        )


_UNFINISHED = object()


def _address(data: memoryview) -> int:
    """Where bytes begin in memory; 0 for those that cannot be written to, which are never part of a mapped file."""
    return ctypes.addressof(ctypes.c_char.from_buffer(data)) if len(data) and not data.readonly else 0


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("no text")
    return value


def _values(kind: type) -> Callable[[_Sender, Any], list[Any]]:
    return lambda sender, value: sender.all(getattr(value, field.name) for field in fields(kind))


_ENCODERS: dict[type, tuple[str, Callable[[_Sender, Any], list[Any]]]] = {
    list: ("list", _Sender.all),
    tuple: ("tuple", _Sender.all),
    dict: ("dict", _Sender.items),
    OrderedDict: (
        "ordered",
        lambda sender, value: [sender.encoded(vars(value).get("_metadata")), *sender.items(value)],
    ),
    Counter: ("counter", _Sender.items),
    set: ("set", _Sender.all),
    frozenset: ("frozenset", _Sender.all),
    bytes: ("bytes", lambda sender, value: [base64.b64encode(value).decode("ascii")]),
    memoryview: ("raw", lambda sender, value: sender.place(value)),
    complex: ("complex", lambda sender, value: [value.real, value.imag]),
    Stored: ("tensor", _Sender.tensor),
    Name: ("name", lambda sender, value: [value.module, value.name]),
    StandIn: ("stand-in", _values(StandIn)),
    Learned: ("learned", _values(Learned)),
    Contents: ("contents", _values(Contents)),
}
_OPAQUE: tuple[str, Callable[[_Sender, Any], list[Any]]] = "opaque", lambda sender, value: []  # odd keys, bare storages
_DECODERS: dict[str, Callable[[_Receiver, int, list[Any]], Any]] = {
    "list": lambda receiver, number, rest: receiver.filled(number, [], rest),
    "tuple": lambda receiver, number, rest: tuple(receiver.all(rest)),
    "dict": lambda receiver, number, rest: receiver.filled(number, {}, rest),
    "ordered": lambda receiver, number, rest: receiver.ordered(number, *rest),
    "counter": lambda receiver, number, rest: receiver.filled(number, Counter(), rest),
    "set": lambda receiver, number, rest: set(receiver.all(rest)),
    "frozenset": lambda receiver, number, rest: frozenset(receiver.all(rest)),
    "bytes": lambda receiver, number, rest: base64.b64decode(_text(rest[0])),
    "raw": lambda receiver, number, rest: receiver.bytes(*rest),
    "complex": lambda receiver, number, rest: complex(*rest),
    "tensor": lambda receiver, number, rest: receiver.tensor(*rest),
    "name": lambda receiver, number, rest: Name(*map(_text, rest)),
    "stand-in": lambda receiver, number, rest: receiver.stand_in(number, *rest),
    "opaque": lambda receiver, number, rest: OddKey(None),
    "learned": lambda receiver, number, rest: Learned(*receiver.all(rest)),
    "contents": lambda receiver, number, rest: Contents(*receiver.all(rest)),
}
