"""Files that are whole and are not opened here: what each is, and the one thing that its owner can do."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NoReturn

from pruner.errors import PrunerError
from pruner.files.protobuf import MalformedMessage, Message

UNPACK = "unpack it and open the model inside"
OPENED = "open a PyTorch, safetensors, ONNX, Keras (.h5, .keras), .npz or JSON file with the weights"

_KERAS = "open the Keras model (.h5 or .keras) that it was made from, or save that with model.save('model.keras')"
_ONNX = "open the .onnx file that it was made from"
_STATE_DICT = "open the PyTorch or safetensors file that it was made from"
_JOBLIB = "load it where it was made, and save its arrays with numpy.savez under PyTorch's names"
_JOBLIB_HEAD = 4096  # bytes in which joblib is named
_DATA = "it holds no model; open the file with the network's weights instead"


@dataclass(frozen=True)
class Foreign:
    """A format: what to call it, what its owner can do, and how to tell it from the bytes of a file."""

    what: str
    remedy: str
    matches: Callable[[memoryview], bool]

    def __str__(self) -> str:
        return f"{self.what}; {self.remedy}"


def recognise(data: memoryview) -> Foreign | None:
    """The known format that some bytes are of; None if it is none of these."""
    return next((foreign for foreign in _FORMATS if foreign.matches(data)), None)


def decline(data: memoryview, name: str) -> NoReturn:
    """Say what a file is that is not opened. Raises PrunerError."""
    known = recognise(data) or f"bytes of no known format ({bytes(data[:8]).hex(' ')} …); {OPENED}"
    raise PrunerError(f"expected a checkpoint in {name}, found {known}")


def is_joblib(data: memoryview) -> bool:
    """Whether some bytes are joblib's mixture of a pickle and bare arrays, which is no pickle as a whole."""
    return bytes(data[:1]) == b"\x80" and b"joblib.numpy_pickle" in bytes(data[:_JOBLIB_HEAD])


def recognise_archive(entries: Iterable[str]) -> str:
    """What a zip archive of these entries is, and what its owner can do, if nothing here reads it."""
    entries = list(entries)
    for end, found in _ARCHIVES.items():
        if any(entry.endswith(end) for entry in entries):
            return found
    models = [entry for entry in entries if entry.endswith(_MODEL_ENDS)]
    listed = ", ".join(entry if len(entry) <= 60 else f"{entry[:60]}…" for entry in (models or entries)[:3])
    remedy = UNPACK if models else OPENED
    return f"a zip archive of other things ({listed or 'nothing'}); {remedy}"


def recognise_pickle(modules: Iterable[str]) -> str | None:
    """Whose a pickle without tensors is, by the modules that it names, and what its owner can do; None if unknown."""
    packages = {module.partition(".")[0] for module in modules}
    return next((found for package, found in _PICKLES.items() if package in packages), None)


def _begins(*marks: bytes, at: int = 0) -> Callable[[memoryview], bool]:
    return lambda data: any(bytes(data[at : at + len(mark)]) == mark for mark in marks)


def _ends(mark: bytes) -> Callable[[memoryview], bool]:
    return lambda data: bytes(data[-len(mark) :]) == mark


def _message(data: memoryview) -> Message | None:
    try:
        return Message(data)
    except MalformedMessage:
        return None


def _is_saved_model(data: memoryview) -> bool:
    """TensorFlow's SavedModel: a version of its schema, and graphs with their metadata."""
    message = _message(data)
    return message is not None and message.numbers == {1, 2} and _texts_are(message, 2, {1, 2, 3, 4, 5, 6, 7})


def _is_tensorflow_graph(data: memoryview) -> bool:
    """A frozen graph of TensorFlow: nodes, each with a name and an operation."""
    message = _message(data)
    return message is not None and message.numbers <= {1, 2, 3, 4, 5} and _texts_are(message, 1, {1, 2, 3, 4, 5, 6, 7})


def _is_core_ml(data: memoryview) -> bool:
    """A version, a description, and the model in a field of its kind."""
    message = _message(data)
    if message is None or not {1, 2} <= message.numbers:
        return False
    return len(message.numbers - {1, 2, 10}) == 1 and 200 <= max(message.numbers) <= 3000


def _is_caffe(data: memoryview) -> bool:
    message = _message(data)
    return (
        message is not None and 1 in message.numbers and bool({2, 100} & message.numbers) and 7 not in message.numbers
    )


def _texts_are(message: Message, number: int, numbers: set[int]) -> bool:
    """Whether a field holds messages, by the first of them."""
    try:
        inner = message.blocks(number)
        first = _message(inner[0]) if inner else None
    except MalformedMessage:
        return False
    return first is not None and bool(first.numbers) and first.numbers <= numbers


