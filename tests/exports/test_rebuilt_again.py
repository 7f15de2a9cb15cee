"""LSTMs whose removed units come back in their output, since nobody said who reads it, are pruned further."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pruner import Checkpoint, PrunerError, Recipe, open_checkpoint, run
from pruner.compact.costs import size_of_form, size_when_compact
from pruner.compact.load_pruned import load_lstms
from pruner.compact.masked_and_compact import FORMS
from pruner.compensation.start import start_of
from pruner.exports.again import open_again
from pruner.exports.export import file_facts
from pruner.exports.verify import verify
from pruner.lstm.module import build
from pruner.pipeline import gather_statistics
from tests.helpers.compensated import HIDDEN, Way, calibration, model
from tests.helpers.exports import read_manifest
from tests.helpers.files import saved_in
from tests.helpers.models import random_steps

SHAPES: dict[str, dict[str, Any]] = {
    "one layer": {},
    "two layers": {"num_layers": 2},
    "both directions": {"bidirectional": True},
    "both of two layers": {"num_layers": 2, "bidirectional": True},
    "no bias": {"bias": False},
}
STEPS = random_steps(2, 9, 3, seed=4, dtype=torch.float32)


def tensors_of(shape: str) -> dict[str, Tensor]:
    return model(**SHAPES[shape])


def first(tmp_path: Path, form: str, shape: str = "two layers", cell: bool = False) -> tuple[Checkpoint, nn.Module]:
    """An export of a third of the units, opened again, and its module."""
    tensors = tensors_of(shape)
    if cell:
        tensors = {name.removesuffix("_l0"): tensor for name, tensor in tensors.items()}
    checkpoint = saved_in(tmp_path, tensors)
    recipe = Way().recipe(0.34, granularity="units")
    folder = run(checkpoint, recipe, calibration=calibration()).save(tmp_path / "first", form, batch_first=True)
    return open_again(folder), load_lstms(folder)["rnn"]


def answers(module: nn.Module) -> Tensor:
    with torch.no_grad():
        if not isinstance(module, nn.LSTM) and "Cell" in type(module).__name__:
            h, c, found = torch.zeros(2, HIDDEN), torch.zeros(2, HIDDEN), []
            for step in STEPS.unbind(1):
                h, c = module(step, (h.where(c != 0, 0.0), c))  # what is told is no state
                found.append(h)
            return torch.stack(found, 1)
        return module(STEPS)[0]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_opened_gives_what_was_exported(tmp_path: Path, shape: str, form: str) -> None:
    checkpoint, module = first(tmp_path, form, shape)
    (lstm,), notes = checkpoint.lstms, checkpoint.notes
    assert (lstm.hidden_size, checkpoint.skipped) == (HIDDEN, [])
    assert any("4 of 6 hidden units are left, the others come back" in note for note in notes), notes
    whole = build(lstm, checkpoint.tensors)
    torch.testing.assert_close(whole(STEPS), module(STEPS), rtol=0, atol=1e-6)


@pytest.mark.parametrize("compensation", ["none", "fold", "heal"])
@pytest.mark.parametrize("again", FORMS)
@pytest.mark.parametrize("form", FORMS)
def test_it_is_pruned_further(tmp_path: Path, form: str, again: str, compensation: str) -> None:
    checkpoint, module = first(tmp_path, form)
    way = Way(compensation, steps=2 if compensation == "heal" else None)
    recipe = way.recipe(0.67, granularity="units")
    result = run(checkpoint, recipe, calibration=None if compensation == "none" else calibration())
    folder = result.save(tmp_path / "second", again)
    assert verify(folder) and verify(folder, checkpoint)
    small = load_lstms(folder)["rnn"]
    assert sum("Compact" in type(each).__name__ for each in small.modules()) == (again == "compact")
    (reopened,) = open_checkpoint(next(folder.glob("pruned.pt"))).lstms
    assert reopened.hidden_size == HIDDEN
    (entry,) = read_manifest(folder)["lstms"]
    assert {sum(layer["kept_rows"].values()) for layer in entry["layers"]} == {2 * 8}  # 2 units in 8 blocks
    loss = (answers(small) - answers(module)).square().sum() / answers(module).square().sum()
    assert loss < {"none": 1.0, "fold": 0.4, "heal": 0.4}[compensation]
    assert size_when_compact(checkpoint, recipe, result.masks) == size_of_form(checkpoint, result.forms["compact"])


@pytest.mark.parametrize(("form", "sparsity"), [("masked", 0.0), ("compact", 0.0), ("compact", 0.34)])
@pytest.mark.parametrize("shape", ["no bias", "both of two layers"])
def test_nothing_changes_where_nothing_more_goes(tmp_path: Path, shape: str, sparsity: float, form: str) -> None:
    """Units that are gone stay so, whatever sparsity is asked for: kept as zeros, they could not be told."""
    checkpoint, module = first(tmp_path, form, shape)
    folder = run(checkpoint, Recipe(sparsity, "units")).save(tmp_path / "second")
    torch.testing.assert_close(load_lstms(folder)["rnn"](STEPS), module(STEPS), rtol=0, atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_a_cell_is_pruned_further(tmp_path: Path, form: str) -> None:
    checkpoint, module = first(tmp_path, form, "one layer", cell=True)
    result = run(checkpoint, Way().recipe(0.67, granularity="units"), calibration=calibration())
    folder = result.save(tmp_path / "second")
    assert verify(folder, checkpoint)
    before, after = answers(module), answers(load_lstms(folder)["rnn"])
    assert (after - before).square().sum() / before.square().sum() < 0.4


@pytest.mark.parametrize("granularity", ["rows", "units"])
def test_what_heals_inside_a_model_starts_from_what_was_exported(tmp_path: Path, granularity: str) -> None:
    """The teacher gives the output and the last state that the export does, so it is these that are learnt."""
    checkpoint, module = first(tmp_path, "compact", "both of two layers")
    (lstm,), recipe = checkpoint.lstms, Way().recipe(0.67, granularity=granularity)
    statistics = gather_statistics(checkpoint, recipe, calibration())
    masks = run(checkpoint, recipe, calibration=calibration()).masks
    start = start_of(lstm, checkpoint.tensors, masks, recipe, [], statistics["rnn"], "cpu")
    torch.testing.assert_close(start.teacher().called(STEPS), module(STEPS), rtol=0, atol=1e-6)


@pytest.mark.parametrize("compensation", ["none", "fold"])
@pytest.mark.parametrize("again", FORMS)
@pytest.mark.parametrize("form", FORMS)
def test_its_rows_are_pruned_further_and_units_come_back_from_the_same(
    tmp_path: Path, form: str, again: str, compensation: str
) -> None:
    """No module multiplies single rows and rebuilds units, so both forms hold zeros."""
    checkpoint, module = first(tmp_path, form, "both of two layers")
    recipe = Way(compensation).recipe(0.5)
    result = run(checkpoint, recipe, calibration=None if compensation == "none" else calibration())
    folder = result.save(tmp_path / "second", again)
    assert verify(folder) and verify(folder, checkpoint)
    small = load_lstms(folder)["rnn"]
    assert type(small).__name__ == "ReconstructingLSTM"
    assert all(torch.equal(value, small.get_buffer(name)) for name, value in kept_by(module).items())
    assert 0 < (answers(small) - answers(module)).abs().max() < 2
    assert size_when_compact(checkpoint, recipe, result.masks) == size_of_form(checkpoint, result.forms["compact"])


def kept_by(module: nn.Module) -> dict[str, Tensor]:
    """The units that are left in each direction of the last layer."""
    buffers = dict(module.named_buffers())
    last = [buffers[f"layers.{index}.kept"] for index in (2, 3)] if "layers.0.kept" in buffers else None
    return {f"kept_{each}": buffers[f"kept_{each}"] if last is None else last[each] for each in range(2)}


def test_what_rebuilds_units_of_rows_must_be_in_the_file(tmp_path: Path) -> None:
    checkpoint, _ = first(tmp_path, "masked")
    folder = run(checkpoint, Recipe(0.5)).save(tmp_path / "second")
    state = torch.load(folder / "pruned.pt")
    state["rnn.kept_0"] = state["rnn.kept_0"].flip(0)
    torch.save(state, folder / "pruned.pt")
    stated(folder, "pruned.pt")
    with pytest.raises(PrunerError, match="expected what rebuilds units of 'rnn', found nothing that does"):
        verify(folder)


def stated(folder: Path, name: str) -> None:
    """Have the manifest say what a file is now."""
    manifest = read_manifest(folder)
    manifest["files"][name] = file_facts(folder / name)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_no_consumer_can_be_trimmed(tmp_path: Path) -> None:
    first(tmp_path, "compact")
    tensors = {**torch.load(tmp_path / "first" / "pruned.pt"), "head.weight": torch.ones(2, HIDDEN)}
    (tmp_path / "beside").mkdir()
    with pytest.raises(PrunerError, match=r"expected no consumers of rnn, .* found 'head.weight'; leave it out"):
        run(saved_in(tmp_path / "beside", tensors), Recipe(0.5, "units", consumers=("head.weight",)))
