"""An LSTM with much that could read it, and what may become of both in memory."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pruner import LSTMSaliencyPruner
from pruner.compact.load_pruned import CompactLSTM
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
    """The output of every step."""
    return model.lstm(inputs)[0]


def h(model: Any, inputs: Tensor) -> Tensor:
    """The last hidden states."""
    _, (h_n, _) = model.lstm(inputs)
    return h_n


def c(model: Any, inputs: Tensor) -> Tensor:
    """The last cell states."""
    return model.lstm(inputs)[1][1]


def head(model: Any, inputs: Tensor) -> Any:
    """One Linear reads every step."""
    return model.head(y(model, inputs))


def after_dropout(model: Any, inputs: Tensor) -> Any:
    """One Linear reads the last step, after dropout."""
    return model.head(model.identity(model.dropout(y(model, inputs)))[:, -1])


def two_heads(model: Any, inputs: Tensor) -> Any:
    """One Linear reads later steps, another the last state."""
    outputs, (h_n, _) = model.lstm(inputs)
    return model.head(outputs[:, 1:]), model.other(model.dropout(h_n[0]))


def flattened(model: Any, inputs: Tensor) -> Any:
    """One Linear reads every step of an LSTM whose weights are put into one storage first."""
    model.lstm.flatten_parameters()
    return model.head(y(model, inputs))


def prepared(model: nn.Module, sparsity: float = 0.5, config: Any = None) -> LSTMSaliencyPruner:
    """A pruner of units that has taken a step on the packed weights of a model."""
    pruner = LSTMSaliencyPruner({"sparsity_level": sparsity}, granularity="units")
    pruner.prepare(
        model, config or [{"tensor_fqn": name} for name in dict(model.named_parameters()) if is_packed(name)]
    )
    pruner.enable_mask_update = True
    pruner.step()
    return pruner


def is_packed(name: str) -> bool:
    """Whether a parameter is a packed weight of the LSTM."""
    return name.startswith(("lstm.weight_ih", "lstm.weight_hh"))


def pruned(model: nn.Module, sparsity: float = 0.5, config: Any = None) -> nn.Module:
    """The masked twin of a model, which is pruned."""
    twin = copy.deepcopy(model)
    prepared(twin, sparsity, config).squash_mask()
    assert prepared(model, sparsity, config).prune() is model
    return twin


def tensors(outputs: Any) -> list[Tensor]:
    """All tensors in what a model returns."""
    if isinstance(outputs, Tensor):
        return [outputs]
    return [tensor for part in (outputs.values() if isinstance(outputs, dict) else outputs) for tensor in tensors(part)]


def assert_equal(model: nn.Module, twin: nn.Module, inputs: Tensor = INPUTS) -> None:
    """Both models return the same."""
    for mine, theirs in zip(tensors(model(inputs)), tensors(twin(inputs)), strict=True):
        assert mine.shape == theirs.shape
        assert torch.allclose(mine, theirs, rtol=0, atol=1e-12)


def assert_full(model: nn.Module) -> None:
    """The LSTM became smaller inside, and what reads it kept its width."""
    assert isinstance(model.lstm, CompactLSTM)
    assert all(model.get_submodule(name).in_features % H == 0 for name in ("head", "other", "output"))
