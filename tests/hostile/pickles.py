"""Hostile pickles: numbers without end, machines that are driven wrong, and code to run."""

import os
import struct
from collections.abc import Callable

import torch

from tests.hostile.assemble import (
    DAMAGED,
    NO_DICTIONARY,
    OPENS,
    Cases,
    archive,
    call,
    dictionary,
    named,
    number,
    pairs,
    saved,
    state,
    tensor,
    text,
)


class Payload:
    """Runs a command when it is unpickled, and again when its state is set."""

    def __init__(self, command: str = "exit 1") -> None:
        self.command = command

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (self.command,)


NUMBERS: Cases = {
    "an integer of a megabyte": (lambda: archive(b"\x8b" + struct.pack("<I", 10**6) + b"\1" * 10**6), DAMAGED),
    "an integer longer than the file": (lambda: archive(b"\x8b\xff\xff\xff\x7f\1"), DAMAGED),
    "an integer of negative length": (lambda: archive(b"\x8b\xff\xff\xff\xff\1"), DAMAGED),
    "a million digits": (lambda: archive(b"I" + b"9" * 10**6 + b"\n"), DAMAGED),
    "a million digits, long": (lambda: archive(b"L" + b"9" * 10**6 + b"L\n"), DAMAGED),
    "a float of a million digits": (lambda: archive(b"F" + b"9" * 10**6 + b"\n"), DAMAGED),
    "an integer that is none": (lambda: archive(b"I1_0x\n"), DAMAGED),
    "a memo of ten to the hundred": (lambda: archive(b"}p" + b"9" * 100 + b"\n"), DAMAGED),
    "a negative memo": (lambda: archive(b"}p-1\n"), DAMAGED),
    "a memo that is not there": (lambda: archive(b"h\7"), DAMAGED),
    "text longer than the file": (lambda: archive(b"\x8d" + b"\xff" * 8), DAMAGED),
    "bytes longer than the file": (lambda: archive(b"\x8e" + b"\xff" * 7 + b"\x7f"), DAMAGED),
    "a bytearray longer than the file": (lambda: archive(b"\x96" + b"\xff" * 8), DAMAGED),
    "a frame longer than the file": (lambda: archive(b"\x95" + b"\xff" * 8), DAMAGED),
    "text that is no UTF-8": (lambda: archive(b"X\2\0\0\0\xff\xfe"), DAMAGED),
    "a line without end": (lambda: archive(b"V" + b"a" * 10**6), DAMAGED),
    "a string without quotes": (lambda: archive(b"Sabc\n"), DAMAGED),
    "a string of half an escape": (lambda: archive(b"S'\\x'\n"), DAMAGED),
}

MACHINES: Cases = {
    "nothing on the stack": (lambda: archive(b""), DAMAGED),
    "a pop of nothing": (lambda: archive(b"0"), DAMAGED),
    "no mark": (lambda: archive(b"Nt"), DAMAGED),
    "a mark above what is taken": (lambda: archive(b"N(0t"), "damaged|found"),
    "an operation that is none": (lambda: archive(b"\xff"), DAMAGED),
    "extension codes": (lambda: archive(b"\x82\1"), DAMAGED),
    "extension codes of four bytes": (lambda: archive(b"\x84\1\0\0\0"), DAMAGED),
    "buffers that lie elsewhere": (lambda: archive(b"\x97"), DAMAGED),
    "a buffer made read-only": (lambda: archive(b"\x97\x98"), DAMAGED),
    "a protocol of the future": (lambda: archive(b"\x80\xff}"), OPENS),
    "an item set in a list": (lambda: archive(b"]" + text("a") + b"Ns"), DAMAGED),
    "an item set in nothing": (lambda: archive(b"N" + text("a") + b"Ns"), DAMAGED),
    "an item appended to a dictionary": (lambda: archive(b"}Na"), DAMAGED),
    "an element added to a list": (lambda: archive(b"](N\x90"), DAMAGED),
    "a key without a value": (lambda: archive(b"}(" + text("a") + b"u"), DAMAGED),
    "a state for a number": (lambda: archive(number(1) + b"}b"), NO_DICTIONARY),
    "a state for a class": (lambda: archive(dictionary(a=named("a", "b") + b"}b")), OPENS),
    "arguments that are a list": (lambda: archive(named("a", "b") + b"]R"), DAMAGED),
    "a call of a number": (lambda: archive(dictionary(a=number(1) + b")R")), OPENS),
    "a name that is a number": (lambda: archive(number(1) + number(2) + b"\x93"), DAMAGED),
    "a name of a megabyte": (lambda: archive(dictionary(a=named("a" * 10**6, "b") + b")R")), OPENS),
    "a name of half characters": (lambda: archive(dictionary(a=b"c\xed\xa0\x80\nb\n)R")), OPENS),
    "an old instance": (lambda: archive(dictionary(a=b"(ios\nsystem\n")), OPENS),
    "an old object": (lambda: archive(dictionary(a=b"(" + named("os", "system") + text("exit") + b"o")), OPENS),
    "an old object of nothing": (lambda: archive(b"(o"), DAMAGED),
    "arguments with names": (
        lambda: archive(
            dictionary(a=named("subprocess", "Popen") + text("exit") + b"\x85" + dictionary(shell=b"\x88") + b"\x92")
        ),
        OPENS,
    ),
    "unhashable keys": (
        lambda: archive(pairs([b"]", b"}", b"\x8f", call("a", "b"), named("a", "b"), tensor()])),
        OPENS,
    ),
    "an ordered dictionary with a method of another": (
        lambda: archive(
            call("collections", "OrderedDict") + dictionary(items=number(3), copy=b"N", keys=text("x")) + b"b"
        ),
        OPENS,
    ),
    "an ordered dictionary with a state that is none": (
        lambda: archive(call("collections", "OrderedDict") + b"Nb"),
        OPENS,
    ),
    "an ordered dictionary of a number": (
        lambda: archive(dictionary(a=call("collections", "OrderedDict", number(3)))),
        OPENS,
    ),
    "an ordered dictionary of triples": (
        lambda: archive(call("collections", "OrderedDict", b"](NNN\x87e")),
        "damaged|found",
    ),
    "metadata that is code": (
        lambda: archive(
            call("collections", "OrderedDict") + dictionary(_metadata=call("os", "system", text("exit"))) + b"b"
        ),
        OPENS,
    ),
    "names of half characters": (
        lambda: saved({f"a\ud800b.{key.removeprefix('rnn.')}": value for key, value in state().items()}),
        OPENS,
    ),
    "names of a megabyte": (lambda: saved({f"{'a.' * 500_000}{key}": value for key, value in state().items()}), OPENS),
    "names that take long to read": (
        lambda: saved({"parametrizations.a." * 20_000 + "\n": torch.zeros(1), "_orig" * 50_000: torch.zeros(1)}),
        OPENS,
    ),
    "names that a terminal obeys": (
        lambda: saved({f"\x1b[31m\n\0\r{key}": value for key, value in state().items()}),
        OPENS,
    ),
}
