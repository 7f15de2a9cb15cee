"""shrink(model, loader) of LSTMs that read each other: all become smaller, healed together, and stay one model."""

import copy
import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import joblib
import pytest
import torch
from torch import Tensor, nn

from pruner import PrunerError, shrink
from pruner.compact.load_pruned import CompactLSTM, replace
from pruner.exports.opened import read_export
from pruner.exports.verify import verify
from pruner.in_memory.report import Removed

WIDTH, STEPS = 4, 14
HALF: dict[str, Any] = {"target": {"macs": 0.5}, "steps": 10}


@pytest.fixture(autouse=True)
def in_this_process() -> Iterator[None]:
    with joblib.parallel_config(backend="sequential"):
        yield


class Chain(nn.Module):
    """LSTMs in a row with dropout between, what `end` puts behind the last, and a head."""

    def __init__(self, *sizes: int, end: Callable[[int], nn.Module] = nn.Identity, **settings: Any) -> None:
        super().__init__()
        directions, projection = 1 + settings.get("bidirectional", False), settings.get("proj_size")
        widths = [WIDTH, *(directions * (projection or size) for size in sizes)]
        self.drop = nn.Dropout(0.3)
        self.lstms = nn.ModuleList(
            nn.LSTM(width, size, batch_first=True, **settings) for width, size in zip(widths[:-1], sizes, strict=True)
        )
        self.end, self.head = end(widths[-1]), nn.Linear(widths[-1], 3)

    def forward(self, steps: Tensor) -> Tensor:
        for lstm in self.lstms:
            steps, _ = lstm(self.drop(steps))
        return self.head(self.end(steps))


class OfTwo(Chain):
    """The output of the first is read twice: by the second and by a layer of its own."""

    def __init__(self) -> None:
        super().__init__(12, 10)
        self.beside = nn.Linear(12, 3)

    def forward(self, steps: Tensor) -> Tensor:
        first, _ = self.lstms[0](steps)
        second, _ = self.lstms[1](first)
        return self.head(second) + self.beside(first)


class States(Chain):
    """The last is handed the state of the first, too."""

    def forward(self, steps: Tensor) -> Tensor:
        first, state = self.lstms[0](steps)
        return self.head(self.lstms[1](first, state)[0])


CHAINS: dict[str, tuple[Callable[[], nn.Module], list[tuple[str, ...]]]] = {
    "two": (lambda: Chain(16, 12), [("lstms.1.weight_ih_l0",), ("head.weight",)]),
    "two without biases": (lambda: Chain(16, 12, bias=False), [("lstms.1.weight_ih_l0",), ("head.weight",)]),
    "three": (
        lambda: Chain(14, 12, 10),
        [("lstms.1.weight_ih_l0",), ("lstms.2.weight_ih_l0",), ("head.weight",)],
    ),
    "both directions": (
        lambda: Chain(10, 8, bidirectional=True),
        [("lstms.1.weight_ih_l0", "lstms.1.weight_ih_l0_reverse"), ("head.weight",)],
    ),
    "layers": (lambda: Chain(10, 8, num_layers=2), [("lstms.1.weight_ih_l0",), ("head.weight",)]),
    "two readers": (OfTwo, [("beside.weight", "lstms.1.weight_ih_l0"), ("head.weight",)]),
}


def made(build: Callable[[], nn.Module]) -> Any:
    """A model with weights so large that removing units hurts."""
    torch.manual_seed(0)
    model = build()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    return model


def loader(count: int = 10) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(8, STEPS, WIDTH, generator=generator) for _ in range(count)]


def removed(small: Any) -> dict[str, Removed]:
    return {each.name: each for each in small.report.removed}


@torch.no_grad()
def distance(small: nn.Module, model: nn.Module, batches: list[Tensor]) -> float:
    """The squared error of the answers over the square of what they should be."""
    steps = torch.cat(batches)
    wanted, found = (copy.deepcopy(each).eval()(steps) for each in (model, small))
    return float((found - wanted).square().sum() / wanted.square().sum())


