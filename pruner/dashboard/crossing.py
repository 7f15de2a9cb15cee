"""Objects that cross from one process to another and back, over a socket.

What cannot be changed (frozen dataclasses, files) crosses once: what the other side has already is only named. So a result
that comes back does not bring the model along that it was made from, it holds the one that is there. Tensors cross as they
lie in memory, those of a CUDA device as tensors of the CPU; of a mapped file its descriptor crosses, and both sides map it.
"""

import io
import pickle
import select
import socket
import struct
import threading
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from pruner.files.source import Source, mapped_again

_LENGTHS = struct.Struct("!QQQ")  # of the pickle, how many blobs stand before it, and how many descriptors follow
_LENGTH = struct.Struct("!Q")  # of a blob

Name = tuple[bool, int]  # of what has crossed: whether it came from here, and its number


class Channel:
    """One end of a socket to a process of our own. Several threads may send, one receives."""

    def __init__(self, stream: socket.socket) -> None:
        self._socket, self._lock = stream, threading.Lock()
        self._crossed = _Crossed()

    def send(self, message: object, descriptor: int | None = None) -> None:
        """Send anything that pickles, perhaps with an open file. Raises OSError where nobody is there any more."""
        with self._lock:
            pickled, blobs, files = self._crossed.dump(message)
            lengths = b"".join(_LENGTH.pack(len(blob)) for blob in blobs)
            header = _LENGTHS.pack(len(pickled), len(blobs), len(files)) + lengths
            for part in (memoryview(header), *blobs, pickled):
                self._socket.sendall(part)
            for file in files:
                socket.send_fds(self._socket, [b"-"], [file])
            if descriptor is not None:
                socket.send_fds(self._socket, [b"-"], [descriptor])

    def receive(self) -> Any:
        """Wait for the next message. Raises EOFError where there will be none."""
        size, count, files = _LENGTHS.unpack(_bytes(self._read(_LENGTHS.size)))
        lengths = [_LENGTH.unpack(_bytes(self._read(_LENGTH.size)))[0] for _ in range(count)]
        blobs = [self._read(length) for length in lengths]
        pickled = self._read(size)
        descriptors = [self.receive_descriptor() for _ in range(files)]
        with self._lock:
            return self._crossed.load(pickled, blobs, descriptors)

    def receive_descriptor(self) -> int:
        """An open file that comes with the message just received."""
        _, (descriptor,), *_ = socket.recv_fds(self._socket, 1, 1)
        return descriptor

    def waits(self, seconds: float) -> bool:
        """Whether a message, or the end, comes within so many seconds."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(1000 * seconds))

    def hang_up(self) -> None:
        """Both sides then read the end, the other one as it does when this process dies."""
        with suppress(OSError):  # the other side is gone
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.hang_up()
        self._socket.close()

    def _read(self, size: int) -> Tensor:
        """(size,) uint8."""
        found = torch.empty(size, dtype=torch.uint8)
        rest = _bytes(found)
        while rest:
            try:
                read = self._socket.recv_into(rest)
            except OSError as error:
                raise EOFError from error
            if not read:
                raise EOFError
            rest = rest[read:]
        return found


class _Crossed:
    """What has crossed in either direction, held as long as the channel is, so that a name stands for one thing."""

    def __init__(self) -> None:
        self._blobs: dict[Name, Tensor] = {}  # (bytes,) uint8
        self._objects: dict[Name, Any] = {}
        self._places: dict[tuple[int, int], Name] = {}  # address and length of a blob
        self._files: list[Name] = []  # blobs of whole files, which tensors may be parts of
        self._names: dict[int, Name] = {}  # of objects by their ids
        self._descriptors: list[int] = []  # that are sent with this message, or came with it
        self._counts = {"blobs": 0, "objects": 0, "files": 0, "received": 0}  # sent from here, but for the last

    def dump(self, message: object) -> tuple[memoryview, list[memoryview], list[int]]:
        """The pickle of a message, and the bytes and open files that must be there before it is read."""
        pickled, first = io.BytesIO(), self._counts["blobs"]
        self._descriptors = []
        _Pickler(self, pickled).dump(message)
        new = [self._blobs[True, number] for number in range(first, self._counts["blobs"])]
        return pickled.getbuffer(), [_bytes(blob) for blob in new], self._descriptors

    def load(self, pickled: Tensor, blobs: list[Tensor], descriptors: list[int]) -> Any:
        self._descriptors = descriptors
        for blob in blobs:
            self._hold((False, self._counts["received"]), blob)
            self._counts["received"] += 1
        return _Unpickler(self, io.BytesIO(_bytes(pickled))).load()

    def _hold(self, name: Name, blob: Tensor) -> None:
        self._blobs[name] = blob
        self._places[blob.data_ptr(), len(blob)] = name

    def place(self, blob: Tensor, whole_file: bool = False) -> tuple[Name, int, int]:
        """The name of the blob that holds these bytes, sent with this message if need be, where in it, and how many."""
        start, length = blob.data_ptr(), len(blob)
        for file in self._files:
            offset = start - self._blobs[file].data_ptr()
            if offset >= 0 and offset + length <= len(self._blobs[file]):
                return file, offset, length
        name = self._places.get((start, length))
        if name is None or not length:
            name = True, self._counts["blobs"]
            self._counts["blobs"] += 1
            self._hold(name, blob)
        if whole_file:
            self._files.append(name)
        return name, 0, length

    def share(self, source: Source, descriptor: int) -> tuple[Name, int]:
        """The name of a file that both sides map, and the place of its descriptor among those that are sent along."""
        self._counts["files"] += 1
        self._descriptors.append(descriptor)
        return self._map((True, -self._counts["files"]), source), len(self._descriptors) - 1

    def shared(self, name: Name, place: int) -> Source:
        """The same file on the other side."""
        source = mapped_again(self._descriptors[place])
        self._map(_turned(name), source)
        return source

    def _map(self, name: Name, source: Source) -> Name:
        self._hold(name, _as_tensor(source.data))
        self._files.append(name)
        return name

    def bytes_at(self, name: Name, offset: int, length: int) -> Tensor:
        """What the other side has placed."""
        return _as_tensor(_bytes(self._blobs[_turned(name)])[offset : offset + length])

    def file_at(self, name: Name, offset: int, length: int) -> memoryview:
        """The same of a whole file."""
        if _turned(name) not in self._files:
            self._files.append(_turned(name))
        return _bytes(self.bytes_at(name, offset, length))

    def name(self, known: object) -> tuple[Name, bool]:
        """The name of an object, and whether it is new."""
        if id(known) in self._names:
            return self._names[id(known)], False
        name = True, self._counts["objects"]
        self._counts["objects"] += 1
        self._know(name, known)
        return name, True

    def _know(self, name: Name, known: object) -> None:
        self._objects[name], self._names[id(known)] = known, name

    def object(self, name: Name) -> Any:
        return self._objects[_turned(name)]

    def make(self, name: Name, made: Any, state: dict[str, Any]) -> Any:
        """An object that comes for the first time, with its state."""
        made.__dict__.update(state)
        self._know(_turned(name), made)
        return made


class _Pickler(pickle.Pickler):
    def __init__(self, crossed: _Crossed, file: io.BytesIO) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self._crossed = crossed

    def persistent_id(self, found: Any) -> tuple[Any, ...] | None:
        if isinstance(found, torch.storage.TypedStorage):
            storage = found._untyped_storage.cpu()
            return "storage", self._crossed.place(torch.empty(0, dtype=torch.uint8).set_(storage)), found.dtype
        if isinstance(found, memoryview):
            return "bytes", self._crossed.place(_as_tensor(found), whole_file=True)
        if _stays_as_it_is(found):
            name, new = self._crossed.name(found)
            if not new:
                return "known", name
            if isinstance(found, Source) and found.descriptor is not None:
                return "mapped", name, _facts(found), *self._crossed.share(found, found.descriptor)
            return "new", name, type(found), found.__dict__
        return None


class _Unpickler(pickle.Unpickler):
    def __init__(self, crossed: _Crossed, file: io.BytesIO) -> None:
        super().__init__(file)
        self._crossed = crossed

    def persistent_load(self, told: tuple[Any, ...]) -> Any:
        match told:
            case "storage", place, dtype:
                storage = self._crossed.bytes_at(*place).untyped_storage()
                return torch.storage.TypedStorage(wrap_storage=storage, dtype=dtype, _internal=True)
            case "bytes", place:
                return self._crossed.file_at(*place)
            case "new", name, kind, state:
                return self._crossed.make(name, object.__new__(kind), state)
            case "mapped", name, state, file, place:
                return self._crossed.make(name, self._crossed.shared(file, place), state)
            case "known", name:
                return self._crossed.object(name)


def _turned(name: Name) -> Name:
    """A name as the other side has it."""
    return not name[0], name[1]


def _as_tensor(data: memoryview) -> Tensor:
    """(bytes,) uint8, of the same memory, in a storage of its own."""
    return torch.frombuffer(data, dtype=torch.uint8) if len(data) else torch.empty(0, dtype=torch.uint8)


def _bytes(blob: Tensor) -> memoryview:
    array: Any = blob.numpy()
    return memoryview(array)


def _stays_as_it_is(found: object) -> bool:
    declared: Any = getattr(type(found), "__dataclass_params__", None)
    return isinstance(found, Source) or (declared is not None and declared.frozen and hasattr(found, "__dict__"))


def _facts(source: Source) -> dict[str, Any]:
    """What else is known of a mapped file."""
    return {name: value for name, value in vars(source).items() if name not in ("data", "descriptor", "file")}
