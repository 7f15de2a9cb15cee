"""Where Linear layers alone read an LSTM, prune() makes it a smaller nn.LSTM and drops their columns; nowhere else."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pruner import LSTMSaliencyPruner
from pruner.compact.load_pruned import CompactLSTM
from pruner.in_memory.only_consumers import only_consumers
from tests.helpers.linear_consumers import (
    BOTH,
    DEEP,
    INPUTS,
    H,
    Last,
    Model,
    after_dropout,
    assert_equal,
    assert_full,
    c,
    flattened,
    h,
    head,
    prepared,
    pruned,
    two_heads,
    y,
)
from tests.helpers.models import random_lstm


def listed(model: Any, inputs: Tensor) -> Any:
    lstm, head = model.listed
    return head(lstm(inputs)[0])


def twice(model: Any, inputs: Tensor) -> Any:
    return model.head(y(model, inputs)[:, -1]) + model.head(y(model, model.ahead(inputs))[:, 0])


def configured(model: Any, inputs: Tensor) -> Any:
    if model.flag:
        return model.head(y(model, inputs))
    return model.norm(y(model, inputs))


# {name: (settings of the LSTM, what reads it, {Linear: blocks of its columns})}
FOLDABLE: dict[str, tuple[dict[str, Any], Callable[..., Any], dict[str, list[int]]]] = {
    "sequence": ({}, head, {"head": [0]}),
    "time first": ({"batch_first": False}, lambda m, x: m.head(y(m, x)[-1]), {"head": [0]}),
    "no bias": ({"bias": False}, lambda m, x: m.head(y(m, x)), {"head": [0]}),
    "last step": ({}, lambda m, x: m.head(y(m, x)[:, -1]), {"head": [0]}),
    "last step, all features": ({}, lambda m, x: m.head(y(m, x)[:, -1, :]), {"head": [0]}),
    "last step in full": ({}, lambda m, x: m.head(y(m, x)[1:, -1]), {"head": [0]}),
    "one step of one sequence": ({}, lambda m, x: m.head(y(m, x)[0, 1]), {"head": [0]}),
    "index of an index": ({}, lambda m, x: m.head(y(m, x)[1:][:, 2:][0]), {"head": [0]}),
    "slice up to what is computed": ({}, lambda m, x: m.head(y(m, x)[:, : x.size(1) - 1]), {"head": [0]}),
    "h_n": ({}, lambda m, x: m.head(h(m, x)[-1]), {"head": [0]}),
    "h_n of a sequence": ({}, lambda m, x: m.head(h(m, x)[0][1]), {"head": [0]}),
    "deep, sequence": (DEEP, lambda m, x: m.head(y(m, x)), {"head": [1]}),
    "deep, first h_n": (DEEP, lambda m, x: m.head(h(m, x)[0]), {"head": [0]}),
    "deep, dropout": ({**DEEP, "dropout": 0.2}, lambda m, x: m.head(h(m, x)[-1]), {"head": [1]}),
    "both directions": (BOTH, lambda m, x: m.head(y(m, x)[:, -1]), {"head": [0, 1]}),
    "both directions, h_n back": (BOTH, lambda m, x: m.head(h(m, x)[-1]), {"head": [1]}),
    "both directions, h_n forth": (BOTH, lambda m, x: m.head(h(m, x)[-2]), {"head": [0]}),
    "both, deep": ({**BOTH, **DEEP}, lambda m, x: m.head(y(m, x)), {"head": [2, 3]}),
    "both, deep, h_n": ({**BOTH, **DEEP}, lambda m, x: m.head(h(m, x)[1]), {"head": [1]}),
    "dropout": ({}, after_dropout, {"head": [0]}),
    "functional dropout": ({}, lambda m, x: m.head(F.dropout(y(m, x), 0.3, m.training)), {"head": [0]}),
    "two heads": (DEEP, two_heads, {"head": [1], "other": [0]}),
    "one head, two calls": ({}, twice, {"head": [0]}),
    "an LSTM in a list too": ({}, listed, {"head": [0]}),
    "no state": ({}, lambda m, x: m.head(m.lstm(x, None)[0]), {"head": [0]}),
    "by names": ({}, lambda m, x: m.head(input=m.lstm(input=x, hx=None)[0]), {"head": [0]}),
    "second LSTM by names": ({}, lambda m, x: m.second(input=y(m, x), hx=None)[0], {"second": [0]}),
    "flattened": ({}, flattened, {"head": [0]}),
    "configured": ({}, configured, {"head": [0]}),
    "others beside": ({}, lambda m, x: (m.head(y(m, x)).relu(), m.norm(m.embedding.weight)), {"head": [0]}),
    "second LSTM": ({}, lambda m, x: m.second(y(m, x))[0], {"second": [0]}),
    "second LSTM, both directions": (BOTH, lambda m, x: m.second(m.dropout(y(m, x)), None)[0], {"second": [0, 1]}),
    "second LSTM and a head": ({}, lambda m, x: (m.second(y(m, x))[0], head(m, x)), {"second": [0], "head": [0]}),
    "nobody": ({}, lambda m, x: (m.lstm(x), m.ahead(x))[1], {}),
}


def depends_on_data(model: Any, inputs: Tensor) -> Any:
    outputs = y(model, inputs)
    return model.head(outputs) if inputs.sum() > 0 else model.norm(outputs)


def depends_on_the_mode(model: Any, inputs: Tensor) -> Any:
    outputs = y(model, inputs)
    return (model.head(outputs), model.norm(outputs)) if model.training else model.head(outputs)


def every_step(model: Any, inputs: Tensor) -> Any:
    return torch.stack([model.head(step) for step in y(model, inputs)])


def with_state(model: Any, inputs: Tensor) -> Any:
    _, state = model.lstm(inputs)
    return model.head(model.lstm(inputs, state)[0])


def own_state(model: Any, inputs: Tensor) -> Any:
    state = torch.zeros(1, len(INPUTS), H).double()
    return model.head(model.lstm(inputs, hx=(state, state))[0])


def second_with_state(model: Any, inputs: Tensor) -> Any:
    outputs, _ = model.lstm(inputs)
    return model.second(outputs, model.second(outputs)[1])[0]


def given_state(model: Any, inputs: Tensor) -> Any:
    state = inputs.new_zeros(1, len(INPUTS), H)
    return model.head(model.lstm(inputs, (state, state))[0])


def named_state(model: Any, inputs: Tensor) -> Any:
    state = inputs.new_zeros(1, len(INPUTS), H)
    return model.head(model.lstm(inputs, hx=(state, state))[0])


def depends_on_identity(model: Any, inputs: Tensor) -> Any:
    same = inputs is model.listed
    return [model.head, model.norm][not same](y(model, inputs))


def penalty(model: Any, inputs: Tensor) -> Any:
    return model.head(y(model, inputs)) + sum(parameter.norm() for parameter in model.parameters())


NOT_FOLDABLE: dict[str, tuple[dict[str, Any], Callable[..., Any], int]] = {
    "returned": ({}, lambda m, x: y(m, x), 1),
    "returned beside": ({}, lambda m, x: (lambda out: (m.head(out), {"features": out}))(y(m, x)), 1),
    "c_n": ({}, lambda m, x: m.head(c(m, x)[-1]), 1),
    "h_n as a whole": ({}, lambda m, x: m.head(h(m, x)), 1),
    "slice of h_n": ({}, lambda m, x: m.head(h(m, x)[-1:]), 1),
    "both last states": (BOTH, lambda m, x: m.head(torch.cat((h(m, x)[-2], h(m, x)[-1]), 1)), 2),
    "norm": ({}, lambda m, x: m.head(m.norm(y(m, x))), 1),
    "alpha dropout": ({}, lambda m, x: m.head(m.alpha(y(m, x))), 1),
    "convolution": ({}, lambda m, x: m.convolution(y(m, x).transpose(1, 2)), 1),
    "second LSTM with a state": ({}, second_with_state, 1),
    "second LSTM and more": ({}, lambda m, x: m.second(y(m, x))[0].sum() + y(m, x).sum(), 1),
    "activation": ({}, lambda m, x: m.head(y(m, x).relu()), 1),
    "sum": ({}, lambda m, x: m.head(y(m, x) + 1), 1),
    "Linear of a subclass": ({}, lambda m, x: m.subclass(y(m, x)), 1),
    "Linear by its weight": ({}, lambda m, x: F.linear(y(m, x), m.head.weight), 1),
    "Linear whose weight is used beside": ({}, lambda m, x: m.head(y(m, x)) + m.head.weight.sum(), 1),
    "Linear of another input too": ({}, lambda m, x: m.head(y(m, x)) + m.head(x.repeat(1, 1, 3)[..., :H]), 1),
    "Linear of two layers": (DEEP, lambda m, x: m.head(h(m, x)[0]) + m.head(h(m, x)[1]), 1),
    "Linear inside of a leaf": ({}, lambda m, x: m.block.linear1(y(m, x)) + m.block(x.repeat(1, 1, 3)[..., :H]), 1),
    "Linear as a value": ({}, lambda m, x: m.head(y(m, x)) * (x != m.head), 1),
    "size of the LSTM": ({}, lambda m, x: m.head(y(m, x)) * m.lstm.hidden_size, 1),
    "size of the Linear": ({}, lambda m, x: m.head(y(m, x)) * m.head.in_features, 1),
    "shape": ({}, lambda m, x: m.head(y(m, x)) * y(m, x).shape[-1], 1),
    "features by an index": ({}, lambda m, x: m.head(y(m, x)[:, :, 0]), 1),
    "features by an index of h_n": ({}, lambda m, x: (m.head(h(m, x)[0, :, :]), h(m, x)[0, :, 0]), 1),
    "features by an ellipsis": ({}, lambda m, x: m.head(y(m, x)[..., 0]), 1),
    "features by two indexes": ({}, lambda m, x: m.head(y(m, x)[0][:, 3]), 1),
    "features of h_n": ({}, lambda m, x: m.ahead(h(m, x)[0, :, 2:5]), 1),
    "slice of the features": ({}, lambda m, x: m.ahead(y(m, x)[:, :, 2:5]), 1),
    "new axis": ({}, lambda m, x: m.head(y(m, x)[None]), 1),
    "tensor as an index": ({}, lambda m, x: m.head(y(m, x)[x[:, 0, 0].argsort()]), 1),
    "list as an index": ({}, lambda m, x: m.head(y(m, x)[[0, 1]]), 1),
    "used as an index": ({}, lambda m, x: (x[y(m, x)[:, :, 0] > 0], m.head(y(m, x))), 1),
    "state of an earlier call": ({}, with_state, 1),
    "state of its own": ({}, own_state, 1),
    "state given": ({}, given_state, 1),
    "state given by name": ({}, named_state, 1),
    "projection": ({"proj_size": 4}, lambda m, x: m.head(y(m, x).repeat(1, 1, 2)), 1),
    "projection by a Linear": ({"proj_size": 4}, lambda m, x: m.ahead(y(m, x)[:, :, 1:]), 1),
    "data": ({}, depends_on_data, 1),
    "mode": ({}, depends_on_the_mode, 1),
    "loop over steps": ({}, every_step, 1),
}


@pytest.mark.parametrize("sparsity", [0, 0.3, 0.5, 1])
@pytest.mark.parametrize(("settings", "read", "readers"), FOLDABLE.values(), ids=FOLDABLE)
def test_linear_consumers_are_folded(
    settings: dict[str, Any], read: Callable[..., Any], readers: dict[str, list[int]], sparsity: float
) -> None:
    model = Model(read, max(map(len, readers.values()), default=1), **settings).eval()
    assert only_consumers(model).get("lstm") == readers
    lstm, head = model.lstm, model.head
    twin = pruned(model, sparsity)
    size = max(1, H - int(H * sparsity))
    assert type(model.lstm) is nn.LSTM and model.lstm is lstm and model.head is head
    assert model.lstm.hidden_size == size and model.lstm.weight_hh_l0.shape == (4 * size, size)
    for name in ("head", "other"):
        columns = size * len(readers[name]) if name in readers else twin.get_submodule(name).in_features
        linear = model.get_submodule(name)
        assert linear.in_features == columns and linear.weight.shape == (4, columns)
        assert linear.weight.is_contiguous()
    assert_equal(model, twin)


@pytest.mark.parametrize(("settings", "read", "blocks"), NOT_FOLDABLE.values(), ids=NOT_FOLDABLE)
def test_all_else_keeps_its_width(settings: dict[str, Any], read: Callable[..., Any], blocks: int) -> None:
    model = Model(read, blocks, **settings).eval()
    before = set(vars(model)), len(model.listed)
    assert "lstm" not in only_consumers(model)
    assert (set(vars(model)), len(model.listed)) == before
    twin = pruned(model)
    assert_full(model)
    assert_equal(model, twin)


@pytest.mark.parametrize("read", [penalty, lambda m, x: m.head(y(m, x)) + m.lstm.weight_hh_l0.sum()])
def test_readers_of_the_weights_themselves_are_seen(read: Callable[..., Any]) -> None:
    assert only_consumers(Model(read)) == {}


class Optional(nn.Module):
    """A forward that cannot be followed with all of its arguments: the caller may leave one out."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head, self.norm = nn.LSTM(3, H), nn.Linear(H, 2), nn.LayerNorm(H)

    def forward(self, inputs: Tensor, plain: Tensor | None = None) -> Tensor:
        outputs = self.lstm(inputs)[0]
        if plain is None:
            outputs = self.norm(outputs)
        return self.head(outputs)


