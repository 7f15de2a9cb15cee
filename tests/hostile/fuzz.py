"""Random damage to files of every kind: whatever is neither opened nor refused with a sentence is a find.

    python -m tests.hostile.fuzz --seconds 60 [--seed 0] [--finds FOLDER]

Bytes, records of archives, operations of pickles and headers of safetensors files are changed, one thing after another. Each
find is kept in the folder as a file, with the traceback beside it; it belongs into the cases once it is understood.
"""

import argparse
import contextlib
import hashlib
import io
import json
import pickle
import pickletools
import random
import resource
import struct
import sys
import time
import traceback
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import nn

from pruner import PrunerError, open_checkpoint
from pruner.calibration.array_files import read_inputs
from pruner.files import formats
from pruner.files.naming import named as named_tensors
from pruner.files.transport import receive, send
from tests.hostile.assemble import FIELDS, array_state, call, named, number, saved, state, storage, tensor, text, zipped
from tests.hostile.others import OTHER_CASES
from tests.hostile.pickled_tensors import PICKLES

SECONDS = 2.0  # that opening a small file may take
MOST_BYTES = 20_000  # of a file to start from
NUMBERS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 2**64 - 1)

Mutation = Callable[[bytes, random.Random], bytes]


def whole_files() -> dict[str, bytes]:
    """Small files of every kind, as they should be."""
    weights = state()
    arrays = {name: tensor.numpy() for name, tensor in weights.items()}
    npz = io.BytesIO()
    np.savez_compressed(npz, **arrays)
    module = nn.ModuleDict({"rnn": nn.LSTM(3, 4)})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        script = io.BytesIO()
        torch.jit.save(torch.jit.script(nn.Sequential(nn.LSTM(3, 4))), script)
        small = torch.ao.quantization.quantize_dynamic(module.eval(), {nn.LSTM}, dtype=torch.qint8)
        found = {
            "zip": saved(weights),
            "nested": saved({"epoch": 3, "state_dict": weights, "args": argparse.Namespace(hidden=4)}),
            "legacy": saved(weights, legacy=True),
            "module": saved(module),
            "legacy module": saved(module, legacy=True),
            "script": script.getvalue(),
            "quantized": saved(small.state_dict()),
            "safetensors": safetensors.torch.save(weights, {"author": "me"}),
            "npz": npz.getvalue(),
            "json": json.dumps({"state_dict": {name: array.tolist() for name, array in arrays.items()}}).encode(),
        }
    found |= {f"arrays {protocol}": pickle.dumps(arrays, protocol) for protocol in (0, 2, 4, 5)}
    found |= {f"tensors {protocol}": pickle.dumps(weights, protocol) for protocol in (0, 2, 5)}
    return found | _other_frameworks(arrays)


def hostile_files() -> list[bytes]:
    """The cases that are small."""
    made = (make() for make, _ in {**PICKLES, **OTHER_CASES}.values())
    return [data for data in made if len(data) < MOST_BYTES]


def _other_frameworks(arrays: dict[str, np.ndarray]) -> dict[str, bytes]:
    """Files of HDF5 and ONNX, where what writes them is installed."""
    found = {}
    with contextlib.suppress(ImportError):
        import h5py

        file = io.BytesIO()
        with h5py.File(file, "w") as written:
            for name, array in arrays.items():
                written.create_dataset(f"model_weights/lstm/{name}", data=array, compression="gzip")
        found["hdf5"] = file.getvalue()
    with contextlib.suppress(ImportError):
        from onnx import TensorProto, helper

        weights = [
            helper.make_tensor(name, TensorProto.FLOAT, shape, np.zeros(shape).ravel())
            for name, shape in (("W", (1, 16, 3)), ("R", (1, 16, 4)), ("B", (1, 32)))
        ]
        inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, (5, 1, 3))]
        outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, (5, 1, 1, 4))]
        node = helper.make_node("LSTM", ["x", "W", "R", "B"], ["y"], "rnn", hidden_size=4)
        found["onnx"] = helper.make_model(helper.make_graph([node], "g", inputs, outputs, weights)).SerializeToString()
    return found


# Mutations