_FORMATS = (
    Foreign("a file of joblib", _JOBLIB, is_joblib),
    Foreign(
        "a file compressed with zlib (of joblib, perhaps)", _JOBLIB, _begins(b"x\x01", b"x\x5e", b"x\x9c", b"x\xda")
    ),
    Foreign("a gzip archive", UNPACK, _begins(b"\x1f\x8b")),
    Foreign("a bzip2 archive", UNPACK, _begins(b"BZh")),
    Foreign("an xz archive", UNPACK, _begins(b"\xfd7zXZ")),
    Foreign("a zstd archive", UNPACK, _begins(b"\x28\xb5\x2f\xfd")),
    Foreign("a 7z archive", UNPACK, _begins(b"7z\xbc\xaf\x27\x1c")),
    Foreign("a rar archive", UNPACK, _begins(b"Rar!")),
    Foreign("a tar archive", UNPACK, _begins(b"ustar", at=257)),
    Foreign(
        "a NumPy array",
        "open the file of the model instead, or a .npz of arrays under PyTorch's names",
        _begins(b"\x93NUMPY"),
    ),
    Foreign("a GGUF file", _STATE_DICT, _begins(b"GGUF")),
    Foreign("a GGML file", _STATE_DICT, _begins(b"lmgg", b"fmgg", b"tjgg")),
    Foreign("a TensorFlow Lite model", _KERAS, _begins(b"TFL3", at=4)),
    Foreign("a model in ONNX Runtime's own format", _ONNX, _begins(b"ORTM", at=4)),
    Foreign("an ExecuTorch program", _STATE_DICT, _begins(b"ET12", at=4)),
    Foreign("a TensorRT engine", _ONNX, _begins(b"ptrt", b"ftrt")),
    Foreign("an ncnn model", _ONNX, _begins(b"7767517")),
    Foreign(
        "an MXNet file of parameters",
        "save its arrays with numpy.savez under PyTorch's names",
        _begins(b"\x12\x01\0\0\0\0\0\0"),
    ),
    Foreign("a Kaldi model", "save its matrices with numpy.savez under PyTorch's names", _begins(b"\0B<", b"<Nnet")),
    Foreign(
        "a Torch7 (Lua) file",
        "save its tensors with numpy.savez under PyTorch's names",
        _begins(b"\x04\0\0\0\x01\0\0\0\x03\0\0\0V 1"),
    ),
    Foreign(
        "a DyNet file of parameters",
        "save its matrices with numpy.savez under PyTorch's names",
        _begins(b"#Parameter#", b"#LookupParameter#"),
    ),
    Foreign(
        "a fastText model",
        "it holds no LSTM; open the file with the network's weights instead",
        _begins(b"\xba\x16\x4f\x2f"),
    ),
    Foreign("a MATLAB file", "save its matrices with numpy.savez under PyTorch's names", _begins(b"MATLAB ")),
    Foreign("the index of a TensorFlow checkpoint", _KERAS, _ends(b"\x57\xfb\x80\x8b\x24\x75\x47\xdb")),
    Foreign("a TensorFlow SavedModel", _KERAS, _is_saved_model),
    Foreign("a frozen graph of TensorFlow", _KERAS, _is_tensorflow_graph),
    Foreign("a Core ML model", "open the PyTorch, Keras or ONNX model that it was converted from", _is_core_ml),
    Foreign("a Caffe model", "save its blobs with numpy.savez under PyTorch's names", _is_caffe),
    Foreign("a table of data (Parquet)", _DATA, _begins(b"PAR1")),
    Foreign("a picture", _DATA, _begins(b"\x89PNG", b"\xff\xd8\xff", b"GIF8")),
    Foreign("a PDF document", _DATA, _begins(b"%PDF")),
    Foreign("a Git LFS pointer", "fetch the file itself with 'git lfs pull'", _begins(b"version https://git-lfs")),
    Foreign("a web page or XML", "download the file itself, not the page that shows it", _begins(b"<")),
)

_MODEL_ENDS = (".pt", ".pth", ".ckpt", ".bin", ".safetensors", ".onnx", ".h5", ".keras", ".hdf5", ".pkl", ".json")
_ARCHIVES = {
    "serialized_exported_program.json": f"a program of torch.export (.pt2); {_STATE_DICT}",
    "archive_format": f"a program of torch.export (.pt2); {_STATE_DICT}",
    ".mlmodel": "a Core ML package; open the PyTorch, Keras or ONNX model that it was converted from",
    "saved_model.pb": f"a TensorFlow SavedModel; {_KERAS}",
    "policy.pth": f"an agent of Stable-Baselines3; {UNPACK} (policy.pth)",
    "MAR-INF/MANIFEST.json": f"an archive of TorchServe; {UNPACK}",
}
_PICKLES = {
    "madmom": "a madmom model, whose LSTMs are layers of its own; save their arrays with numpy.savez under PyTorch's names",
    "sklearn": f"an object of scikit-learn; {_DATA}",
    "xgboost": "a model of XGBoost; it holds no LSTM; open the file with the network's weights instead",
    "lightgbm": "a model of LightGBM; it holds no LSTM; open the file with the network's weights instead",
    "pandas": f"a table of pandas; {_DATA}",
    "keras": "a pickled Keras model; load it where it was made, and save it with model.save('model.keras')",
    "tensorflow": "a pickled TensorFlow model; load it where it was made, and save it with model.save('model.keras')",
    "joblib": f"a file of joblib; {_JOBLIB}",
}
