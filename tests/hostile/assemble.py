"""Parts of hostile files: pickles operation by operation, archives entry by entry, lies in their records."""

import io
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

Cases = dict[str, tuple[Callable[[], bytes], str]]  # a file, and what its message says

OPENS = ""  # as the message: nothing is refused, and nothing happens
NO_DICTIONARY, EXCESS, DAMAGED, DEEP = (
    "expected a dictionary of tensors in",
    "far more than its own size",
    "damaged",
    "deep",
)


def state() -> dict[str, torch.Tensor]:
    """An `nn.LSTM(3 -> 4)` called `rnn`, the same every time."""
    torch.manual_seed(0)
    return {f"rnn.{name}": tensor for name, tensor in nn.LSTM(3, 4).state_dict().items()}


def saved(container: Any, legacy: bool = False) -> bytes:
    file = io.BytesIO()
    torch.save(container, file, _use_new_zipfile_serialization=not legacy)
    return file.getvalue()


# Pickles


def text(value: str) -> bytes:
    raw = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(raw)) + raw


def number(value: int) -> bytes:
    if -(2**31) <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw if len(raw) < 256 else b"\x8b" + struct.pack("<I", len(raw)) + raw


def named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def tupled(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def call(module: str, name: str, *arguments: bytes) -> bytes:
    return named(module, name) + tupled(*arguments) + b"R"


def dictionary(**items: bytes) -> bytes:
    return b"}(" + b"".join(text(key) + value for key, value in items.items()) + b"u"


def storage(key: str = "0", count: int = 16, kind: str = "FloatStorage", more: bytes = b"") -> bytes:
    fields = text("storage"), named("torch", kind), text(key), text("cpu"), number(count), more
    return tupled(*fields) + b"Q"


def tensor(
    shape: bytes | None = None, stride: bytes | None = None, offset: bytes | None = None, held: bytes | None = None
) -> bytes:
    """A float tensor of 16 numbers, or one that claims other things."""
    fields = (
        held if held is not None else storage(),
        offset if offset is not None else number(0),
        shape if shape is not None else tupled(number(16)),
        stride if stride is not None else tupled(number(1)),
    )
    return call("torch._utils", "_rebuild_tensor_v2", *fields, b"\x89", call("collections", "OrderedDict"))


def pairs(keys: list[bytes]) -> bytes:
    return b"}(" + b"".join(key + b"N" for key in keys) + b"u"


def array_state(shape: bytes, dtype: str = "f4", held: bytes = b"C\x10" + bytes(16)) -> bytes:
    made = call("numpy.core.multiarray", "_reconstruct", named("numpy", "ndarray"), tupled(number(0)), text("b"))
    kind = call("numpy", "dtype", text(dtype), b"\x89", b"\x88")
    kind += tupled(number(3), text("<"), b"N", b"N", b"N", number(-1), number(-1), number(0)) + b"b"
    return made + tupled(number(1), shape, kind, b"\x89", held) + b"b"


def pickled(body: bytes, protocol: int = 2) -> bytes:
    return b"\x80" + bytes([protocol]) + body + b"."


# Archives


def archive(body: bytes, data: dict[str, bytes] | None = None, **others: bytes) -> bytes:
    """A checkpoint whose pickle is this body, with one storage of 16 numbers, unless it says otherwise."""
    stored = {"0": bytes(64)} if data is None else data
    entries = {"data.pkl": pickled(body), **{f"data/{key}": raw for key, raw in stored.items()}, "version": b"3\n"}
    return zipped({f"archive/{name}": raw for name, raw in {**entries, **others}.items()})


def zipped(entries: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as written:
        for name, raw in entries.items():
            written.writestr(zipfile.ZipInfo(name), raw, method)
    return file.getvalue()


LOCAL, CENTRAL, END = b"PK\3\4", b"PK\1\2", b"PK\5\6"
FIELDS = {  # of a record: where it is written, and in which form
    (LOCAL, "flags"): (6, "<H"),
    (LOCAL, "method"): (8, "<H"),
    (LOCAL, "packed"): (18, "<I"),
    (LOCAL, "unpacked"): (22, "<I"),
    (CENTRAL, "flags"): (8, "<H"),
    (CENTRAL, "method"): (10, "<H"),
    (CENTRAL, "crc"): (16, "<I"),
    (CENTRAL, "packed"): (20, "<I"),
    (CENTRAL, "unpacked"): (24, "<I"),
    (CENTRAL, "disk"): (34, "<H"),
    (CENTRAL, "place"): (42, "<I"),
    (END, "disk"): (4, "<H"),
    (END, "here"): (8, "<H"),
    (END, "count"): (10, "<H"),
    (END, "size"): (12, "<I"),
    (END, "place"): (16, "<I"),
}


def lying(data: bytes, record: bytes, field: str, value: int, which: int = 0) -> bytes:
    """An archive whose record of a kind, the first or another, says something else."""
    place = -1
    for _ in range(which + 1):
        place = data.index(record, place + 1)
    offset, form = FIELDS[record, field]
    changed = bytearray(data)
    struct.pack_into(form, changed, place + offset, value)
    return bytes(changed)


def renamed(data: bytes, old: bytes, new: bytes, places: tuple[int, ...] = (0, 1)) -> bytes:
    """An archive in which a name is another of the same length, in its local header (0), its directory (1) or both."""
    assert len(old) == len(new)
    found, place = [], -1
    for _ in range(2):
        place = data.index(old, place + 1)
        found.append(place)
    changed = bytearray(data)
    for which in places:
        changed[found[which] : found[which] + len(old)] = new
    return bytes(changed)


# Other formats


def safetensors(header: str | bytes, data: bytes = bytes(8)) -> bytes:
    raw = header.encode("utf-8", "surrogatepass") if isinstance(header, str) else header
    return struct.pack("<Q", len(raw)) + raw + data


def npy(header: str, data: bytes = bytes(24), version: int = 1) -> bytes:
    raw = header.encode("latin-1")
    length = struct.pack("<H", len(raw)) if version == 1 else struct.pack("<I", len(raw))
    return b"\x93NUMPY" + bytes([version, 0]) + length + raw + data


def npy_claim(descr: str = "<f4", shape: str = "(2, 3)", fortran: str = "False", **others: Any) -> bytes:
    return npy(f"{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {shape}, }}", **others)
