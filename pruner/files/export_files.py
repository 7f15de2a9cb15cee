"""The files of an export, read back within bounds: masks, and a zip of all of them."""

from collections.abc import Collection
from pathlib import Path

from torch import Tensor

from pruner.errors import PrunerError, label
from pruner.files import safetensors_file
from pruner.files.materialise import Materialiser
from pruner.files.source import open_source
from pruner.files.zip_archive import Archive


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a `.safetensors` file. Raises PrunerError for a damaged one."""
    source = open_source(path, wanted="a file of an export")
    source.close()
    materialiser = Materialiser(path.name)
    found = safetensors_file.read(source.data, path.name).container
    return {name: materialiser.tensor(stored) for name, stored in found.items()}


def unpack(path: Path, folder: Path, names: Collection[str], ratio: int) -> None:
    """Unpack a zip of files of these names into a folder. Raises PrunerError for one of others, or one that unpacks to more
    than `ratio` times its size."""
    try:
        source = open_source(path, wanted="a file of an export")
        source.close()
        archive = Archive(source.data, label(str(path)))
    except PrunerError as error:
        raise _no_export(path, error) from error
    if others := archive.entries.keys() - set(names):
        raise PrunerError(
            f"expected the zip of an export, found {label(min(others))!r} in {path}; give the folder or the zip that was "
            "exported"
        )
    most = ratio * source.size
    if sum(entry.unpacked for entry in archive.entries.values()) > most:
        raise PrunerError(f"expected the zip of an export, found one that unpacks to far more: {path}; export it again")
    for name in archive.entries:
        with (folder / name).open("wb") as file:
            try:
                file.writelines(archive.parts(name, most))
            except PrunerError as error:
                raise _no_export(path, error) from error


def _no_export(path: Path, reason: PrunerError) -> PrunerError:
    return PrunerError(f"expected an export folder or its zip, found neither: {path}; check the path ({reason})")
