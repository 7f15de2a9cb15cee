"""An LSTM that reads another one, scored and compensated from data: only the first needs inputs."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pruner import PrunerError, Recipe, run
from pruner.calibration.calibration import Calibration
from pruner.calibration.fed import complete
from pruner.calibration.inputs import gaussian, read_calibration
from pruner.compact.costs import size_when_compact
from pruner.exports.verify import verify
from pruner.files.checkpoint import Checkpoint
from pruner.files.consumer_choice import along, feeders, offered
from pruner.lstm.module import build
from tests.helpers.command_line import command
from tests.helpers.files import saved_in
from tests.helpers.models import named

READERS = ("second.weight_ih_l0", "fc.weight")


def slow_steps(count: int, steps: int, width: int = 5) -> Tensor:
    """Smooth random walks, of which units can tell each other."""
    torch.manual_seed(1)
    return torch.randn(count, steps, width).cumsum(1) / 6


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    torch.manual_seed(0)
    tensors = named(nn.LSTM(5, 16), "first.") | named(nn.LSTM(16, 12), "second.") | named(nn.Linear(12, 7), "fc.")
    return saved_in(tmp_path, {name: 2 * tensor for name, tensor in tensors.items()})


def answers(checkpoint: Checkpoint, tensors: dict[str, Tensor], inputs: Tensor) -> Tensor:
    """What the whole chain gives with these tensors at full size."""
    for lstm in checkpoint.lstms:
        inputs, _ = build(lstm, tensors)(inputs)
    return F.linear(inputs, tensors["fc.weight"], tensors["fc.bias"]).detach()


def of_first(count: int = 40) -> Calibration:
    return Calibration("file", {"first": [slow_steps(count, 60)]})


@pytest.mark.parametrize("task", ["softmax", "regression", None])
def test_what_is_handed_on_answers_like_the_dense_chain(tmp_path: Path, checkpoint: Checkpoint, task: Any) -> None:
    lost, told = {}, {}
    for compensation in ("none", "fold", "heal"):
        recipe = Recipe(0.5, "units", "obs", compensation=compensation, consumers=READERS, task=task, steps=60)
        result = run(checkpoint, recipe, calibration=of_first())
        assert [result.forms["compact"].changed[name].shape[1] for name in READERS] == [8, 6]  # type: ignore[union-attr]
        inputs = slow_steps(48, 60)[40:]
        wanted, found = (answers(checkpoint, each, inputs) for each in (checkpoint.tensors, result.pruned.tensors()))
        lost[compensation] = float((wanted - found).square().sum() / wanted.square().sum())
        told[compensation] = result.answers
    assert lost["fold"] < 0.7 * lost["none"] and lost["heal"] < 0.85 * lost["fold"]
    assert told["fold"] < 0.7 * told["none"] and told["heal"] < 0.85 * told["fold"]
    folder = result.save(tmp_path / "small", batch_first=True)
    assert verify(folder) and verify(folder, checkpoint)


def test_the_chain_is_judged_from_end_to_end(checkpoint: Checkpoint) -> None:
    result = run(checkpoint, Recipe(0.5, "units", "obs", consumers=READERS), calibration=of_first())
    held_back = of_first().split()[1].sequences["first"][0]
    wanted, found = (answers(checkpoint, each, held_back) for each in (checkpoint.tensors, result.pruned.tensors()))
    assert result.answers == pytest.approx(float((wanted - found).square().sum() / wanted.square().sum()), rel=1e-4)


@pytest.mark.parametrize("form", ["masked", "compact"])
def test_a_reader_of_two_sizes_leaves_the_one_before_it_its_width(tmp_path: Path, form: str) -> None:
    """Units that are ranked together leave layers of other sizes, whose input keeps its name in no file."""
    tensors = named(nn.LSTM(5, 16), "first.") | named(nn.LSTM(16, 12, 2), "second.") | named(nn.Linear(12, 7), "fc.")
    checkpoint = saved_in(tmp_path, {name: 2 * tensor for name, tensor in tensors.items()})
    recipe = Recipe(0.4, "units", "obs", compensation="fold", consumers=READERS, allocation="global")
    result = run(checkpoint, recipe, calibration=of_first())
    first, second = result.forms["compact"].layouts
    assert (first.consumers, second.stored_as, second.inputs) == ([], "CompactLSTM", None)
    assert result.costs["compact"].macs_per_step == size_when_compact(checkpoint, recipe, result.masks).macs_per_step
    assert verify(result.save(tmp_path / "small", form, batch_first=True), checkpoint)
    inputs = slow_steps(9, 20)
    small, lstms = dict(result.pruned.tensors()), result.pruned.modules("compact")
    with torch.no_grad():
        found = F.linear(lstms["second"](lstms["first"](inputs)[0])[0], small["fc.weight"], small["fc.bias"])
    torch.testing.assert_close(found, answers(checkpoint, small, inputs), rtol=0, atol=1e-5)


def test_inputs_of_its_own_go_first(checkpoint: Checkpoint) -> None:
    own = build(checkpoint.lstms[0], checkpoint.tensors)(slow_steps(40, 30))[0].detach()
    calibration = Calibration("file", {"first": [slow_steps(40, 60)], "second": [own]})
    recipe = Recipe(0.5, "units", "obs", compensation="fold", consumers=READERS)
    assert complete(calibration, checkpoint, recipe) == calibration
    # What the second no longer asks of the first is no fault of the first: half of its rows are gone.
    lost = run(checkpoint, recipe, calibration=calibration).answers
    assert lost is not None and lost < 0.3


def test_what_the_first_gives_the_second(checkpoint: Checkpoint) -> None:
    recipe = Recipe(0.5, "units", "obs", consumers=READERS)
    done = complete(of_first(70), checkpoint, recipe)
    wanted, _ = build(checkpoint.lstms[0], checkpoint.tensors)(slow_steps(70, 60))
    torch.testing.assert_close(done.sequences["second"][0], wanted)
    assert done.fed == {"second": "first"} and done.sha256 == of_first(70).sha256
    assert complete(done, checkpoint, recipe).fed == done.fed
    assert all(side.steps()["first"] == side.steps()["second"] for side in done.split())


def test_a_file_for_the_first_alone_is_enough(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(slow_steps(40, 60), "inputs.pt")
    line = "prune model.pt --granularity units --criterion obs --compensation fold --calibration inputs.pt --output out"
    assert command(f"{line} {' '.join(f'--consumer {name}' for name in READERS)}") == 0
    assert command(f"{line}2 --consumer second.weight_ih_l0 --consumer fc.weight --calibration gaussian") == 0
    assert verify("out", checkpoint) and verify("out2", checkpoint)
    assert command(f"{line}3 --consumer fc.weight") == 2
    assert "expected arrays called like LSTMs" in capsys.readouterr().err


@pytest.mark.parametrize(("missing", "fed"), [("second", ()), ("first", ("second",))])
def test_what_nobody_feeds_needs_inputs(checkpoint: Checkpoint, tmp_path: Path, missing: str, fed: Any) -> None:
    there = {"first": slow_steps(9, 20), "second": torch.randn(9, 20, 16)}
    del there[missing]
    torch.save(there, tmp_path / "inputs.pt")
    with pytest.raises(PrunerError, match=f"found none for {missing}"):
        read_calibration(tmp_path / "inputs.pt", "inputs.pt", checkpoint, checkpoint.lstms, fed=fed)


def test_random_inputs_reach_the_second_through_the_first(checkpoint: Checkpoint) -> None:
    recipe = Recipe(0.5, "units", compensation="fold", consumers=READERS)
    done = complete(gaussian(checkpoint, checkpoint.lstms[:1]), checkpoint, recipe)
    assert done.sequences["second"][0].abs().max() <= 1


def test_who_feeds_whom(tmp_path: Path) -> None:
    tensors = named(nn.LSTM(4, 4), "a.") | named(nn.LSTM(4, 4), "b.") | named(nn.LSTM(4, 4), "c.")
    checkpoint = saved_in(tmp_path, tensors | {"head.weight": torch.ones(2, 4)})
    fed = feeders(checkpoint, {"c": ["b.weight_ih_l0"], "b": ["a.weight_ih_l0"], "a": ["head.weight"]})
    assert fed == {"b": "c", "a": "b"}
    assert [lstm.name for lstm in along(fed, checkpoint.lstms)] == ["c", "b", "a"]
    assert len(along({"a": "b", "b": "a"}, checkpoint.lstms)) == 3
    found = offered(checkpoint, checkpoint.lstms[:2])
    assert found == ["a=head.weight", "b=head.weight", "a.weight_ih_l0", "b.weight_ih_l0"]
    assert "c=b.weight_ih_l0" in offered(checkpoint, checkpoint.lstms)
