"""Hostile pickles, continued: lies about tensors, calls of code, and files of the legacy format."""

import argparse
import pickle
import struct

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
    pickled,
    saved,
    state,
    storage,
    tensor,
    text,
    tupled,
)
from tests.hostile.bombs import BOMBS
from tests.hostile.pickles import MACHINES, NUMBERS, Payload

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
    "a stride that is a set": (lambda: archive(tensor(stride=b"(" + number(1) + b"\x91")), DAMAGED),
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
