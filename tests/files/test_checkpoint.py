"""Checkpoints: tensors found under any nesting, and as the model computes them after other tools pruned it."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.ao.pruning._experimental.pruner.lstm_saliency_pruner import LSTMSaliencyPruner
from torch.nn.utils import parametrizations, parametrize, prune

from pruner.errors import PrunerError
from pruner.files.checkpoint import open_checkpoint
from tests.helpers.containers import NAME, NESTINGS, STATE, names_of, nested, prune_norms, views_of_one_storage
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
        ({}, "no named tensors, but a dict of $"),
        ({"epoch": 3, 7: torch.zeros(1)}, "no named tensors, but a dict of epoch, 7"),
    ],
    ids=["GRU", "no recurrent layer", "nothing", "no names"],
)
def test_a_file_without_an_lstm_says_what_it_holds(tensors: dict[Any, Any], holds: str) -> None:
    checkpoint = open_checkpoint(saved(tensors))
    with pytest.raises(PrunerError, match=f"expected an LSTM in checkpoint, found none; it holds {holds}"):
        checkpoint.select()


class RowMask(nn.Module):
    """A parametrization that keeps its mask of rows in the state dict."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.arange(16) % 3 > 0)

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.mask[:, None]


def prune_norms_for_good(model: nn.ModuleDict) -> None:
    prune_norms(model)
    for name in ("weight_hh_l0", "weight_ih_l0", "bias_ih_l0"):
        prune.remove(model["rnn"], name)


def prune_rows(model: nn.ModuleDict) -> LSTMSaliencyPruner:
    pruner = LSTMSaliencyPruner({"sparsity_level": 0.5})
    pruner.prepare(model, [{"tensor_fqn": f"rnn.{name}"} for name in ("weight_ih_l0", "weight_hh_l0")])
    pruner.enable_mask_update = True
    pruner.step()
    return pruner


def prune_rows_for_good(model: nn.ModuleDict) -> None:
    prune_rows(model).squash_mask()


def mask_rows(model: nn.ModuleDict) -> None:
    parametrize.register_parametrization(model["rnn"], "weight_hh_l0", RowMask())


@pytest.mark.parametrize("leave", [prune_norms, prune_norms_for_good, prune_rows_for_good, mask_rows])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_what_other_pruning_tools_leave_is_read_as_the_model_computes_it(
    leave: Callable[[nn.ModuleDict], None], dtype: torch.dtype
) -> None:
    model = nn.ModuleDict({"rnn": random_lstm(dtype=dtype)})
    leave(model)
    checkpoint = open_checkpoint(saved(model.state_dict()))
    (lstm,) = checkpoint.lstms
    assert (lstm.name, lstm.dtype) == ("rnn", str(dtype).removeprefix("torch."))
    assert checkpoint.skipped == []
    for standard, name in lstm.tensors.items():
        assert torch.equal(checkpoint.tensors[name], getattr(model["rnn"], standard)), name
        assert name in model.state_dict()
    assert not checkpoint.tensors[lstm.tensors["weight_hh_l0"]].all()


def test_masks_that_upstream_keeps_to_itself_are_not_made_up() -> None:
    model = nn.ModuleDict({"rnn": random_lstm()})
    prune_rows(model)
    checkpoint = open_checkpoint(saved(model.state_dict()))
    (lstm,) = checkpoint.lstms
    assert lstm.tensors["weight_hh_l0"] == "rnn.parametrizations.weight_hh_l0.original"
    assert torch.equal(checkpoint.tensors[lstm.tensors["weight_hh_l0"]], random_lstm().weight_hh_l0)


@pytest.mark.parametrize(
    "register", [parametrizations.weight_norm, parametrizations.spectral_norm, parametrizations.orthogonal]
)
@pytest.mark.parametrize("name", ["weight_ih_l0", "weight_hh_l0"])
def test_weights_that_a_parametrization_computes_are_not_guessed(
    register: Callable[[nn.Module, str], None], name: str
) -> None:
    model = nn.ModuleDict({"rnn": random_lstm()})
    register(model["rnn"], name)
    checkpoint = open_checkpoint(saved(model.state_dict()))
    assert checkpoint.lstms == []
    assert any(f"{name} is computed by a parametrization" in other.reason for other in checkpoint.skipped)
    assert {other.name for other in checkpoint.skipped} == {"rnn"}


def test_a_masked_weight_keeps_its_dtype_whatever_that_of_the_mask() -> None:
    weights = {f"{NAME}_orig": STATE[NAME].half(), f"{NAME}_mask": torch.ones(16, 4)}
    assert open_checkpoint(saved(weights)).tensors[f"{NAME}_orig"].dtype == torch.float16


@pytest.mark.parametrize("mask", [torch.ones(15, 4), torch.ones(4), torch.tensor(1.0)], ids=["2-d", "1-d", "0-d"])
def test_a_mask_that_does_not_fit_its_weight_is_not_applied(mask: Tensor) -> None:
    weights = {
        "rnn.weight_hh_l0_orig": STATE[NAME],
        "rnn.weight_hh_l0_mask": mask,
        "rnn.weight_ih_l0": torch.ones(16, 3),
    }
    checkpoint = open_checkpoint(saved(weights))
    assert checkpoint.lstms == []
    assert "expected a recurrent weight_hh" in checkpoint.skipped[0].reason


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
    assert name in checkpoint.tensors
    assert "rnn" in [lstm.name for lstm in checkpoint.lstms]


def test_paths_that_cannot_be_read_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    locked = tmp_path / "locked.pt"
    locked.write_bytes(saved(STATE))
    for path, found in {
        tmp_path: "found a folder",
        tmp_path / "missing.pt": "found no file",
        tmp_path / "missing" / "model.pt": "found no file",
        locked / "model.pt": "found no file",
        Path("/dev/zero"): "found no file",
        Path("nul\0l"): "found no file",
        tmp_path / ("long" * 1000): "File name too long",
    }.items():
        with pytest.raises(PrunerError, match=f"^expected a .*file, .*{found}"):
            open_checkpoint(path)

    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(PrunerError, match=r"^expected a readable file, found .*Permission denied.*check its path"):
        open_checkpoint(locked)


def test_a_layer_used_many_times_over_is_read() -> None:
    layer = random_lstm(hidden_size=32)
    assert len(names_of(saved(nn.ModuleList([layer] * 8).state_dict()))) == 8
