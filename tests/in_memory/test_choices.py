"""What the pruner has of a recipe, in memory: criteria, allocation, rounding, patterns, units, consumers, rounds."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pruner import LSTMSaliencyPruner, PrunerError
from pruner.compact.load_pruned import CompactLSTM, CompactLSTMCell, RowCompactLSTM, RowCompactLSTMCell
from pruner.importance.scores import score_lstm
from pruner.lstm.find import find_lstms
from pruner.recipe import Recipe
from tests.helpers.training import BATCH, STEPS, H, Opaque, batch, seeded, stepped

SETTINGS: list[dict[str, Any]] = [
    {"granularity": "rows", "criterion": "l2"},
    {"granularity": "rows", "criterion": "random"},
    {"granularity": "units", "criterion": "l1"},
    {"granularity": "units", "criterion": "l2"},
    {"granularity": "units", "criterion": "group"},
    {"granularity": "units", "criterion": "random"},
    {"granularity": "units", "criterion": "group", "round_to": 3},
    {"granularity": "units", "criterion": "l1", "allocation": "global"},
    {"granularity": "units", "criterion": "l2", "allocation": "global", "round_to": 2},
    {"granularity": "units", "criterion": "group", "allocation": "global"},
    {"granularity": "units", "criterion": "random", "allocation": "global"},
]


def deep() -> nn.Module:
    torch.manual_seed(0)
    return nn.ModuleDict({"lstm": nn.LSTM(3, H, 2, bidirectional=True), "head": nn.Linear(2 * H, 2)})


@pytest.mark.parametrize("sparsity", [0.0, 0.4, 0.9])
@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: "-".join(map(str, settings.values())))
def test_masks_are_those_of_a_checkpoint(settings: dict[str, Any], sparsity: float) -> None:
    model = deep()
    consumers = ["head.weight"] if settings["criterion"] == "group" else []
    tensors = dict(model.state_dict())
    (lstm,), _ = find_lstms(tensors)
    recipe = Recipe(sparsity=sparsity, **settings)
    wanted = score_lstm(lstm, tensors, recipe.criterion, consumers).masks(lstm, recipe)
    found = stepped(model, sparsity=sparsity, consumers=consumers, **settings).masks()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(mask, wanted[name]) for name, mask in found.items())


def test_sparsity_by_patterns_of_names() -> None:
    level = {"*_hh_*": 0.25, "lstm.weight_ih_l1*": 0.75, "*": 0.5}
    pruner = LSTMSaliencyPruner({"sparsity_level": level})
    pruner.prepare(deep())
    assert {group["tensor_fqn"]: group["sparsity_level"] for group in pruner.groups} == {
        f"lstm.weight_{side}_l{layer}{end}": 0.25 if side == "hh" else 0.75 if layer else 0.5
        for layer in (0, 1)
        for end in ("", "_reverse")
        for side in ("ih", "hh")
    }


def test_units_to_keep_are_kept_whatever_they_score() -> None:
    model = deep()
    pruner = LSTMSaliencyPruner({"sparsity_level": 0.5}, "units", units={"*_l0": [7, 0], "*_l0_reverse": [1, 2]})
    pruner.prepare(model)
    pruner.step()
    kept = {name: mask.view(4, H)[0].nonzero().flatten().tolist() for name, mask in pruner.masks().items()}
    assert kept["lstm.weight_hh_l0"] == kept["lstm.bias_ih_l0"] == [0, 7] and kept["lstm.weight_ih_l0_reverse"] == [
        1,
        2,
    ]
    assert len(kept["lstm.weight_ih_l1"]) == 4
    entry = LSTMSaliencyPruner(granularity="units")
    entry.prepare(deep(), [{"tensor_fqn": "lstm.weight_ih_l0", "units": torch.tensor([3])}])
    entry.step()
    assert entry.masks()["lstm.weight_hh_l0"].view(4, H)[2].nonzero().flatten().tolist() == [3]


def test_what_fell_stays_where_it_may_not_come_back() -> None:
    for granularity in ("rows", "units"):
        pruner = stepped(deep(), granularity, 0.75, regrow=False)
        before = pruner.masks()
        for group in pruner.groups:
            group["sparsity_level"] = 0.25
        pruner.step()
        assert all(torch.equal(mask, before[name]) for name, mask in pruner.masks().items())


UNUSABLE: dict[str, tuple[dict[str, Any], str]] = {
    "from data": ({"granularity": "units", "criterion": "obs"}, "needs no data .*found 'obs'"),
    "unknown": ({"criterion": "l3"}, "expected a criterion among"),
    "group of rows": ({"criterion": "group"}, "expected granularity 'units' with criterion 'group'"),
    "units of rows": ({"units": {"*": [0]}}, "expected granularity 'units' with units"),
    "consumers of rows": ({"consumers": ["head.weight"]}, "expected granularity 'units' with units and consumers"),
    "rounding rows": ({"round_to": 4}, "round_to 4"),
    "no such unit": ({"granularity": "units", "units": {"*": [8]}}, "units to keep from 0 to 7"),
    "no unit": ({"granularity": "units", "units": {"*": []}}, "units to keep from 0 to 7"),
    "a unit twice": ({"granularity": "units", "units": {"*": [1, 1]}}, "units to keep from 0 to 7"),
    "pattern of nothing": ({"granularity": "units", "units": {"gru.*": [1]}}, "found 'gru.*', which fits none"),
    "level of nothing": ({"defaults": {"sparsity_level": {"gru.*": 0.5, "*": 0.1}}}, "found 'gru.*', which fits none"),
    "level missing": ({"defaults": {"sparsity_level": {"*_hh_*": 0.5}}}, "found no pattern that fits"),
    "level of a pattern": ({"defaults": {"sparsity_level": {"*": 2}}}, "sparsity_level between 0 and 1, found 2"),
    "consumer of nothing": ({"granularity": "units", "consumers": ["tail.weight"]}, "name of a tensor of the model"),
    "consumer of a bias": ({"granularity": "units", "consumers": ["head.bias"]}, "expected the weight of an nn.Linear"),
    "consumer of its own": ({"granularity": "units", "consumers": ["lstm.weight_ih_l0"]}, "which fits none"),
}


@pytest.mark.parametrize(("settings", "message"), UNUSABLE.values(), ids=UNUSABLE)
def test_settings_that_make_no_sense_are_told(settings: dict[str, Any], message: str) -> None:
    model = deep()
    with pytest.raises(PrunerError, match=message.replace("gru.*", r"gru\.\*")):
        LSTMSaliencyPruner(**settings).prepare(model)
    assert not hasattr(model["lstm"], "parametrizations")


def test_layers_of_different_levels_are_not_ranked_together() -> None:
    pruner = LSTMSaliencyPruner({"sparsity_level": {"*_l0*": 0.25, "*": 0.5}}, "units", allocation="global")
    pruner.prepare(deep())
    with pytest.raises(
        PrunerError, match="expected one sparsity_level for all layers of lstm with allocation 'global'"
    ):
        pruner.step()


def test_named_consumers_are_trimmed_where_no_trace_shows_them() -> None:
    model = seeded(Opaque)
    pruner = stepped(model, consumers=["head.weight"])
    wanted = model(batch()[0])
    pruner.prune()
    assert type(model.lstm) is nn.LSTM and model.lstm.hidden_size == model.head.in_features == H // 2
    torch.testing.assert_close(model(batch()[0]), wanted)


class Two(nn.Module):
    """Two LSTMs of one width and their readers, in a way that no trace can follow."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.LSTM(3, H), nn.LSTM(H, H, bidirectional=True)
        self.head = nn.Linear(2 * H, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        output = self.two(self.one(inputs)[0])[0]
        return self.head(output if bool(output.isfinite().all()) else output * 0)


@pytest.mark.parametrize("consumers", [["one=two.weight_ih_l0", "head.weight"], ["head.weight", "two.weight_ih_l0"]])
def test_a_chain_of_named_consumers(consumers: list[str]) -> None:
    torch.manual_seed(0)
    model = Two()
    pruner = stepped(model, consumers=consumers)
    inputs = torch.randn(STEPS, BATCH, 3)
    wanted = model(inputs)
    pruner.prune()
    assert (model.one.hidden_size, model.two.input_size, model.two.hidden_size, model.head.in_features) == (4, 4, 4, 8)
    torch.testing.assert_close(model(inputs), wanted)


def test_unequal_layers_keep_their_width_and_it_is_told() -> None:
    model = seeded(Opaque, layers=2)
    pruner = stepped(model, consumers=["head.weight"], units={"*_l0": [1, 2, 3]})
    wanted = model(batch()[0])
    with pytest.warns(UserWarning, match=r"lstm keep different numbers of units.*head keep|lstm keep different"):
        pruner.prune()
    assert isinstance(model.lstm, CompactLSTM) and model.head.in_features == H
    torch.testing.assert_close(model(batch()[0]), wanted)


@pytest.mark.parametrize(
    "settings", [{}, {"criterion": "group", "allocation": "global"}, {"consumers": ["head.weight"]}]
)
@pytest.mark.parametrize("first", ["rows", "units"])
@pytest.mark.parametrize("second", ["rows", "units"])
def test_a_second_round_of_any_kind(first: str, second: str, settings: dict[str, Any]) -> None:
    model = seeded(Opaque, layers=2)
    inputs = batch()[0]
    stepped(model, first, 0.25, **(settings if first == "units" and "allocation" in settings else {})).prune()
    pruner = stepped(model, second, 0.5, **(settings if second == "units" else {}))
    wanted = model(inputs)
    before = sum(parameter.count_nonzero() for parameter in model.lstm.parameters())
    pruner.prune()
    torch.testing.assert_close(model(inputs), wanted)
    compact = [module for module in model.modules() if isinstance(module, CompactLSTM | RowCompactLSTM)]
    if "consumers" in settings and second == "units":
        assert compact == [] and model.head.in_features == model.lstm.hidden_size < H
    else:
        assert compact == [model.lstm] and isinstance(model.lstm, RowCompactLSTM if second == "rows" else CompactLSTM)
    assert sum(parameter.count_nonzero() for parameter in model.lstm.parameters()) < before


def test_a_failed_prepare_leaves_the_smaller_module() -> None:
    model = seeded(Opaque)
    stepped(model, "rows").prune()
    small = model.lstm
    with pytest.raises(PrunerError, match="name of a tensor"):
        LSTMSaliencyPruner().prepare(model, [{"tensor_fqn": "lstm.weight_xx"}])
    assert model.lstm is small


SMALLER: dict[str, Callable[[], nn.Module]] = {
    "a cell": lambda: CompactLSTMCell(3, H, [torch.arange(2)]),
    "rows of a cell": lambda: RowCompactLSTMCell(3, H, [(torch.arange(4), torch.arange(4))]),
    "units that come back": lambda: CompactLSTM(3, H, [torch.arange(2)], reconstruct=True),
}


@pytest.mark.parametrize("granularity", ["rows", "units"])
@pytest.mark.parametrize("kind", SMALLER)
def test_smaller_modules_that_cannot_be_pruned_once_more_stay_as_they_are(kind: str, granularity: str) -> None:
    model = nn.ModuleDict({"small": SMALLER[kind](), "lstm": nn.LSTM(3, H)})
    before = {name: tensor.clone() for name, tensor in model["small"].state_dict().items()}
    stepped(model, granularity).prune()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model["small"].state_dict().items())
    with pytest.raises(PrunerError, match="expected an LSTM that can be pruned once more, found small, which"):
        LSTMSaliencyPruner().prepare(nn.ModuleDict({"small": model["small"]}))
