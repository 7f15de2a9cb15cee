"""What goes stale in an export is told: ties that are cut, settings of the old size, moments of the old shapes."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pruner import Recipe, open_checkpoint, run
from pruner.exports.verify import verify
from pruner.files import stale
from pruner.files.checkpoint import Checkpoint
from pruner.result import Result
from tests.helpers.files import saved


class Model(nn.Module):
    """A language model whose head is its embedding, where `tied`."""

    def __init__(self, hidden_size: int = 8, tied: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Embedding(20, 8)
        self.rnn = nn.LSTM(8, hidden_size)
        self.head = nn.Linear(hidden_size, 20)
        if tied:
            self.head.weight = self.words.weight


def trained(tied: bool = False) -> dict[str, Any]:
    model = Model(tied=tied)
    optimizer = torch.optim.Adam(model.parameters())
    model.head(model.rnn(model.words(torch.arange(5)))[0]).sum().backward()
    optimizer.step()
    settings = {"hidden_dim": 8, "sizes": [8, 16], "epoch": 8, "name": "8", "bidirectional": False, "lr": 8.0}
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "args": settings}


def pruned(
    container: Any, form: str, granularity: str = "units", consumers: tuple[str, ...] = ()
) -> tuple[Checkpoint, Result, Any]:
    checkpoint = open_checkpoint(saved(container), "model.pt")
    result = run(checkpoint, Recipe(0.5, granularity=granularity, consumers=consumers))
    return checkpoint, result, result.forms[form].changed


def test_settings_that_equal_the_old_hidden_size_are_named() -> None:
    checkpoint, _, changed = pruned(trained(), "compact")
    assert stale.stale_settings(checkpoint, changed) == [("args.hidden_dim", 8), ("args.sizes.0", 8)]
    assert any(note.startswith("args.hidden_dim = 8 in the file equals") for note in stale.notes(checkpoint, changed))


@pytest.mark.parametrize("granularity", ["rows", "units"])
def test_nothing_goes_stale_where_nothing_shrinks(granularity: str) -> None:
    checkpoint, _, changed = pruned(trained(tied=True), "masked", granularity)
    assert stale.notes(checkpoint, changed) == []


@pytest.mark.parametrize(("form", "left"), [("masked", 7), ("compact", 3)])
def test_moments_of_old_shapes_are_left_out_of_compact_exports_alone(form: str, left: int, tmp_path: Path) -> None:
    container = trained()
    assert len(container["optimizer"]["state"]) == 7
    checkpoint, result, changed = pruned(container, form)
    folder = result.save(tmp_path / "out", form)
    verify(folder, checkpoint)
    written = torch.load(folder / "pruned.pt", weights_only=True)
    assert len(written["optimizer"]["state"]) == left
    assert len(stale.stale_moments(checkpoint, changed)) == 7 - left
    assert len(checkpoint.container["optimizer"]["state"]) == 7
    told = json.loads((folder / "manifest.json").read_text()).get("notes", [])
    assert any("entries of optimizer states" in note for note in told) == (form == "compact")
    optimizer = torch.optim.Adam(Model(4 if form == "compact" else 8).parameters())
    optimizer.load_state_dict(written["optimizer"])


def test_moments_in_lists_of_optimizers_are_found() -> None:
    container = trained()
    container["optimizer_states"] = [container.pop("optimizer")]
    checkpoint, _, changed = pruned(container, "compact")
    assert ("optimizer_states", 0, "state", 2) in stale.stale_moments(checkpoint, changed)


def test_a_tie_that_is_cut_is_told(tmp_path: Path) -> None:
    checkpoint, result, changed = pruned(trained(tied=True), "compact", consumers=("head.weight",))
    assert stale.untied(checkpoint, changed) == [("words.weight", "head.weight")]
    folder = result.save(tmp_path / "out")
    written = torch.load(folder / "pruned.pt", weights_only=True)["model"]
    assert (written["words.weight"].shape, written["head.weight"].shape) == ((20, 8), (20, 4))
    assert "words.weight and head.weight were tied" in (folder / "manifest.json").read_text()


def test_a_tie_that_stays_is_not_told() -> None:
    checkpoint, _, changed = pruned(trained(tied=True), "compact")
    assert stale.untied(checkpoint, changed) == []


def test_a_flat_export_of_another_format_carries_no_settings() -> None:
    lists = {name: tensor.tolist() for name, tensor in Model().state_dict().items()}
    checkpoint = open_checkpoint(
        json.dumps({"model_data": {"hidden_size": 8}, "state_dict": lists}).encode(), "model.json"
    )
    changed = run(checkpoint, Recipe(0.5, granularity="units")).forms["compact"].changed
    (form,) = stale.notes(checkpoint, changed)
    assert (
        form
        == "what is written for PyTorch of model.json (JSON state dict) is a plain state dict under its tensors' names, "
        "without what stands beside them"
    )


def test_a_real_file_names_its_own_setting(foreign: Path) -> None:
    checkpoint = open_checkpoint(foreign / "NISQA__weights_nisqa_tts.tar")
    changed = run(checkpoint, Recipe(0.5, granularity="units")).forms["compact"].changed
    assert ("args.td_lstm_h", 128) in stale.stale_settings(checkpoint, changed)
