"""Pickles that ask for memory and time: copies, repetitions, nesting, things without number."""

import pickle
import struct

from tests.hostile.assemble import (
    DAMAGED,
    DEEP,
    EXCESS,
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
    storage,
    tensor,
    text,
    tupled,
)

MANY = 100_000
PRIME = 2**61 - 1  # what Python's hashes of integers are modulo


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


def quantized(held: bytes, count: int) -> bytes:
    scheme = tupled(named("torch", "per_tensor_affine"), b"G" + struct.pack(">d", 0.1), number(0))
    view = number(0), tupled(number(count)), tupled(number(1))
    return call("torch._utils", "_rebuild_qtensor", held, *view, scheme, b"\x89", b"N")


def storage_file() -> bytes:
    """The bytes of a file of torch.save that holds one storage of a million numbers."""
    whole = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({"little_endian": True}, 2)
    whole += pickled(storage(count=10**6, more=b"N")) + pickle.dumps(["0"], 2)
    whole += struct.pack("<q", 10**6) + bytes(4 * 10**6)
    return b"B" + struct.pack("<I", len(whole)) + whole


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
    "strides without number": (
        lambda: archive(
            b"("
            + b"K\1" * 10**6
            + b"tq\0}("
            + b"".join(text(str(key)) + tensor(stride=b"h\0") for key in range(1000))
            + b"u"
        ),
        DAMAGED,
    ),
    "arrays of one buffer": (
        lambda: pickled(
            array_state(tupled(number(10**6)), "u1", b"B" + struct.pack("<I", 10**6) + bytes(10**6) + b"q\0")
            + b"}("
            + b"".join(text(str(key)) + array_state(tupled(number(10**6)), "u1", b"h\0") for key in range(1000))
            + b"u",
            3,
        ),
        EXCESS,
    ),
    "files of one storage, again and again": (
        lambda: pickled(
            storage_file()
            + b"q\0}("
            + b"".join(
                text(str(key)) + tensor(held=named("torch.storage", "_load_from_bytes") + b"h\0\x85R")
                for key in range(1000)
            )
            + b"u",
            3,
        ),
        EXCESS,
    ),
    "quantized tensors of one storage": (
        lambda: archive(
            storage(count=10**6, kind="QInt8Storage")
            + b"q\0}("
            + b"".join(text(str(key)) + quantized(b"h\0", 10**6) for key in range(1000))
            + b"u",
            {"0": bytes(10**6)},
        ),
        EXCESS,
    ),
    "files within files": (lambda: nested_files(300), NO_DICTIONARY),
    "scripted code of a gigabyte": (lambda: scripted(b"class LSTM(Module):\n" + bytes(10**7)), OPENS),
    "scripted code that is none": (
        lambda: scripted(b"\xff\xfe class LSTM(Module):\n  dropout : Final[float] = 1e999"),
        OPENS,
    ),
}
