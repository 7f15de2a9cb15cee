"""prune(optimizer): training goes on as it does with a fresh small model given the same weights and moments."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.helpers.training import INPUT_SIZE, H, Opaque, Tagger, seeded, stepped, train

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    "momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True),
    "Adam": lambda parameters: torch.optim.Adam(parameters, lr=0.02, amsgrad=True),
    "AdamW": lambda parameters: torch.optim.AdamW(parameters, lr=0.02, weight_decay=0.1),
    "Adagrad": lambda parameters: torch.optim.Adagrad(parameters, lr=0.1),
    "RMSprop": lambda parameters: torch.optim.RMSprop(parameters, lr=0.01, momentum=0.9, centered=True),
    "NAdam": lambda parameters: torch.optim.NAdam(parameters, lr=0.02),
    "foreach": lambda parameters: torch.optim.Adam(parameters, lr=0.02, foreach=True),
}


class Small(nn.Module):
    """The tagger as somebody would write it at its new size."""

    def __init__(self, units: int, layers: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(INPUT_SIZE, units, layers, batch_first=True)
        self.head = nn.Linear(units, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.lstm(inputs)[0])


def cut(name: str, tensor: Tensor, kept: list[Tensor]) -> Tensor:
    """What a tensor of the tagger keeps when its layers keep these units, worked out by hand."""
    if name == "head.bias":
        return tensor
    if name == "head.weight":
        return tensor[:, kept[-1]]
    layer = int(name[-1])
    rows = tensor.view(4, H, -1)[:, kept[layer]].flatten(0, 1)
    if "bias" in name:
        return rows.flatten()
    columns = kept[layer] if "_hh_" in name else kept[layer - 1] if layer else slice(None)
    return rows[:, columns]


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_losses_are_those_of_a_fresh_small_model(make: Callable[[Any], torch.optim.Optimizer], layers: int) -> None:
    model = seeded(Tagger, layers=layers)
    optimizer = make(model.parameters())
    train(model, optimizer, steps=4)
    pruner = stepped(model)
    train(model, optimizer, steps=2, first=4, pruner=pruner)
    masks = pruner.masks()
    kept = [masks[f"lstm.weight_ih_l{layer}"].view(4, H)[0].nonzero().flatten() for layer in range(layers)]
    names = [name for name, _ in Tagger(layers).named_parameters()]
    old = {name.replace(".parametrizations", "").removesuffix(".original"): p for name, p in model.named_parameters()}
    small = Small(len(kept[0]), layers)
    fresh = make(small.parameters())
    for name, parameter in small.named_parameters():
        parameter.data = cut(name, old[name].detach(), kept).clone()
        fresh.state[parameter] = {
            key: cut(name, value, kept).clone() if isinstance(value, Tensor) and value.dim() else value
            for key, value in optimizer.state[old[name]].items()
        }
        for key, value in fresh.state[parameter].items():
            if isinstance(value, Tensor):
                fresh.state[parameter][key] = value.clone()

    pruner.prune(optimizer)
    assert [name for name, _ in model.named_parameters()] == names
    found = train(model, optimizer, steps=8, first=6)
    assert found == pytest.approx(train(small, fresh, steps=8, first=6), rel=0, abs=1e-6)


@pytest.mark.parametrize("granularity", ["rows", "units"])
def test_compact_modules_train_as_the_masked_model_does(granularity: str) -> None:
    """Where only what is kept moves, the masked and the smaller model are the same one."""
    model, twin = seeded(Opaque), seeded(Opaque)
    optimizers = [torch.optim.Adam(each.parameters(), lr=0.02) for each in (model, twin)]
    pruners = []
    for each, optimizer in zip((model, twin), optimizers, strict=True):
        train(each, optimizer)
        pruners.append(stepped(each, granularity))
        train(each, optimizer)
    pruners[0].prune(optimizers[0])
    found, wanted = (train(each, own, steps=8) for each, own in zip((model, twin), optimizers, strict=True))
    assert found == pytest.approx(wanted, rel=0, abs=1e-5)


def test_moments_of_a_second_round_are_trimmed_once_more() -> None:
    model = seeded(Opaque)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    train(model, optimizer)
    stepped(model, sparsity=0.25).prune(optimizer)
    train(model, optimizer)
    layer = model.lstm.layers[0]
    pruner = stepped(model, sparsity=0.5)
    kept = pruner.masks()["lstm.layers.0.lstm.weight_hh_l0"].view(4, -1)[0].nonzero().flatten()
    moment = optimizer.state[layer.lstm.parametrizations.weight_hh_l0.original]["exp_avg"].view(4, 6, 6)
    wanted, units = moment[:, kept][:, :, kept].flatten(0, 1), layer.kept[kept]
    pruner.prune(optimizer)
    small = model.lstm.layers[0]
    assert torch.equal(optimizer.state[small.lstm.weight_hh_l0]["exp_avg"], wanted)
    assert torch.equal(small.kept, units)


def test_a_chain_of_lstms_moves_with_its_optimizer() -> None:
    """The input of the second LSTM loses columns, and its own units their rows: both, in its moments too."""

    class Chain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.lstm = nn.LSTM(INPUT_SIZE, H, batch_first=True), nn.LSTM(H, H, batch_first=True)
            self.head = nn.Linear(H, 2)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.head(self.lstm(self.first(inputs)[0])[0])

    torch.manual_seed(0)
    model = Chain()
    optimizer = torch.optim.Adam(model.parameters())
    train(model, optimizer)
    weight = model.lstm.weight_ih_l0
    moment = optimizer.state[weight]["exp_avg"].clone()
    pruner = stepped(model)
    first, second = (pruner.masks()[f"{name}.weight_ih_l0"] for name in ("first", "lstm"))
    pruner.prune(optimizer)
    found = optimizer.state[model.lstm.weight_ih_l0]["exp_avg"]
    assert torch.equal(found, moment[second][:, first.view(4, H)[0]]) and found.shape == (2 * H, H // 2)
    train(model, optimizer)
