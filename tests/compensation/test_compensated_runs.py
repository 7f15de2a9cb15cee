"""A compensated run: what it refuses, tells, leaves alone and writes down."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from pruner import PrunerError, Recipe, Result, run
from pruner.calibration.inputs import gaussian
from pruner.compensation.chain import compensate
from pruner.compensation.fold import RIDGE
from pruner.pipeline import choose_masks, gather_statistics
from tests.helpers.compensated import BURN_IN, WAYS, calibration, check_exports, model, steps_of
from tests.helpers.files import saved_in
from tests.helpers.models import named, random_lstm


@pytest.mark.parametrize(
    ("recipe", "data", "message"),
    [
        (WAYS["fold"].recipe(), None, "expected calibration inputs for this recipe"),
        (Recipe(criterion="obs", granularity="units"), None, "expected calibration inputs for this recipe"),
        (WAYS["heal softmax"].recipe(), "gaussian", "expected real or sampled inputs .* found random ones"),
        (WAYS["fold"].recipe(1.0, granularity="units"), "file", "units left in every layer of rnn .* a layer without"),
        (WAYS["fold"].recipe(granularity="units"), "other", "expected calibration inputs for rnn, found none"),
        (WAYS["fold"].recipe(granularity="units"), "short", "expected at least 10 time steps of rnn"),
    ],
    ids=str,
)
def test_what_cannot_be_compensated_is_told(tmp_path: Path, recipe: Recipe, data: str | None, message: str) -> None:
    checkpoint = saved_in(tmp_path, model(head=True))
    inputs = {
        "gaussian": gaussian(checkpoint, checkpoint.lstms),
        "file": calibration(),
        "other": calibration("encoder"),
        "short": calibration(count=2, steps=5),
    }
    with pytest.raises(PrunerError, match=message):
        run(checkpoint, recipe, calibration=inputs[data] if data else None)


def test_an_lstm_without_consumers_is_healed_by_its_output(tmp_path: Path) -> None:
    tensors = model(head=True) | named(random_lstm(1, hidden_size=5), "other.")
    checkpoint = saved_in(tmp_path, tensors)
    recipe = WAYS["heal softmax"].recipe(granularity="units")
    result = run(checkpoint, recipe, calibration=calibration("rnn", "other"))
    for number, name in enumerate(("other", "rnn")):
        assert result.compensation.facts["lstms"][number]["name"] == name
        assert [step["name"] for step in steps_of(result, number)] == ["fold", "heal"]
    assert set(result.compensation.reconstructions) == {"other"}
    check_exports(result, tmp_path)


def without_times(result: Result) -> dict[str, Any]:
    """What was done, but for how long it took."""
    facts = json.loads(json.dumps(result.compensation.facts))
    for lstm in facts["lstms"]:
        for step in lstm["steps"]:
            step.pop("seconds", None)
    return facts


class Stop(Exception):
    pass


def test_progress_is_told_throughout_and_can_stop(tmp_path: Path) -> None:
    checkpoint = saved_in(tmp_path, model(head=True, num_layers=2))
    recipe, data = WAYS["heal softmax"].recipe(granularity="units"), calibration()
    gathered = gather_statistics(checkpoint, recipe, data)
    masks = choose_masks(checkpoint, recipe, statistics=gathered)
    told: list[float] = []

    def ask(stop_at: float = math.inf) -> None:
        def progress(done: float, _: str) -> None:
            told.append(done)
            if done >= stop_at:
                raise Stop

        compensate(checkpoint, recipe, masks, gathered, data, progress=progress)

    ask()
    assert told == sorted(told) and told[0] >= 0 and told[-1] == 1 and len(told) > 8
    for stop_at in (0.0, 0.3, 0.75):
        with pytest.raises(Stop):
            ask(stop_at)


def test_neither_the_checkpoint_nor_the_data_is_changed(tmp_path: Path) -> None:
    checkpoint, data = saved_in(tmp_path, model(head=True)), calibration()
    before = {name: tensor.clone() for name, tensor in checkpoint.tensors.items()}
    inputs = data.sequences["rnn"][0].clone()
    run(checkpoint, WAYS["heal softmax"].recipe(granularity="units"), calibration=data)
    assert all(torch.equal(checkpoint.tensors[name], tensor) for name, tensor in before.items())
    assert torch.equal(data.sequences["rnn"][0], inputs)


def test_the_same_run_gives_the_same_model(tmp_path: Path) -> None:
    checkpoint = saved_in(tmp_path, model(head=True))
    one, other = (
        run(checkpoint, WAYS["heal softmax"].recipe(granularity="units"), calibration=calibration()) for _ in range(2)
    )
    assert without_times(one) == without_times(other)
    for name, tensor in one.compensation.tensors.items():
        assert torch.equal(tensor, other.compensation.tensors[name])


def test_a_run_takes_statistics_that_are_there_already(tmp_path: Path) -> None:
    checkpoint, recipe, data = saved_in(tmp_path, model(head=True)), WAYS["heal softmax"].recipe(), calibration()
    said: list[str] = []
    given = run(
        checkpoint,
        recipe,
        calibration=data,
        statistics=gather_statistics(checkpoint, recipe, data),
        progress=lambda _, what: said.append(what),
    )
    assert said and not any(what.startswith("Reading") for what in said)
    wanted = run(checkpoint, recipe, calibration=data)
    assert without_times(given) == without_times(wanted)
    for name, tensor in wanted.compensation.tensors.items():
        assert torch.equal(given.compensation.tensors[name], tensor)


def test_the_facts_say_what_was_done(tmp_path: Path) -> None:
    checkpoint, data = saved_in(tmp_path, model(head=True)), calibration()
    result = run(checkpoint, WAYS["heal softmax"].recipe(granularity="units"), calibration=data)
    facts = result.compensation.facts
    assert facts["calibration"] == {
        "source": "file",
        "name": "inputs.npy",
        "sha256": data.sha256,
        "steps": {"rnn": 30 * (16 - BURN_IN)},
    }
    assert facts["ridge"] == RIDGE
    healed = steps_of(result)[1]
    assert healed["updates"] == 40 and healed["seconds"] >= 0 and healed["stopped"] is False
    manifest = json.loads((result.save(tmp_path / "out") / "manifest.json").read_text())
    assert manifest["compensation"] == json.loads(json.dumps(facts))
