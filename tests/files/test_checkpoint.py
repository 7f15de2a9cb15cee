"""Checkpoints: tensors found under any nesting, and as the model computes them after other tools pruned it."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pruner.errors import PrunerError
from pruner.files.naming import as_text
from pruner.files.opening import open_checkpoint
from tests.helpers.containers import NAME, NESTINGS, STATE, names_of, nested, views_of_one_storage
from tests.helpers.files import SAVERS, saved, saved_legacy
from tests.helpers.models import named, random_lstm


def trained() -> tuple[nn.ModuleDict, torch.optim.Optimizer]:
    model = nn.ModuleDict({"rnn": random_lstm()})
    optimizer = torch.optim.Adam(model.parameters())
    model["rnn"](torch.ones(2, 3))[0].sum().backward()
    optimizer.step()
    return model, optimizer


@pytest.mark.parametrize("suffix", ["pt", "safetensors", "tar", "weird"])
@pytest.mark.parametrize("kind", SAVERS)
def test_a_file_opens_from_its_path_and_from_its_bytes(kind: str, suffix: str, tmp_path: Path) -> None:
    data = SAVERS[kind](STATE)
    path = tmp_path / f"model.{suffix}"
    path.write_bytes(data)
    for checkpoint in (open_checkpoint(path), open_checkpoint(str(path)), open_checkpoint(data, path.name)):
        assert (checkpoint.name, checkpoint.format, checkpoint.size) == (path.name, kind, len(data))
        assert checkpoint.sha256 == hashlib.sha256(data).hexdigest()
        assert [lstm.name for lstm in checkpoint.lstms] == ["rnn"]
        assert checkpoint.tensors.keys() == STATE.keys()
        assert all(torch.equal(checkpoint.tensors[name], STATE[name]) for name in STATE)
    assert path.read_bytes() == data


@pytest.mark.parametrize("keys", NESTINGS, ids=".".join)
def test_a_state_dict_is_found_under_any_keys_beside_an_optimizer(keys: tuple[str, ...]) -> None:
    model, optimizer = trained()
    state = nested(model.state_dict(), keys)
    container = {**state, "optimizer": optimizer.state_dict(), "step": torch.tensor(7)} if keys else state
    checkpoint = open_checkpoint(saved(container))
    assert [lstm.name for lstm in checkpoint.lstms] == ["rnn"]
    assert checkpoint.locations == {name: (*keys, name) for name in model.state_dict()}


def test_a_state_dict_three_dictionaries_deep_is_not_looked_for() -> None:
    assert names_of(saved(nested(STATE, ("a", "b", "c")))) == []


def test_state_dicts_side_by_side_are_named_by_their_keys() -> None:
    root = named(random_lstm())
    checkpoint = open_checkpoint(saved({"model": STATE, "encoder": root, "both": {"ema": STATE}, "head": {"w": root}}))
    assert [lstm.name for lstm in checkpoint.lstms] == ["both.ema.rnn", "encoder", "head.w", "model.rnn"]
    assert checkpoint.locations[f"both.ema.{NAME}"] == ("both", "ema", NAME)


def test_two_tensors_of_one_name_are_refused() -> None:
    with pytest.raises(PrunerError, match=f"found two called 'a.{NAME}'"):
        open_checkpoint(saved({"a": STATE, f"a.{NAME}": torch.zeros(1), "weight_hh": torch.zeros(1)}))


def test_an_optimizer_alone_holds_no_lstm() -> None:
    checkpoint = open_checkpoint(saved(trained()[1].state_dict()))
    assert checkpoint.lstms == []
    with pytest.raises(PrunerError, match="expected an LSTM in checkpoint, found none; it holds no named tensors"):
        checkpoint.select()


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "encoder._module."])
def test_wrappers_stay_in_the_names(prefix: str) -> None:
    checkpoint = open_checkpoint(saved(named(random_lstm(), prefix)))
    assert [lstm.name for lstm in checkpoint.lstms] == [prefix.removesuffix(".")]
    assert checkpoint.tensors.keys() == {f"{prefix}{name}" for name in random_lstm().state_dict()}


def test_lstms_are_selected_by_name() -> None:
    checkpoint = open_checkpoint(saved({**STATE, **named(random_lstm(), "a."), **named(nn.GRU(3, 4), "gru.")}))
    assert [lstm.name for lstm in checkpoint.select()] == ["a", "rnn"]
    assert [lstm.name for lstm in checkpoint.select(["rnn", "a", "rnn"])] == ["rnn", "a"]
    with pytest.raises(PrunerError, match=r"expected the name of an LSTM in checkpoint \('a', 'rnn'\), found 'gru'"):
        checkpoint.select(["a", "gru"])


@pytest.mark.parametrize(
    ("tensors", "holds"),
    [
        (named(nn.GRU(3, 4), "gru."), r"gru \(a GRU: 3 gates"),
        (named(nn.Linear(3, 4), "head."), "2 tensors: head.weight, head.bias"),
        (named(nn.Linear(3, 4, bias=False), "head."), "1 tensor: head.weight; open the file that holds it"),
        ({}, "no named tensors, but an empty dict;"),
        ({"epoch": 3, 7: torch.zeros(1)}, "no named tensors, but a dict of epoch, 7"),
    ],
    ids=["GRU", "no recurrent layer", "one tensor", "nothing", "no names"],
)
def test_a_file_without_an_lstm_says_what_it_holds(tensors: dict[Any, Any], holds: str) -> None:
    checkpoint = open_checkpoint(saved(tensors))
    with pytest.raises(PrunerError, match=f"expected an LSTM in checkpoint, found none; it holds {holds}"):
        checkpoint.select()


@pytest.mark.parametrize("save", [saved, saved_legacy])
def test_parameters_and_views_of_one_storage_are_read(save: Callable[[Any], bytes]) -> None:
    state = {name: nn.Parameter(tensor) for name, tensor in views_of_one_storage().items()}
    checkpoint = open_checkpoint(save(state))
    assert [lstm.name for lstm in checkpoint.lstms] == ["rnn"]
    assert all(torch.equal(checkpoint.tensors[name], state[name]) for name in state)


WEIRD_NAMES = {
    "empty": "",
    "a dot": ".",
    "dots": "..weight_hh_l0",
    "a line break": "rnn\n.weight_hh_l0",
    "half a character": "\ud800.weight_hh_l0",
    "long": "a." * 10**4 + "weight_hh_l0",
    "only an ending": "_orig",
    "only a mask": "_mask",
    "half a parametrization": "parametrizations.",
    "no parametrized module": "parametrizations.weight_hh_l0.original",
    "an unknown part": "parametrizations.weight_hh_l0.original0",
}


@pytest.mark.parametrize("name", WEIRD_NAMES.values(), ids=WEIRD_NAMES)
@pytest.mark.parametrize("save", [saved, saved_legacy])
def test_tensors_of_any_name_can_be_listed(save: Callable[[Any], bytes], name: str) -> None:
    checkpoint = open_checkpoint(save({**STATE, name: torch.zeros(16, 4)}))
    assert as_text(name) in checkpoint.tensors
    assert "rnn" in [lstm.name for lstm in checkpoint.lstms]


def test_paths_that_cannot_be_read_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    locked = tmp_path / "locked.pt"
    locked.write_bytes(saved(STATE))
    for path, found in {
        tmp_path: "found a folder",
        tmp_path / "missing.pt": "found no file",
        tmp_path / "missing" / "model.pt": "found no file",
        locked / "model.pt": "found no file",
        Path("/dev/zero"): "found a pipe or a device",
        Path("nul\0l"): "embedded null",
        tmp_path / ("long" * 1000): "File name too long",
    }.items():
        with pytest.raises(PrunerError, match=f"^expected a .*file, .*{found}"):
            open_checkpoint(path)

    def refuse(path: Path, flags: int) -> int:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("pruner.files.source.os.open", refuse)
    with pytest.raises(PrunerError, match=r"^expected a checkpoint file, found .*Permission denied.*check its path"):
        open_checkpoint(locked)


def test_a_pipe_is_neither_waited_for_nor_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(PrunerError, match="expected a checkpoint file, found a pipe or a device"):
        open_checkpoint(tmp_path / "pipe")


def test_a_layer_used_many_times_over_is_read() -> None:
    layer = random_lstm(hidden_size=32)
    assert len(names_of(saved(nn.ModuleList([layer] * 8).state_dict()))) == 8
