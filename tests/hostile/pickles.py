"""Hostile pickles: bombs of memory and time, lies about tensors, calls of code, and machines that are driven wrong."""

import argparse
import os
import pickle
import struct
from collections.abc import Callable

import torch

from tests.hostile.assemble import (
    archive,
    call,
    dictionary,
    named,
    number,
    pickled,
    saved,
    state,
    storage,
    tensor,
    text,
    tupled,
)

OPENS = ""  # as the answer: nothing is refused, and nothing happens
NO_DICTIONARY, EXCESS, DAMAGED, DEEP = "a dictionary of tensors, found", "far more than its own size", "damaged", "deep"

Cases = dict[str, tuple[Callable[[], bytes], str]]

MANY = 100_000
PRIME = 2**61 - 1  # what Python's hashes of integers are modulo


class Payload:
    """Runs a command when it is unpickled, and again when its state is set."""

    def __init__(self, command: str = "exit 1") -> None:
        self.command = command

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (self.command,)


def encoded(times: int, codec: str) -> bytes:
    body = text("a" * 16)
    for _ in range(times):
        body = call("_codecs", "encode", body, text(codec))
    return body


def memoised(first: bytes, again: bytes, times: int) -> bytes:
    """A list of what is made again and again of a thing in the memo."""
    return first + b"q\0" + b"0](" + again * times + b"e"


def chained(step: bytes, times: int, first: bytes = b"N") -> bytes:
    """Values that each hold the one before: `step` turns one on the stack into the next."""
    return first + step * times


def doubled(times: int, last: bytes = b"") -> bytes:
    """A tuple of twice a tuple of twice a tuple …, whose hash or text takes for ever."""
    return b")" + b"2\x86" * times + last


def pairs(keys: list[bytes]) -> bytes:
    return b"}(" + b"".join(key + b"N" for key in keys) + b"u"


def module(parameters: bytes, modules: bytes, name: str = "Net") -> bytes:
    made = named("__main__", name) + b")\x81"
    return (
        made + b"}(" + text("_parameters") + parameters + text("_buffers") + b"}" + text("_modules") + modules + b"ub"
    )


def module_tower(levels: int, each: int, name: str = "") -> bytes:
    """Modules that each hold the one before several times over."""
    body = text(name) + b"q\0" + module(b"}", b"}")
    for level in range(levels):
        key = b"r" + struct.pack("<I", level + 1)
        inner = b"".join((b"h\0" if name else text(str(index))) + b"j" + key[1:] for index in range(each))
        body += key + b"0" + module(b"}", b"}(" + inner + b"u")
    return body


def scripted(code: bytes) -> bytes:
    body = named("__torch__.net", "LSTM") + b")\x81" + b"}(" + text("weight_hh_l0") + tensor() + b"ub"
    return archive(body, **{"constants.pkl": pickled(b")"), "code/__torch__/net.py": code})


def nested_files(levels: int) -> bytes:
    """A file of torch.save within one within one …, as pickled storages hold them."""
    magic = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({"little_endian": True}, 2)
    inner = pickle.dumps(None, 2)
    for _ in range(levels):
        whole = magic + inner + pickle.dumps([], 2)
        body = call("torch.storage", "_load_from_bytes", b"B" + struct.pack("<I", len(whole)) + whole)
        inner = pickled(body, 3)
    return inner


def array_state(shape: bytes, dtype: str = "f4", held: bytes = b"C\x10" + bytes(16)) -> bytes:
    made = call("numpy.core.multiarray", "_reconstruct", named("numpy", "ndarray"), tupled(number(0)), text("b"))
    kind = call("numpy", "dtype", text(dtype), b"\x89", b"\x88")
    kind += tupled(number(3), text("<"), b"N", b"N", b"N", number(-1), number(-1), number(0)) + b"b"
    return made + tupled(number(1), shape, kind, b"\x89", held) + b"b"