class Variadic(Optional):
    """What `inputs` holds is up to the caller."""

    def forward(self, *inputs: Any) -> Tensor:
        return self.head(self.lstm(*inputs)[0])


class Unlearnt(Optional):
    """Nothing of it is copied."""

    def __deepcopy__(self, memo: Any) -> Any:
        raise TypeError("cannot be copied")


class Branching(Optional):
    """A stand-in is no tensor, so a trace sees the other branch."""

    def forward(self, inputs: Tensor) -> Tensor:
        if isinstance(inputs, Tensor):
            return F.layer_norm(self.lstm(inputs)[0], (H,))
        return self.head(self.lstm(inputs)[0])


class Keeping(Optional):
    """The output is kept where others may read it."""

    def forward(self, inputs: Tensor) -> Tensor:
        self.last, _ = self.lstm(inputs)
        return self.head(self.last)


@pytest.mark.parametrize("kind", [Optional, Branching, Keeping, Variadic, nn.ModuleDict, Unlearnt])
def test_what_cannot_be_followed_has_no_readers(kind: type[nn.Module]) -> None:
    model = kind()
    if kind is nn.ModuleDict:
        model.update({"lstm": nn.LSTM(3, H), "head": nn.Linear(H, 2)})
    assert only_consumers(model) == {}
    prepared(model).prune()
    assert isinstance(model.get_submodule("lstm"), CompactLSTM)


def test_readers_of_nested_modules_and_of_several_lstms_are_found() -> None:
    class Stacked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Sequential(random_lstm(hidden_size=H, batch_first=True), Last(), nn.Linear(H, 7))
            self.second, self.third = nn.LSTM(7, H), nn.LSTM(3, H, batch_first=True)
            self.head, self.norm = nn.Linear(H, 2), nn.LayerNorm(H)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.head(self.second(self.first(inputs))[0]) + self.norm(self.third(inputs)[0]).sum()

    model = Stacked().double()
    assert only_consumers(model) == {"first.0": {"first.2": [0]}, "second": {"head": [0]}}
    twin = copy.deepcopy(model)
    for each, finish in ((twin, "squash_mask"), (model, "prune")):
        pruner = LSTMSaliencyPruner({"sparsity_level": 0.25}, granularity="units")
        pruner.prepare(each)
        pruner.enable_mask_update = True
        pruner.step()
        getattr(pruner, finish)()
    assert [model.first[0].hidden_size, model.second.hidden_size] == [6, 6]
    assert [model.first[2].in_features, model.head.in_features] == [6, 6]
    assert isinstance(model.third, CompactLSTM)
    assert_equal(model, twin)
