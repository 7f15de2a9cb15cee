"""shrink(..., optimizer=): training goes on with the smaller model, moments and all."""

import copy
import warnings
from collections.abc import Iterator
from typing import Any

import joblib
import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW

from pruner import PrunerError, shrink
from pruner.in_memory.own_forward import floating
from tests.helpers.whole_models import loader, made

OPTIMIZERS: dict[str, Any] = {
    "SGD": lambda parameters: SGD(parameters, 0.05, momentum=0.9),
    "Adam": lambda parameters: Adam(parameters, 0.01),
    "AdamW, amsgrad": lambda parameters: AdamW(parameters, 0.01, amsgrad=True),
}
QUICK: dict[str, Any] = {"target": {"macs": 0.5}, "steps": 2}


@pytest.fixture(autouse=True)
def in_this_process() -> Iterator[None]:
    with joblib.parallel_config(backend="sequential"):
        yield


def train(model: nn.Module, optimizer: Any, batches: list[Any], times: int = 3) -> list[float]:
    losses = []
    for batch in batches * times:
        optimizer.zero_grad()
        loss = torch.stack([each.float().square().mean() for each in floating(model(batch))]).sum()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def moments(optimizer: Any, parameter: nn.Parameter) -> dict[str, Tensor]:
    return {key: value for key, value in optimizer.state[parameter].items() if value.dim() == parameter.dim() > 0}


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("name", ["tagger", "chain", "loop"])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_moments_are_trimmed_like_their_parameters(kind: str, name: str, inplace: bool) -> None:
    model, batches = made(name), loader(name)
    optimizer = OPTIMIZERS[kind](model.parameters())
    train(model, optimizer, batches)
    before = {title: moments(optimizer, parameter) for title, parameter in model.named_parameters()}
    wide = {title: parameter.detach().clone() for title, parameter in model.named_parameters()}
    small = shrink(model, batches, optimizer=optimizer, inplace=inplace, **QUICK)
    assert (small is model) == inplace
    own = dict(small.named_parameters())
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert {id(parameter) for parameter in held} == {id(parameter) for parameter in own.values()}
    shrunk = 0
    for title, parameter in own.items():
        for key, moment in moments(optimizer, parameter).items():
            assert moment.shape == parameter.shape
            if title in before and moment.shape == wide[title].shape:
                assert torch.equal(moment, before[title][key])
            elif title in before:
                numbers = set(before[title][key].flatten().tolist())
                assert set(moment.flatten().tolist()) <= numbers
                shrunk += 1
            else:
                shrunk += "layers." in title  # of a compact module, under names of its own
    assert shrunk
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        losses = train(small, optimizer, batches)
    assert losses[-1] < losses[0]


def test_the_original_and_its_other_optimizer_go_on() -> None:
    model, batches = made("tagger"), loader("tagger")
    mine, other = Adam(model.parameters(), 0.01), SGD(model.parameters(), 0.01)
    small = shrink(model, batches, optimizer=[mine], **QUICK)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(model, other, batches)
        train(small, mine, batches)


def test_in_place_a_forgotten_optimizer_is_named() -> None:
    model, batches = made("tagger"), loader("tagger")
    forgotten = SGD(model.parameters(), 0.01)
    shrink(model, batches, inplace=True, **QUICK)
    with pytest.warns(UserWarning, match="no longer the model"):
        train(model, forgotten, batches, 1)


@pytest.mark.parametrize("wrong", ["adam", Adam([nn.Parameter(torch.ones(2))])], ids=str)
def test_what_is_no_optimizer_of_the_model_is_refused(wrong: Any) -> None:
    model = made("tagger")
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(PrunerError, match="expected"):
        shrink(model, loader("tagger"), optimizer=wrong, **QUICK)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
