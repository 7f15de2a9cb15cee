import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pruner.errors import PrunerError
from pruner.files import torch_writing
from pruner.files.on_demand import Made
from pruner.files.torch_writing import TorchFile

torch.manual_seed(0)
WIDE = torch.randn(40, 30)
SHARED = torch.randn(6)


def made(tensor: Tensor, by_rows: bool = False) -> Made:
    return Made(tensor.to("meta"), lambda rows=slice(None): tensor[rows].clone() if tensor.dim() else tensor, by_rows)


Put = Callable[[Tensor | Made], Tensor]
CONTAINERS: dict[str, Callable[[Put], Any]] = {
    "a flat dictionary": lambda put: {"weight": put(made(WIDE)), "bias": put(made(SHARED))},
    "made by rows": lambda put: {"weight": put(made(WIDE, by_rows=True))},
    "a part of a larger storage": lambda put: {"part": put(WIDE[3:5])},
    "transposed": lambda put: {"turned": put(WIDE.t())},
    "other tensors between": lambda put: {"step": torch.tensor(7), "a": put(made(WIDE)), "moments": [{"m": SHARED}]},
    "ties": lambda put: {"a": (tied := put(made(SHARED))), "b": tied, "c": put(made(SHARED))},
    "a tie with what is only copied": lambda put: {"a": put(SHARED), "state": {"b": SHARED}},
    "parameters": lambda put: {"a": nn.Parameter(put(made(WIDE)))},
    "a storage alone": lambda put: {"storage": SHARED.untyped_storage(), "a": put(made(WIDE))},
    "nothing in it": lambda put: {"none": put(made(torch.empty(0, 3))), "one": put(made(torch.tensor(1.5)))},
    "no tensors": lambda put: {"epochs": 3},
    "many": lambda put: {f"t{index}": put(made(torch.full((2,), float(index)))) for index in range(12)},
    **{
        f"of type {dtype}": partial(lambda put, dtype: {"a": put(made(WIDE.to(dtype)))}, dtype=dtype)
        for dtype in (torch.bfloat16, torch.float64, torch.complex64, torch.bool, torch.uint8)
    },
}


def whole(value: Tensor | Made) -> Tensor:
    tensor = value.make() if isinstance(value, Made) else value
    alone = tensor.is_contiguous() and tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    return tensor.detach() if alone else tensor.clone(memory_format=torch.contiguous_format)


@pytest.mark.parametrize("name", CONTAINERS)
def test_the_file_is_the_one_of_torch_save(name: str, tmp_path: Path) -> None:
    """Byte for byte, checksums included, but for an identifier that PyTorch draws from them."""
    (tmp_path / "theirs").mkdir()
    expected, found = tmp_path / "theirs" / "model.pt", tmp_path / "model.pt"
    torch.save(CONTAINERS[name](whole), expected)
    file = TorchFile()
    file.write(CONTAINERS[name](file.put), found)
    with zipfile.ZipFile(expected) as theirs, zipfile.ZipFile(found) as ours:
        assert ours.testzip() is None
        for one, other in zip(theirs.infolist(), ours.infolist(), strict=True):
            assert (one.filename, one.header_offset, one.file_size) == (
                *(other.filename, other.header_offset, other.file_size),
            )
            if not one.filename.endswith("serialization_id"):
                assert theirs.read(one) == ours.read(other), one.filename
    torch.load(found, mmap=True)


def test_a_file_of_large_numbers_of_bytes_holds_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of several pieces, and what is let go after each storage."""
    monkeypatch.setattr("pruner.files.on_demand._PIECE", 64)
    file, let_go = TorchFile(), []
    file.write({"a": file.put(made(WIDE, by_rows=True)), "b": SHARED}, tmp_path / "a.pt", lambda: let_go.append(1))
    assert torch.equal(torch.load(tmp_path / "a.pt")["a"], WIDE) and len(let_go) == 2


def test_what_stands_for_values_takes_no_time_of_theirs(tmp_path: Path) -> None:
    def never(rows: slice = slice(None)) -> Tensor:
        raise AssertionError("made")

    file = TorchFile()
    file.write_empty({"a": file.put(Made(torch.empty(2**20, 2**9, device="meta"), never))}, tmp_path / "empty.pt")
    assert (tmp_path / "empty.pt").stat().st_size > 2**31
    assert (tmp_path / "empty.pt").stat().st_blocks < 2**10


@pytest.mark.parametrize("which", ["no folder", "a value that cannot be written", "a full disk"])
def test_one_message_where_it_cannot_be_written(which: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, container = tmp_path / "model.pt", {"a": WIDE, "b": None}
    if which == "no folder":
        path = tmp_path / "gone" / "model.pt"
    elif which == "a full disk":
        full = OSError(28, "No space left on device")
        monkeypatch.setattr(torch_writing, "write_all", lambda file, data: (_ for _ in ()).throw(full))
    else:
        container["b"] = (each for each in ())
    with pytest.raises(PrunerError, match=r"expected a place to write model\.pt"):
        TorchFile().write(container, path)
