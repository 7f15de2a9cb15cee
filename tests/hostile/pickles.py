"""Hostile pickles: lies about numbers and tensors, machines that are driven wrong, calls of code."""

import argparse
import os
import pickle
import struct
from collections.abc import Callable

import torch

from tests.hostile.assemble import (
    DAMAGED,
    NO_DICTIONARY,
    OPENS,
    Cases,
    archive,
    array_state,
    call,
    dictionary,
    named,
    number,
    pairs,
    pickled,
    saved,
    state,
    storage,
    tensor,
    text,
    tupled,
)
from tests.hostile.bombs import BOMBS


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

TENSORS: Cases = {
    "a storage that is a number": (lambda: archive(tensor(held=number(3))), DAMAGED),
    "a storage of no type": (lambda: archive(tensor(held=storage(kind="Nothing"))), DAMAGED),
    "a storage of negative length": (lambda: archive(tensor(held=storage(count=-1))), DAMAGED),
    "a storage longer than its entry": (lambda: archive(tensor(held=storage(count=17))), DAMAGED),
    "a storage of 2^62 numbers": (lambda: archive(tensor(held=storage(count=2**62))), DAMAGED),
    "a storage that is not there": (lambda: archive(tensor(held=storage(key="1"))), "found none"),
    "a storage elsewhere": (lambda: archive(tensor(held=storage(key="../version"))), "found none"),
    "a storage with more to say": (lambda: archive(tensor(held=storage(more=b"N"))), DAMAGED),
    "a persistent id that is a number": (lambda: archive(number(3) + b"Q"), DAMAGED),
    "a persistent id that is text": (lambda: archive(b"Pabc\n"), DAMAGED),
    "a negative offset": (lambda: archive(tensor(offset=number(-1))), DAMAGED),
    "an offset past the end": (lambda: archive(tensor(offset=number(1))), DAMAGED),
    "an offset of 2^70": (lambda: archive(tensor(offset=number(2**70))), DAMAGED),
    "an offset that is text": (lambda: archive(tensor(offset=text("0"))), DAMAGED),
    "a negative size": (lambda: archive(tensor(shape=tupled(number(-16)))), DAMAGED),
    "a size of 2^62": (lambda: archive(tensor(shape=tupled(number(2**62)))), DAMAGED),
    "sizes whose product overflows": (
        lambda: archive(tensor(shape=tupled(number(2**62), number(2**62), number(0)), stride=tupled(b"K\1K\1K\1"))),
        DAMAGED,
    ),
    "a thousand dimensions": (
        lambda: archive(tensor(shape=tupled(b"K\1" * 1000), stride=tupled(b"K\1" * 1000))),
        DAMAGED,
    ),
    "a size that is text, multiplied": (
        lambda: archive(tensor(shape=tupled(text("x"), number(10**9)), stride=tupled(b"K\1K\1"))),
        DAMAGED,
    ),
    "a size that is a float": (lambda: archive(tensor(shape=tupled(b"G" + struct.pack(">d", 16)))), DAMAGED),
    "a size that is true": (lambda: archive(tensor(shape=tupled(b"\x88"))), DAMAGED),
    "sizes that are a list": (lambda: archive(tensor(shape=b"]K\20a")), DAMAGED),
    "sizes that are code": (lambda: archive(tensor(shape=call("os", "system", text("exit")))), DAMAGED),
    "a stride too few": (lambda: archive(tensor(shape=tupled(b"K\4K\4"))), DAMAGED),
    "a negative stride": (lambda: archive(tensor(stride=tupled(number(-1)))), DAMAGED),
    "a stride past the end": (lambda: archive(tensor(stride=tupled(number(2)))), DAMAGED),
    "a number repeated a billion times": (
        lambda: archive(dictionary(a=tensor(shape=tupled(number(10**9)), stride=tupled(number(0))))),
        "tensors that fit into the file's",
    ),
    "a number repeated, then converted": (
        lambda: archive(
            call(
                "torch._utils",
                "_rebuild_device_tensor_from_cpu_tensor",
                tensor(shape=tupled(number(10**9)), stride=tupled(number(0))),
                named("torch", "float64"),
                text("cpu"),
                b"\x89",
            )
        ),
        NO_DICTIONARY,
    ),
    "a quantized number repeated": (
        lambda: archive(
            dictionary(
                a=call(
                    "torch._utils",
                    "_rebuild_qtensor",
                    storage(count=64, kind="QInt8Storage"),
                    number(0),
                    tupled(number(10**9)),
                    tupled(number(0)),
                    tupled(named("torch", "per_tensor_affine"), b"G" + struct.pack(">d", 0.1), number(0)),
                    b"\x89",
                    b"N",
                )
            )
        ),
        DAMAGED,
    ),
    **{
        f"quantized {what}": (
            lambda scheme=scheme: archive(
                dictionary(
                    a=call(
                        "torch._utils",
                        "_rebuild_qtensor",
                        storage(count=64, kind="QInt8Storage"),
                        number(0),
                        tupled(number(8), number(8)),
                        tupled(number(8), number(1)),
                        scheme,
                        b"\x89",
                        b"N",
                    )
                )
            ),
            answer,
        )
        for what, scheme, answer in (
            ("along no axis", tupled(named("torch", "per_channel_affine"), b"]", b"]", number(7)), DAMAGED),
            ("along a negative axis", tupled(named("torch", "per_channel_affine"), b"]", b"]", number(-1)), DAMAGED),
            ("with a scale too few", tupled(named("torch", "per_channel_affine"), b"]", b"]", number(0)), DAMAGED),
            ("with a text for a scale", tupled(named("torch", "per_tensor_affine"), text("a"), number(0)), DAMAGED),
            ("without a scheme", tupled(), DAMAGED),
            ("by code", tupled(call("os", "system", text("exit")), b"N", b"N"), OPENS),
        )
    },
    "a meta tensor of a terabyte": (
        lambda: saved({"a": torch.empty(2**40, dtype=torch.uint8, device="meta")}),
        "expected dense tensors",
    ),
    "too few arguments": (lambda: archive(call("torch._utils", "_rebuild_tensor_v2", storage())), DAMAGED),
    "a parameter of a list": (lambda: archive(dictionary(a=call("torch._utils", "_rebuild_parameter", b"]"))), OPENS),
    "a type that builds itself": (
        lambda: archive(
            dictionary(
                a=call(
                    "torch._tensor",
                    "_rebuild_from_type_v2",
                    named("torch._tensor", "_rebuild_from_type_v2"),
                    b"N",
                    b")",
                    b"N",
                )
            )
        ),
        OPENS,
    ),
    "a size of nothing": (
        lambda: archive(dictionary(a=call("torch", "Size"), b=call("torch", "Size", text("abc")))),
        "damaged|^$",
    ),
    "a device that is none": (lambda: archive(dictionary(a=call("torch", "device", text("nowhere" * 1000)))), DAMAGED),
    "an array of negative size": (lambda: archive(dictionary(a=array_state(tupled(number(-4))))), DAMAGED),
    "an array larger than its bytes": (lambda: archive(dictionary(a=array_state(tupled(number(5))))), DAMAGED),
    "an array of text sizes": (lambda: archive(dictionary(a=array_state(tupled(text("x"), number(10**9))))), DAMAGED),
    "an array of objects": (lambda: archive(dictionary(a=array_state(tupled(number(4)), "O"))), OPENS),
    "an array of no bytes": (lambda: archive(dictionary(a=array_state(tupled(number(4)), held=b"]"))), OPENS),
    "an array with half a state": (lambda: archive(array_state(tupled(number(4)))[:-1] + b")b"), "damaged|found"),
    "a scalar of the wrong length": (
        lambda: archive(
            dictionary(a=call("numpy.core.multiarray", "scalar", call("numpy", "dtype", text("f8")), b"C\1a"))
        ),
        DAMAGED,
    ),
}

