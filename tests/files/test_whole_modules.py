"""Whole modules, scripts and checkpoints with other things beside the weights: opened, understood, pruned and exported."""

import argparse
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from pruner import Recipe, open_checkpoint, run
from pruner.exports.verify import verify
from pruner.files.checkpoint import Checkpoint
from tests.helpers.files import saved, saved_legacy
from tests.helpers.models import named, random_lstm
from tests.helpers.modules import Tagger, scripted

SAVERS = {"zip": saved, "legacy": saved_legacy, "raw": lambda value: pickle.dumps(value)}


class Callback:
    """What trainers keep beside the weights."""

    best = 3


def same_tensors(checkpoint: Checkpoint, state: dict[str, Tensor]) -> None:
    assert list(checkpoint.tensors) == list(state)
    for name, tensor in state.items():
        assert torch.equal(checkpoint.tensors[name], tensor), name


@pytest.mark.parametrize("save", SAVERS.values(), ids=SAVERS)
def test_a_whole_module_has_the_tensors_of_its_state_dict(save: Callable[[Any], bytes]) -> None:
    model = Tagger()
    checkpoint = open_checkpoint(save(model), "model.pt")
    same_tensors(checkpoint, model.state_dict())
    (lstm,) = checkpoint.lstms
    assert (lstm.name, lstm.num_layers, lstm.bidirectional) == ("encoder.lstm", 2, True)
    assert not checkpoint.plain


@pytest.mark.parametrize("save", SAVERS.values(), ids=SAVERS)
def test_a_whole_module_says_how_its_lstm_is_used(save: Callable[[Any], bytes]) -> None:
    learned = open_checkpoint(save(Tagger())).learned["encoder.lstm"]
    assert (learned.batch_first, learned.dropout) == (True, 0.25)
    assert learned.classes == {"": "Tagger", "encoder": "ModuleDict", "encoder.lstm": "LSTM"}
    flat = open_checkpoint(save(nn.Sequential(random_lstm(), nn.Linear(4, 2)))).learned["0"]
    assert flat.classes == {"": "Sequential", "0": "LSTM", "1": "Linear"}
    assert flat.batch_first is False


@pytest.mark.parametrize("keys", [("model",), ("checkpoint", "net")], ids=".".join)
def test_a_module_within_a_checkpoint_is_found(keys: tuple[str, ...]) -> None:
    model = Tagger()
    value: Any = model
    for key in reversed(keys):
        value = {"epoch": 3, key: value}
    checkpoint = open_checkpoint(saved(value))
    same_tensors(checkpoint, model.state_dict())
    assert checkpoint.learned["encoder.lstm"].dropout == 0.25


def test_modules_side_by_side_are_called_by_their_keys() -> None:
    checkpoint = open_checkpoint(saved({"teacher": Tagger(), "student": Tagger()}))
    assert [lstm.name for lstm in checkpoint.lstms] == ["student.encoder.lstm", "teacher.encoder.lstm"]
    assert checkpoint.learned.keys() == {"student.encoder.lstm", "teacher.encoder.lstm"}


def pruned_module() -> nn.Module:
    model = nn.ModuleDict({"rnn": random_lstm()})
    prune.l1_unstructured(model["rnn"], "weight_hh_l0", 0.5)
    return model


WRAPPED = {
    "in parallel": lambda: nn.DataParallel(nn.ModuleDict({"rnn": random_lstm()})),
    "an LSTM alone": random_lstm,
    "a cell": lambda: nn.ModuleDict({"cell": nn.LSTMCell(3, 4)}),
    "pruned": pruned_module,
    "tied": lambda: (lambda layer: nn.ModuleList([layer, layer]))(random_lstm()),
}


@pytest.mark.parametrize("make", WRAPPED.values(), ids=WRAPPED)
def test_modules_of_every_kind_open_as_their_state_dicts_do(make: Callable[[], nn.Module]) -> None:
    model = make()
    whole, state = open_checkpoint(saved(model)), open_checkpoint(saved(model.state_dict()))
    assert whole.lstms == state.lstms
    same_tensors(whole, state.tensors)


def test_a_script_is_read_and_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(random_lstm(batch_first=True, dropout=0.5, num_layers=2))
    data = scripted(model)
    monkeypatch.setattr(torch.jit, "load", lambda *_: pytest.fail("loaded"))
    checkpoint = open_checkpoint(data, "model.ptl")
    assert (checkpoint.format, checkpoint.plain) == ("TorchScript", False)
    same_tensors(checkpoint, model.state_dict())
    learned = checkpoint.learned["0"]
    assert (learned.batch_first, learned.dropout, learned.classes) == (True, 0.5, {"": "Sequential", "0": "LSTM"})


def test_scripts_of_several_lstms_say_of_each_how_it_is_used() -> None:
    data = scripted(nn.ModuleDict({"a": random_lstm(batch_first=True), "b": random_lstm(num_layers=2, dropout=0.1)}))
    learned = open_checkpoint(data).learned
    assert {name: (facts.batch_first, facts.dropout) for name, facts in learned.items()} == {
        "a": (True, 0.0),
        "b": (False, 0.1),
    }


