"""Hostile archives, safetensors files, arrays and files of other formats."""

import io
import json
import struct
import zipfile
import zlib
from typing import Any

import numpy as np

from tests.hostile.assemble import (
    CENTRAL,
    DAMAGED,
    END,
    LOCAL,
    OPENS,
    Cases,
    archive,
    dictionary,
    lying,
    npy,
    npy_claim,
    pickled,
    renamed,
    safetensors,
    saved,
    state,
    tensor,
    zipped,
)

NOT_STORED = "expected stored entries"


def good() -> bytes:
    return archive(dictionary(a=tensor()))


def twice(first: str, second: str) -> bytes:
    """Two entries of a checkpoint whose names some readers take for the same."""
    data = archive(b"}", **{"data.txt": pickled(b"}")})
    assert len(first) == len("data.txt") and len(second) == len("data.txt")
    return renamed(data, b"archive/data.txt", f"archive/{second}".encode())


def with_entry(name: str, raw: bytes = b"x") -> bytes:
    return zipped({"archive/data.pkl": pickled(b"}"), name: raw})


def deflated(name: str, size: int) -> bytes:
    return zipped({"archive/data.pkl": pickled(b"}"), name: bytes(size)}, zipfile.ZIP_DEFLATED)


def with_long_records(data: bytes, place: int | None = None, count: int | None = None) -> bytes:
    """The same archive with the records of zip64, which can say another place or number."""
    start, entries = struct.unpack_from("<I", data, len(data) - 6)[0], struct.unpack_from("<H", data, len(data) - 12)[0]
    body, end = data[:-22], data[-22:]
    size = len(body) - start
    entries = entries if count is None else count
    start = start if place is None else place
    record = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, entries, entries, size, start)
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, len(body), 1)
    return body + record + locator + end


def overlapping() -> bytes:
    """An entry that lies within another."""
    inner = zipped({"archive/data/0": bytes(64)})
    local = inner[: inner.index(CENTRAL)]
    outer = zipped({"archive/data.pkl": pickled(dictionary(a=tensor())), "archive/data/0": bytes(64), "x": local})
    inside = outer.rindex(local)
    which = outer.index(CENTRAL, outer.index(CENTRAL) + 1)
    changed = bytearray(outer)
    struct.pack_into("<I", changed, which + 42, inside)
    return bytes(changed)


def commented(data: bytes, comment: bytes) -> bytes:
    return data[:-2] + struct.pack("<H", len(comment)) + comment


def shifted(data: bytes, before: bytes) -> bytes:
    """An archive with something before it, as those that unpack themselves have."""
    return before + data


def many_entries(count: int) -> bytes:
    return zipped({"archive/data.pkl": pickled(b"}"), **{f"archive/data/{index}": b"" for index in range(count)}})