CALLS: Cases = {
    **{
        f"{module}.{name}": (
            lambda module=module, name=name: archive(dictionary(a=call(module, name, text("exit 1")), b=tensor())),
            OPENS,
        )
        for module, name in (
            ("os", "system"),
            ("posix", "system"),
            ("nt", "system"),
            ("builtins", "eval"),
            ("builtins", "exec"),
            ("__builtin__", "eval"),
            ("builtins", "__import__"),
            ("builtins", "getattr"),
            ("builtins", "open"),
            ("subprocess", "Popen"),
            ("importlib", "import_module"),
            ("runpy", "run_path"),
            ("webbrowser", "open"),
            ("ctypes", "CDLL"),
            ("pickle", "loads"),
            ("torch", "load"),
            ("torch.hub", "load"),
            ("torch.utils.cpp_extension", "load_inline"),
            ("torch.jit", "load"),
            ("numpy", "load"),
            ("numpy.f2py", "compile"),
            ("pip", "main"),
            ("shutil", "rmtree"),
            ("sys", "exit"),
            ("os", "_exit"),
            ("faulthandler", "_sigsegv"),
            ("copyreg", "_reconstructor"),
            ("functools", "partial"),
            ("operator", "attrgetter"),
        )
    },
    "a payload in a zip": (lambda: saved({"a": Payload(), **state()}), OPENS),
    "a payload in a legacy file": (lambda: saved({"a": Payload(), **state()}, legacy=True), OPENS),
    "a payload as the whole": (lambda: saved(Payload()), NO_DICTIONARY),
    "a payload as a key": (lambda: archive(b"}" + call("os", "system", text("exit 1")) + b"Ns"), OPENS),
    "a payload as a state": (
        lambda: archive(dictionary(a=call("a", "b") + call("os", "system", text("exit")) + b"b")),
        OPENS,
    ),
    **{
        f"a payload of protocol {protocol}": (
            lambda protocol=protocol: pickle.dumps({"a": Payload(), "b": argparse.Namespace(x=1)}, protocol),
            OPENS,
        )
        for protocol in range(6)
    },
}

