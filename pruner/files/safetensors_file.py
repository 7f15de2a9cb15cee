"""Safetensors files: a length, a JSON header of names, types and places, then the numbers
(https://github.com/huggingface/safetensors#format)."""

import json
import math
import re
from collections.abc import Callable
from typing import Any

from pruner.errors import PrunerError, shown
from pruner.files.allowance import Allowance, Excess
from pruner.files.contents import WIDTHS, Contents, Storage, Stored, check_sizes, contiguous

SAFETENSORS = "safetensors"

_MAX_HEADER = 100_000_000  # the limit of the format itself
_MAX_ENTRY = 4096  # bytes of what the header says of one tensor
_DTYPES = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "U16": "uint16",
    "I16": "int16",
    "U32": "uint32",
    "I32": "int32",
    "U64": "uint64",
    "I64": "int64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
    "C64": "complex64",
}
DTYPES = {name: code for code, name in _DTYPES.items()}  # by what torch calls them
ALIGNMENT = 64  # of the first number in a file that is written here, in bytes
_SPACE = re.compile(r"[ \t\r\n]*")


class _Damaged(Exception):
    pass


def is_safetensors(data: memoryview) -> bool:
    return bytes(data[8:9]) == b"{"


def read(data: memoryview, name: str) -> Contents:
    """The tensors of a file, in the order in which they lie there. Raises PrunerError for one that is not complete."""
    length = int.from_bytes(data[:8], "little")
    if length > min(_MAX_HEADER, len(data) - 8):
        raise PrunerError(
            f"expected a safetensors header of {length:,} bytes, found {len(data) - 8:,} bytes left in the file: {name} "
            "is truncated or not a safetensors file; save or download it again"
        )
    try:
        entries, metadata = _read_header(bytes(data[8 : 8 + length]).decode("utf-8"), Allowance(len(data)))
        return Contents(SAFETENSORS, _tensors(entries, data[8 + length :]), metadata)
    except (_Damaged, ValueError, TypeError, Excess, RecursionError) as error:
        raise PrunerError(
            f"expected a complete safetensors file, found a damaged one: {name} ({shown(str(error))}); "
            "save or download it again"
        ) from error


def _read_header(text: str, allowance: Allowance) -> tuple[dict[str, Any], dict[str, str]]:
    """The header entry by entry, each of which is short: JSON at large can take many times the memory of its text."""
    entries: dict[str, Any] = {}
    metadata: dict[str, str] = {}

    def read_text(key: str, place: int) -> int:
        allowance.spend(300)
        metadata[key], place = _text(text, place)
        return place

    def read_entry(name: str, place: int) -> int:
        if name == "__metadata__":
            return _read_object(text, place, read_text)
        end = text.find("}", place, place + _MAX_ENTRY) + 1
        if not end or name in entries:
            raise _Damaged(f"{shown(name)} twice, or without end")
        allowance.spend(1000)
        entries[name] = json.loads(text[place:end])
        return _after_space(text, end)

    if text[_read_object(text, 0, read_entry) :]:
        raise _Damaged("more than a header")
    return entries, metadata


def _read_object(text: str, place: int, read_value: Callable[[str, int], int]) -> int:
    """Read a JSON object whose values `read_value(key, place)` reads; each returns the place of what follows."""
    place = _expect(text, place, "{")
    while text[place : place + 1] != "}":
        key, place = _text(text, place)
        place = read_value(key, _expect(text, place, ":"))
        if text[place : place + 1] != "}":
            place = _expect(text, place, ",")
    return _expect(text, place, "}")


def _text(text: str, place: int) -> tuple[str, int]:
    """A JSON string, and where what follows begins."""
    if text[place : place + 1] != '"':
        raise _Damaged("no name where one belongs")
    found, end = json.decoder.scanstring(text, place + 1)  # type: ignore[attr-defined]
    found.encode("utf-8")  # which half a character cannot be
    return found, _after_space(text, end)


def _expect(text: str, place: int, mark: str) -> int:
    if text[place : place + 1] != mark:
        raise _Damaged(f"no {mark!r} where one belongs")
    return _after_space(text, place + 1)


def _after_space(text: str, place: int) -> int:
    found = _SPACE.match(text, place)
    return found.end() if found else place


def _tensors(entries: dict[str, Any], data: memoryview) -> dict[str, Stored]:
    """The tensors, which must lie one after the other and fill the file."""
    ordered: list[tuple[int, int, str, Stored]] = []
    for name, entry in entries.items():
        if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
            raise _Damaged(f"{shown(name)} without dtype, shape and offsets")
        if not isinstance(entry["dtype"], str) or entry["dtype"] not in _DTYPES:
            raise _Damaged(f"{shown(name)} of the type {shown(entry['dtype'])}, which torch does not have")
        dtype, shape = _DTYPES[entry["dtype"]], check_sizes(tuple(entry["shape"]))
        start, end = check_sizes(tuple(entry["data_offsets"]))
        if end - start != math.prod(shape) * WIDTHS[dtype]:
            raise _Damaged(f"{shown(name)} of {end - start:,} bytes, which do not make its shape")
        ordered.append((start, end, name, Stored(Storage(data[start:end]), dtype, shape, contiguous(shape))))
    ordered.sort(key=lambda each: each[:2])
    place = 0
    for start, end, name, _ in ordered:
        if start != place:
            raise _Damaged(f"{shown(name)} not where the one before it ends")
        place = end
    if place != len(data):
        raise _Damaged(f"{len(data):,} bytes of numbers where its header names {place:,}")
    return {name: stored for _, _, name, stored in ordered}
