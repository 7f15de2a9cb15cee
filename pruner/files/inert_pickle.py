"""Pickles, interpreted and never executed.

A pickle is a program for a small stack machine (https://docs.python.org/3/library/pickletools.html). This one builds plain
containers, what `known_names` knows to build by itself, and stand-ins for everything else a file names: nothing is imported,
looked up or called. Whatever costs more than the bytes that ask for it is paid from an allowance.
"""

import codecs
import pickle
import struct
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from pruner.files.allowance import Allowance, Excess, Malformed
from pruner.files.contents import Name, StandIn

Known = Mapping[tuple[str, str], Callable[[Allowance, tuple[Any, ...]], Any]]

MAX_INTEGER_BYTES = 256

_COPIED_BYTES = 1024  # longer strings of bytes stay where they are
_BAD_INPUT = (IndexError, KeyError, ValueError, TypeError, AttributeError, OverflowError, struct.error)


class Unpickler:
    """Reads pickles from `place` on, one after the other.

    `persistent` resolves persistent ids. `known` are the names that are built: {(module, name): a function of the allowance
    and the arguments}, which returns NotImplemented for arguments that it does not understand.
    """

    def __init__(
        self, data: memoryview, allowance: Allowance, known: Known, persistent: Callable[[Any], Any], place: int = 0
    ) -> None:
        self._data, self._allowance, self._known, self._persistent = data, allowance, known, persistent
        self.place = place
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: list[Any] = []
        self._far_memo: dict[int, Any] = {}  # entries that were not numbered one after the other
        self._names: dict[tuple[str, str], Name] = {}

    def load(self) -> Any:
        """The next pickle. Raises Malformed for bytes that are none, Excess for one that asks for too much."""
        self._stack, self._marks, self._memo, self._far_memo = [], [], [], {}
        data, allowance = self._data, self._allowance
        try:
            while True:
                operation = data[self.place]
                self.place += 1
                allowance.operations -= 1
                if allowance.operations < 0:
                    raise Excess
                if operation == _STOP:
                    return self._stack.pop()
                _OPERATIONS[operation](self)
        except _BAD_INPUT as error:
            raise Malformed(str(error)) from error
        except MemoryError as error:
            raise Excess from error

    # Reading

    def _take(self, count: int) -> memoryview:
        start = self.place
        self.place += count
        if self.place > len(self._data):
            raise Malformed("truncated")
        return self._data[start : self.place]

    def _number(self, width: int) -> int:
        return int.from_bytes(self._take(width), "little")

    def _line(self) -> bytes:
        """The bytes up to the end of the line."""
        size = 256
        while True:
            window = bytes(self._data[self.place : self.place + size])
            end = window.find(b"\n")
            if end >= 0:
                self.place += end + 1
                return window[:end]
            if len(window) < size:
                raise Malformed("truncated")
            size *= 4

    def _push(self, value: Any, memory: int = 32) -> None:
        self._allowance.spend(memory)
        self._stack.append(value)

    def _push_text(self, raw: memoryview | bytes) -> None:
        text = codecs.decode(raw, "utf-8", "surrogatepass")
        self._push(text, text.__sizeof__())

    def _push_old_text(self, raw: bytes) -> None:
        """A string of Python 2, which can be text or bytes."""
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError:
            text = raw.decode("latin-1")
        self._push(text, text.__sizeof__())

    def _push_bytes(self, raw: memoryview) -> None:
        self._push(bytes(raw) if len(raw) <= _COPIED_BYTES else raw, 256)

    def _pop_to_mark(self) -> list[Any]:
        start = self._marks.pop()
        taken = self._stack[start:]
        del self._stack[start:]
        self._allowance.spend(8 * len(taken))
        return taken

    # Numbers and text

    def _integer_line(self) -> None:
        line = self._line()
        if len(line) > 2 * MAX_INTEGER_BYTES:
            raise Malformed("a number too long")
        self._push({b"00": False, b"01": True}[line] if line in (b"00", b"01") else int(line.rstrip(b"L")))

    def _float_line(self) -> None:
        line = self._line()
        if len(line) > 2 * MAX_INTEGER_BYTES:
            raise Malformed("a number too long")
        self._push(float(line))

    def _long(self, width: int) -> None:
        count = self._number(width)
        if count > MAX_INTEGER_BYTES:
            raise Malformed("a number too long")
        self._push(int.from_bytes(self._take(count), "little", signed=True), 32 + count)

    def _string_line(self) -> None:
        line = self._line().strip()
        if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):
            raise Malformed("a string without quotes")
        self._push_old_text(codecs.escape_decode(line[1:-1])[0])

    def _unicode_line(self) -> None:
        text = self._line().decode("raw-unicode-escape")
        self._push(text, text.__sizeof__())

    # The memo

    def _put(self, index: int) -> None:
        value = self._stack[-1]
        if index == len(self._memo):
            self._memo.append(value)
            self._allowance.spend(8)
        elif 0 <= index < len(self._memo):
            self._memo[index] = value
        elif 0 <= index < 2**32:
            self._far_memo[index] = value
            self._allowance.spend(100)
        else:
            raise Malformed("a memo without end")

    def _get(self, index: int) -> None:
        self._stack.append(self._memo[index] if 0 <= index < len(self._memo) else self._far_memo[index])
        self._allowance.spend(8)

    def _index_line(self) -> int:
        return int(self._line()[:12])

    # Containers

    def _tuple(self, count: int) -> None:
        taken = tuple(self._stack[-count:])
        if len(taken) != count:
            raise Malformed("a stack too short")
        self._stack[-count:] = [taken]
        self._allowance.spend(64 + 8 * count)

    def _dict(self) -> None:
        items = self._pop_to_mark()
        self._push({}, 64)
        self._set_items(items)

    def _filled(self, kind: type) -> Any:
        """The dictionary or list that comes next on the stack, or the one that a stand-in keeps."""
        target = self._stack[-1]
        if isinstance(target, StandIn):
            if not isinstance(target.items, kind):
                target.items = kind()
            return target.items
        if not isinstance(target, kind):
            raise Malformed(f"items of no {kind.__name__}")
        return target

    def _set_items(self, items: list[Any]) -> None:
        target = self._filled(dict)
        self._allowance.spend(100 * (len(items) // 2) + (0 if target else 200))
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[self._allowance.key(key)] = value

    def _append(self, items: list[Any]) -> None:
        target = self._filled(list)
        self._allowance.spend(16 * len(items))
        target += items

    def _add(self, items: list[Any]) -> None:
        if not isinstance(self._stack[-1], set):
            raise Malformed("items of no set")
        self._allowance.spend(64 * len(items))
        self._stack[-1].update(map(self._allowance.key, items))

    def _frozenset(self) -> None:
        items = self._pop_to_mark()
        self._push(frozenset(map(self._allowance.key, items)), 216 + 64 * len(items))

    # Names and what is called by them

    def _name(self, module: Any, name: Any) -> None:
        if type(module) is not str or type(name) is not str:
            raise Malformed("a name that is no text")
        if (module, name) not in self._names:
            self._names[module, name] = Name(module, name)
            self._allowance.spend(400 + len(module) + len(name))
        self._push(self._names[module, name], 8)

    def _global(self) -> None:
        module, name = self._line(), self._line()
        self._name(module.decode("utf-8", "surrogateescape"), name.decode("utf-8", "surrogateescape"))

    def _stack_global(self) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        self._name(module, name)

    def _call(self, of: Any, arguments: Any) -> None:
        if type(arguments) is not tuple:
            raise Malformed("arguments that are no tuple")
        known = self._known.get((of.module, of.name)) if isinstance(of, Name) else None
        value = known(self._allowance, arguments) if known else NotImplemented
        if value is NotImplemented:
            value = StandIn(of, arguments)
        self._push(value, 100)

    def _reduce(self) -> None:
        arguments, of = self._stack.pop(), self._stack.pop()
        self._call(of, arguments)

    def _new_with_names(self) -> None:
        named, arguments, of = self._stack.pop(), self._stack.pop(), self._stack.pop()
        self._call(of, (arguments, named))

    def _old_instance(self) -> None:
        arguments = self._pop_to_mark()
        self._global()
        self._call(self._stack.pop(), tuple(arguments))

    def _old_object(self) -> None:
        of, *arguments = self._pop_to_mark()
        self._call(of, tuple(arguments))

    def _build(self) -> None:
        state, target = self._stack.pop(), self._stack[-1]
        if isinstance(target, StandIn):
            target.state = state
            completed = self._known.get((getattr(target.of, "module", ""), f"{getattr(target.of, 'name', '')}.build"))
            if completed:
                target.value = completed(self._allowance, (target, state))
        elif isinstance(target, OrderedDict) and isinstance(state, dict) and "_metadata" in state:
            target.__dict__["_metadata"] = state["_metadata"]

    def _persist(self, identity: Any) -> None:
        self._push(self._persistent(identity), 100)


_STOP = pickle.STOP[0]
_OPERATIONS: dict[int, Callable[[Unpickler], object]] = {
    opcode[0]: operation
    for opcode, operation in {
        pickle.PROTO: lambda self: self._number(1),
        pickle.FRAME: lambda self: self._number(8),
        pickle.MARK: lambda self: (self._marks.append(len(self._stack)), self._allowance.spend(40)),
        pickle.POP: lambda self: self._marks.pop() if self._marks[-1:] == [len(self._stack)] else self._stack.pop(),
        pickle.POP_MARK: lambda self: self._pop_to_mark(),
        pickle.DUP: lambda self: self._push(self._stack[-1], 8),
        pickle.NONE: lambda self: self._push(None, 8),
        pickle.NEWTRUE: lambda self: self._push(True, 8),
        pickle.NEWFALSE: lambda self: self._push(False, 8),
        pickle.INT: Unpickler._integer_line,
        pickle.LONG: Unpickler._integer_line,
        pickle.BININT: lambda self: self._push(int.from_bytes(self._take(4), "little", signed=True)),
        pickle.BININT1: lambda self: self._push(self._number(1)),
        pickle.BININT2: lambda self: self._push(self._number(2)),
        pickle.LONG1: lambda self: self._long(1),
        pickle.LONG4: lambda self: self._long(4),
        pickle.FLOAT: Unpickler._float_line,
        pickle.BINFLOAT: lambda self: self._push(*struct.unpack(">d", self._take(8))),
        pickle.STRING: Unpickler._string_line,
        pickle.SHORT_BINSTRING: lambda self: self._push_old_text(bytes(self._take(self._number(1)))),
        pickle.BINSTRING: lambda self: self._push_old_text(bytes(self._take(self._number(4)))),
        pickle.UNICODE: Unpickler._unicode_line,
        pickle.SHORT_BINUNICODE: lambda self: self._push_text(self._take(self._number(1))),
        pickle.BINUNICODE: lambda self: self._push_text(self._take(self._number(4))),
        pickle.BINUNICODE8: lambda self: self._push_text(self._take(self._number(8))),
        pickle.SHORT_BINBYTES: lambda self: self._push_bytes(self._take(self._number(1))),
        pickle.BINBYTES: lambda self: self._push_bytes(self._take(self._number(4))),
        pickle.BINBYTES8: lambda self: self._push_bytes(self._take(self._number(8))),
        pickle.BYTEARRAY8: lambda self: self._push_bytes(self._take(self._number(8))),
        pickle.PUT: lambda self: self._put(self._index_line()),
        pickle.BINPUT: lambda self: self._put(self._number(1)),
        pickle.LONG_BINPUT: lambda self: self._put(self._number(4)),
        pickle.MEMOIZE: lambda self: self._put(len(self._memo)),
        pickle.GET: lambda self: self._get(self._index_line()),
        pickle.BINGET: lambda self: self._get(self._number(1)),
        pickle.LONG_BINGET: lambda self: self._get(self._number(4)),
        pickle.EMPTY_TUPLE: lambda self: self._push((), 8),
        pickle.TUPLE1: lambda self: self._tuple(1),
        pickle.TUPLE2: lambda self: self._tuple(2),
        pickle.TUPLE3: lambda self: self._tuple(3),
        pickle.TUPLE: lambda self: self._push(tuple(self._pop_to_mark()), 48),
        pickle.EMPTY_LIST: lambda self: self._push([], 64),
        pickle.LIST: lambda self: self._push(self._pop_to_mark(), 64),
        pickle.APPEND: lambda self: self._append([self._stack.pop()]),
        pickle.APPENDS: lambda self: self._append(self._pop_to_mark()),
        pickle.EMPTY_DICT: lambda self: self._push({}, 72),
        pickle.DICT: Unpickler._dict,
        pickle.SETITEM: lambda self: self._set_items([self._stack.pop(-2), self._stack.pop()]),
        pickle.SETITEMS: lambda self: self._set_items(self._pop_to_mark()),
        pickle.EMPTY_SET: lambda self: self._push(set(), 224),
        pickle.ADDITEMS: lambda self: self._add(self._pop_to_mark()),
        pickle.FROZENSET: Unpickler._frozenset,
        pickle.GLOBAL: Unpickler._global,
        pickle.STACK_GLOBAL: Unpickler._stack_global,
        pickle.REDUCE: Unpickler._reduce,
        pickle.NEWOBJ: Unpickler._reduce,
        pickle.NEWOBJ_EX: Unpickler._new_with_names,
        pickle.INST: Unpickler._old_instance,
        pickle.OBJ: Unpickler._old_object,
        pickle.BUILD: Unpickler._build,
        pickle.PERSID: lambda self: self._persist(self._line().decode("utf-8", "surrogateescape")),
        pickle.BINPERSID: lambda self: self._persist(self._stack.pop()),
    }.items()
}
