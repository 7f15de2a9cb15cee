"""Formats: what is read, whatever its suffix says, and what is refused with one clear sentence."""

import argparse
import bz2
import gzip
import io
import json
import lzma
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from pruner.errors import PrunerError
from pruner.files import formats
from pruner.files.opening import open_checkpoint
from tests.helpers.files import SAVERS, Payload, entries_of, saved, saved_legacy, zipped
from tests.helpers.models import named, random_lstm

TENSORS = named(random_lstm())


def tarred(data: bytes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        entry = tarfile.TarInfo("model.pt")
        entry.size = len(data)
        archive.addfile(entry, io.BytesIO(data))
    return file.getvalue()


def one_tensor(dtype: str = "F32", size: int = 8, offsets: tuple[int, int] = (0, 8), **others: Any) -> bytes:
    """A safetensors file, right or wrong, of a tensor with two numbers."""
    header = json.dumps({"a": {"dtype": dtype, "shape": [2], "data_offsets": offsets}, **others}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(size)


def compressed_method(data: bytes, method: int) -> bytes:
    """A zip archive that calls its first entry compressed, though it is not."""
    changed = bytearray(data)
    changed[data.index(b"PK\x03\x04") + 8] = method
    changed[data.index(b"PK\x01\x02") + 10] = method
    return bytes(changed)


class RolloutStorage:
    """A class of the kind that reinforcement learners save, with a name like those of torch's own."""


REFUSED = {
    "nothing": (b"", "an empty file"),
    "zeros": (bytes(100), "bytes of no known format"),
    "noise": (np.random.default_rng(0).bytes(1000), "bytes of no known format"),
    "text": (b"my model", "bytes of no known format"),
    "half a raw pickle": (pickle.dumps({"a": 1})[:-3], "a truncated or damaged one"),
    "a pickle of nothing to look at": (pickle.dumps(argparse.Namespace()), "an object of 'argparse.Namespace'"),
    "tar": (tarred(saved(TENSORS)), "a tar archive; unpack it"),
    "gzip": (gzip.compress(saved(TENSORS)), "a gzip archive; unpack it"),
    "bzip2": (bz2.compress(saved(TENSORS)), "a bzip2 archive; unpack it"),
    "xz": (lzma.compress(saved(TENSORS)), "an xz archive; unpack it"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "expected a complete HDF5 file"),
    "NumPy": (b"\x93NUMPY\x01\x00", "a NumPy array"),
    "GGUF": (b"GGUF\x03\x00\x00\x00", "a GGUF file"),
    "HTML": (b"<!DOCTYPE html><html></html>", "a web page"),
    "Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer"),
    "an empty zip archive": (zipped(), "a zip archive of other things (nothing)"),
    "two pickles": (zipped(("a/data.pkl", b""), ("b/data.pkl", b"")), "one checkpoint in an archive, found 2"),
    "an object": (saved(argparse.Namespace()), "an object of 'argparse.Namespace'"),
    "an object, legacy": (saved_legacy(argparse.Namespace()), "an object of 'argparse.Namespace'"),
    "an object called storage": (saved(RolloutStorage()), "an object of 'tests.files.test_formats.RolloutStorage'"),
    "an object of a long name": (zipped(("a/data.pkl", b"c" + b"a" * 1000 + b"\nb\n)R.")), "an object of 'aaa"),
    "a damaged pickle": (zipped(("a/data.pkl", b"\x80\x02}\xff"), ("a/version", b"3\n")), "a truncated or damaged one"),
    "a zip bomb": (zipped(("a/data.pkl", bytes(10**7)), method=zipfile.ZIP_DEFLATED), "that unpack to 10,000,000"),
    "a zip entry called deflated": (compressed_method(saved(TENSORS), zipfile.ZIP_DEFLATED), "expected stored entries"),
    "a zip entry called bzip2": (compressed_method(saved(TENSORS), zipfile.ZIP_BZIP2), "expected stored entries"),
    "a zip entry called LZMA": (compressed_method(saved(TENSORS), zipfile.ZIP_LZMA), "expected stored entries"),
    "a zip archive without data": (
        zipped(*((name, data) for name, data in entries_of(saved(TENSORS)).items() if "/data/" not in name)),
        "found none",
    ),
    "a zip archive with short data": (
        zipped(
            *((name, data[:100] if "/data/" in name else data) for name, data in entries_of(saved(TENSORS)).items())
        ),
        "a truncated or damaged one",
    ),
    "a long safetensors header": (struct.pack("<Q", 2**63) + b"{}", "a safetensors header of 9,223,372"),
    "a safetensors header without end": (struct.pack("<Q", 8) + b"{" + bytes(7), "a damaged one"),
    "a deep safetensors header": (struct.pack("<Q", 10**5) + b'{"a":' + b"[" * 10**5, "a damaged one"),
    "a safetensors list": (struct.pack("<Q", 1) + b"{", "a damaged one"),
    "an unknown dtype": (one_tensor("F33"), "a damaged one"),
    "an unknown dtype of a long name": (one_tensor("F" * 1000), "a damaged one"),
    "a dtype that torch lacks": (one_tensor("F6_E2M3", 2, (0, 2)), "which torch does not have"),
    "missing safetensors data": (one_tensor(size=7), "a damaged one"),
    "more safetensors data than named": (one_tensor(size=9), "a damaged one"),
    "offsets past the end": (one_tensor(offsets=(8, 16)), "a damaged one"),
    "overlapping tensors": (
        one_tensor(size=12, b={"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}),
        "a damaged one",
    ),
    "metadata of numbers": (one_tensor(__metadata__={"epoch": 3}), "a damaged one"),
}


@pytest.mark.parametrize("name", ["model.pt", "model.safetensors", "model.tar"])
@pytest.mark.parametrize("kind", SAVERS)
def test_the_format_is_told_from_the_bytes(kind: str, name: str) -> None:
    checkpoint = open_checkpoint(SAVERS[kind](TENSORS), name)
    assert (checkpoint.format, checkpoint.metadata) == (kind, {})
    assert checkpoint.tensors.keys() == TENSORS.keys()
    assert all(torch.equal(checkpoint.tensors[key], TENSORS[key]) for key in TENSORS)


@pytest.mark.parametrize("save", [saved, saved_legacy])
def test_containers_come_back_as_they_were_saved(save: Callable[[Any], bytes]) -> None:
    state = nn.LSTM(3, 4).state_dict()
    container = formats.read(save({"epoch": 3, "net": state, "betas": [(0.9, 0.99)], 7: None}), "model.pt").container
    assert list(container) == ["epoch", "net", "betas", 7]
    assert (container["epoch"], container["betas"], container[7]) == (3, [(0.9, 0.99)], None)
    assert type(container["net"]) is type(state)
    assert container["net"]._metadata == state._metadata


def test_safetensors_metadata_is_read() -> None:
    data = safetensors.torch.save(TENSORS, metadata={"author": "me"})
    assert formats.read(data, "model.safetensors").metadata == {"author": "me"}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int8], ids=str)
@pytest.mark.parametrize("kind", SAVERS)
def test_dtypes_are_kept(kind: str, dtype: torch.dtype) -> None:
    tensors = open_checkpoint(SAVERS[kind]({"a": torch.ones(3, dtype=dtype)}), "model").tensors
    assert tensors["a"].dtype == dtype
    assert tensors["a"].tolist() == [1, 1, 1]


@pytest.mark.parametrize(("data", "found"), REFUSED.values(), ids=REFUSED)
def test_other_files_are_refused_with_what_was_found(data: bytes, found: str) -> None:
    with pytest.raises(PrunerError) as caught:
        open_checkpoint(data, "my model.pt")
    message = str(caught.value)
    assert message.startswith("expected ")
    assert found in message
    assert "my model.pt" in message
    assert message.isprintable()
    assert "weights_only" not in message, "the advice of torch to load it all the same"
    assert len(message) < 600


@pytest.mark.parametrize("kind", SAVERS)
def test_a_file_cut_anywhere_is_refused(kind: str) -> None:
    data = SAVERS[kind](TENSORS)
    for length in (*range(0, len(data), 17), len(data) - 1):
        with pytest.raises(PrunerError, match=r"^expected .*model\.pt"):
            formats.read(data[:length], "model.pt")


def test_a_cut_file_that_names_types_of_torch_is_not_taken_for_code() -> None:
    data = saved_legacy({**TENSORS, "shape": torch.Size([3]), "dtype": torch.float32, "device": torch.device("cpu")})
    with pytest.raises(PrunerError, match="found a truncated or damaged one"):
        formats.read(data[:-1], "model.pt")


@pytest.mark.parametrize("kind", SAVERS)
def test_a_file_that_lost_bytes_in_the_middle_is_refused(kind: str) -> None:
    data = SAVERS[kind](TENSORS)
    for position in range(0, len(data), 17):
        with pytest.raises(PrunerError, match=r"^expected .*model\.pt"):
            formats.read(data[:position] + data[position + 64 :], "model.pt")


@pytest.mark.parametrize("save", [saved, saved_legacy, pickle.dumps], ids=["zip", "legacy", "raw"])
def test_code_in_a_pickle_never_runs(save: Callable[[Any], bytes], tmp_path: Path) -> None:
    marker = tmp_path / "it-ran"
    open_checkpoint(save({"weights": Payload(f"echo > {marker}"), **TENSORS}), "model.pt")
    assert not marker.exists()


def test_the_code_in_those_pickles_would_run_elsewhere(tmp_path: Path) -> None:
    marker = tmp_path / "it-ran"
    torch.load(io.BytesIO(saved(Payload(f"echo > {marker}"))), weights_only=False)
    assert marker.exists()