@pytest.mark.parametrize("name", CHAINS)
def test_every_lstm_of_a_chain_becomes_smaller(name: str, tmp_path: Path) -> None:
    build, trimmed = CHAINS[name]
    model, batches = made(build), loader()
    before = copy.deepcopy(model.state_dict())
    small: Any = shrink(model, batches, **HALF)
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
    lstms = list(small.lstms)
    directions = 1 + lstms[0].bidirectional
    assert {type(lstm) for lstm in lstms} == {nn.LSTM}
    for narrow, wide in zip(lstms, model.lstms, strict=True):
        assert narrow.hidden_size < wide.hidden_size and narrow.dropout == wide.dropout
    for feeder, reader in pairwise(lstms):
        assert reader.input_size == directions * feeder.hidden_size == reader.weight_ih_l0.shape[1]
    assert small.head.in_features == directions * lstms[-1].hidden_size
    assert [tuple(sorted(each.trimmed)) for each in removed(small).values()] == trimmed
    assert not any(each.reason for each in removed(small).values())
    assert small.report.macs[1] <= 0.5 * small.report.macs[0]
    # The divergence that the report tells is that of the model that is returned, on batches that were held back.
    assert small.report.verdict.loss == pytest.approx(distance(small, model, batches[-2:]), rel=1e-3)
    assert 0 < small.report.verdict.loss < 0.2
    folder = small.save(tmp_path / "small")
    assert verify(folder)
    masked, loaded = copy.deepcopy(model).eval(), replace(copy.deepcopy(model), folder).eval()
    masked.load_state_dict(read_export(folder).masked.tensors)
    with torch.no_grad():
        wanted = copy.deepcopy(small).eval()(batches[0])
        assert torch.equal(loaded(batches[0]), wanted)
        torch.testing.assert_close(masked(batches[0]), wanted, rtol=0, atol=1e-5)
    small.train()(batches[0]).sum().backward()
    assert all(parameter.grad is not None for parameter in small.parameters())


def test_what_a_chain_folds_and_heals_is_worth_it() -> None:
    """Nothing of what the second one reads of the first is lost: healing goes on from a fold across both."""
    model, batches = made(lambda: Chain(16, 12)), loader(20)
    losses = []
    for steps in (1, 60):
        small = shrink(model, batches, target={"macs": 0.4}, steps=steps)
        losses.append(distance(small, model, batches[-4:]))
    assert losses[1] < 0.6 * losses[0]


def test_layers_that_differ_keep_the_width_before_them() -> None:
    """Units ranked together leave layers of other sizes, which no plain LSTM of a smaller input holds."""
    model = made(lambda: Chain(12, 10, num_layers=2))
    with torch.no_grad():
        model.head.weight[:, :8] = 0  # nobody listens to eight units of ten
        model.lstms[1].weight_hh_l1[:, :8] = 0
    small: Any = shrink(model, loader(), target={"macs": 0.6}, steps=2)
    assert isinstance(small.lstms[1], CompactLSTM)
    assert len(small.lstms[1].layers[0].kept) > len(small.lstms[1].layers[1].kept)
    assert small.lstms[1].input_size == 12 and small(loader()[0]).shape == (8, STEPS, 3)
    first = removed(small)["lstms.0"]
    assert first.trimmed == () and first.reason is not None and "the LSTM that reads it" in first.reason


def named_twice(model: Any) -> nn.Module:
    model.again = model.lstms[1]
    return model


DECLINED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "behind a norm": (lambda: Chain(12, 10, end=nn.LayerNorm), r"lstms.1 \(LSTM\) reads it, which keeps its own"),
    "states handed over": (lambda: States(10, 10), r"lstms.1 \(LSTM\) reads it, and a state"),
    "a projection": (lambda: Chain(12, 12, proj_size=3), "it has a projection"),
    "a reader of two names": (lambda: named_twice(Chain(12, 10)), r"lstms.1 is tied, hooked, has another name too"),
}


@pytest.mark.parametrize("case", DECLINED)
def test_a_chain_that_cannot_be_told_keeps_its_width_and_says_why(case: str) -> None:
    build, reason = DECLINED[case]
    model, batches = made(build), loader()
    small: Any = shrink(model, batches, target={"macs": 0.6}, steps=2)
    first = removed(small)["lstms.0"]
    assert first.trimmed == () and first.reason is not None
    assert re.search(reason, first.reason), first.reason
    assert small(batches[0]).shape == model(batches[0]).shape


def test_a_reader_that_no_batch_reaches_is_no_reader() -> None:
    model = made(lambda: Chain(16, 12))
    first = shrink(
        model, loader(), forward=lambda chain, steps: chain.lstms[0](steps)[0], target={"macs": 0.8}, steps=2
    )
    assert removed(first)["lstms.0"].reason == "because an LSTM reads it that no batch reached"
    assert removed(first)["lstms.1"].reason == "because no batch reached it"
    with pytest.raises(PrunerError, match=r"expected an nn.LSTM or nn.LSTMCell that the model calls"):
        shrink(model, loader(), forward=lambda chain, steps: chain.head(steps.sum(-1, keepdim=True).expand(-1, -1, 12)))