def change_bytes(data: bytes, chance: random.Random) -> bytes:
    """A few bytes removed, added, repeated, or replaced by others that are telling."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4))):
        place = chance.randrange(len(changed) + 1)
        length = chance.choice((1, 2, 4, 8, 16, 64))
        what = chance.randrange(5)
        if what == 0:
            del changed[place : place + length]
        elif what == 1:
            changed[place:place] = chance.randbytes(length)
        elif what == 2:
            changed[place:place] = changed[place : place + length] * chance.choice((1, 2, 100))
        elif what == 3:
            form = chance.choice("BHIQ")
            width = struct.calcsize(f"<{form}")
            value = chance.choice(NUMBERS) % 2 ** (8 * width)
            changed[place : place + width] = struct.pack(f"<{form}", value)
        else:
            changed[place : place + length] = chance.randbytes(min(length, len(changed) - place))
    return bytes(changed)


def change_record(data: bytes, chance: random.Random) -> bytes:
    """A field of a record of a zip archive says something else."""
    (mark, _), (offset, form) = chance.choice(sorted(FIELDS.items()))
    places = [place for place in range(len(data)) if data.startswith(mark, place)]
    if not places:
        return change_bytes(data, chance)
    place, changed = chance.choice(places) + offset, bytearray(data)
    width = struct.calcsize(form)
    if place + width > len(changed):
        return data
    near = int.from_bytes(changed[place : place + width], "little") + chance.choice((-1, 1, 2, 46))
    value = chance.choice((near, *NUMBERS)) % 2 ** (8 * width)
    struct.pack_into(form, changed, place, value)
    return bytes(changed)


PARTS = (
    b"N", b"}", b"]", b")", b"(", b"t", b"R", b"b", b"s", b"u", b"e", b"a", b"0", b"2", b"Q", b"\x81", b"\x93", b"\x85",
    b"\x8f", b"\x90", b"\x91", b"\x88", b"h\0", b"q\0", b"h\1", b"q\1", b"\x94", b"1", b"l", b"d", b"o", b"\x92", b".",
    text("weight_hh_l0"), text("_modules"), text("\ud800"), text(""), number(-1), number(2**62), number(2**70), number(4),
    named("collections", "OrderedDict"), named("os", "system"), named("torch", "Size"), named("torch", "device"),
    named("torch._utils", "_rebuild_tensor_v2"), named("torch._utils", "_rebuild_parameter"),
    named("torch._utils", "_rebuild_qtensor"), named("torch._tensor", "_rebuild_from_type_v2"),
    named("torch.storage", "_load_from_bytes"), named("numpy.core.multiarray", "_reconstruct"),
    named("numpy.core.multiarray", "scalar"), named("numpy.core.numeric", "_frombuffer"), named("numpy", "dtype"),
    named("builtins", "set"), named("builtins", "dict"), named("_codecs", "encode"), named("collections", "Counter"),
    storage(), tensor(), array_state(b"K\4\x85"), call("torch", "ScriptObject"),
)  # fmt: skip


def change_operations(data: bytes, chance: random.Random) -> bytes:
    """Operations of the pickle in a file removed, repeated, moved or put in."""
    if data.startswith(b"PK"):
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
        except Exception:  # a damaged one, which may well be
            return change_bytes(data, chance)
        inner = [name for name in entries if name.endswith(".pkl")]
        if not inner:
            return change_bytes(data, chance)
        which = chance.choice(inner)
        return zipped({**entries, which: _changed_pickle(entries[which], chance)})
    return _changed_pickle(data, chance)


def _changed_pickle(data: bytes, chance: random.Random) -> bytes:
    places, stream = [], io.BytesIO(data)
    with contextlib.suppress(Exception):  # where it is damaged or ends, what came before it counts
        while True:  # a legacy file holds several
            for _, _, place in pickletools.genops(stream):
                places.append(place)
    if not places:
        return change_bytes(data, chance)
    operations = [data[start:end] for start, end in pairwise([*places, len(data)])]
    for _ in range(chance.choice((1, 1, 2, 3, 8))):
        place, other = chance.randrange(len(operations)), chance.randrange(len(operations))
        what = chance.randrange(6)
        if what == 0 and len(operations) > 1:
            del operations[place]
        elif what == 1:
            operations.insert(place, operations[other])
        elif what == 2:
            operations[place], operations[other] = operations[other], operations[place]
        elif what == 3:
            operations.insert(place, chance.choice(PARTS))
        elif what == 4:
            operations[place] = chance.choice(PARTS)
        else:
            operations[place:place] = operations[other : other + chance.randrange(1, 20)]
    return b"".join(operations)


VALUES = (
    None,
    True,
    -1,
    0,
    1,
    2**31,
    2**62,
    2**64,
    1.5,
    "",
    "F64",
    "\ud800",
    [],
    {},
    [0, 8],
    [2**62] * 3,
    [[]],
    {"a": {}},
)


def change_header(data: bytes, chance: random.Random) -> bytes:
    """A value in the header of a safetensors file, or a JSON file, is another."""
    start = 8 if data[8:9] == b"{" else 0
    length = int.from_bytes(data[:8], "little") if start else len(data)
    try:
        header = json.loads(data[start : start + length])
    except (ValueError, RecursionError):
        return change_bytes(data, chance)
    holder, depth = header, 0
    while isinstance(holder, (dict, list)) and holder and depth < 6:
        keys = list(holder) if isinstance(holder, dict) else range(len(holder))
        key = chance.choice(keys)
        if not isinstance(holder[key], (dict, list)) or chance.random() < 0.3:
            holder[key] = chance.choice(VALUES)
            break
        holder, depth = holder[key], depth + 1
    raw = json.dumps(header).encode()
    return (struct.pack("<Q", len(raw)) if start else b"") + raw + data[start + length :]


MUTATIONS: tuple[Mutation, ...] = (
    change_bytes,
    change_bytes,
    change_record,
    change_operations,
    change_operations,
    change_header,
)


@dataclass
class Report:
    """What came of a run."""

    inputs: int = 0
    opened: int = 0
    refused: int = 0
    slowest: float = 0.0
    finds: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        return (
            f"{self.inputs:,} inputs: {self.opened:,} opened, {self.refused:,} refused, {len(self.finds)} finds; "
            f"slowest {self.slowest:.2f} s, peak memory {peak} MiB"
        )


def open_every_way(data: bytes, inputs: bool) -> None:
    """Open a file as a model and send on what it holds, or as inputs."""
    if inputs:
        read_inputs(data, "file.csv" if data[:1] == b"#" else "file")
        return
    checkpoint = open_checkpoint(data, "file")
    checkpoint.contents()
    view, out = memoryview(bytearray(data)), io.BytesIO()
    contents = formats.read(view, "file")
    send(contents, view, out)
    there = named_tensors(receive(bytearray(out.getvalue()), view), len(data), "file")
    here = named_tensors(contents, len(data), "file")
    assert list(here.tensors) == list(there.tensors)
    if here.plain == there.plain:  # which a tuple within itself is not, once it was sent
        assert here.locations == there.locations


def check(data: bytes, report: Report, inputs: bool) -> str | None:
    """Open one input. Returns what is wrong with how it ended, if anything."""
    started = time.process_time()
    try:
        open_every_way(data, inputs)
        report.opened += 1
        wrong = None
    except PrunerError as error:
        report.refused += 1
        message = str(error)
        fine = message.startswith("expected ") and message.isprintable() and len(message) < 700
        wrong = None if fine else f"an odd message: {message[:1000]!r}"
    except BaseException:
        wrong = traceback.format_exc()
    seconds = time.process_time() - started
    report.slowest = max(report.slowest, seconds)
    return wrong or (f"{seconds:.1f} seconds" if seconds > SECONDS else None)


def fuzz(seconds: float, seed: int, finds: Path | None) -> Report:
    """Change and open files for so many seconds."""
    chance, report = random.Random(seed), Report()
    whole, hostile = list(whole_files().values()), hostile_files()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        data = chance.choice(whole if chance.random() < 0.8 else hostile)
        for _ in range(chance.choice((1, 1, 1, 2, 3))):
            data = chance.choice(MUTATIONS)(data, chance) if data else chance.randbytes(20)
        report.inputs += 1
        wrong = check(data, report, chance.random() < 0.1)
        if wrong:
            called = hashlib.sha256(data).hexdigest()[:16]
            report.finds.append(f"{called}: {wrong.strip().splitlines()[-1][:200]}")
            if finds is not None:
                (finds / called).write_bytes(data)
                (finds / f"{called}.txt").write_text(wrong)
    return report


def main() -> int:
    options = argparse.ArgumentParser(prog="python -m tests.hostile.fuzz")
    options.add_argument("--seconds", type=float, default=60)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--finds", type=Path, help="a folder for what neither opens nor is refused")
    given = options.parse_args()
    if given.finds is not None:
        given.finds.mkdir(parents=True, exist_ok=True)
    report = fuzz(given.seconds, given.seed, given.finds)
    print("\n".join([*report.finds, str(report)]))  # noqa: T201 - what it is for
    return 1 if report.finds else 0


if __name__ == "__main__":
    sys.exit(main())
