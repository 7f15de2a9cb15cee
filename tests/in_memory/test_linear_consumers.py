"""Where Linear layers alone read an LSTM, prune() makes it a smaller nn.LSTM and drops their columns; nowhere else."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from pruner import LSTMSaliencyPruner
from pruner.compact.load_pruned import CompactLSTM
from pruner.in_memory.linear_consumers import linear_readers
from tests.helpers.models import random_lstm

H = 8  # and as many steps, so that an index of the features may pass for one of the steps
INPUTS = torch.randn(5, H, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
BOTH, DEEP = {"bidirectional": True}, {"num_layers": 2}


class Doubled(nn.Linear):
    """A Linear by inheritance only."""

    def forward(self, inputs: Tensor) -> Tensor:
        return 2 * super().forward(inputs) + inputs.norm()


class Last(nn.Module):
    """A step of a Sequential."""

    def forward(self, outputs: tuple[Tensor, Any]) -> Tensor:
        return outputs[0][:, -1]


class Model(nn.Module):
    """An LSTM, much that could read it, and `read(model, inputs)`, which says what does."""

    def __init__(self, read: Callable[..., Any], blocks: int = 1, **settings: Any) -> None:
        super().__init__()
        self.lstm = random_lstm(hidden_size=H, **{"batch_first": True, **settings})
        width = blocks * H
        self.head, self.other = nn.Linear(width, 4), nn.Linear(width, 4, bias=False)
        self.embedding, self.output = nn.Embedding(12, width), nn.Linear(width, 12)
        self.dropout, self.identity, self.norm = nn.Dropout(0.3), nn.Identity(), nn.LayerNorm(width)
        self.alpha, self.convolution = nn.AlphaDropout(0.3), nn.Conv1d(width, 4, 3)
        self.block = nn.TransformerEncoderLayer(width, 2, width)
        self.second = nn.LSTM(width, 5, batch_first=True)
        self.subclass = Doubled(width, width)
        self.listed = [self.lstm, self.head]
        self.ahead = nn.Linear(3, 3)
        self.flag = True
        self.read = read
        self.double()

    def forward(self, inputs: Tensor) -> Any:
        return self.read(self, inputs)


def y(model: Any, inputs: Tensor) -> Tensor:
    return model.lstm(inputs)[0]


def h(model: Any, inputs: Tensor) -> Tensor:
    _, (h_n, _) = model.lstm(inputs)
    return h_n


def c(model: Any, inputs: Tensor) -> Tensor:
    return model.lstm(inputs)[1][1]


def two_heads(model: Any, inputs: Tensor) -> Any:
    outputs, (h_n, _) = model.lstm(inputs)
    return model.head(outputs[:, 1:]), model.other(model.dropout(h_n[0]))


def flattened(model: Any, inputs: Tensor) -> Any:
    model.lstm.flatten_parameters()
    return model.head(y(model, inputs))


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
    "sequence": ({}, lambda m, x: m.head(y(m, x)), {"head": [0]}),
    "time first": ({"batch_first": False}, lambda m, x: m.head(y(m, x)[-1]), {"head": [0]}),
    "no bias": ({"bias": False}, lambda m, x: m.head(y(m, x)), {"head": [0]}),
    "last step": ({}, lambda m, x: m.head(y(m, x)[:, -1]), {"head": [0]}),
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
    "dropout": ({}, lambda m, x: m.head(m.identity(m.dropout(y(m, x)))[:, -1]), {"head": [0]}),
    "functional dropout": ({}, lambda m, x: m.head(F.dropout(y(m, x), 0.3, m.training)), {"head": [0]}),
    "two heads": (DEEP, two_heads, {"head": [1], "other": [0]}),
    "one head, two calls": ({}, twice, {"head": [0]}),
    "an LSTM in a list too": ({}, listed, {"head": [0]}),
    "no state": ({}, lambda m, x: m.head(m.lstm(x, None)[0]), {"head": [0]}),
    "flattened": ({}, flattened, {"head": [0]}),
    "configured": ({}, configured, {"head": [0]}),
    "others beside": ({}, lambda m, x: (m.head(y(m, x)).relu(), m.norm(m.embedding.weight)), {"head": [0]}),
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
    "second LSTM": ({}, lambda m, x: m.second(y(m, x))[0], 1),
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


def prepared(model: nn.Module, sparsity: float = 0.5, config: Any = None) -> LSTMSaliencyPruner:
    pruner = LSTMSaliencyPruner({"sparsity_level": sparsity}, granularity="units")
    pruner.prepare(model, config or [{"tensor_fqn": name} for name in dict(model.named_parameters()) if _packed(name)])
    pruner.enable_mask_update = True
    pruner.step()
    return pruner


def _packed(name: str) -> bool:
    return name.startswith(("lstm.weight_ih", "lstm.weight_hh"))


def pruned(model: nn.Module, sparsity: float = 0.5, config: Any = None) -> nn.Module:
    """The masked twin of a model, which is pruned."""
    twin = copy.deepcopy(model)
    prepared(twin, sparsity, config).squash_mask()
    assert prepared(model, sparsity, config).prune() is model
    return twin


def tensors(outputs: Any) -> list[Tensor]:
    if isinstance(outputs, Tensor):
        return [outputs]
    return [tensor for part in (outputs.values() if isinstance(outputs, dict) else outputs) for tensor in tensors(part)]


def assert_equal(model: nn.Module, twin: nn.Module, inputs: Tensor = INPUTS) -> None:
    for mine, theirs in zip(tensors(model(inputs)), tensors(twin(inputs)), strict=True):
        assert mine.shape == theirs.shape
        assert torch.allclose(mine, theirs, rtol=0, atol=1e-12)


def assert_full(model: nn.Module) -> None:
    assert isinstance(model.lstm, CompactLSTM)
    assert all(model.get_submodule(name).in_features % H == 0 for name in ("head", "other", "output"))


@pytest.mark.parametrize("sparsity", [0, 0.3, 0.5, 1])
@pytest.mark.parametrize(("settings", "read", "readers"), FOLDABLE.values(), ids=FOLDABLE)
def test_linear_readers_are_folded(
    settings: dict[str, Any], read: Callable[..., Any], readers: dict[str, list[int]], sparsity: float
) -> None:
    model = Model(read, max(map(len, readers.values()), default=1), **settings).eval()
    assert linear_readers(model).get("lstm") == readers
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
    assert "lstm" not in linear_readers(model)
    assert (set(vars(model)), len(model.listed)) == before
    twin = pruned(model)
    assert_full(model)
    assert_equal(model, twin)


@pytest.mark.parametrize("read", [penalty, lambda m, x: m.head(y(m, x)) + m.lstm.weight_hh_l0.sum()])
def test_readers_of_the_weights_themselves_are_seen(read: Callable[..., Any]) -> None:
    assert linear_readers(Model(read)) == {}


HEAD = FOLDABLE["sequence"][1]


def embedding_tied(model: Any) -> None:
    model.head = model.output
    model.output.weight = model.embedding.weight


def embedding_tied_in_memory(model: Any) -> None:
    model.head = model.output
    model.output.weight.data = model.embedding.weight.data


def alias(name: str) -> Callable[[Any], None]:
    return lambda model: setattr(model, f"another_{name}", model.get_submodule(name))


def hook(name: str) -> Callable[[Any], None]:
    return lambda model: model.get_submodule(name).register_forward_hook(lambda module, args, output: output)


def no_parameter(model: Any) -> None:
    weight = model.head.weight.detach()
    del model.head.weight
    model.head.weight = weight


def other_parameter(model: Any) -> None:
    model.head.weight = type("Quantized", (nn.Parameter,), {})(model.head.weight.detach())


def changed_forward(model: Any) -> None:
    model.head.forward = lambda inputs: F.linear(inputs, model.head.weight)


CHANGES: dict[str, Callable[[Any], Any]] = {
    "tied Linear": embedding_tied,
    "Linear tied in memory alone": embedding_tied_in_memory,
    "layers of the LSTM tied": lambda model: setattr(model.lstm, "bias_ih_l0", model.lstm.bias_hh_l0),
    "weight of two Linears": lambda model: setattr(model.other, "weight", model.head.weight),
    "weight that is a buffer too": lambda model: model.register_buffer("shared", model.head.weight.data),
    "Linear of two names": alias("head"),
    "weight that is no parameter": no_parameter,
    "weight of another class": other_parameter,
    "hook of the LSTM": hook("lstm"),
    "backward hook of the LSTM": lambda model: model.lstm.register_full_backward_hook(lambda module, new, old: None),
    "hook of the Linear": hook("head"),
    "hook of the model": hook(""),
    "Linear with another forward": changed_forward,
    "parametrized Linear": lambda model: parametrizations.weight_norm(model.head),
    "spectral norm by a hook": lambda model: nn.utils.spectral_norm(model.head),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_is_shared_or_changed_keeps_its_width(change: Callable[[Any], Any]) -> None:
    model = Model(HEAD).eval()
    assert "lstm" in linear_readers(model)
    change(model)
    assert "lstm" not in linear_readers(model)
    if "forward" not in vars(model.head):  # a copy would call the original
        twin = pruned(model)
        assert_full(model)
        assert_equal(model, twin)


def test_a_hook_between_the_two_keeps_the_width() -> None:
    model = Model(FOLDABLE["dropout"][1]).eval()
    model.dropout.register_forward_hook(lambda module, args, output: output.flip(-1))
    twin = pruned(model)
    assert_full(model)
    assert_equal(model, twin)


def test_an_lstm_of_two_names_keeps_its_width() -> None:
    model = Model(HEAD).eval()
    model.another = model.lstm
    twin = pruned(model)
    assert isinstance(model.lstm, CompactLSTM) and model.another is model.lstm
    assert_equal(model, twin)


def test_unequal_sizes_keep_their_width() -> None:
    model = Model(HEAD, **DEEP).eval()
    twin = pruned(model, config=[{"tensor_fqn": "lstm.weight_ih_l0"}])
    assert_full(model)
    assert [len(layer.kept) for layer in model.lstm.layers] == [4, 8]
    assert_equal(model, twin)


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
    assert linear_readers(model) == {}
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
    assert linear_readers(model) == {"first.0": {"first.2": [0]}, "second": {"head": [0]}}
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


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
def test_settings_are_kept(dtype: torch.dtype, training: bool) -> None:
    model = Model(HEAD, 2, dropout=0.25, bias=False, **BOTH, **DEEP).to(dtype).train(training)
    model.dropout.train(not training)
    model.lstm.weight_hh_l1.requires_grad_(False)
    model.head.weight.requires_grad_(False)
    pruned(model)
    lstm = model.lstm
    assert (type(lstm), lstm.hidden_size, lstm.num_layers, lstm.dropout) == (nn.LSTM, 4, 2, 0.25)
    assert lstm.batch_first and lstm.bidirectional and not lstm.bias
    assert (model.training, lstm.training, model.dropout.training) == (training, training, not training)
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == {"lstm.weight_hh_l1", "head.weight"}
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert "forward" not in vars(model) and "flatten_parameters" not in vars(lstm)


def test_a_folded_model_is_an_ordinary_one() -> None:
    model = Model(FOLDABLE["two heads"][1], **DEEP)
    pruned(model)
    sum(tensor.sum() for tensor in model(INPUTS)).backward()
    assert all(parameter.grad is not None for parameter in [*model.lstm.parameters(), *model.head.parameters()])
    model.eval()
    smaller = copy.deepcopy(model)
    fresh = nn.LSTM(3, 4, 2, batch_first=True).double()
    fresh.load_state_dict(model.lstm.state_dict())
    smaller.lstm = fresh
    assert_equal(model, smaller)
    pruned(model)
    assert model.lstm.hidden_size == 2 and model.head.in_features == 2


def test_an_untouched_linear_keeps_its_width_with_rows() -> None:
    model = Model(HEAD)
    pruner = LSTMSaliencyPruner()
    pruner.prepare(model, [{"tensor_fqn": "lstm.weight_hh_l0"}])
    pruner.enable_mask_update = True
    pruner.step()
    pruner.prune()
    assert model.head.in_features == H


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_folding_on_cuda() -> None:
    model = Model(flattened, 2, **BOTH, **DEEP).cuda().eval()
    twin = pruned(model)
    assert type(model.lstm) is nn.LSTM and model.lstm.weight_hh_l0.is_cuda
    assert_equal(model, twin, INPUTS.cuda())
