"""The entries of a zip archive, found and read by bounds of our own.

Readers of zip archives disagree about hostile ones: which directory counts, whether names end at a NUL or differ by case,
whether sizes are believed. An archive that could be read in two ways is refused, so that what is checked is what is used.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from pruner.errors import PrunerError, shown

MAX_ENTRIES = 100_000

_STORED, _DEFLATED = 0, 8
_PART = 2**20  # bytes that are unpacked at once
_END = struct.Struct("<4sHHHHIIH")
_END_64 = struct.Struct("<4sQHHIIQQQQ")
_LOCATOR = struct.Struct("<4sIQI")
_CENTRAL = struct.Struct("<4sHHHHHHIIIHHHHHII")
_LOCAL = struct.Struct("<4sHHHHHIIIHH")
_ENCRYPTED = 1


class _Damaged(Exception):
    pass


@dataclass(frozen=True)
class Entry:
    """Where an entry's bytes lie in the archive, as they are packed there."""

    name: str
    method: int
    start: int
    packed: int
    unpacked: int  # as the directory claims
    crc: int
    listed: int  # where the directory lists it


class Archive:
    """The directory of a zip archive. Raises PrunerError for one that is damaged, ambiguous or has unsafe names."""

    def __init__(self, data: memoryview, name: str) -> None:
        self._data, self._name = data, name
        try:
            self.entries = _read_directory(data)
        except (_Damaged, struct.error) as error:
            raise PrunerError(
                f"expected a complete zip archive, found a truncated or damaged one: {name} ({error}); "
                "save or download it again"
            ) from error

    @property
    def size(self) -> int:
        return len(self._data)

    def ending_with(self, end: str) -> list[str]:
        """The names of the entries that end so."""
        return [name for name in self.entries if name.endswith(end)]

    def stored(self, entry: str) -> memoryview:
        """The bytes of an entry, in place. Raises PrunerError if it is not there or compressed."""
        found = self._find(entry)
        if found.method != _STORED:
            raise PrunerError(
                f"expected stored entries as torch.save writes them, found {shown(entry)} compressed, "
                f"{found.packed:,} bytes that unpack to {found.unpacked:,}: {self._name}; save it again with torch.save"
            )
        return self._data[found.start : found.start + found.packed]

    def unpacked(self, entry: str, most: int) -> memoryview:
        """The bytes of an entry, stored or deflated, whole. Raises PrunerError for more than `most`."""
        found = self._find(entry)
        if found.method == _STORED:
            return self._data[found.start : found.start + found.packed]
        return memoryview(b"".join(self.parts(entry, most)))

    def parts(self, entry: str, most: int) -> Iterator[bytes | memoryview]:
        """The bytes of an entry, stored or deflated, part by part. Raises PrunerError for more than `most`."""
        found = self._find(entry)
        if found.method not in (_STORED, _DEFLATED) or found.unpacked > most:
            raise PrunerError(
                f"expected stored or deflated entries of at most {most:,} bytes, found {shown(entry)} of "
                f"{found.unpacked:,}: {self._name}; save it again"
            )
        checksum, left = 0, found.unpacked
        for part in _stored_parts(self._data, found) if found.method == _STORED else self._inflated_parts(found):
            checksum, left = zlib.crc32(part, checksum), left - len(part)
            if left < 0:
                raise self._broken(entry)
            yield part
        if left or checksum != found.crc:
            raise self._broken(entry)

    def _inflated_parts(self, found: Entry) -> Iterator[bytes]:
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            for packed in _stored_parts(self._data, found):
                waiting: bytes | memoryview = packed
                while waiting and not inflater.eof:
                    yield inflater.decompress(waiting, _PART)
                    waiting = inflater.unconsumed_tail
            while not inflater.eof and (rest := inflater.decompress(b"", _PART)):
                yield rest
        except zlib.error as error:
            raise self._broken(found.name) from error
        if not inflater.eof:
            raise self._broken(found.name)

    def check(self, entry: str) -> None:
        """Compare an entry's bytes with its checksum, which reads them all."""
        if zlib.crc32(self.stored(entry)) != self._find(entry).crc:
            raise self._broken(entry)

    def _find(self, entry: str) -> Entry:
        if entry not in self.entries:
            raise PrunerError(
                f"expected an entry {shown(entry)} in the archive, found none: {self._name} is truncated or damaged; "
                "save or download it again"
            )
        return self.entries[entry]

    def _broken(self, entry: str) -> PrunerError:
        return PrunerError(
            f"expected a complete entry {shown(entry)}, found a truncated or damaged one: {self._name}; "
            "save or download it again"
        )


