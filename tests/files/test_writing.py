"""Written files: exact copies of their source but for what was changed, tied tensors and views included."""

import copy
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from pruner.files import formats
from pruner.files.opening import open_checkpoint
from pruner.files.safetensors_file import ALIGNMENT
from pruner.files.writing import write
from tests.helpers.containers import NAME, NESTINGS, ODD_DTYPES, STATE, nested, views_of_one_storage
from tests.helpers.files import saved, saved_legacy
from tests.helpers.models import named, random_lstm


def ordered() -> OrderedDict[str, Tensor]:
    return nn.ModuleDict({"rnn": random_lstm(), "head": nn.Linear(4, 2)}).state_dict()


SOURCES: dict[str, tuple[Callable[[Any], bytes], Any]] = {
    "zip": (saved, ordered()),
    "legacy": (saved_legacy, ordered()),
    "safetensors": (safetensors.torch.save, STATE),
    "safetensors with metadata": (lambda state: safetensors.torch.save(state, {"author": "me"}), STATE),
    "half precision": (saved, named(random_lstm(dtype=torch.bfloat16), "rnn.")),
    "parameters": (saved, {name: nn.Parameter(tensor, name != NAME) for name, tensor in STATE.items()}),
    "views": (saved, views_of_one_storage()),
    "transposed": (saved, {**STATE, NAME: STATE[NAME].T.contiguous().T}),
    "side by side": (saved, {"model": ordered(), "ema": ordered(), "step": torch.tensor(3)}),
    **{f"nested {'.'.join(keys)}": (saved, nested(ordered(), keys)) for keys in NESTINGS if keys},
}


def assert_alike(found: Any, expected: Any, changed: Mapping[tuple[str, ...], Tensor], keys: tuple[str, ...]) -> None:
    """The same containers, names in the same order, dtypes and values, but for the changed tensors."""
    assert type(found) is type(expected), keys
    if isinstance(expected, Tensor):
        value = changed.get(keys, expected)
        assert (found.dtype, found.requires_grad) == (expected.dtype, expected.requires_grad), keys
        assert torch.equal(found, value), keys
    elif isinstance(expected, dict):
        assert list(found) == list(expected), keys
        assert getattr(found, "_metadata", None) == getattr(expected, "_metadata", None), keys
        for key in expected:
            assert_alike(found[key], expected[key], changed, (*keys, key))
    else:
        assert found == expected, keys


def loaded(path: Path, kind: str) -> Any:
    if kind == formats.SAFETENSORS:
        return dict(sorted(safetensors.torch.load_file(path).items()))
    return torch.load(path, weights_only=True)


@pytest.mark.parametrize(("save", "container"), SOURCES.values(), ids=SOURCES)
def test_a_written_file_differs_from_its_source_only_in_the_changed_tensors(
    save: Callable[[Any], bytes], container: Any, tmp_path: Path
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(save(container))
    before = source.read_bytes()
    checkpoint = open_checkpoint(source)
    held = copy.deepcopy(checkpoint.container)
    name = checkpoint.lstms[-1].tensors["weight_hh_l0"]
    changed = {name: torch.zeros_like(checkpoint.tensors[name])}
    write(checkpoint, changed, target)
    written, expected = (loaded(path, checkpoint.format) for path in (target, source))
    assert_alike(written, expected, {checkpoint.locations[name]: changed[name]}, ())
    assert_alike(checkpoint.container, held, {}, ())
    assert source.read_bytes() == before
    again = open_checkpoint(target)
    assert (again.lstms, again.skipped) == (checkpoint.lstms, checkpoint.skipped)
    assert again.format == (formats.SAFETENSORS if checkpoint.format == formats.SAFETENSORS else formats.TORCH_ZIP)


@pytest.mark.parametrize("metadata", [None, {"author": "me"}], ids=["none", "some"])
def test_safetensors_metadata_is_written_as_it_was_read(metadata: dict[str, str] | None, tmp_path: Path) -> None:
    data = safetensors.torch.save(STATE, metadata)
    write(open_checkpoint(data), {}, tmp_path / "model.safetensors")
    with safetensors.safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert file.metadata() == metadata
    spaces = (tmp_path / "model.safetensors").stat().st_size - len(data)
    assert 0 <= spaces < ALIGNMENT


def test_views_are_written_without_the_storage_they_share(tmp_path: Path) -> None:
    data = saved(views_of_one_storage(spare=10**5))
    write(open_checkpoint(data), {}, tmp_path / "model.pt")
    assert (tmp_path / "model.pt").stat().st_size < 10_000 < len(data)


def tied() -> OrderedDict[str, Tensor]:
    layer = random_lstm(hidden_size=32)
    return nn.ModuleList([layer, layer, nn.Linear(2, 2)]).state_dict()


@pytest.mark.parametrize("changes", [(), ("2.weight",), ("0.weight_hh_l0", "1.weight_hh_l0")], ids=str)
def test_tied_tensors_stay_tied(changes: tuple[str, ...], tmp_path: Path) -> None:
    data = saved(tied())
    checkpoint = open_checkpoint(data)
    write(checkpoint, {name: checkpoint.tensors[name] / 2 for name in changes}, tmp_path / "model.pt")
    state = torch.load(tmp_path / "model.pt", weights_only=True)
    for name in random_lstm().state_dict():
        assert state[f"0.{name}"].data_ptr() == state[f"1.{name}"].data_ptr(), name
    assert (tmp_path / "model.pt").stat().st_size <= len(data)


def test_a_tied_tensor_can_be_changed_alone(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(saved(tied()))
    weight = checkpoint.tensors["0.weight_hh_l0"]
    write(checkpoint, {"1.weight_hh_l0": weight / 2}, tmp_path / "model.pt")
    state = torch.load(tmp_path / "model.pt", weights_only=True)
    assert torch.equal(state["0.weight_hh_l0"], weight)
    assert torch.equal(state["1.weight_hh_l0"], weight / 2)


@pytest.mark.parametrize("dtype", ODD_DTYPES, ids=str)
def test_tied_tensors_of_odd_dtypes_are_written(dtype: torch.dtype, tmp_path: Path) -> None:
    odd = torch.ones(64, dtype=torch.uint8).view(dtype)
    write(open_checkpoint(saved({"a": odd, "b": odd})), {}, tmp_path / "model.pt")
    state = torch.load(tmp_path / "model.pt", weights_only=True)
    assert all(torch.equal(state[name].view(torch.uint8), odd.view(torch.uint8)) for name in ("a", "b"))


def test_tied_safetensors_are_written_apart(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(safetensors.torch.save(STATE))
    same = torch.zeros(16)
    write(checkpoint, {"rnn.bias_ih_l0": same, "rnn.bias_hh_l0": same}, tmp_path / "model.safetensors")
    assert not safetensors.torch.load_file(tmp_path / "model.safetensors")["rnn.bias_hh_l0"].any()
