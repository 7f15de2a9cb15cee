"""What prune() makes of whole models: shared tensors, hooks and settings, and a model that is pruned twice."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from pruner import LSTMSaliencyPruner
from pruner.compact.load_pruned import CompactLSTM
from pruner.in_memory.only_consumers import only_consumers
from tests.helpers.linear_consumers import (
    BOTH,
    DEEP,
    INPUTS,
    H,
    Model,
    after_dropout,
    assert_equal,
    assert_full,
    flattened,
    head,
    pruned,
    two_heads,
)


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
    model = Model(head).eval()
    assert "lstm" in only_consumers(model)
    change(model)
    assert "lstm" not in only_consumers(model)
    if "forward" not in vars(model.head):  # a copy would call the original
        twin = pruned(model)
        assert_full(model)
        assert_equal(model, twin)


def test_a_hook_between_the_two_keeps_the_width() -> None:
    model = Model(after_dropout).eval()
    model.dropout.register_forward_hook(lambda module, args, output: output.flip(-1))
    twin = pruned(model)
    assert_full(model)
    assert_equal(model, twin)


def test_an_lstm_of_two_names_keeps_its_width() -> None:
    model = Model(head).eval()
    model.another = model.lstm
    twin = pruned(model)
    assert isinstance(model.lstm, CompactLSTM) and model.another is model.lstm
    assert_equal(model, twin)


def test_unequal_sizes_keep_their_width() -> None:
    model = Model(head, **DEEP).eval()
    twin = pruned(model, config=[{"tensor_fqn": "lstm.weight_ih_l0"}])
    assert_full(model)
    assert [len(layer.kept) for layer in model.lstm.layers] == [4, 8]
    assert_equal(model, twin)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
def test_settings_are_kept(dtype: torch.dtype, training: bool) -> None:
    model = Model(head, 2, dropout=0.25, bias=False, **BOTH, **DEEP).to(dtype).train(training)
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
    model = Model(two_heads, **DEEP)
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
    model = Model(head)
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
