"""What is seen of a model that reads a loader: the inputs of its LSTMs as sequences, and which of its tensors answer."""

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pruner.in_memory import observing
from pruner.in_memory.in_checkpoint import described
from pruner.in_memory.observing import Observation, observe
from pruner.progress import silent
from tests.helpers.whole_models import BATCHES, CASES, SEQUENCES, STEPS, WIDTH, loader, made


def seen(model: nn.Module, batches: Any) -> Observation:
    lstms = {name: module for name, module in model.named_modules() if isinstance(module, nn.LSTM | nn.LSTMCell)}
    return observe(model.eval(), lambda model, batch: model(batch), batches, lstms, "cpu", silent)


class Alone(nn.Module):
    """Reads one sequence (T, I) of its batch at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(WIDTH, 5)

    def forward(self, batch: Tensor) -> Tensor:
        return torch.stack([self.lstm(sequence)[0] for sequence in batch])


class Generating(nn.Module):
    """Takes single steps of an `nn.LSTM`, each from the state of the one before."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(WIDTH, 5, batch_first=True)

    def forward(self, batch: Tensor) -> Tensor:
        state, found = None, []
        for step in batch.split(1, 1):
            output, state = self.lstm(step, state)
            found.append(output)
        return torch.cat(found, 1)


WHOLE = {
    "batches first": (made, "labels", "lstm"),
    "time first": (lambda: made("encoder and decoder"), "encoder and decoder", "encoder"),
    "a loop of cells": (lambda: made("loop"), "loop", "cell"),
    "a loop of steps": (Generating, "labels", "lstm"),
    "one by one": (Alone, "labels", "lstm"),
}


@pytest.mark.parametrize(("model", "name", "lstm"), WHOLE.values(), ids=WHOLE)
def test_inputs_are_whole_sequences_however_they_are_read(model: Any, name: str, lstm: str) -> None:
    batches = loader(name)
    fit_on, held_back = seen(model(), batches).calibration.split()
    as_read = [batch.transpose(0, 1) if name == "encoder and decoder" else batch for batch in batches]
    assert torch.equal(torch.cat(fit_on.sequences[lstm]), torch.cat(as_read[: BATCHES * 4 // 5]))
    assert torch.equal(torch.cat(held_back.sequences[lstm]), torch.cat(as_read[BATCHES * 4 // 5 :]))
    assert fit_on.batches is not None and held_back.batches is not None
    for one, other in zip([*fit_on.batches, *held_back.batches], batches, strict=True):
        assert torch.equal(one, other)


def test_packed_sequences_end_where_they_end() -> None:
    batches = loader("tagger")
    found = seen(made("tagger"), batches).calibration.sequences["lstm"]
    lengths = torch.cat([lengths for _, lengths in batches[: BATCHES * 4 // 5]])
    assert [(group.shape[1], len(group)) for group in found] == [
        (length, int((lengths == length).sum())) for length in sorted(set(lengths.tolist()))
    ]


@pytest.mark.parametrize("name", CASES)
def test_states_of_lstms_are_no_answers_and_those_that_are_handed_on_are_known(name: str) -> None:
    found = seen(made(name), loader(name))
    assert found.compared == [0]
    assert found.handed_states == ({"decoder"} if name == "encoder and decoder" else set())


def test_states_answer_where_there_is_nothing_else() -> None:
    class States(Alone):
        def forward(self, batch: Tensor) -> Any:
            return self.lstm(batch)[1]

    assert seen(States(), loader()).compared == [0]  # h_n, and not c_n


def test_layers_that_answer_are_told_from_those_that_do_not() -> None:
    assert seen(made(), loader()).answering == {"linear"}
    assert seen(nn.Sequential(Alone(), nn.Linear(5, 3), nn.ReLU()), loader()).answering == set()


def test_of_an_endless_loader_as_much_is_taken_as_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observing, "MOST_STEPS", 20 * SEQUENCES * STEPS)
    monkeypatch.setattr(observing, "ENOUGH_STEPS", 4 * SEQUENCES * STEPS)
    taken = itertools.count()

    def endless() -> Iterator[Tensor]:
        for _ in taken:
            yield torch.randn(SEQUENCES, STEPS, WIDTH)

    fit_on, held_back = seen(made(), endless()).calibration.split()
    assert (len(fit_on.batches or ()), len(held_back.batches or ()), next(taken)) == (16, 4, 20)
    every_fourth = (fit_on.batches or ())[::4]
    assert torch.equal(torch.cat(fit_on.sequences["lstm"]), torch.cat(list(every_fourth)))


def test_a_model_is_described_as_the_file_that_it_would_be() -> None:
    model = made("tagger")
    found = described(model.eval())
    assert found.checkpoint.tensors.keys() == model.state_dict().keys()
    assert (found.names, found.consumers, dict(found.reasons)) == (("lstm",), ("lstm=head.weight",), {})
    assert found.trained == ["head.weight", "head.bias"]


def test_lstms_that_are_more_than_that_are_declined() -> None:
    model = made("chain")
    model.first.forward = lambda steps: (steps, None)
    model.third = nn.utils.parametrizations.weight_norm(nn.LSTM(3, 3), "weight_hh_l0")
    model.fourth, model.fifth = nn.LSTM(3, 3), nn.LSTM(3, 3)
    model.fifth.weight_hh_l0 = model.fourth.weight_hh_l0
    found = described(model)
    assert found.names == ("second",)
    assert {name: reason.split("(")[0].strip() for name, reason in found.declined.items()} == {
        "first": "because LSTM may do more than an LSTM",
        "third": "because ParametrizedLSTM may do more than an LSTM",
        "fourth": "because it shares tensors with another module",
        "fifth": "because it shares tensors with another module",
    }