ARCHIVES: Cases = {
    "an archive as it should be": (good, OPENS),
    "with the records of zip64": (lambda: with_long_records(good()), OPENS),
    "names that differ by case": (lambda: twice("data.txt", "DATA.PKL"), DAMAGED),
    "names that differ by a letter of another case": (lambda: with_entry("archive/daTa.pKl"), DAMAGED),
    "names that differ by a kelvin": (lambda: with_entry("archive/data.p\u212al"), DAMAGED),
    "a name that ends at a NUL": (
        lambda: renamed(archive(b"}", **{"data.pklQx": b"}"}), b"data.pklQx", b"data.pkl\0x"),
        DAMAGED,
    ),
    "a name with a NUL in front": (lambda: renamed(with_entry("Qarchive/x"), b"Qarchive/x", b"\0archive/x"), DAMAGED),
    "an absolute name": (lambda: with_entry("/etc/passwd"), DAMAGED),
    "a name above": (lambda: with_entry("archive/../../x"), DAMAGED),
    "a name above, the other way": (lambda: with_entry("archive\\..\\x"), DAMAGED),
    "an empty name": (lambda: with_entry(""), DAMAGED),
    "a name that is no text": (lambda: renamed(with_entry("archive/QQ"), b"archive/QQ", b"archive/\xff\xfe"), OPENS),
    "two pickles": (lambda: zipped({"a/data.pkl": b"", "b/data.pkl": b""}), "one checkpoint in an archive"),
    "a pickle deeper down": (lambda: zipped({"a/b/c/data.pkl": pickled(b"}")}), OPENS),
    "no pickle": (lambda: zipped({"a/version": b"3"}), "a zip archive of other things"),
    "nothing": (lambda: zipped({}), "a zip archive of other things"),
    "a pickle packed by deflate": (lambda: zipped({"a/data.pkl": bytes(10**7)}, zipfile.ZIP_DEFLATED), NOT_STORED),
    "a pickle packed by bzip2": (lambda: zipped({"a/data.pkl": bytes(10**7)}, zipfile.ZIP_BZIP2), NOT_STORED),
    "a pickle packed by LZMA": (lambda: zipped({"a/data.pkl": bytes(10**7)}, zipfile.ZIP_LZMA), NOT_STORED),
    "weights packed by deflate": (
        lambda: zipped({"a/data.pkl": pickled(dictionary(a=tensor())), "a/data/0": bytes(64)}, zipfile.ZIP_DEFLATED),
        NOT_STORED,
    ),
    "a packed pickle that says it is larger": (
        lambda: lying(zipped({"a/data.pkl": bytes(10**6)}, zipfile.ZIP_BZIP2), CENTRAL, "unpacked", 2**31),
        NOT_STORED,
    ),
    "a stored entry that says it is larger": (lambda: lying(good(), CENTRAL, "unpacked", 2**31), DAMAGED),
    "a stored entry of more than the file": (
        lambda: lying(lying(good(), CENTRAL, "unpacked", 2**30), CENTRAL, "packed", 2**30),
        DAMAGED,
    ),
    "an entry past the end": (lambda: lying(good(), CENTRAL, "place", 2**31), DAMAGED),
    "an entry in the directory": (lambda: lying(good(), CENTRAL, "place", good().index(CENTRAL)), DAMAGED),
    "an entry in another": (overlapping, DAMAGED),
    "an entry that is encrypted": (lambda: lying(good(), CENTRAL, "flags", 1), DAMAGED),
    "an entry on another disk": (lambda: lying(good(), END, "disk", 1), DAMAGED),
    "an entry of another method inside": (lambda: lying(good(), LOCAL, "method", 8), DAMAGED),
    "an entry of another name inside": (
        lambda: renamed(good(), b"archive/data.pkl", b"archive/data.pkx", (0,)),
        DAMAGED,
    ),
    "a wrong checksum": (lambda: lying(good(), CENTRAL, "crc", 1), DAMAGED),
    "an entry too few": (lambda: lying(lying(good(), END, "count", 2), END, "here", 2), DAMAGED),
    "an entry too many": (lambda: lying(lying(good(), END, "count", 4), END, "here", 4), DAMAGED),
    "numbers of entries that differ": (lambda: lying(good(), END, "here", 2), DAMAGED),
    "a directory elsewhere": (lambda: lying(good(), END, "place", 0), DAMAGED),
    "a directory of another size": (lambda: lying(good(), END, "size", 2**31), DAMAGED),
    "a directory that only zip64 knows": (lambda: lying(good(), END, "place", 0xFFFFFFFF), DAMAGED),
    "a record of zip64 that says another place": (lambda: with_long_records(good(), place=0), DAMAGED),
    "a record of zip64 that says another number": (lambda: with_long_records(good(), count=2), DAMAGED),
    "a record of zip64 elsewhere": (
        lambda: with_long_records(good())[: -42 + 8] + struct.pack("<Q", 0) + with_long_records(good())[-42 + 16 :],
        DAMAGED,
    ),
    "a comment": (lambda: commented(good(), b"hello"), DAMAGED),
    "a comment that is an archive": (lambda: commented(good(), good()), DAMAGED),
    "an archive after another": (lambda: shifted(good(), good()), DAMAGED),
    "an archive after code": (lambda: shifted(good(), b"PK" + bytes(10)), DAMAGED),
    "an archive in an archive": (lambda: zipped({"a/data.pkl": good()}), DAMAGED),
    "sixty thousand entries": (lambda: many_entries(60_000), OPENS),
    "more entries than anyone needs": (lambda: many_entries(100_001), DAMAGED),
    "half an end": (lambda: good()[:-11], DAMAGED),
    "an end alone": (lambda: good()[-22:], "found"),
    "PK alone": (lambda: b"PK\3\4", DAMAGED),
}


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8), **others: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets, **others}