BOMBS: Cases = {
    "hex of hex of hex": (lambda: archive(encoded(27, "hex_codec")), NO_DICTIONARY),
    "punycode": (lambda: archive(call("_codecs", "encode", text("é" * MANY), text("punycode"))), NO_DICTIONARY),
    "zlib as a codec": (lambda: archive(dictionary(a=encoded(3, "zlib_codec"))), OPENS),
    "latin-1 again and again": (
        lambda: archive(
            memoised(text("a" * 10**6), named("_codecs", "encode") + b"h\0" + text("latin1") + b"\x86R", 1000)
        ),
        EXCESS,
    ),
    "a bytearray of 4 GB": (lambda: archive(call("builtins", "bytearray", number(2**32))), NO_DICTIONARY),
    "bytes of 4 GB": (lambda: archive(call("builtins", "bytes", number(2**32))), NO_DICTIONARY),
    "a range made a list": (
        lambda: archive(call("builtins", "list", call("builtins", "range", number(10**9)))),
        NO_DICTIONARY,
    ),
    "a string times a number": (
        lambda: archive(call("operator", "mul", text("a"), number(10**9))),
        NO_DICTIONARY,
    ),
    "copies of a counter": (
        lambda: archive(
            memoised(
                pairs([number(key) for key in range(20_000)]), named("collections", "Counter") + b"h\0\x85R", 5_000
            )
        ),
        EXCESS,
    ),
    **{
        f"copies by {name}": (
            lambda module=module, name=name: archive(
                memoised(b"](" + b"N" * 20_000 + b"e", named(module, name) + b"h\0\x85R", 5_000)
            ),
            EXCESS,
        )
        for module, name in (("builtins", "list"), ("builtins", "set"), ("builtins", "frozenset"))
    },
    "copies of an ordered dictionary": (
        lambda: archive(
            memoised(
                b"](" + (text("k") + b"N\x86") * 20_000 + b"e",
                named("collections", "OrderedDict") + b"h\0\x85R",
                5_000,
            )
        ),
        EXCESS,
    ),
    "sets without number": (lambda: archive(b"\x8f" * 10**6 + b"}"), EXCESS),
    "dictionaries without number": (lambda: archive(b"}" * 3_000_000), EXCESS),
    "small dictionaries without number": (lambda: archive(b"}NNs" * 10**6), EXCESS),
    "lists without number": (lambda: archive(b"]" * 3_000_000), EXCESS),
    "marks without number": (lambda: archive(b"(" * 5_000_000), EXCESS),
    "nothing without number": (lambda: archive(b"N" * 9_000_000 + b"}"), "far more|$"),
    "operations without number": (lambda: archive(b"N0" * 6_000_000 + b"}"), EXCESS),
    "the top again and again": (lambda: archive(b"]" + b"2" * 12_000_000), EXCESS),
    "memos without number": (
        lambda: archive(b"}" + b"".join(b"r" + struct.pack("<I", 2**31 + index) for index in range(10**6))),
        EXCESS,
    ),
    "names without number": (lambda: archive(b"".join(b"ca\n%d\n" % index for index in range(300_000)) + b"}"), EXCESS),
    "calls without number": (
        lambda: archive(b"ca\nb\nq\0" + b"h\0)R" * 10**6 + b"}"),
        EXCESS,
    ),
    "a state given a hundred thousand times": (
        lambda: archive(
            pairs([number(key) for key in range(10_000)]) + b"q\0" + call("a", "b") + b"h\0b" * MANY + b"0}"
        ),
        OPENS,
    ),
    "a tuple hashed for ever": (lambda: archive(b"}" + doubled(100, b"Ns")), OPENS),
    "a tuple shown for ever": (lambda: archive(b"}" + doubled(100, tensor() + b"s")), OPENS),
    "a set of tuples hashed for ever": (lambda: archive(b"\x8f(" + doubled(100, b"\x90"), data={}), NO_DICTIONARY),
    "a list walked for ever": (lambda: archive(dictionary(a=b"]" + b"2]q\0(h\0h\0e" * 60)), OPENS),
    "tuples walked for ever": (lambda: archive(dictionary(a=doubled(90))), OPENS),
    "integers that collide": (
        lambda: archive(pairs([number(PRIME * index) for index in range(1, 50_000)])),
        OPENS,
    ),
    "tuples of integers": (
        lambda: archive(pairs([tupled(number(index), number(-index)) for index in range(50_000)])),
        OPENS,
    ),
    "floats that collide": (
        lambda: archive(pairs([b"G" + struct.pack(">d", 2.0**power) for power in range(-1000, 1000)])),
        OPENS,
    ),
    "a key nested deeper than the stack": (lambda: archive(b"})" + b"\x85" * 200_000 + b"Ns"), OPENS),
    "a list nested deeper than the stack": (
        lambda: archive(dictionary(a=b"]" * MANY + b"a" * (MANY - 1))),
        DEEP,
    ),
    "dictionaries nested deeper than the stack": (
        lambda: archive(b"".join(b"}" + text("a") for _ in range(20_000)) + b"N" + b"s" * 20_000),
        DEEP,
    ),
    "stand-ins nested deeper than the stack": (
        lambda: archive(dictionary(a=chained(b"\x85q\1" + b"0h\0h\1R", 20_000, b"ca\nb\nq\0"))),
        DEEP,
    ),
    "stand-ins that are called deeper than the stack": (
        lambda: archive(dictionary(a=b"ca\nb\n" + b")R" * 20_000)),
        DEEP,
    ),
    "a list in itself": (lambda: archive(dictionary(a=b"]q\0h\0a")), OPENS),
    "a dictionary in itself": (lambda: archive(b"}q\0" + text("a") + b"h\0s"), OPENS),
    "a tuple in itself": (lambda: archive(dictionary(a=b"]q\0h\0\x85q\1a0h\1")), OPENS),
    "a stand-in in itself": (lambda: archive(dictionary(a=call("a", "b") + b"q\0h\0b")), OPENS),
    "dictionaries that repeat each other": (
        lambda: archive(
            pairs([text(str(key)) for key in range(20_000)])
            + b"q\0}("
            + b"".join(text(str(key)) + b"h\0" for key in range(20_000))
            + b"u"
        ),
        "names in a file",
    ),
    "a tensor under many names": (
        lambda: archive(tensor() + b"q\0}(" + b"".join(text(str(key)) + b"h\0" for key in range(20_000)) + b"u"),
        "expected every tensor once",
    ),
    "modules in themselves": (lambda: archive(module(b"}", b"}") + b"q\0}" + text("a") + b"h\0sb"), NO_DICTIONARY),
    "a module within itself": (
        lambda: archive(
            named("__main__", "Net")
            + b")\x81q\0}("
            + text("_parameters")
            + b"}"
            + text("_buffers")
            + b"}"
            + text("_modules")
            + dictionary(again=b"h\0")
            + b"ub"
        ),
        EXCESS,
    ),
    "modules that multiply": (lambda: archive(module_tower(60, 2)), EXCESS),
    "modules without number": (lambda: archive(module_tower(2, 50_000)), EXCESS),
    "modules whose names grow": (lambda: archive(module_tower(99, 1, "a" * 10**6)), EXCESS),
    "tensors whose names grow": (
        lambda: archive(
            tensor()
            + b"q\0}("
            + b"".join(
                text(outer * 10**6) + b"}(" + b"".join(text(f"weight_hh{key}") + b"h\0" for key in range(20_000)) + b"u"
                for outer in "ab"
            )
            + b"u"
        ),
        "give shorter keys",
    ),
    "modules deeper than the stack": (lambda: archive(module_tower(3_000, 1)), EXCESS),
    "files within files": (lambda: nested_files(300), NO_DICTIONARY),
    "scripted code of a gigabyte": (lambda: scripted(b"class LSTM(Module):\n" + bytes(10**7)), OPENS),
    "scripted code that is none": (
        lambda: scripted(b"\xff\xfe class LSTM(Module):\n  dropout : Final[float] = 1e999"),
        OPENS,
    ),
}

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
