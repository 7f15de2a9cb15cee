"""Scores from calibration inputs, the random one, and what is left when costs decide where to prune."""

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pruner import PrunerError, Recipe
from pruner.calibration.gathering import gather
from pruner.calibration.observations import Statistics
from pruner.importance.brain_surgeon import removal_order
from pruner.importance.data import ROW_SCORES, UNIT_SCORES, obs, random_score
from pruner.importance.masks import dropped_rows, make_masks_by_cost, make_unit_masks
from pruner.importance.scores import score_lstm
from pruner.importance.weights import outgoing_norms
from pruner.lstm.find import find_lstms
from pruner.lstm.gates import SIDES
from pruner.lstm.lstm import LSTM
from pruner.recipe import COST_CRITERIA, DATA_CRITERIA, ROW_CRITERIA
from tests.helpers.calibration import lstm_and_head, random_data
from tests.helpers.models import named, random_lstm

SHAPES: list[dict[str, Any]] = [
    {},
    {"num_layers": 3},
    {"num_layers": 2, "bidirectional": True},
    {"num_layers": 2, "proj_size": 2},
    {"num_layers": 2, "bidirectional": True, "proj_size": 2},
]


def gathered(task: str | None = None, **shape: Any) -> tuple[LSTM, dict[str, Tensor], Statistics]:
    lstm, tensors = lstm_and_head(**shape)
    return lstm, tensors, gather(lstm, tensors, random_data((6, 12)), ["head.weight"] if task else [], task)


def test_every_criterion_from_data_has_a_score() -> None:
    assert {*UNIT_SCORES, "outgoing"} == set(DATA_CRITERIA)
    assert {*ROW_SCORES} == set(DATA_CRITERIA) & set(ROW_CRITERIA)
    assert set(COST_CRITERIA) <= set(DATA_CRITERIA)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_units_are_scored_from_what_they_do(shape: dict[str, Any]) -> None:
    lstm, tensors, found = gathered("softmax", **shape)
    consumers = [] if lstm.proj_size else ["head.weight"]
    units = {name: score_lstm(lstm, tensors, name, consumers, found).units for name in DATA_CRITERIA}
    for place, own in found.layers.items():
        assert own.taylor_units is not None
        norms = outgoing_norms(lstm, tensors, *place, consumers)
        variance, importance = own.units.covariance.diagonal(), own.importance.diagonal()
        for unit in range(lstm.hidden_size):
            expected = {
                "activation": own.activation[unit],
                "outgoing": own.activation[unit] * norms[unit],
                "taylor": own.taylor_units[unit],
                "fisher": variance[unit] * importance[unit],
            }
            assert {name: float(units[name][place][unit]) for name in expected} == pytest.approx(
                {name: float(value) for name, value in expected.items()}, rel=1e-12
            )
        parts = [each / each.diagonal().mean() for each in (own.importance, own.reading)]
        order, costs = removal_order(own.units.covariance, sum(parts) * own.importance.diagonal().mean() / 2)
        assert units["obs"][place].argsort().tolist() == order.tolist()
        # What has been lost so far: the steps between the scores are the costs.
        steps = units["obs"][place][order].diff()
        assert steps.tolist() == pytest.approx(costs[1:].tolist(), rel=1e-6, abs=1e-9 * float(costs.max()))


def test_units_that_cost_nothing_still_go_in_their_order() -> None:
    _, _, found = gathered()
    own = found.layers[0, 0]
    for importance in (torch.zeros(4, 4), torch.diag(torch.tensor([0.0, 1.0, 0.0, 0.0]))):
        changed = replace(own, importance=importance.double(), reading=importance.double())
        order, _ = removal_order(own.units.covariance, changed.importance)
        assert obs(changed).argsort().tolist() == order.tolist()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_rows_are_scored_from_what_they_add(shape: dict[str, Any]) -> None:
    lstm, tensors, found = gathered("regression", **shape)
    fisher, taylor, activation = (score_lstm(lstm, tensors, name, (), found) for name in ("fisher", "taylor", "obs"))
    for (layer, direction, side), name in lstm.weight_names().items():
        own = found.layers[layer, direction]
        assert own.taylor_rows is not None
        assert torch.equal(fisher.saliency[name], own.parts[side][1] * own.sensitivity)
        assert torch.equal(taylor.saliency[name], own.taylor_rows[side])
        assert torch.equal(activation.saliency[name], tensors[name].double().abs().sum(1))  # units only: a norm
        ranks = fisher.saliency[name].view(4, -1).argsort(stable=True).argsort()
        assert torch.equal(fisher.ranks[name], ranks)