def header(**entries: Any) -> bytes:
    return safetensors(json.dumps(entries))


SAFETENSORS: Cases = {
    "a file as it should be": (lambda: header(a=entry()), OPENS),
    "a header of 2^63 bytes": (lambda: struct.pack("<Q", 2**63) + b"{}", "a safetensors header of 9,223"),
    "a header longer than the file": (lambda: struct.pack("<Q", 10**6) + b"{}", "a safetensors header of 1,000,000"),
    "a header of a list": (lambda: safetensors("{[]}"), "damaged"),
    "a header without end": (lambda: safetensors('{"a":'), "damaged"),
    "a header with more behind it": (lambda: safetensors(json.dumps({"a": entry()}) + "x"), "damaged"),
    "a header that is no text": (lambda: safetensors(b'{"\xff": 1}'), "damaged"),
    "a header of lists in lists": (lambda: safetensors('{"a":' + "[" * 10**6), "damaged"),
    "a header of objects in objects": (lambda: safetensors('{"a":' * 10**5), "damaged"),
    "an entry without end": (lambda: safetensors('{"a":{' + '"dtype":"F32",' * 10**5 + "}}"), "damaged"),
    "an entry of many lists": (lambda: safetensors('{"a":{"shape":[' + "[]," * 1000 + "[]]}}"), "damaged"),
    "a million names": (
        lambda: safetensors("{" + ",".join(f'"{index}":{{}}' for index in range(10**6)) + "}"),
        "damaged",
    ),
    "a million words about itself": (
        lambda: safetensors('{"__metadata__":{' + ",".join(f'"{index}":""' for index in range(10**6)) + "}}", b""),
        "damaged|^$",
    ),
    "nothing but space": (lambda: safetensors("{" + " " * 10**6 + "}", b""), OPENS),
    "metadata that are numbers": (lambda: header(a=entry(), __metadata__={"epoch": 3}), "damaged"),
    "metadata in metadata": (lambda: header(a=entry(), __metadata__={"a": {"b": "c"}}), "damaged"),
    "metadata twice": (
        lambda: safetensors('{"__metadata__":{"a":"b"},"__metadata__":{"c":"d"},"a":' + json.dumps(entry()) + "}"),
        OPENS,
    ),
    "a name twice": (lambda: safetensors(f'{{"a":{json.dumps(entry())},"a":{json.dumps(entry())}}}'), "damaged"),
    "a name of half a character": (lambda: safetensors('{"\\ud800":' + json.dumps(entry()) + "}"), "damaged"),
    "a name of a megabyte": (lambda: header(**{"a" * 10**6: entry()}), OPENS),
    "a type of no name": (lambda: header(a=entry(dtype="F33")), "damaged"),
    "a type that is a list": (lambda: header(a=entry(dtype=["F32"])), "damaged"),
    "a type of four bits": (lambda: header(a=entry(dtype="F4", shape=[16])), "damaged"),
    "a negative size": (lambda: header(a=entry(shape=[-2])), "damaged"),
    "a size that is a float": (lambda: header(a=entry(shape=[2.0])), "damaged"),
    "a size that is true": (lambda: header(a=entry(shape=[True, 2])), "damaged"),
    "a size that is text": (lambda: header(a=entry(shape="22")), "damaged"),
    "a size beyond all numbers": (lambda: header(a=entry(shape=[10**30])), "damaged"),
    "sizes whose product overflows": (lambda: header(a=entry(shape=[2**62, 2**62, 0], offsets=[0, 0])), "damaged"),
    "a thousand dimensions": (lambda: header(a=entry(shape=[1] * 1000 + [2])), "damaged"),
    "offsets that overlap": (lambda: header(a=entry(), b=entry(offsets=[4, 8], shape=[1])), "damaged"),
    "offsets with a gap": (
        lambda: header(a=entry(offsets=[0, 4], shape=[1]), b=entry(offsets=[6, 8], dtype="F16", shape=[1])),
        "damaged",
    ),
    "offsets the other way round": (lambda: header(a=entry(offsets=[8, 0])), "damaged"),
    "negative offsets": (lambda: header(a=entry(offsets=[-8, 0])), "damaged"),
    "offsets past the end": (lambda: header(a=entry(offsets=[8, 16])), "damaged"),
    "three offsets": (lambda: header(a=entry(offsets=[0, 8, 8])), "damaged"),
    "offsets beyond all numbers": (lambda: header(a=entry(offsets=[0, 10**30])), "damaged"),
    "more to say": (lambda: header(a=entry(more=1)), "damaged"),
    "more bytes than named": (lambda: safetensors(json.dumps({"a": entry()}), bytes(9)), "damaged"),
    "fewer bytes than named": (lambda: safetensors(json.dumps({"a": entry()}), bytes(7)), "damaged"),
    "digits without end": (
        lambda: safetensors('{"a":{"dtype":"F32","shape":[' + "1" * 4000 + '],"data_offsets":[0,8]}}'),
        "damaged",
    ),
}


