"""What crosses to a worker and back: once, and of a mapped file no byte."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from pruner import open_checkpoint
from pruner.dashboard.crossing import Channel

Ends = tuple[Channel, Channel]
PLENTY = 2**14  # numbers: far more bytes than the message around them, and no more than a socket holds


class Counting(socket.socket):
    """A socket that knows how many bytes were sent through it."""

    sent = 0

    def sendall(self, data: Any, flags: int = 0) -> None:
        self.sent += len(data)
        super().sendall(data, flags)


@pytest.fixture
def wire() -> Iterator[tuple[Counting, Ends]]:
    ours, theirs = socket.socketpair()
    counting = Counting(fileno=ours.detach())
    ends = Channel(counting), Channel(theirs)
    yield counting, ends
    for end in ends:
        end.close()


@pytest.fixture
def model() -> bytes:
    return save({"lstm." + name: value for name, value in torch.nn.LSTM(64, 64).state_dict().items()})


@pytest.mark.parametrize("how", ["at a path", "a copy of its own", "uploaded"])
def test_a_mapped_file_is_mapped_on_the_other_side_and_on_the_way_back_only_named(
    tmp_path: Path, wire: tuple[Counting, Ends], model: bytes, how: str
) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(model)
    checkpoint = (
        open_checkpoint(model, "model", isolated=True)
        if how == "uploaded"
        else open_checkpoint(path, own=how == "a copy of its own")
    )
    counting, (here, there) = wire
    here.send(("work", checkpoint))
    _, arrived = there.receive()
    assert counting.sent < len(model) // 2
    assert arrived is not checkpoint and arrived.sha256 == checkpoint.sha256
    assert os.path.samestat(os.fstat(arrived.source.descriptor), os.fstat(checkpoint.source.descriptor))
    assert all(torch.equal(arrived.tensors[name], value) for name, value in checkpoint.tensors.items())
    arrived.source.check_unchanged()

    there.send(("done", arrived, arrived.tensors["lstm.weight_hh_l0"]))
    _, back, weight = here.receive()
    assert back is checkpoint
    assert weight.data_ptr() == checkpoint.tensors["lstm.weight_hh_l0"].data_ptr()


def test_a_file_goes_on_from_one_worker_to_the_next(tmp_path: Path, wire: tuple[Counting, Ends], model: bytes) -> None:
    _, (here, there) = wire
    here.send(open_checkpoint(model, "model", isolated=True))
    arrived = there.receive()
    ends = [Channel(end) for end in socket.socketpair()]
    ends[0].send(arrived)
    again = ends[1].receive()
    assert os.path.samestat(os.fstat(again.source.descriptor), os.fstat(arrived.source.descriptor))
    assert torch.equal(again.tensors["lstm.bias_ih_l0"], arrived.tensors["lstm.bias_ih_l0"])
    for end in ends:
        end.close()


def test_tensors_in_memory_cross_once(wire: tuple[Counting, Ends]) -> None:
    numbers = torch.randn(PLENTY)
    counting, (here, there) = wire
    here.send([numbers, numbers.view(2, -1)])
    first, second = there.receive()
    assert torch.equal(first, numbers) and second.data_ptr() == first.data_ptr()
    assert 4 * PLENTY <= counting.sent < 5 * PLENTY
    here.send(numbers)
    assert there.receive().data_ptr() == first.data_ptr() and counting.sent < 5 * PLENTY


def test_the_descriptor_of_a_file_is_closed_with_it(model: bytes) -> None:
    checkpoint = open_checkpoint(model, "model", isolated=True)
    descriptor = checkpoint.source.descriptor
    assert descriptor is not None and os.fstat(descriptor)
    before = os.fstat(descriptor).st_ino
    del checkpoint
    with pytest.raises(OSError, match="Bad file descriptor"):
        assert os.fstat(descriptor).st_ino == before