BESIDE: dict[str, Any] = {
    "a namespace": {"args": argparse.Namespace(hidden=4, lr=0.1)},
    "a path": {"saved_at": Path("runs/1")},
    "numbers of NumPy": {"loss": np.float64(0.5), "step": np.int64(3)},
    "an array of NumPy": {"mean": np.zeros(3)},
    "a callback as a key": {"callbacks": {Callback: {"best": 3}}},
    "a callback": {"callbacks": [Callback()]},
    "a vocabulary": {"word_to_index": {f"word{index}": index for index in range(1000)}, "itos": ["a", "b"]},
    "an optimizer": {"optimizer": torch.optim.Adam(random_lstm().parameters()).state_dict()},
    "a class": {"class": Callback},
}
KEPT = ("numbers of NumPy", "a vocabulary", "an optimizer")


@pytest.mark.parametrize("beside", BESIDE)
@pytest.mark.parametrize("save", [saved, saved_legacy], ids=["zip", "legacy"])
def test_whatever_lies_beside_the_weights_the_checkpoint_opens(save: Callable[[Any], bytes], beside: str) -> None:
    state = nn.ModuleDict({"rnn": random_lstm()}).state_dict()
    checkpoint = open_checkpoint(save({"epoch": 3, "state_dict": state, **BESIDE[beside]}))
    assert [lstm.name for lstm in checkpoint.lstms] == ["rnn"]
    assert checkpoint.plain == (beside in KEPT)
    assert all(torch.equal(checkpoint.tensors[name], tensor) for name, tensor in state.items())


FOREIGN: dict[str, Callable[[], bytes]] = {
    "a whole module": lambda: saved(Tagger()),
    "a whole module, legacy": lambda: saved_legacy(Tagger()),
    "a whole module, raw": lambda: pickle.dumps(Tagger()),
    "a script": lambda: scripted(nn.Sequential(random_lstm())),
    "arrays in a pickle": lambda: pickle.dumps({name: tensor.numpy() for name, tensor in named(random_lstm()).items()}),
    "arrays in an archive": lambda: arrays(
        {name: tensor.numpy() for name, tensor in named(random_lstm(), "rnn.").items()}
    ),
    "a callback beside": lambda: saved({"state_dict": named(random_lstm(), "rnn."), "callbacks": {Callback: 3}}),
    "parameters beside a namespace": lambda: saved(
        {
            "net": {name: nn.Parameter(value) for name, value in named(random_lstm()).items()},
            "args": argparse.Namespace(),
        }
    ),
}


def arrays(values: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **values)
    return file.getvalue()


@pytest.mark.parametrize("form", ["masked", "compact"])
@pytest.mark.parametrize("kind", FOREIGN)
def test_what_came_in_another_form_leaves_as_a_state_dict_of_its_own_names(
    kind: str, form: str, tmp_path: Path
) -> None:
    data = FOREIGN[kind]()
    source = open_checkpoint(data, "model")
    assert not source.plain
    result = run(source, Recipe(0.5, "units"))
    folder = result.save(tmp_path / "export", form)
    written = torch.load(folder / "pruned.pt", weights_only=True)
    assert type(written) is dict
    assert not any(isinstance(value, nn.Parameter) or value.requires_grad for value in written.values())
    others = source.tensors.keys() - set(source.lstms[0].tensors.values())
    assert others <= written.keys()
    if form == "masked":
        assert list(written) == list(source.tensors)
    assert "the recipe gives the same masks again" in verify(folder, source)


def test_views_within_a_pickle_are_read() -> None:
    flat = torch.arange(30.0)
    found = open_checkpoint(pickle.dumps({"a": flat[:10], "b": flat[5:15].view(2, 5), "c": flat})).tensors
    assert torch.equal(found["b"], flat[5:15].view(2, 5))
    assert torch.equal(found["c"], flat)


def test_one_lstm_beside_other_layers_is_called_by_its_key() -> None:
    layers = {"lstm": named(random_lstm()), "norm": named(nn.LayerNorm(4)), "lin1": named(nn.Linear(4, 2))}
    checkpoint = open_checkpoint(saved(layers))
    assert [lstm.name for lstm in checkpoint.lstms] == ["lstm"]
    assert {"lin1.weight", "norm.bias"} <= checkpoint.tensors.keys()
    assert checkpoint.locations["lin1.weight"] == ("lin1", "weight")
    assert checkpoint.plain


def test_python_2_saved_modules_too() -> None:
    words = pickle.dumps({"rnn." + name: tensor.numpy() for name, tensor in named(random_lstm()).items()}, 0)
    checkpoint = open_checkpoint(words)
    assert [lstm.name for lstm in checkpoint.lstms] == ["rnn"]
