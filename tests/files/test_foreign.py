"""Files of other frameworks: each is called what it is, with the one thing its owner can do."""

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile

import joblib
import numpy as np
import pytest
from onnx import helper

from pruner.errors import PrunerError
from pruner.files.foreign import recognise_pickle
from pruner.files.opening import open_checkpoint


def field(number: int, data: bytes) -> bytes:
    """A short field of a message, as protocol buffers write it."""
    key = number << 3 | 2
    return (bytes([key]) if key < 128 else bytes([key & 127 | 128, key >> 7])) + bytes([len(data)]) + data


def tarred() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("model.pt"))
    return file.getvalue()


def zipped(*names: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(name, b"{}")
    return file.getvalue()


def dumped(compress: int) -> bytes:
    file = io.BytesIO()
    joblib.dump({"a": np.ones(100)}, file, compress=compress)
    return file.getvalue()


NODE = field(1, b"MatMul") + field(2, b"MatMul") + field(3, b"x")
FILES = {
    "joblib": (dumped(0), "a file of joblib; load it where it was made, and save its arrays"),
    "joblib, compressed": (dumped(3), "a file compressed with zlib (of joblib, perhaps); load it where it was made"),
    "gzip": (gzip.compress(b"model"), "a gzip archive; unpack it"),
    "bzip2": (bz2.compress(b"model"), "a bzip2 archive; unpack it"),
    "xz": (lzma.compress(b"model"), "an xz archive; unpack it"),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(9), "a zstd archive; unpack it"),
    "7z": (b"7z\xbc\xaf\x27\x1c" + bytes(9), "a 7z archive; unpack it"),
    "rar": (b"Rar!\x1a\x07" + bytes(9), "a rar archive; unpack it"),
    "tar": (tarred(), "a tar archive; unpack it"),
    "NumPy": (b"\x93NUMPY\x01\x00" + bytes(9), "a NumPy array; open the file of the model"),
    "GGUF": (b"GGUF\x03\x00\x00\x00", "a GGUF file; open the PyTorch or safetensors file that it was made from"),
    "GGML": (b"lmgg" + bytes(9), "a GGML file; open the PyTorch or safetensors file"),
    "TFLite": (b"\x1c\0\0\0TFL3" + bytes(99), "a TensorFlow Lite model; open the Keras model"),
    "ORT": (b"\x1c\0\0\0ORTM" + bytes(99), "a model in ONNX Runtime's own format; open the .onnx file"),
    "ExecuTorch": (b"\x1c\0\0\0ET12" + bytes(99), "an ExecuTorch program; open the PyTorch"),
    "TensorRT": (b"ptrt" + bytes(99), "a TensorRT engine; open the .onnx file"),
    "ncnn": (b"7767517\n75 83\n", "an ncnn model; open the .onnx file"),
    "MXNet": (b"\x12\x01\0\0\0\0\0\0" + bytes(99), "an MXNet file of parameters; save its arrays with numpy.savez"),
    "Kaldi": (b"\0B<Nnet3> ", "a Kaldi model; save its matrices"),
    "Torch7": (b"\x04\0\0\0\x01\0\0\0\x03\0\0\0V 1" + bytes(9), "a Torch7 (Lua) file; save its tensors"),
    "DyNet": (
        b"#Parameter# /vanilla-lstm-builder/_0 {16,3} 480 ZERO_GRAD\n0.1 0.2",
        "a DyNet file of parameters; save its matr",
    ),
    "fastText": (b"\xba\x16\x4f\x2f\x0c\0\0\0", "a fastText model; it holds no LSTM"),
    "MATLAB": (b"MATLAB 5.0 MAT-file, Platform: GLNXA64", "a MATLAB file; save its matrices"),
    "TensorFlow checkpoint": (
        bytes(99) + b"\x57\xfb\x80\x8b\x24\x75\x47\xdb",
        "the index of a TensorFlow checkpoint; open the",
    ),
    "SavedModel": (b"\x08\x01" + field(2, field(1, b"\x2a\x05serve")), "a TensorFlow SavedModel; open the Keras model"),
    "TensorFlow graph": (
        field(1, NODE) + field(1, NODE) + field(4, b"\x08\x1b"),
        "a frozen graph of TensorFlow; open the Keras",
    ),
    "Core ML": (
        b"\x08\x05" + field(2, b"") + field(500, b""),
        "a Core ML model; open the PyTorch, Keras or ONNX model",
    ),
    "Caffe": (field(1, b"lstm_net") + field(100, field(1, b"data")), "a Caffe model; save its blobs"),
    "Parquet": (b"PAR1" + bytes(9), "a table of data (Parquet); it holds no model"),
    "PNG": (b"\x89PNG\r\n\x1a\n", "a picture; it holds no model"),
    "PDF": (b"%PDF-1.7", "a PDF document; it holds no model"),
    "Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer; fetch the file"),
    "HTML": (b"<!DOCTYPE html><html></html>", "a web page or XML; download the file itself"),
    ".pt2": (zipped("m/archive_format", "m/models/model.json"), "a program of torch.export (.pt2); open the PyTorch"),
    "old .pt2": (zipped("serialized_exported_program.json"), "a program of torch.export (.pt2); open the PyTorch"),
    "mlpackage": (
        zipped("Manifest.json", "Data/model.mlmodel"),
        "a Core ML package; open the PyTorch, Keras or ONNX model",
    ),
    "zipped SavedModel": (zipped("m/saved_model.pb", "m/variables/x"), "a TensorFlow SavedModel; open the Keras model"),
    "agent": (zipped("data", "policy.pth"), "an agent of Stable-Baselines3; unpack it"),
    "TorchServe": (zipped("m.pt", "MAR-INF/MANIFEST.json"), "an archive of TorchServe; unpack it"),
    "zipped model": (zipped("readme.txt", "best.h5"), "a zip archive of other things (best.h5); unpack it"),
    "zip": (
        zipped("a.txt", "b.txt"),
        "a zip archive of other things (a.txt, b.txt); open a PyTorch, safetensors, ONNX",
    ),
    "empty zip": (zipped(), "a zip archive of other things (nothing); open a PyTorch"),
    "text": (b"my model", "bytes of no known format (6d 79 20 6d 6f 64 65 6c …); open a PyTorch, safetensors, ONNX"),
    "zeros": (bytes(100), "bytes of no known format (00 00 00 00 00 00 00 00 …); open a"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_file_is_called_what_it_is(case: str) -> None:
    data, what = FILES[case]
    with pytest.raises(PrunerError) as raised:
        open_checkpoint(data, "model.bin")
    message = str(raised.value)
    assert message.startswith(f"expected a checkpoint in model.bin, found {what}")
    assert not any(word in message for word in ("damaged", "torch.save"))


def test_an_onnx_model_is_not_taken_for_another_message() -> None:
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [], [])
    checkpoint = open_checkpoint(helper.make_model(graph).SerializeToString(), "model.onnx")
    assert (checkpoint.format, checkpoint.lstms) == ("ONNX", [])


@pytest.mark.parametrize(
    ("modules", "what"),
    [
        (["sklearn.preprocessing._data", "numpy"], "an object of scikit-learn; it holds no model"),
        (["madmom.ml.nn.layers"], "a madmom model, whose LSTMs are layers of its own; save their arrays"),
        (["joblib.numpy_pickle"], "a file of joblib; load it where it was made"),
        (["keras.src.models.sequential"], "a pickled Keras model; load it where it was made"),
        (["my.own.module"], None),
        ([], None),
    ],
)
def test_pickles_without_tensors_are_called_what_they_are(modules: list[str], what: str | None) -> None:
    found = recognise_pickle(modules)
    assert found is None if what is None else found is not None and found.startswith(what)