LEGACY_START = saved({}, legacy=True)[:15]


def legacy(
    body: bytes, keys: bytes = b"](" + text("0") + b"e", data: bytes = struct.pack("<q", 16) + bytes(64)
) -> bytes:
    system = pickled(dictionary(little_endian=b"\x88"))
    return LEGACY_START + pickled(b"M\xe9\3") + system + pickled(body) + pickled(keys) + data


LEGACY: Cases = {
    "a legacy file as it should be": (lambda: legacy(dictionary(a=tensor(held=storage(more=b"N")))), OPENS),
    "keys that are no list": (lambda: legacy(dictionary(a=tensor(held=storage(more=b"N"))), keys=b"}"), DAMAGED),
    "keys that are missing": (lambda: legacy(dictionary(a=tensor(held=storage(more=b"N"))), keys=b"]"), DAMAGED),
    "keys that nothing names": (lambda: legacy(b"}"), DAMAGED),
    "keys twice": (
        lambda: legacy(dictionary(a=tensor(held=storage(more=b"N"))), keys=b"](" + text("0") * 2 + b"e"),
        DAMAGED,
    ),
    "another number of elements": (
        lambda: legacy(dictionary(a=tensor(held=storage(more=b"N"))), data=struct.pack("<q", 15) + bytes(64)),
        DAMAGED,
    ),
    "a negative number of elements": (
        lambda: legacy(dictionary(a=tensor(held=storage(count=-1, more=b"N"))), data=struct.pack("<q", -1)),
        DAMAGED,
    ),
    "data that ends too soon": (
        lambda: legacy(dictionary(a=tensor(held=storage(more=b"N"))), data=struct.pack("<q", 16) + bytes(63)),
        DAMAGED,
    ),
    "no data": (lambda: legacy(dictionary(a=tensor(held=storage(more=b"N"))), data=b""), DAMAGED),
    "a view that reaches out": (
        lambda: legacy(dictionary(a=tensor(held=storage(more=tupled(text("v"), number(9), number(9)))))),
        DAMAGED,
    ),
    "a view of negative length": (
        lambda: legacy(dictionary(a=tensor(held=storage(more=tupled(text("v"), number(9), number(-9)))))),
        DAMAGED,
    ),
    "a class with a source of a megabyte": (
        lambda: legacy(
            dictionary(a=tupled(text("module"), named("a", "b"), text("f.py"), text("x" * 10**6)) + b"Q)R"),
            keys=b"]",
            data=b"",
        ),
        OPENS,
    ),
    "a module id of nothing": (lambda: legacy(tupled(text("module")) + b"Q", keys=b"]", data=b""), DAMAGED),
    "a magic number alone": (lambda: LEGACY_START, DAMAGED),
}

PICKLES: Cases = {**BOMBS, **NUMBERS, **MACHINES, **TENSORS, **CALLS, **LEGACY}