def npz(**arrays: bytes) -> bytes:
    return zipped({f"{name}.npy": raw for name, raw in arrays.items()}, zipfile.ZIP_DEFLATED)


def objects() -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([{"a": 1}, None], dtype=object), allow_pickle=True)
    return file.getvalue()


def bomb(size: int) -> bytes:
    """Zeros in a thousandth of their size."""
    return npz(a=npy_claim("<f4", f"({size // 4},)", data=bytes(size)))


ARRAYS: Cases = {
    "arrays as they should be": (lambda: npz(a=npy_claim()), OPENS),
    "version 2": (lambda: npz(a=npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }", version=2)), OPENS),
    "a version of the future": (
        lambda: npz(a=npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }", version=9)),
        "damaged header",
    ),
    "zeros in a thousandth of their size": (lambda: bomb(2**28), "bytes of arrays, found"),
    "entries that unpack to more than they say": (
        lambda: lying(npz(a=npy_claim(shape="(1000000,)", data=bytes(4_000_000))), CENTRAL, "unpacked", 200),
        DAMAGED,
    ),
    "entries that unpack to less": (lambda: lying(npz(a=npy_claim()), CENTRAL, "unpacked", 10**7), DAMAGED),
    "entries cut in the middle": (
        lambda: lying(npz(a=npy_claim(data=np.random.default_rng(0).bytes(24))), CENTRAL, "packed", 60),
        DAMAGED,
    ),
    "entries that are no deflate": (
        lambda: lying(lying(zipped({"a.npy": b"\xff" * 50}), CENTRAL, "method", 8), LOCAL, "method", 8),
        DAMAGED,
    ),
    "objects": (lambda: zipped({"a.npy": objects()}), "integers or floats"),
    "text": (lambda: npz(a=npy_claim("<U6", "(1,)")), "integers or floats"),
    "structures": (
        lambda: npz(a=npy("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (6,), }")),
        "integers or floats",
    ),
    "a header of code": (lambda: npz(a=npy("__import__('os').system('exit')")), "damaged header"),
    "a header of code as a shape": (lambda: npz(a=npy_claim(shape="(__import__('os'),)")), "damaged header"),
    "a header of brackets": (lambda: npz(a=npy("(" * 5000 + ")" * 5000)), "damaged header"),
    "a header of digits": (lambda: npz(a=npy_claim(shape="(" + "1" * 9000 + "x)")), "damaged header"),
    "a header of commas": (lambda: npz(a=npy_claim(shape="(" + ", " * 4000 + "x)")), "damaged header"),
    "a header longer than the file": (lambda: npz(a=b"\x93NUMPY\2\0\xff\xff\xff\x7f{"), "damaged header"),
    "a shape beyond memory": (
        lambda: npz(a=npy_claim(shape="(4611686018427387904, 4611686018427387904, 0)", data=b"")),
        "fits in memory",
    ),
    "a negative shape": (lambda: npz(a=npy_claim(shape="(-2, -3)")), "as the header says"),
    "a shape of more than there is": (lambda: npz(a=npy_claim(shape="(1000000000,)")), "expected 4000000000 bytes"),
    "a thousand dimensions": (lambda: npz(a=npy_claim(shape="(" + "1, " * 1000 + "6)")), "as the header says"),
    "an entry of other things": (lambda: zipped({"a.npy": npy_claim(), "readme.txt": b"hello"}), "damaged header"),
    "an array twice": (lambda: zipped({"a.npy": npy_claim(), "a": npy_claim()}), "each array once"),
}


def deep_json(depth: int) -> bytes:
    return b'{"a":' + b"[" * depth + b"]" * depth + b"}"


OTHERS: Cases = {
    "nothing": (lambda: b"", "an empty file"),
    "one byte": (lambda: b"\x80", "found"),
    "zeros": (lambda: bytes(1000), "no known format"),
    "noise": (lambda: np.random.default_rng(0).bytes(10**5), "found"),
    "a lone stop": (lambda: b"}.", OPENS),
    "a deep JSON": (lambda: deep_json(10**6), "found"),
    "a JSON of many lists": (lambda: b'{"a":[' + b"[]," * 10**6 + b"[]]}", "found|^$"),
    "a JSON of a long number": (lambda: b'{"a":[' + b"1" * 10**6 + b"]}", "found|^$"),
    "a JSON of half a character": (lambda: b'{"state_dict":{"\\ud800.weight_hh_l0":[[1.0]]}}', OPENS),
    "half an HDF5 file": (lambda: b"\x89HDF\r\n\x1a\n" + bytes(1000), "found"),
    "an HDF5 file of noise": (lambda: b"\x89HDF\r\n\x1a\n\0" + np.random.default_rng(1).bytes(10**5), "found"),
    "an ONNX file of numbers that are not there": (lambda: b"\x0a\0\x0a\0", "found"),
    "an ONNX file of noise": (lambda: b"\x08\x07" + np.random.default_rng(2).bytes(10**5), "found"),
    "an ONNX file of groups in groups": (lambda: b"\x08\x07" + b"\x3a\xff\xff\xff\xff\x0f" * 1000, "found"),
    "a Keras archive of noise": (
        lambda: zipped({"config.json": b"{}", "metadata.json": b"{}", "model.weights.h5": bytes(100)}),
        "found",
    ),
    "a Keras archive of a deep configuration": (
        lambda: zipped({"config.json": deep_json(10**5), "metadata.json": b"{}", "model.weights.h5": bytes(100)}),
        "found",
    ),
    "compressed zeros": (lambda: zlib.compress(bytes(10**6)), "found"),
    **{
        f"{format_}, cut at {share:.0%}": (
            lambda legacy=legacy, share=share: saved(state(), legacy)[: int(share * len(saved(state(), legacy)))],
            "found",
        )
        for format_, legacy in (("zip", False), ("legacy", True))
        for share in (0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99)
    },
}

OTHER_CASES: Cases = {
    **{f"archive: {name}": case for name, case in ARCHIVES.items()},
    **{f"safetensors: {name}": case for name, case in SAFETENSORS.items()},
    **{f"arrays: {name}": case for name, case in ARRAYS.items()},
    **{f"file: {name}": case for name, case in OTHERS.items()},
}
