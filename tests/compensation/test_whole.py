"""Healing inside a model's own forward pass, whatever stands around its LSTMs."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pruner import Checkpoint, Recipe, Result, run
from pruner.calibration.calibration import Calibration
from pruner.calibration.fed import complete
from pruner.compact.masked_and_compact import FORMS
from pruner.compensation.fold import Shrunk
from pruner.compensation.student import Student
from pruner.exports.verify import verify
from pruner.files.consumers import load_consumers
from pruner.lstm.traces import layers_of
from tests.helpers.compensated import calibration, check_exports, check_zeros, model, steps_of
from tests.helpers.files import saved_in
from tests.helpers.models import found_in, named, random_lstm, random_steps

LSTMs = Mapping[str, Callable[..., Any]]


def tagger(tensors: Mapping[str, Tensor], lstms: LSTMs, batch: Tensor) -> Tensor:
    """What is done where no forward pass is given: an LSTM, then a linear layer at every step."""
    output, _ = lstms["rnn"](batch)
    return F.linear(output, tensors["linear.weight"], tensors["linear.bias"])


def encoder(tensors: Mapping[str, Tensor], lstms: LSTMs, batch: Tensor) -> Tensor:
    """One answer a sequence, from the last hidden state of the last layer, normalized."""
    _, (h_n, _) = lstms["rnn"](batch.tanh())
    return F.linear(F.layer_norm(h_n[-1], h_n.shape[-1:]), tensors["linear.weight"], tensors["linear.bias"])


def handed_over(tensors: Mapping[str, Tensor], lstms: LSTMs, batch: Tensor) -> Tensor:
    """An encoder hands its state to a decoder that reads the same steps."""
    _, state = lstms["rnn"](batch)
    output, _ = lstms["decoder"](batch, state)
    return F.linear(output, tensors["linear.weight"], tensors["linear.bias"])


def healed(folder: Path, tensors: dict[str, Tensor], forward: Any, task: str = "regression", **settings: Any) -> Result:
    checkpoint, names = (
        saved_in(folder, tensors),
        [name for name in ("rnn", "decoder") if f"{name}.bias_hh_l0" in tensors],
    )
    recipe = Recipe(
        0.4, consumers=("linear.weight",), compensation="heal", task=task, steps=80, lstms=("rnn",), **settings
    )
    return run(checkpoint, recipe, calibration=calibration(*names, count=64), forward=forward)


@pytest.mark.parametrize("granularity", ["units", "rows"])
@pytest.mark.parametrize("task", ["softmax", "regression"])
@pytest.mark.parametrize("forward", [tagger, encoder])
def test_what_is_left_learns_to_give_the_answers_of_the_whole_model(
    tmp_path: Path, forward: Any, task: str, granularity: str
) -> None:
    result = healed(tmp_path, model(head=True, num_layers=2), forward, task, granularity=granularity)
    fold, heal = steps_of(result)
    assert heal["kept"] and heal["after"] < 0.9 * fold["after"]
    check_zeros(result)
    check_exports(result, tmp_path)
    inputs = calibration(count=64).split()[1].sequences["rnn"][0]
    with torch.no_grad():
        dense = forward(result.checkpoint.tensors, _modules(result.checkpoint.tensors), inputs)
        pruned = forward(result.pruned.tensors(), result.pruned.modules("compact"), inputs)
    if task == "regression":
        assert result.answers == pytest.approx(float((pruned - dense).square().sum() / dense.square().sum()), rel=1e-4)
    assert result.verdict.loss == result.answers


def test_a_forward_pass_of_lstm_then_consumers_is_judged_as_if_none_were_given(tmp_path: Path) -> None:
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
    given = healed(tmp_path / "a", model(head=True), tagger, granularity="units")
    none = healed(tmp_path / "b", model(head=True), None, granularity="units")
    assert given.answers is not None and none.answers is not None
    assert given.answers == pytest.approx(none.answers, rel=0.5)  # they learn in another order


def test_a_state_that_is_handed_over_reaches_the_other_lstm(tmp_path: Path) -> None:
    tensors = model(head=True) | named(random_lstm(seed=5, hidden_size=6), "decoder.")
    result = healed(tmp_path, tensors, handed_over, granularity="units")
    fold, heal = steps_of(result)
    assert heal["after"] < fold["after"]
    pruned = handed_over(
        result.pruned.tensors(), result.pruned.modules("compact"), random_steps(2, 5, 3, dtype=torch.float32)
    )
    assert pruned.shape == (2, 5, 4)
    assert torch.equal(result.pruned.tensors()["decoder.weight_hh_l0"], tensors["decoder.weight_hh_l0"])


def one_after_the_other(tensors: Mapping[str, Tensor], lstms: LSTMs, batch: Tensor) -> Tensor:
    between, _ = lstms["rnn"](batch)
    return tagger(tensors, {"rnn": lstms["second"]}, between)


@pytest.fixture
def chain(tmp_path: Path) -> tuple[Checkpoint, Recipe, Calibration]:
    tensors = model(head=True) | named(random_lstm(seed=5, input_size=6, hidden_size=6), "second.")
    checkpoint = saved_in(tmp_path, tensors)
    consumers = ("rnn=second.weight_ih_l0", "second=linear.weight")
    recipe = Recipe(0.4, "units", compensation="heal", consumers=consumers, task="softmax", steps=80)
    return checkpoint, recipe, complete(calibration("rnn", count=64), checkpoint, recipe)


@pytest.mark.parametrize("granularity", ["units", "rows"])
def test_lstms_that_feed_each_other_heal_together(chain: Any, tmp_path: Path, granularity: str) -> None:
    checkpoint, recipe, inputs = chain
    recipe = replace(recipe, granularity=granularity)
    result = run(checkpoint, recipe, calibration=inputs, forward=one_after_the_other)
    folded, healed = (
        [steps[place] for steps in (lstm["steps"] for lstm in result.compensation.facts["lstms"])] for place in (0, 1)
    )
    assert folded[0]["after"] == folded[1]["before"] and healed[0]["after"] < 0.9 * folded[1]["after"]
    gone = ~result.masks["rnn.weight_ih_l0"][:6]
    read = result.pruned.tensors()["second.weight_ih_l0"]
    assert granularity == "rows" or (gone.any() and not read[:, gone].any() and read[:, ~gone].any())
    batch = inputs.split()[1].sequences["rnn"][0]
    with torch.no_grad():
        answers = [one_after_the_other(result.pruned.tensors(), result.pruned.modules(form), batch) for form in FORMS]
    torch.testing.assert_close(*answers, rtol=0, atol=1e-5)
    assert verify(result.save(tmp_path / "small", "compact", batch_first=True), checkpoint)


def test_a_chain_is_folded_as_one_lstm_after_the_other_is(chain: Any) -> None:
    checkpoint, recipe, inputs = chain
    recipe = replace(recipe, compensation="fold", steps=None)
    apart, together = (
        run(checkpoint, recipe, calibration=inputs, forward=forward) for forward in (None, one_after_the_other)
    )
    for result in (apart, together):
        assert all(step["kept"] for lstm in result.compensation.facts["lstms"] for step in lstm["steps"])
    wanted, found = apart.compensation.tensors, together.compensation.tensors
    assert found.keys() == wanted.keys() and not torch.equal(
        *(each["rnn.weight_hh_l0"] for each in (found, checkpoint.tensors))
    )
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-6)


def test_token_ids_reach_the_forward_pass_as_they_are(tmp_path: Path) -> None:
    tensors = model(head=True) | {"embedding.weight": random_steps(9, 3, dtype=torch.float32)}

    def forward(own: Mapping[str, Tensor], lstms: LSTMs, batch: Tensor) -> Tensor:
        assert batch.dtype == torch.int64
        return tagger(own, lstms, F.embedding(batch, own["embedding.weight"]))

    ids = torch.randint(9, (64, 16), generator=torch.Generator().manual_seed(0))
    inputs = Calibration("file", {"rnn": [ids]}, "embedding.weight", 2, "ids.npy")
    recipe = Recipe(
        0.4, "units", consumers=("linear.weight",), compensation="heal", task="softmax", steps=40, criterion="obs"
    )
    result = run(saved_in(tmp_path, tensors), recipe, calibration=inputs, forward=forward)
    fold, heal = steps_of(result)
    assert heal["after"] < fold["after"]


@pytest.mark.parametrize(
    "settings",
    [{}, {"num_layers": 2, "bidirectional": True}, {"num_layers": 2, "proj_size": 3}, {"bias": False}],
    ids=str,
)
def test_a_student_is_called_like_the_lstm_that_it_was_made_of(settings: dict[str, Any]) -> None:
    module = random_lstm(hidden_size=6, batch_first=True, **settings)
    lstm, tensors = found_in(module, "rnn.")
    student = Student(Shrunk(layers_of(lstm, tensors), load_consumers(tensors, [])), lstm, None, None)
    inputs = random_steps(2, 7, 3, dtype=torch.float32)
    places = lstm.num_layers * lstm.directions
    state = (
        random_steps(places, 2, lstm.proj_size or 6, dtype=torch.float32),
        random_steps(places, 2, 6, seed=2, dtype=torch.float32),
    )
    for begins in (None, state):
        wanted, (h_n, c_n) = module(inputs, begins)
        found, after = student.called(inputs, begins)
        for one, other in zip((found, *after), (wanted, h_n, c_n), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


def _modules(tensors: Mapping[str, Tensor]) -> LSTMs:
    module = random_lstm(hidden_size=6, num_layers=2, batch_first=True)
    module.load_state_dict(
        {name.removeprefix("rnn."): each for name, each in tensors.items() if name.startswith("rnn.")}
    )
    return {"rnn": module}
