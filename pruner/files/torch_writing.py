"""A container of tensors -> a file of torch.save, its numbers written piece by piece.

`torch.save` wants every tensor at once. Here it writes the archive without them (`torch.serialization.skip_data`), and each
follows in its place when it is made, so that a model of any size takes the memory of one piece.
"""

import io
import pickle
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from pruner.errors import PrunerError, shown
from pruner.files.on_demand import Made, pieces_of
from pruner.files.source import open_source
from pruner.files.zip_archive import Archive, Entry

# Where a checksum stands: in an entry's record of the directory, and in what follows the entry's bytes.
_IN_DIRECTORY, _AFTER_BYTES = 16, 4


class TorchFile:
    """What will be the numbers of a file: `put` says what stands for a value in the container until they are written.

    >>> import tempfile
    >>> file = TorchFile()
    >>> twice = Made(torch.empty(3, device="meta"), lambda: 2 * torch.ones(3))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file.write({"twice": file.put(twice)}, Path(folder) / "made.pt")
    ...     torch.load(Path(folder) / "made.pt")
    {'twice': tensor([2., 2., 2.])}
    """

    def __init__(self) -> None:
        self._values: dict[int, Tensor | Made] = {}  # by the storage that stands for each
        self._standing: list[Tensor] = []  # they stay, so that no other storage takes the number of theirs

    def put(self, value: Tensor | Made) -> Tensor:
        """A contiguous tensor whose storage holds nothing else, as torch.save writes whole storages: the value itself if it
        is one, else one of its shape and type, whose memory nobody touches."""
        if isinstance(value, Tensor) and _alone(value):
            return value.detach()
        like = value.like if isinstance(value, Made) else value
        standing = torch.empty(like.shape, dtype=like.dtype)
        self._standing.append(standing)
        self._values[standing.untyped_storage()._cdata] = value
        return standing

    def write_empty(self, container: Any, path: Path) -> None:
        """Write the file at the size that it will have, without numbers. Raises what torch.save does: RuntimeError where
        there is no place for it, TypeError for values that it cannot write."""
        with torch.serialization.skip_data():
            torch.save(container, path)

    def write(self, container: Any, path: Path, after_each: Callable[[], None] = lambda: None) -> None:
        """Write the file, one storage after the other. Raises PrunerError where that cannot be."""
        try:
            self.write_empty(container, path)
        except (OSError, RuntimeError, TypeError) as error:
            raise PrunerError(
                f"expected a place to write {path.name} and values that torch.save can write, found {shown(str(error))}"
            ) from error
        storages = _storages(container)
        places = _places(path, len(storages))
        try:
            with path.open("r+b", buffering=0) as file:
                for storage, entry in zip(storages, places, strict=True):
                    value = self._values.get(storage._cdata)
                    _fill(file, entry, value if value is not None else torch.empty(0, dtype=torch.uint8).set_(storage))
                    after_each()
        except OSError as error:
            raise no_room(path) from error


def bytes_of(value: Tensor | Made) -> Iterator[memoryview]:
    """The bytes of a tensor, piece by piece."""
    for piece in pieces_of(value):
        yield piece.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def write_all(file: IO[bytes], data: memoryview) -> None:
    """One call of the system writes at most two gigabytes."""
    while len(data):
        data = data[file.write(data) :]


def no_room(path: Path) -> PrunerError:
    return PrunerError(f"expected a place to write {path.name}, found a full or failing disk; choose another place")


def _alone(tensor: Tensor) -> bool:
    return tensor.is_contiguous() and tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()


def _storages(container: Any) -> list[torch.UntypedStorage]:
    """All storages of a container in the order of torch.save, which numbers them as its pickler comes to them."""
    found: dict[int, torch.UntypedStorage] = {}

    class Pickler(pickle.Pickler):
        def persistent_id(self, met: Any) -> str | None:
            storage = met._untyped_storage if isinstance(met, torch.TypedStorage) else met
            if not isinstance(storage, torch.UntypedStorage):
                return None
            found.setdefault(storage._cdata, storage)
            return ""

    Pickler(io.BytesIO(), torch.serialization.DEFAULT_PROTOCOL).dump(container)
    return list(found.values())


def _places(path: Path, count: int) -> list[Entry]:
    """Where the storages lie in a file that torch.save wrote."""
    source = open_source(path)
    source.close()
    archive = Archive(source.data, path.name)
    (pickled,) = archive.ending_with("/data.pkl")
    return [archive.entries[f"{pickled.removesuffix('.pkl')}/{number}"] for number in range(count)]


def _fill(file: IO[bytes], entry: Entry, value: Tensor | Made) -> None:
    """Put the bytes of a storage in their place in the archive, and their checksum in both of its own."""
    checksum = 0
    file.seek(entry.start)
    for data in bytes_of(value):
        checksum = zlib.crc32(data, checksum)
        write_all(file, data)
    for place in (entry.start + entry.packed + _AFTER_BYTES, entry.listed + _IN_DIRECTORY):
        file.seek(place)
        write_all(file, memoryview(checksum.to_bytes(4, "little")))
