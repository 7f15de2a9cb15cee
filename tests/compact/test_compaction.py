"""A compact LSTM computes what the masked one computes, in fewer units."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from pruner import LSTMSaliencyPruner, PrunerError
from pruner.compact.compaction import compact_rows, compact_units, expand
from pruner.compact.load_pruned import CompactLSTM, CompactLSTMCell, RowCompactLSTM, RowCompactLSTMCell
from pruner.lstm.gates import layer_suffix
from tests.helpers.models import random_lstm

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


def kept_of(small: nn.Module) -> list[Tensor]:
    return [layer.kept for layer in small.layers]


def row_masked(settings: dict[str, Any], sparsity: float | None = None) -> tuple[nn.LSTM, list[tuple[Tensor, Tensor]]]:
    """A float64 LSTM of 8 units in which the weights of dropped rows are zero, and its masks."""
    lstm = random_lstm(hidden_size=8, dtype=torch.float64, **settings).eval()
    directions = 2 if lstm.bidirectional else 1
    generator = torch.Generator().manual_seed(1)
    masks = []
    for index in range(lstm.num_layers * directions):
        suffix = layer_suffix(*divmod(index, directions))
        pair = []
        for side in ("ih", "hh"):
            share = float(torch.rand(1, generator=generator)) if sparsity is None else sparsity
            mask = torch.rand(32, generator=generator) >= share
            getattr(lstm, f"weight_{side}{suffix}").data[~mask] = 0
            pair.append(mask)
        masks.append((pair[0], pair[1]))
    return lstm, masks


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: "-".join(map(str, settings.values())))
def test_masked_units_equal_compact_units_and_expand_again(settings: dict[str, Any], kind: str) -> None:
    keep = masks_of(settings)
    lstm = masked(keep, **settings)
    small = compact_units(lstm, keep)
    assert_equal(lstm(INPUTS[kind]), small(INPUTS[kind]))
    assert_equal(lstm(INPUTS[kind]), expand(small)(INPUTS[kind]))


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: "-".join(map(str, settings.values())))
def test_masked_rows_equal_compact_rows_and_expand_again(settings: dict[str, Any], kind: str) -> None:
    lstm, masks = row_masked(settings)
    small = compact_rows(lstm, masks)
    assert_equal(lstm(INPUTS[kind]), small(INPUTS[kind]))
    assert_equal(lstm(INPUTS[kind]), expand(small)(INPUTS[kind]))


@pytest.mark.parametrize("projection", [0, 3])
@pytest.mark.parametrize("batch", [1, 6])
def test_compact_rows_take_any_state(projection: int, batch: int) -> None:
    settings = {"num_layers": 2, "bidirectional": True, "proj_size": projection}
    lstm, masks = row_masked(settings)
    h_0 = torch.randn(4, batch, projection or 8, dtype=torch.float64)
    c_0 = torch.randn(4, batch, 8, dtype=torch.float64)
    inputs = DENSE[:, :batch]
    assert_equal(lstm(inputs, (h_0, c_0)), compact_rows(lstm, masks)(inputs, (h_0, c_0)))


@pytest.mark.parametrize("sparsity", [0.0, 1.0])
def test_all_rows_or_none(sparsity: float) -> None:
    lstm, masks = row_masked({"num_layers": 2, "bias": False}, sparsity)
    assert_equal(lstm(DENSE), compact_rows(lstm, masks)(DENSE))


def test_compact_rows_store_what_kept_rows_need() -> None:
    lstm, masks = row_masked({}, 0.5)
    (ih, hh) = masks[0]
    small = compact_rows(lstm, masks)
    assert sum(parameter.numel() for parameter in small.parameters()) == int(ih.sum()) * 3 + int(hh.sum()) * 8 + 2 * 32


def test_recurrent_rows_lie_by_columns_wherever_they_come_from() -> None:
    lstm, masks = row_masked({}, 0.5)
    small = compact_rows(lstm, masks)
    rows = small.state_dict()["layers.0.weight_hh_rows"]
    assert torch.equal(rows, lstm.weight_hh_l0[masks[0][1]]) and rows.is_contiguous()
    small.load_state_dict(small.state_dict())
    for module in (small, small.float(), small.double()):
        torch.testing.assert_close(module.layers[0].weight_hh_columns.t().double(), rows)
        assert all(parameter.is_contiguous() for parameter in module.parameters())


SCRIPTED = [{}, {"num_layers": 2, "bidirectional": True, "batch_first": True}, {"proj_size": 3}, {"bias": False}]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.jit.script itself is on its way out
@pytest.mark.parametrize("form", ["units", "rows"])
@pytest.mark.parametrize("settings", SCRIPTED, ids=str)
def test_both_can_be_scripted(settings: dict[str, Any], form: str) -> None:
    if form == "units":
        keep = masks_of(settings)
        small: nn.Module = compact_units(masked(keep, **settings), keep)
    else:
        small = compact_rows(*row_masked(settings))
    scripted = torch.jit.script(small)
    for inputs in (DENSE, DENSE[0], DENSE[:, :1]):
        output, state = small(inputs)
        assert_equal(scripted(inputs), (output, state))
        assert_equal(scripted(inputs, state), small(inputs, state))


@pytest.mark.parametrize("shape", [(3,), (1, 3), (5, 3)], ids=str)
def test_a_compact_cell_is_one_step(shape: tuple[int, ...]) -> None:
    inputs = torch.randn(shape, dtype=torch.float64)
    for lstm, cell in (
        (
            (wide := masked(keep := masks_of({}, sparsity=0.5))),
            CompactLSTMCell(3, 8, kept_of(compact_units(wide, keep))),
        ),
        (
            (pair := row_masked({}, 0.5))[0],
            RowCompactLSTMCell(3, 8, [tuple(mask.nonzero().flatten() for mask in pair[1][0])]),
        ),
    ):
        small = compact_units(lstm, keep) if isinstance(cell, CompactLSTMCell) else compact_rows(*pair)
        cell.double().load_state_dict(small.state_dict())
        full = nn.LSTMCell(3, 8).double()
        full.load_state_dict({name.removesuffix("_l0"): tensor for name, tensor in lstm.state_dict().items()})
        h, c = cell(inputs)
        expected = full(inputs)
        assert h.shape == expected[0].shape
        assert torch.allclose(h, expected[0], rtol=0, atol=1e-12) and torch.allclose(c, expected[1], rtol=0, atol=1e-12)
        for mine, theirs in zip(cell(inputs, (h, c)), full(inputs, expected), strict=True):
            assert torch.allclose(mine, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("indices", [[], [3, 1], [0, 0], [-1, 2], [0, 8]], ids=str)
def test_indices_that_cannot_be_are_refused(indices: list[int]) -> None:
    with pytest.raises(ValueError, match="increasing int64 indices below 8"):
        CompactLSTM(3, 8, [torch.tensor(indices, dtype=torch.int64)])


@pytest.mark.parametrize("projection", [0, 3])
def test_a_state_of_kept_units_is_taken_over(projection: int) -> None:
    settings = {"num_layers": 2, "bidirectional": True, "proj_size": projection}
    keep = masks_of(settings, sparsity=0.5)
    lstm = masked(keep, **settings)
    c_0 = torch.randn(4, 6, 8, dtype=torch.float64) * torch.stack(keep)[:, None]
    h_0 = torch.randn(4, 6, 3, dtype=torch.float64) if projection else c_0 / 2
    assert_equal(lstm(DENSE, (h_0, c_0)), compact_units(lstm, keep)(DENSE, (h_0, c_0)))
    packed = INPUTS["packed"]
    state = h_0[:, :4], c_0[:, :4]
    assert_equal(lstm(packed, state), compact_units(lstm, keep)(packed, state))


@pytest.mark.parametrize("projection", [0, 3])
def test_layers_without_any_unit_still_run(projection: int) -> None:
    keep = [torch.zeros(8, dtype=torch.bool)] * 2
    lstm = masked(keep, num_layers=2, proj_size=projection)
    small = compact_units(lstm, keep)
    assert [len(units) for units in kept_of(small)] == [projection + 1] * 2
    assert_equal(lstm(DENSE), small(DENSE))


def test_it_is_smaller() -> None:
    keep = masks_of({"num_layers": 2}, sparsity=0.5)
    lstm = masked(keep, num_layers=2)
    first, second = (int(mask.sum()) for mask in keep)
    parameters = sum(parameter.numel() for parameter in compact_units(lstm, keep).parameters())
    assert parameters == 4 * first * (3 + first + 2) + 4 * second * (first + second + 2)


def test_its_state_dict_loads_into_another_of_the_same_sizes() -> None:
    settings = {"num_layers": 2, "bidirectional": True}
    keep = masks_of(settings, sparsity=0.5)
    small = compact_units(masked(keep, **settings), keep)
    twin = CompactLSTM(3, 8, [torch.arange(len(units)) for units in kept_of(small)], bidirectional=True).double()
    twin.load_state_dict(small.state_dict())
    assert_equal(small(DENSE), twin(DENSE))


def test_dropout_acts_between_layers_in_training_alone() -> None:
    settings = {"num_layers": 2, "dropout": 0.9}
    keep = masks_of(settings, sparsity=0.25)
    lstm = masked(keep, **settings)
    small = compact_units(lstm, keep)
    assert_equal(small(DENSE), lstm(DENSE))
    small.train()
    torch.manual_seed(0)
    assert not torch.equal(small(DENSE)[0], lstm(DENSE)[0])


def test_mode_and_frozen_weights_are_kept() -> None:
    keep = masks_of({}, sparsity=0.5)
    lstm = masked(keep).train()
    lstm.weight_hh_l0.requires_grad_(False)
    small = compact_units(lstm, keep)
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
SMALLER = {"units": CompactLSTM, "rows": RowCompactLSTM}
STYLES = {
    "plain": {},
    "deep": {"num_layers": 2},
    "both directions": {"bidirectional": True},
    "projection": {"proj_size": 4},
    "no bias": {"bias": False},
}


@pytest.mark.parametrize("granularity", SMALLER)
@pytest.mark.parametrize("sparsity", [0, 0.03, 0.5, 0.97])
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("reader", READERS)
def test_a_pruned_model_equals_its_masked_twin(reader: str, style: str, sparsity: float, granularity: str) -> None:
    model = Reader(READERS[reader], **STYLES[style]).double().eval()
    pruner = LSTMSaliencyPruner({"sparsity_level": sparsity}, granularity=granularity)
    pruner.prepare(model, [{"tensor_fqn": "lstm.weight_ih_l0"}] if style != "deep" else None)
    pruner.enable_mask_update = True
    pruner.step()
    inputs = torch.randn(2, 9, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = model(inputs)
    assert pruner.prune() is model
    assert isinstance(model.lstm, SMALLER[granularity])
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


def test_a_model_that_is_an_lstm_itself_is_returned_smaller() -> None:
    lstm = random_lstm(hidden_size=10)
    small = unit_pruner(lstm, 0.5).prune()
    assert isinstance(small, CompactLSTM)
    assert [len(units) for units in kept_of(small)] == [5]


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
    small = compact_units(masked(keep, **settings), keep)
    exported = torch.export.export(small, (DENSE,)).module()
    assert_equal(exported(DENSE), small(DENSE))