@pytest.mark.parametrize("criterion", DATA_CRITERIA)
def test_a_criterion_without_its_data_is_one_error(criterion: str) -> None:
    lstm, tensors = lstm_and_head()
    with pytest.raises(PrunerError, match=f"expected calibration inputs for the criterion '{criterion}', found none"):
        score_lstm(lstm, tensors, criterion)


def test_taylor_without_a_loss_is_one_error() -> None:
    lstm, tensors, found = gathered()
    with pytest.raises(PrunerError, match=r"expected a task .* for the criterion 'taylor'.* found none"):
        score_lstm(lstm, tensors, "taylor", (), found)
    score_lstm(lstm, tensors, "fisher", (), found)


@given(st.integers(1, 500), st.integers(0, 2**32 - 1))
def test_random_scores_are_those_of_their_seed(count: int, seed: int) -> None:
    scores = random_score(count, seed)
    assert torch.equal(scores, random_score(count, seed)) and scores.dtype == torch.float64
    assert len(scores.unique()) == count
    assert not torch.equal(scores, random_score(count, (seed + 1) % 2**32))


@pytest.mark.parametrize("granularity", ["rows", "units"])
def test_random_masks_hang_on_the_seed_alone(granularity: str) -> None:
    lstm, tensors = lstm_and_head(hidden_size=40, num_layers=2)
    other = {name: tensor + 1 for name, tensor in tensors.items()}

    def masks(weights: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
        recipe = Recipe(0.5, granularity, "random", seed=seed)
        return score_lstm(lstm, weights, "random", (), None, seed).masks(lstm, recipe)

    one, same, another = masks(tensors, 1), masks(other, 1), masks(tensors, 2)
    assert one.keys() == same.keys() and all(torch.equal(one[name], same[name]) for name in one)
    assert all(not torch.equal(one[name], another[name]) for name in one)
    assert all(int(mask.sum()) == 80 for mask in one.values())
    weights = list(lstm.weight_names().values())
    assert not torch.equal(one[weights[0]], one[weights[2]])  # nor do the layers repeat each other


@cache
def matrices(width: int, count: int) -> int:
    """Weights of a layer and direction, of PyTorch's own."""
    return sum(parameter.numel() for parameter in nn.LSTM(width, count, bias=False, device="meta").parameters())


def macs(lstm: LSTM, kept: dict[tuple[int, int], int]) -> int:
    """Multiply-accumulates of one step, counted on bare LSTMs, one for each layer and direction."""
    total = 0
    for (layer, _), count in kept.items():
        below = [kept[layer - 1, side] for side in range(lstm.directions)] if layer else []
        width = lstm.directions * lstm.proj_size if layer and lstm.proj_size else sum(below) or lstm.input_size
        if lstm.proj_size:  # which PyTorch wants below the hidden size
            total += 4 * count * (width + lstm.proj_size) + lstm.proj_size * count
        else:
            total += matrices(width, count)
    return total


def kept_units(lstm: LSTM, masks: dict[str, Tensor]) -> dict[tuple[int, int], Tensor]:
    return {
        (layer, side): masks[name][: lstm.hidden_size]
        for (layer, side, kind), name in lstm.weight_names().items()
        if kind == "ih"
    }


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("criterion", COST_CRITERIA)
@settings(max_examples=25)
@given(sparsity=st.floats(0, 1), seed=st.integers(0, 2**31))
def test_units_fall_where_they_cost_least_a_multiplication(
    shape: dict[str, Any], criterion: str, sparsity: float, seed: int
) -> None:
    """Against a plain search: always the next unit of the cheapest layer, until no more work is left than without it."""
    (lstm,), _ = find_lstms(random_lstm(hidden_size=6, device="meta", **shape).state_dict())
    generator = torch.Generator().manual_seed(seed)
    places = [(layer, side) for layer in range(lstm.num_layers) for side in range(lstm.directions)]
    costs = {place: 1e-3 + torch.rand(6, generator=generator, dtype=torch.float64) ** 4 for place in places}
    # The brain surgeon scores a unit by what has been lost when it is gone.
    scores = {place: own.cumsum(0) if criterion == "obs" else own for place, own in costs.items()}
    copies = {place: own.clone() for place, own in scores.items()}
    masks = make_unit_masks(lstm, scores, Recipe(sparsity, "units", criterion, "global"))
    assert all(torch.equal(scores[place], copies[place]) for place in places)
    next_costs = {place: (own if criterion == "obs" else own.sort().values).tolist() for place, own in costs.items()}
    kept = dict.fromkeys(places, 6)
    budget = macs(lstm, dict.fromkeys(places, 6 - dropped_rows(6, sparsity))) if sparsity < 1 else 0
    while macs(lstm, kept) > budget and max(kept.values()) > 1:
        candidates = [place for place in places if kept[place] > 1]
        price = {
            place: next_costs[place][6 - kept[place]]
            / (macs(lstm, kept) - macs(lstm, {**kept, place: kept[place] - 1}))
            for place in candidates
        }
        kept[min(candidates, key=price.__getitem__)] -= 1
    found = kept_units(lstm, masks)
    assert {place: int(mask.sum()) for place, mask in found.items()} == pytest.approx(kept)
    for place, mask in found.items():
        assert not (~mask).any() or float(scores[place][~mask].max()) <= float(scores[place][mask].min())
    least = macs(lstm, dict.fromkeys(places, 1))
    assert macs(lstm, kept) <= max(budget, least)


@pytest.mark.parametrize("criterion", COST_CRITERIA)
def test_costs_decide_from_the_statistics_on(criterion: str) -> None:
    lstm, tensors, found = gathered("softmax", num_layers=2, hidden_size=12)
    recipe = Recipe(0.5, "units", criterion, "global", consumers=("head.weight",), task="softmax")
    masks = score_lstm(lstm, tensors, criterion, ["head.weight"], found).masks(lstm, recipe)
    kept = {place: int(mask.sum()) for place, mask in kept_units(lstm, masks).items()}
    assert macs(lstm, kept) <= macs(lstm, {(0, 0): 6, (1, 0): 6}) < macs(lstm, {(0, 0): 7, (1, 0): 6})
    rounded = score_lstm(lstm, tensors, criterion, ["head.weight"], found).masks(lstm, replace(recipe, round_to=4))
    for place, mask in kept_units(lstm, rounded).items():
        assert int(mask.sum()) % 4 == 0 and kept[place] <= int(mask.sum()) < kept[place] + 4


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@settings(max_examples=50)
@given(sparsity=st.integers(0, 64).map(lambda part: part / 64), seed=st.integers(0, 2**31), ties=st.booleans())
def test_rows_fall_where_they_cost_least_a_multiplication(
    shape: dict[str, Any], sparsity: float, seed: int, ties: bool
) -> None:
    (lstm,), _ = find_lstms(random_lstm(device="meta", **shape).state_dict())
    generator = torch.Generator().manual_seed(seed)
    rows = {name: torch.rand(16, generator=generator, dtype=torch.float64) for name in lstm.weight_names().values()}
    if ties:
        rows = {name: (3 * own).round() for name, own in rows.items()}
    masks = make_masks_by_cost(lstm, rows, Recipe(sparsity, "rows", "fisher", "global"))
    assert masks.keys() == rows.keys()
    widths = {
        name: lstm.layer_input_size(layer) if side == SIDES[0] else lstm.output_size
        for (layer, _, side), name in lstm.weight_names().items()
    }
    every = sorted(
        (float(rows[name][row]) / widths[name], place, row, name)
        for place, name in enumerate(rows)
        for row in range(16)
    )
    room, dropped = sparsity * sum(16 * width for width in widths.values()), set()
    for _, _, row, name in every:
        room -= widths[name]
        if room < 0:
            break
        dropped.add((name, row))
    assert {(name, int(row)) for name, mask in masks.items() for row in (~mask).nonzero()} == dropped


def test_recipes_choose_between_equal_shares_and_costs() -> None:
    lstm, tensors, found = gathered("softmax", num_layers=2)
    scores = score_lstm(lstm, tensors, "fisher", ["head.weight"], found)
    equal = scores.masks(lstm, Recipe(0.5, criterion="fisher"))
    assert all(gate.sum() == 2 for mask in equal.values() for gate in mask.chunk(4))
    by_cost = scores.masks(lstm, Recipe(0.5, criterion="fisher", allocation="global"))
    assert any(gate.sum() != 2 for mask in by_cost.values() for gate in mask.chunk(4))
    names = named(random_lstm(num_layers=2), "rnn.")
    work = sum(int(mask.sum()) * names[name].shape[1] for name, mask in by_cost.items())
    assert work >= 0.5 * sum(names[name].numel() for name in by_cost)