def _stored_parts(data: memoryview, found: Entry) -> Iterator[memoryview]:
    for place in range(found.start, found.start + found.packed, _PART):
        yield data[place : min(place + _PART, found.start + found.packed)]


def _read_directory(data: memoryview) -> dict[str, Entry]:
    count, start, end = _locate(data)
    if count > MAX_ENTRIES:
        raise _Damaged(f"{count:,} entries, more than {MAX_ENTRIES:,}")
    entries: dict[str, Entry] = {}
    folded, spans = set(), []
    for entry, header in _entries(data, count, start, end):
        _check_name(entry.name)
        if entry.name.casefold() in folded:
            raise _Damaged(f"two entries called {shown(entry.name)}, whatever the case")
        folded.add(entry.name.casefold())
        entries[entry.name] = entry
        spans.append((header, entry.start + entry.packed))
    spans.sort()
    if any(end > after for (_, end), (after, _) in pairwise(spans)):
        raise _Damaged("entries that overlap")
    return entries


def _locate(data: memoryview) -> tuple[int, int, int]:
    """(number of entries, start and end of the directory), which must end where the records about it begin.

    The layout is that of torch.save and of zipfile: an end record without a comment, before it the two of zip64, if any.
    """
    place = len(data) - _END.size
    mark, disk, first, here, count, size, start, comment = _END.unpack(data[max(place, 0) :])
    if mark != b"PK\5\6" or disk or first or here != count or comment:
        raise _Damaged("no directory at its end")
    locator = place - _LOCATOR.size
    if locator >= 0 and data[locator : locator + 4] == b"PK\6\7":
        _, _, record, _ = _LOCATOR.unpack(data[locator:place])
        place = locator - _END_64.size
        if record != place:
            raise _Damaged("two directories")
        mark, _, _, _, disk, first, here, count_64, size_64, start_64 = _END_64.unpack(data[place:locator])
        short = (count, 0xFFFF, count_64), (size, 0xFFFFFFFF, size_64), (start, 0xFFFFFFFF, start_64)
        if mark != b"PK\6\6" or disk or first or here != count_64 or any(old not in new for old, *new in short):
            raise _Damaged("two directories")
        count, size, start = count_64, size_64, start_64
    if start + size != place:
        raise _Damaged("its directory is not where it says")
    return count, start, place


def _entries(data: memoryview, count: int, place: int, end: int) -> Iterator[tuple[Entry, int]]:
    """Each entry of the directory, and the place of its own header."""
    directory = place
    for _ in range(count):
        listed = place
        fields = _CENTRAL.unpack(data[place : place + _CENTRAL.size])
        mark, _, _, flags, method, _, _, crc, packed, unpacked, name_length, extra, comment = fields[:13]
        header = fields[-1]
        place += _CENTRAL.size
        raw = bytes(data[place : place + name_length])
        more = bytes(data[place + name_length : place + name_length + extra])
        place += name_length + extra + comment
        if mark != b"PK\1\2" or place > end or flags & _ENCRYPTED:
            raise _Damaged("an entry that is none, or is encrypted")
        unpacked, packed, header = _long_fields(more, unpacked, packed, header)
        local = _LOCAL.unpack(data[header : header + _LOCAL.size])
        start = header + _LOCAL.size + local[-2] + local[-1]
        own = bytes(data[header + _LOCAL.size : header + _LOCAL.size + local[-2]])
        if local[0] != b"PK\3\4" or own != raw or local[3] != method:
            raise _Damaged("an entry that differs from the directory")
        if start + packed > directory or (method == _STORED and packed != unpacked):
            raise _Damaged("an entry larger than the archive")
        yield Entry(raw.decode("utf-8", "surrogateescape"), method, start, packed, unpacked, crc, listed), header
    if place != end:
        raise _Damaged("more entries than its directory counts")


def _long_fields(extra: bytes, *fields: int) -> list[int]:
    """Sizes and places, those of zip64 where the short ones are full."""
    place, long = 0, b""
    while place + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, place)
        if kind == 1:
            long = extra[place + 4 : place + 4 + length]
        place += 4 + length
    found = []
    for field in fields:
        if field == 0xFFFFFFFF:
            if len(long) < 8:
                raise _Damaged("an entry without a size")
            field, long = int.from_bytes(long[:8], "little"), long[8:]
        found.append(field)
    return found


def _check_name(name: str) -> None:
    parts = name.replace("\\", "/").split("/")
    if "\0" in name or not parts[0] or ".." in parts:
        raise _Damaged(f"an entry of the unsafe name {shown(name)}")
