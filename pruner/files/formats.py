"""A file's bytes -> what they hold, without running anything that the file says.

The format is told from the bytes, never from the suffix. Every format has a reader of our own, which builds plain
containers, described tensors and stand-ins: nothing that a file names is imported or called.
"""

from collections.abc import Callable
from dataclasses import dataclass

from pruner.errors import PrunerError
from pruner.files import foreign, json_state, keras_files, numpy_files, onnx_graph, safetensors_file, torch_files
from pruner.files.contents import Contents
from pruner.files.foreign import OPENED as OPENED
from pruner.files.numpy_files import NPZ
from pruner.files.safetensors_file import SAFETENSORS as SAFETENSORS
from pruner.files.torch_files import RAW_PICKLE, TORCH_SCRIPT
from pruner.files.torch_files import SAVE_WEIGHTS as SAVE_WEIGHTS
from pruner.files.torch_files import TORCH_LEGACY as TORCH_LEGACY
from pruner.files.torch_files import TORCH_ZIP as TORCH_ZIP
from pruner.files.zip_archive import Archive

# What a manifest may call the format of a source.
ALL = (
    *(SAFETENSORS, TORCH_ZIP, TORCH_LEGACY, TORCH_SCRIPT, RAW_PICKLE, NPZ),
    *(keras_files.KERAS, keras_files.KERAS_H5, keras_files.HDF5, onnx_graph.ONNX, json_state.JSON),
)


@dataclass(frozen=True)
class Format:
    """How to tell a format from the bytes of a file, and how to read it: (the bytes, the file's name) -> its contents."""

    matches: Callable[[memoryview], bool]
    read: Callable[[memoryview, str], Contents]


def read_zip(data: memoryview, name: str) -> Contents:
    """Read a zip archive of one of the kinds in `ZIPPED`."""
    archive = Archive(data, name)
    for end, reader in ZIPPED.items():
        if archive.ending_with(end):
            return reader(archive, name)
    raise PrunerError(f"expected a checkpoint in {name}, found {foreign.recognise_archive(archive.entries)}")


# To add a format, write a module beside this one whose `read` returns Contents or raises PrunerError, and one line here; the
# first that matches is taken. For a kind of zip archive, add a line to `ZIPPED` instead: the end of an entry's name that
# only this kind has, and a reader of the open archive. Readers import neither torch nor anything that imports it, and
# libraries of their own when they are called. What they build must not take more than a few times the bytes that they read.
FORMATS = (
    Format(lambda data: bytes(data[:2]) == b"PK", read_zip),
    Format(torch_files.is_legacy, torch_files.read_legacy),
    Format(safetensors_file.is_safetensors, safetensors_file.read),
    Format(foreign.is_joblib, foreign.decline),
    Format(torch_files.is_raw_pickle, torch_files.read_raw_pickle),
    Format(keras_files.matches, keras_files.read_h5),
    Format(json_state.matches, json_state.read),
    Format(onnx_graph.matches, onnx_graph.read),
)
ZIPPED: dict[str, Callable[[Archive, str], Contents]] = {
    keras_files.WEIGHTS: keras_files.read_zip,
    "/data.pkl": torch_files.read_zip,
    ".npy": numpy_files.read_npz,
}


def read(data: bytes | memoryview, name: str) -> Contents:
    """Read the bytes of a checkpoint. Raises PrunerError for everything that is not a safe and complete one."""
    data = memoryview(data)
    if not data:
        raise PrunerError(f"expected a checkpoint, found an empty file: {name}; save or download it again")
    found = next((format_ for format_ in FORMATS if format_.matches(data)), None)
    return (found.read if found else foreign.decline)(data, name)
