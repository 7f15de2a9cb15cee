"""On another device: every tensor that meets another is there. Without one, on a pretended one that refuses to mix."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pruner import LSTMSaliencyPruner, unit_penalty
from tests.helpers.elsewhere import ELSEWHERE, Elsewhere, FromNumbers
from tests.helpers.training import BATCH, INPUT_SIZE, STEPS, Opaque, Tagger, seeded, stepped

DEVICES = ["pretended", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    if request.param == "cuda":
        yield torch.device("cuda:0")
        return
    with Elsewhere(), FromNumbers():
        yield ELSEWHERE


def train(model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device, pruner: Any = None) -> None:
    for _ in range(2):
        inputs, targets = torch.randn(BATCH, STEPS, INPUT_SIZE).to(device), torch.randn(BATCH, STEPS, 2).to(device)
        optimizer.zero_grad()
        (model(inputs) - targets).square().mean().backward()
        optimizer.step()
        if pruner is not None:
            pruner.step()


def there(device: torch.device, tensors: Any) -> bool:
    return all(tensor.device == device for tensor in tensors)


def all_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    moments = [value for state in optimizer.state.values() for value in state.values() if value.dim()]
    return [*model.parameters(), *model.buffers(), *moments]


def moved(kind: Callable[..., Any], device: torch.device, **settings: Any) -> Any:
    """A model that was made on the CPU and moved."""
    return seeded(kind, **settings).to(device)


SETTINGS: dict[str, dict[str, Any]] = {
    "rows": {"granularity": "rows"},
    "rows, l2, no regrowth": {"granularity": "rows", "criterion": "l2", "regrow": False},
    "rows, random": {"granularity": "rows", "criterion": "random"},
    "units": {"granularity": "units"},
    "units, random": {"granularity": "units", "criterion": "random"},
    "units, group, global": {"granularity": "units", "criterion": "group", "allocation": "global", "round_to": 2},
    "units, consumers": {"granularity": "units", "criterion": "group", "consumers": ["head.weight"]},
    "units, chosen": {"granularity": "units", "units": {"*": [0, 3]}},
}


@pytest.mark.parametrize("kind", [Tagger, Opaque])
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_the_whole_way_stays_on_the_device(settings: dict[str, Any], kind: Any, device: torch.device) -> None:
    model = moved(kind, device, layers=2)
    optimizer = torch.optim.Adam(model.parameters())
    pruner = LSTMSaliencyPruner({"sparsity_level": 0.5}, **settings)
    pruner.prepare(model)
    pruner.schedule("cubic", steps=3)
    train(model, optimizer, device, pruner)
    assert there(device, pruner.masks().values()) and there(device, all_of(model, optimizer))
    pruner.prune(optimizer)
    train(model, optimizer, device)
    assert there(device, all_of(model, optimizer))
    again = stepped(model, settings["granularity"], 0.5)
    train(model, optimizer, device, again)
    again.prune()
    model(torch.randn(BATCH, STEPS, INPUT_SIZE).to(device))
    assert there(device, [*model.parameters(), *model.buffers()])


def test_masks_move_with_the_model(device: torch.device) -> None:
    model = seeded()
    pruner = stepped(model, "rows")
    before = {name: mask.clone() for name, mask in pruner.masks().items()}
    model.to(device)
    assert there(device, pruner.masks().values())
    pruner.step()
    assert all(torch.equal(mask.cpu(), before[name]) for name, mask in pruner.masks().items())
    assert there(device, (own["mask"] for own in pruner.state.values()))


def test_frozen_zeros_and_a_penalty_on_the_device(device: torch.device) -> None:
    model = moved(Tagger, device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    train(model, optimizer, device)
    pruner = stepped(model)
    mask = pruner.masks()["lstm.weight_hh_l0"]
    pruner.squash_mask(freeze=True, optimizers=[optimizer])
    train(model, optimizer, device)
    assert not model.lstm.weight_hh_l0[~mask].count_nonzero()
    assert unit_penalty(model.lstm, [model.head.weight]).device == device


def test_a_state_dict_of_the_cpu_is_taken_over(device: torch.device) -> None:
    saved = stepped(seeded()).state_dict()
    model = moved(Tagger, device)
    pruner = LSTMSaliencyPruner(granularity="units")
    pruner.prepare(model)
    pruner.load_state_dict(saved)
    pruner.step()
    assert there(device, pruner.masks().values())


def test_the_pretended_device_refuses_to_mix() -> None:
    with Elsewhere(), pytest.raises(RuntimeError, match="expected all tensors on one device"):
        torch.ones(3, device=ELSEWHERE) + torch.ones(3)
