"""A compact LSTM computes what the masked one computes, in fewer units."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from pruner import LSTMSaliencyPruner, PrunerError
from pruner.compaction import CompactLSTM, compact
from pruner.gates import layer_suffix
from tests.conftest import random_lstm

SETTINGS = [
    {"num_layers": layers, "bidirectional": both, "proj_size": projection, "bias": bias, "batch_first": batch_first}
    for layers in (1, 2, 3)
    for both in (False, True)
    for projection in (0, 3)
    for bias in (True, False)
    for batch_first in (True, False)
]
GENERATOR = torch.Generator().manual_seed(0)
DENSE = torch.randn(4, 6, 3, dtype=torch.float64, generator=GENERATOR)
RAGGED = [torch.randn(length, 3, dtype=torch.float64, generator=GENERATOR) for length in (3, 6, 1, 6)]
INPUTS = {
    "batch": DENSE,
    "unbatched": DENSE[0],
    "packed": pack_sequence(RAGGED, enforce_sorted=False),
    "packed in order": pack_sequence(sorted(RAGGED, key=len, reverse=True)),
}


def masked(keep: list[Tensor], **settings: Any) -> nn.LSTM:
    """A float64 LSTM of 8 units in which all rows and biases of dropped units are zero."""
    lstm = random_lstm(hidden_size=8, dtype=torch.float64, **settings).eval()
    directions = 2 if lstm.bidirectional else 1
    for index, mask in enumerate(keep):
        suffix = layer_suffix(*divmod(index, directions))
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            tensor = getattr(lstm, name + suffix, None)
            if tensor is not None:
                tensor.data[~mask.repeat(4)] = 0
    return lstm


def masks_of(settings: dict[str, Any], seed: int = 0, sparsity: float | None = None) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    count = settings.get("num_layers", 1) * (2 if settings.get("bidirectional") else 1)
    level = torch.rand(count, generator=generator) if sparsity is None else torch.full((count,), sparsity)
    return [torch.rand(8, generator=generator) >= share for share in level]


def flat(outputs: Any) -> list[Tensor]:
    output, (h_n, c_n) = outputs
    return [output.data if isinstance(output, PackedSequence) else output, h_n, c_n]


def assert_equal(a: Any, b: Any) -> None:
    for x, y in zip(flat(a), flat(b), strict=True):
        assert x.shape == y.shape and x.dtype == y.dtype
        assert torch.allclose(x, y, rtol=0, atol=1e-12 * max(1.0, float(x.detach().abs().max())))


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: "-".join(map(str, settings.values())))
def test_masked_equals_compact(settings: dict[str, Any], kind: str) -> None:
    keep = masks_of(settings)
    lstm = masked(keep, **settings)
    assert_equal(lstm(INPUTS[kind]), compact(lstm, keep)(INPUTS[kind]))


@pytest.mark.parametrize("projection", [0, 3])
def test_a_state_of_kept_units_is_taken_over(projection: int) -> None:
    settings = {"num_layers": 2, "bidirectional": True, "proj_size": projection}
    keep = masks_of(settings, sparsity=0.5)
    lstm = masked(keep, **settings)
    c_0 = torch.randn(4, 6, 8, dtype=torch.float64) * torch.stack(keep)[:, None]
    h_0 = torch.randn(4, 6, 3, dtype=torch.float64) if projection else c_0 / 2
    assert_equal(lstm(DENSE, (h_0, c_0)), compact(lstm, keep)(DENSE, (h_0, c_0)))
    packed = INPUTS["packed"]
    state = h_0[:, :4], c_0[:, :4]
    assert_equal(lstm(packed, state), compact(lstm, keep)(packed, state))


def test_a_state_of_removed_units_is_ignored() -> None:
    keep = masks_of({}, sparsity=0.5)
    lstm = masked(keep)
    state = (torch.randn(1, 6, 8, dtype=torch.float64), torch.randn(1, 6, 8, dtype=torch.float64))
    kept_state = tuple(part * keep[0] for part in state)
    assert_equal(compact(lstm, keep)(DENSE, state), compact(lstm, keep)(DENSE, kept_state))


@pytest.mark.parametrize("projection", [0, 3])
def test_layers_without_any_unit_still_run(projection: int) -> None:
    keep = [torch.zeros(8, dtype=torch.bool)] * 2
    lstm = masked(keep, num_layers=2, proj_size=projection)
    small = compact(lstm, keep)
    assert [len(units) for units in small.kept()] == [projection + 1] * 2
    assert_equal(lstm(DENSE), small(DENSE))


def test_it_is_smaller() -> None:
    keep = masks_of({"num_layers": 2}, sparsity=0.5)
    lstm = masked(keep, num_layers=2)
    first, second = (int(mask.sum()) for mask in keep)
    parameters = sum(parameter.numel() for parameter in compact(lstm, keep).parameters())
    assert parameters == 4 * first * (3 + first + 2) + 4 * second * (first + second + 2)


def test_its_state_dict_loads_into_another_of_the_same_sizes() -> None:
    settings = {"num_layers": 2, "bidirectional": True}
    keep = masks_of(settings, sparsity=0.5)
    small = compact(masked(keep, **settings), keep)
    twin = CompactLSTM(3, 8, [torch.zeros_like(units) for units in small.kept()], bidirectional=True).double()
    twin.load_state_dict(small.state_dict())
    assert_equal(small(DENSE), twin(DENSE))


def test_dropout_acts_between_layers_in_training_alone() -> None:
    settings = {"num_layers": 2, "dropout": 0.9}
    keep = masks_of(settings, sparsity=0.25)
    lstm = masked(keep, **settings)
    small = compact(lstm, keep)
    assert_equal(small(DENSE), lstm(DENSE))
    small.train()
    torch.manual_seed(0)
    assert not torch.equal(small(DENSE)[0], lstm(DENSE)[0])


def test_mode_and_frozen_weights_are_kept() -> None:
    keep = masks_of({}, sparsity=0.5)
    lstm = masked(keep).train()
    lstm.weight_hh_l0.requires_grad_(False)
    small = compact(lstm, keep)
    assert small.training
    assert [parameter.requires_grad for parameter in small.parameters()] == [True, False, True, True]


class Reader(nn.Module):
    """An LSTM and what stands behind it."""

    def __init__(self, read: Any, **settings: Any) -> None:
        super().__init__()
        self.lstm = random_lstm(hidden_size=16, batch_first=True, **settings)
        width = (settings.get("proj_size") or 16) * (2 if settings.get("bidirectional") else 1)
        self.norm = nn.LayerNorm(width)
        self.convolution = nn.Conv1d(width, 4, 3)
        self.second = nn.LSTM(width, 5, batch_first=True)
        self.read = read

    def forward(self, inputs: Tensor) -> Tensor:
        return self.read(self, *self.lstm(inputs))


READERS = {
    "last step": lambda model, y, state: y[:, -1],
    "h_n": lambda model, y, state: state[0][-1],
    "c_n": lambda model, y, state: state[1],
    "norm": lambda model, y, state: model.norm(y),
    "convolution": lambda model, y, state: model.convolution(y.transpose(1, 2)),
    "second LSTM": lambda model, y, state: model.second(y)[0],
    "nothing": lambda model, y, state: torch.zeros(1),
}
STYLES = {
    "plain": {},
    "deep": {"num_layers": 2},
    "both directions": {"bidirectional": True},
    "projection": {"proj_size": 4},
    "no bias": {"bias": False},
}


@pytest.mark.parametrize("sparsity", [0, 0.03, 0.5, 0.97])
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("reader", READERS)
def test_a_pruned_model_equals_its_masked_twin(reader: str, style: str, sparsity: float) -> None:
    model = Reader(READERS[reader], **STYLES[style]).double().eval()
    pruner = LSTMSaliencyPruner({"sparsity_level": sparsity}, granularity="units")
    pruner.prepare(model, [{"tensor_fqn": "lstm.weight_ih_l0"}] if style != "deep" else None)
    pruner.enable_mask_update = True
    pruner.step()
    inputs = torch.randn(2, 9, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = model(inputs)
    assert pruner.prune() is model
    assert isinstance(model.lstm, CompactLSTM)
    assert torch.allclose(model(inputs), expected, rtol=0, atol=1e-12)


def unit_pruner(model: nn.Module, sparsity: float = 0.5, config: Any = None) -> LSTMSaliencyPruner:
    pruner = LSTMSaliencyPruner({"sparsity_level": sparsity}, granularity="units")
    pruner.prepare(model, config)
    pruner.enable_mask_update = True
    pruner.step()
    return pruner


def test_units_of_the_lowest_sum_over_their_eight_rows_fall_with_their_biases() -> None:
    lstm = random_lstm(hidden_size=10)
    scores = sum(weight.detach().abs().sum(1).view(4, 10).sum(0) for weight in (lstm.weight_ih_l0, lstm.weight_hh_l0))
    pruner = unit_pruner(lstm, 0.3)
    masks = pruner.masks()
    assert set(masks) == {"weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"}
    dropped = set(scores.argsort()[:3].tolist())
    for mask in masks.values():
        assert {unit for unit in range(10) if not mask.view(4, 10)[:, unit].any()} == dropped
        assert int((~mask).sum()) == 4 * 3


def test_lowering_the_sparsity_brings_units_back() -> None:
    lstm = random_lstm(hidden_size=10)
    pruner = unit_pruner(lstm, 0.9)
    pruner.groups[0]["sparsity_level"] = 0.2
    pruner.step()
    assert int((~pruner.masks()["weight_hh_l0"]).sum()) == 4 * 2


def test_either_weight_stands_for_its_layer_and_direction() -> None:
    config = [{"tensor_fqn": "weight_hh_l1_reverse"}, {"tensor_fqn": "weight_ih_l1_reverse"}]
    pruner = unit_pruner(random_lstm(num_layers=2, bidirectional=True), 0.5, config)
    assert len(pruner.groups) == 1
    assert {name.partition("_l1")[2] for name in pruner.masks()} == {"_reverse"}


def test_two_sparsities_for_one_layer_are_refused() -> None:
    config = [
        {"tensor_fqn": "weight_ih_l0", "sparsity_level": 0.1},
        {"tensor_fqn": "weight_hh_l0", "sparsity_level": 0.2},
    ]
    with pytest.raises(PrunerError, match="one sparsity_level for all of a layer's units"):
        LSTMSaliencyPruner(granularity="units").prepare(random_lstm(), config)


def test_rows_are_not_removed() -> None:
    model = random_lstm()
    pruner = LSTMSaliencyPruner()
    pruner.prepare(model)
    with pytest.raises(PrunerError, match="granularity='units'"):
        pruner.prune()
    assert pruner.masks()


def test_a_model_that_is_an_lstm_itself_is_returned_smaller() -> None:
    lstm = random_lstm(hidden_size=10)
    small = unit_pruner(lstm, 0.5).prune()
    assert isinstance(small, CompactLSTM)
    assert [len(units) for units in small.kept()] == [5]


def test_an_lstm_of_two_names_stays_one() -> None:
    shared = random_lstm(hidden_size=10)
    model = nn.ModuleDict({"one": shared, "two": shared})
    pruner = unit_pruner(model, 0.5)
    pruner.prune()
    assert isinstance(model["one"], CompactLSTM) and model["one"] is model["two"]


def test_a_cell_keeps_its_size_and_its_zeros() -> None:
    model = nn.ModuleDict({"cell": nn.LSTMCell(3, 10)})
    unit_pruner(model, 0.5).prune()
    assert type(model["cell"]) is nn.LSTMCell
    assert int((model["cell"].bias_ih == 0).sum()) == 20


def test_a_pruned_model_trains_and_can_be_copied() -> None:
    model = Reader(READERS["last step"])
    unit_pruner(model, 0.5).prune()
    model(torch.randn(2, 5, 3)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.lstm.parameters())
    assert isinstance(copy.deepcopy(model).lstm, CompactLSTM)


@pytest.mark.filterwarnings("ignore")  # torch.export speaks of nn.LSTM's own bookkeeping
def test_it_can_be_exported() -> None:
    settings = {"num_layers": 2, "bidirectional": True}
    keep = masks_of(settings, sparsity=0.5)
    small = compact(masked(keep, **settings), keep)
    exported = torch.export.export(small, (DENSE,)).module()
    assert_equal(exported(DENSE), small(DENSE))
