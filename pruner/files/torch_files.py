"""Files of torch.save: zip archives, the legacy format before PyTorch 1.6, and what TorchScript saves in the same way."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from pruner.errors import PrunerError, shown
from pruner.files.allowance import Allowance, Excess, Malformed
from pruner.files.contents import WIDTHS, Contents, Name, Storage
from pruner.files.inert_pickle import Known, Unpickler
from pruner.files.known_names import KNOWN, STORAGES, TypedStorage
from pruner.files.modules import Constants, described
from pruner.files.zip_archive import Archive

TORCH_ZIP, TORCH_LEGACY, TORCH_SCRIPT, RAW_PICKLE = "torch zip", "torch legacy", "TorchScript", "raw pickle"

SAVE_WEIGHTS = "save the weights alone with torch.save(model.state_dict(), path) and open that file"

_MAGIC = bytes.fromhex("8a0a6cfc9c46f9206aa85019")  # pickled torch.serialization.MAGIC_NUMBER
_BIG_ENDIAN = b"big"
_MOST_CODE = 2**23  # bytes of the text of scripted classes that are looked into
_CONSTANT = re.compile(
    r"^  (batch_first|dropout|bidirectional) : Final\[\w+\] = (True|False|\d{1,9}\.?\d{0,20})$", re.MULTILINE
)


def is_legacy(data: memoryview) -> bool:
    return _MAGIC in bytes(data[:16])


def is_raw_pickle(data: memoryview) -> bool:
    """Protocols from 2 on say so; the older ones begin with a dictionary, or a name to call, and end with a stop."""
    starts = bytes(data[:2])
    new = starts[:1] == b"\x80" and starts[1:] in (b"\2", b"\3", b"\4", b"\5")
    return new or (starts[:1] in (b"(", b"}", b"c") and data[-1:] == b".")


def read_zip(archive: Archive, name: str) -> Contents:
    """A checkpoint in an archive, or a scripted module."""
    pickles = archive.ending_with("/data.pkl")
    if len(pickles) != 1:
        raise PrunerError(f"expected one checkpoint in an archive, found {len(pickles)} ({shown(pickles)}): {name}")
    archive.check(pickles[0])
    root = pickles[0].removesuffix("data.pkl")
    order = archive.entries.get(f"{root}byteorder")
    big_endian = order is not None and bytes(archive.stored(order.name)) == _BIG_ENDIAN
    scripted = f"{root}constants.pkl" in archive.entries
    storages: dict[str, TypedStorage] = {}

    def persistent(identity: Any) -> Any:
        if not isinstance(identity, tuple) or identity[:1] != ("storage",) or len(identity) != 5:
            raise Malformed("a persistent id that is no storage")
        _, kind, key, _, count = identity
        dtype = _dtype(kind)
        if type(key) is not str or dtype is None or type(count) is not int:
            raise Malformed("a storage of no known type")
        if key not in storages:
            data = archive.stored(f"{root}data/{key}")
            if count < 0 or len(data) < count * WIDTHS[dtype]:
                raise Malformed("a storage with less in it than it says")
            storages[key] = TypedStorage(Storage(data, big_endian), dtype, count)
        return storages[key]

    unpickler = Unpickler(archive.stored(pickles[0]), Allowance(archive.size), KNOWN_AND_NESTED, persistent)
    if scripted:
        return _loading(name, lambda: described(TORCH_SCRIPT, unpickler.load(), _constants(archive, root)))
    return _loading(name, lambda: described(TORCH_ZIP, unpickler.load()))


def _constants(archive: Archive, root: str) -> Constants:
    """What the text of a scripted class says of all its modules. The text is searched, never run."""
    left = _MOST_CODE

    def of(name: Name) -> dict[str, bool | float]:
        nonlocal left
        entry = archive.entries.get(f"{root}code/{name.module.replace('.', '/')}.py")
        if entry is None or entry.unpacked > left:
            return {}
        left -= entry.unpacked
        text = bytes(archive.unpacked(entry.name, _MOST_CODE)).decode("utf-8", "replace")
        body = text.partition(f"class {name.name}(Module):\n")[2].partition("\nclass ")[0]
        found = _CONSTANT.findall(body)
        return {key: value == "True" if value in ("True", "False") else float(value) for key, value in found}

    return of


def read_legacy(data: memoryview, name: str) -> Contents:
    """Five pickles (magic number, protocol, system, the object, the keys of its storages), then the storages."""
    return _loading(name, lambda: described(TORCH_LEGACY, _legacy(data, Allowance(len(data)), KNOWN_AND_NESTED)))


def read_raw_pickle(data: memoryview, name: str) -> Contents:
    """A pickle that torch.save did not write: of a dictionary of arrays or tensors, if it is to be of use."""

    def persistent(identity: Any) -> Any:
        raise Malformed("a storage that is not in the file")

    unpickler = Unpickler(data, Allowance(len(data)), KNOWN_AND_NESTED, persistent)
    return _loading(name, lambda: described(RAW_PICKLE, unpickler.load()))


def _legacy(data: memoryview, allowance: Allowance, known: Known) -> Any:
    storages: dict[str, TypedStorage] = {}

    def persistent(identity: Any) -> Any:
        if not isinstance(identity, tuple) or identity[:1] not in (("storage",), ("module",)):
            raise Malformed("a persistent id that is no storage")
        if identity[0] == "module":  # a class, with the file and the text of its source
            return identity[1]
        _, kind, key, _, count, *view = identity
        dtype = _dtype(kind)
        if type(key) is not str or dtype is None or type(count) is not int or not 0 <= count <= len(data):
            raise Malformed("a storage of no known type")
        if key not in storages:
            storages[key] = TypedStorage(Storage(memoryview(b"")), dtype, count)
        whole = storages[key]
        if view and view[0] is not None:
            _, offset, size = view[0]
            if not 0 <= offset <= offset + size <= whole.count:
                raise Malformed("a part of a storage that reaches out of it")
            return TypedStorage(whole.storage, dtype, size, offset)
        return whole

    unpickler = Unpickler(data, allowance, known, persistent)
    _, _, system = unpickler.load(), unpickler.load(), unpickler.load()
    found, keys = unpickler.load(), unpickler.load()
    big_endian = isinstance(system, dict) and system.get("little_endian") is False
    _fill(storages, keys, data[unpickler.place :], big_endian)
    return found


def _fill(storages: Mapping[str, TypedStorage], keys: Any, data: memoryview, big_endian: bool) -> None:
    """Say where in the bytes behind the pickles each storage lies: the number of its elements, then these."""
    if type(keys) is not list or not all(type(key) is str and key in storages for key in keys):
        raise Malformed("storages that nothing names")
    if len(set(keys)) != len(keys) or len(keys) != len(storages):
        raise Malformed("storages that are not there")
    place = 0
    for key in keys:
        held, size = storages[key], storages[key].count * WIDTHS[storages[key].dtype]
        count = int.from_bytes(data[place : place + 8], "big" if big_endian else "little")
        place += 8
        if count != held.count or place + size > len(data):
            raise Malformed("a storage with less in it than it says")
        held.storage.data, held.storage.big_endian = data[place : place + size], big_endian
        place += size


def _dtype(kind: Any) -> str | None:
    return STORAGES.get(kind.name) if isinstance(kind, Name) and kind.module.startswith("torch") else None


def _load_from_bytes(allowance: Allowance, arguments: tuple[Any, ...]) -> Any:
    """A file of torch.save within a pickle, which holds one storage."""
    data = arguments[0]
    if len(arguments) != 1 or not isinstance(data, (bytes, memoryview)) or not is_legacy(memoryview(data)):
        return NotImplemented
    allowance.spend(len(data))  # which may have to be copied, for each storage that is made of them
    return _legacy(memoryview(data), allowance, KNOWN)


KNOWN_AND_NESTED = {**KNOWN, ("torch.storage", "_load_from_bytes"): _load_from_bytes}


def _loading(name: str, load: Callable[[], Contents]) -> Contents:
    try:
        return load()
    except Malformed as error:
        raise PrunerError(
            f"expected a complete PyTorch checkpoint, found a truncated or damaged one: {name} ({shown(str(error))}); "
            "save or download it again"
        ) from error
    except (Excess, MemoryError) as error:
        raise PrunerError(
            f"expected a dictionary of tensors, found a pickle that asks for far more than its own size: {name}; "
            f"{SAVE_WEIGHTS}"
        ) from error
