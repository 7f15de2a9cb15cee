"""Masks: each gate loses its own rows of lowest saliency, the same as in torch.ao.pruning."""

import random
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.ao.pruning._experimental.pruner.lstm_saliency_pruner import LSTMSaliencyPruner as Upstream

from pruner import PrunerError, Recipe
from pruner.importance.masks import (
    block_sparsities,
    check_layers,
    drop_rows,
    keep_mask,
    make_masks,
    make_unit_masks,
    row_ranks,
    unit_agreement,
)
from pruner.importance.scores import score_lstm
from pruner.importance.weights import score
from pruner.lstm.find import find_lstms
from pruner.lstm.gates import ALL_BLOCKS, BLOCKS
from pruner.views.summary import Summary, summarize
from tests.helpers.models import found_in, named, random_lstm

SALIENCY = torch.tensor([3.0, 1.0, 2.0, 9.0, 7.0, 8.0, 0.0, 0.5, 0.25, 5.0, 5.0, 4.0])

shares = st.floats(0, 1)


@st.composite
def saliencies(draw: st.DrawFn) -> Tensor:
    """Saliencies of four gates of 1 to 40 units; a few whole numbers make many ties."""
    units = draw(st.integers(1, 40))
    values = st.one_of(st.integers(0, 3).map(float), st.floats(0, 1e6))
    return torch.tensor(draw(st.lists(values, min_size=4 * units, max_size=4 * units)), dtype=torch.float64)


def test_ranks_by_hand() -> None:
    assert row_ranks(SALIENCY).tolist() == [[2, 0, 1], [2, 0, 1], [0, 2, 1], [1, 2, 0]]


@pytest.mark.parametrize(
    ("sparsities", "kept"),
    [
        ((0.5,) * 4, [1, 0, 1, 1, 0, 1, 0, 1, 1, 1, 1, 0]),
        ((0.7,) * 4, [1, 0, 0, 1, 0, 0, 0, 1, 0, 0, 1, 0]),
        ((0.0, 0.34, 0.67, 1.0), [1, 1, 1, 1, 0, 1, 0, 1, 0, 0, 0, 0]),
    ],
)
def test_masks_by_hand(sparsities: tuple[float, ...], kept: list[int]) -> None:
    assert keep_mask(row_ranks(SALIENCY), sparsities).tolist() == [bool(row) for row in kept]


@given(saliencies(), st.tuples(shares, shares, shares, shares))
def test_each_gate_drops_its_lowest_rows_and_ties_in_the_order_of_units(
    saliency: Tensor, sparsities: tuple[float, ...]
) -> None:
    mask = keep_mask(row_ranks(saliency), sparsities)
    for kept, scores, sparsity in zip(mask.chunk(4), saliency.chunk(4), sparsities, strict=True):
        order = sorted(range(len(scores)), key=lambda unit: (scores[unit].item(), unit))
        dropped = order[: int(len(scores) * sparsity)]
        assert (~kept).nonzero().flatten().tolist() == sorted(dropped)


@given(saliencies(), shares, shares)
def test_a_higher_sparsity_drops_a_superset(saliency: Tensor, one: float, other: float) -> None:
    ranks = row_ranks(saliency)
    low, high = (keep_mask(ranks, (sparsity,) * 4) for sparsity in sorted((one, other)))
    assert not (high & ~low).any()


@pytest.mark.parametrize(
    ("recipe", "layer", "expected"),
    [
        (Recipe(0.1), 0, (0.1,) * 8),
        (Recipe(0.1, layer_sparsity={1: 0.2}), 0, (0.1,) * 8),
        (Recipe(0.1, layer_sparsity={1: 0.2}), 1, (0.2,) * 8),
        (Recipe(0.1, gate_sparsity={"if": 0.3}), 0, (0.1, 0.3, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1)),
        (Recipe(0.1, layer_sparsity={0: 0.2}, gate_sparsity={"ho": 0}), 0, (0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 0)),
    ],
    ids=["overall", "another layer", "layer over overall", "gate over overall", "gate over layer"],
)
def test_the_nearest_setting_counts(recipe: Recipe, layer: int, expected: tuple[float, ...]) -> None:
    assert block_sparsities(recipe, layer, "ih") + block_sparsities(recipe, layer, "hh") == expected


def test_every_block_of_every_layer_follows_its_own_sparsity() -> None:
    lstm, tensors = found_in(random_lstm(num_layers=2, hidden_size=10, bidirectional=True), "rnn.")
    gates = {block: index / 10 for index, block in enumerate(ALL_BLOCKS[:-1])}
    recipe = Recipe(0.9, layer_sparsity={1: 0.8}, gate_sparsity=gates)
    ranks = {name: row_ranks(scores) for name, scores in score(lstm, tensors).items()}
    masks = make_masks(lstm, ranks, recipe)
    assert masks.keys() == {name for name in tensors if "weight" in name}
    for name, mask in masks.items():
        expected = [
            gates.get(block, 0.8 if "_l1" in name else 0.9) for block in BLOCKS["hh" if "_hh" in name else "ih"]
        ]
        assert [int((~kept).sum()) for kept in mask.chunk(4)] == [int(10 * sparsity) for sparsity in expected]


def test_a_layer_that_no_lstm_has_is_refused() -> None:
    shallow, deep = (find_lstms(random_lstm(num_layers=layers).state_dict())[0][0] for layers in (1, 2))
    check_layers(Recipe(layer_sparsity={1: 0.5}), [shallow, deep])
    with pytest.raises(PrunerError, match="expected a layer from 0 to 0 in layer_sparsity, found 1"):
        check_layers(Recipe(layer_sparsity={1: 0.5}), [shallow])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_dropped_rows_become_zero_in_a_copy(dtype: torch.dtype) -> None:
    weight = torch.arange(1, 25, dtype=dtype).view(3, 8).t()
    weight[1] = torch.nan
    before = weight.clone()
    pruned = drop_rows(weight, torch.tensor([True, False] * 4))
    assert torch.equal(pruned[::2], before[::2]) and not pruned[1::2].count_nonzero()
    assert pruned.dtype == dtype and pruned.is_contiguous()
    assert torch.equal(weight.nan_to_num(), before.nan_to_num())


def test_unit_agreement_counts_the_blocks_that_keep_a_unit() -> None:
    ih, hh = torch.tensor([1, 0, 1, 0, 1, 0, 1, 0]).bool(), torch.tensor([1, 1, 1, 0, 0, 0, 1, 0]).bool()
    assert unit_agreement([ih, hh]).tolist() == [7, 1]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, Summary(32, 16, 16 * 7, 8 * 7, 0.75, 4, 2)),
        (
            {"num_layers": 2, "bidirectional": True, "proj_size": 2},
            Summary(128, 64, 2 * 16 * (3 + 2) + 2 * 16 * (4 + 2), 2 * 8 * (3 + 2) + 2 * 8 * (4 + 2), 0.75, 16, 8),
        ),
    ],
    ids=["one layer", "everything"],
)
def test_a_summary_counts_what_the_masks_take(settings: dict[str, Any], expected: Summary) -> None:
    (lstm,), _ = find_lstms(random_lstm(**settings).state_dict())
    names = lstm.weight_names().values()
    masks = {name: torch.tensor([False, False, True, True] * 4) for name in names}
    saliency = {name: torch.tensor([1.0, 1.0, 3.0, 3.0] * 4) for name in names}
    assert summarize([lstm], masks, saliency) == expected
    lopsided = {name: mask.roll(1) if "_hh_" in name else mask for name, mask in masks.items()}
    assert summarize([lstm], lopsided, saliency).dropped_units == expected.dropped_units // 2


def test_a_summary_of_weights_that_are_all_zero() -> None:
    (lstm,), _ = find_lstms(random_lstm().state_dict())
    masks = {name: torch.zeros(16, dtype=torch.bool) for name in lstm.weight_names().values()}
    assert summarize([lstm], masks, {name: torch.zeros(16) for name in masks}).saliency_kept == 1.0


def upstream_masks(lstm: nn.LSTM, sparsity: float) -> dict[str, Tensor]:
    names = [name for name, tensor in lstm.named_parameters() if "_hr_" not in name and tensor.dim() == 2]
    upstream = Upstream({"sparsity_level": sparsity})
    upstream.prepare(lstm, [{"tensor_fqn": name} for name in names])
    upstream.step()
    return {name: lstm.parametrizations[name][0].mask for name in names}


def arbitrary_lstm(seed: int) -> tuple[nn.LSTM, float]:
    rng = random.Random(seed)
    hidden_size = rng.choice([rng.randint(1, 300), rng.randint(1, 20)])
    settings = {
        "input_size": rng.randint(1, 80),
        "hidden_size": hidden_size,
        "num_layers": rng.randint(1, 3),
        "bidirectional": rng.random() < 0.5,
        "proj_size": rng.choice([0, rng.randrange(hidden_size)]),
        "bias": rng.random() < 0.5,
        "dtype": rng.choice([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    }
    return random_lstm(seed, **settings), rng.choice([0.0, 1.0, rng.random(), rng.random(), rng.random()])


@pytest.mark.parametrize("seed", range(200))
def test_masks_are_those_of_torch_ao_pruning(seed: int) -> None:
    module, sparsity = arbitrary_lstm(seed)
    lstm, tensors = found_in(module)
    scores = score(lstm, tensors)
    masks = make_masks(lstm, {name: row_ranks(scores[name]) for name in scores}, Recipe(sparsity))
    expected = upstream_masks(module if lstm.dtype == "float64" else module.float(), sparsity)
    assert masks.keys() == expected.keys()
    for name, mask in masks.items():
        for ours, theirs, saliency in zip(mask.chunk(4), expected[name].chunk(4), scores[name].chunk(4), strict=True):
            assert ours.sum() == theirs.sum()
            at_the_cut = saliency[ours != theirs]
            if len(at_the_cut):
                cut = saliency[~ours].max()
                torch.testing.assert_close(at_the_cut, cut.expand_as(at_the_cut), rtol=1e-5, atol=0)


def dropped_in(masks: dict[str, Tensor], hidden_size: int) -> dict[str, int]:
    """How many units fall in each layer and direction; the masks of one must be equal in all blocks and biases."""
    by_place: dict[str, list[Tensor]] = {}
    for name, mask in masks.items():
        by_place.setdefault(name.partition("_l")[2], []).append(mask)
    for place, own in by_place.items():
        assert len(own) == 4, place  # two weights, two biases
        assert all(torch.equal(gate, own[0][:hidden_size]) for mask in own for gate in mask.reshape(4, hidden_size))
    return {place: int((~own[0][:hidden_size]).sum()) for place, own in by_place.items()}


PLACES = {"0": (0, 0), "0_reverse": (0, 1), "1": (1, 0), "1_reverse": (1, 1)}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"sparsity": 0.5}, [5, 5]),
        ({"sparsity": 0.59}, [5, 5]),
        ({"sparsity": 0.0}, [0, 0]),
        ({"sparsity": 1.0}, [10, 10]),
        ({"sparsity": 0.3, "layer_sparsity": {1: 0.8}}, [3, 8]),
        ({"sparsity": 0.3, "round_to": 4}, [2, 2]),
        ({"sparsity": 0.3, "round_to": 7}, [3, 3]),
        ({"sparsity": 0.3, "round_to": 8}, [2, 2]),
        ({"sparsity": 0.9, "round_to": 16}, [0, 0]),
        ({"sparsity": 1.0, "round_to": 4}, [10, 10]),
        ({"sparsity": 0.9, "layer_sparsity": {0: 0.1}, "round_to": 3}, [1, 7]),
    ],
    ids=str,
)
def test_uniform_units_are_counted_by_hand(settings: dict[str, Any], expected: list[int]) -> None:
    lstm, tensors = found_in(random_lstm(hidden_size=10, num_layers=2, bidirectional=True))
    recipe = Recipe(granularity="units", **settings)
    masks = score_lstm(lstm, tensors, recipe.criterion).masks(lstm, recipe)
    assert masks.keys() == tensors.keys()
    dropped = dropped_in(masks, 10)
    assert dropped == {place: expected[layer] for place, (layer, _) in PLACES.items()}


@given(shares, st.integers(1, 6), st.integers(1, 3), st.booleans(), st.integers(0, 2**31))
def test_a_global_ranking_spares_every_layer(
    sparsity: float, hidden_size: int, layers: int, both: bool, seed: int
) -> None:
    lstm = find_lstms(named(random_lstm(hidden_size=hidden_size, num_layers=layers, bidirectional=both)))[0][0]
    places = [(layer, side) for layer in range(layers) for side in range(lstm.directions)]
    generator = torch.Generator().manual_seed(seed)
    units = {place: torch.randint(1, 4, (hidden_size,), generator=generator).double() for place in places}
    copies = {place: scores.clone() for place, scores in units.items()}
    masks = make_unit_masks(lstm, units, Recipe(sparsity, "units", allocation="global"))
    assert all(torch.equal(units[place], copies[place]) for place in places)
    dropped = dropped_in(masks, hidden_size)
    total = hidden_size * len(places)
    assert sum(dropped.values()) == min(int(total * sparsity), total - len(places))
    assert max(dropped.values()) < hidden_size
    for place, scores in units.items():
        mask = masks[lstm.weight_names()[*place, "ih"]][:hidden_size]
        assert not (~mask).any() or float(scores[~mask].max()) <= float(scores[mask].min())


@pytest.mark.parametrize("criterion", ["l1", "l2", "group"])
def test_a_global_ranking_takes_units_where_weights_are_small(criterion: str) -> None:
    tensors = named(random_lstm(hidden_size=6, num_layers=2))
    for name in tensors:
        if name.endswith("_l1"):
            tensors[name] *= 0.01
    (lstm,), _ = find_lstms(tensors)
    scores = score_lstm(lstm, tensors, criterion)
    recipe = Recipe(0.3, "units", criterion, "global")
    assert dropped_in(scores.masks(lstm, recipe), 6) == {"0": 0, "1": 3}
    assert dropped_in(scores.masks(lstm, Recipe(0.9, "units", criterion, "global")), 6) == {"0": 5, "1": 5}
    rounded = Recipe(0.3, "units", criterion, "global", 4)
    assert dropped_in(scores.masks(lstm, rounded), 6) == {"0": 0, "1": 2}


@pytest.mark.parametrize("criterion", ["l1", "l2", "group"])
def test_the_lowest_units_fall_and_ties_in_their_order(criterion: str) -> None:
    tensors = named(random_lstm(hidden_size=5))
    factors = torch.tensor([3.0, 1.0, 2.0, 1.0, 1.0])
    tensors["weight_ih_l0"] = factors.repeat(4)[:, None].expand(20, 3).clone()
    tensors["weight_hh_l0"] = torch.zeros(20, 5)
    (lstm,), _ = find_lstms(tensors)
    masks = score_lstm(lstm, tensors, criterion).masks(lstm, Recipe(0.4, "units", criterion))
    assert masks["bias_hh_l0"].tolist() == [True, False, True, False, True] * 4


def test_masks_of_units_without_biases_are_those_of_weights() -> None:
    lstm, tensors = found_in(random_lstm(bias=False, proj_size=2))
    masks = score_lstm(lstm, tensors, "l1").masks(lstm, Recipe(0.5, "units"))
    assert masks.keys() == {"weight_ih_l0", "weight_hh_l0"}


@pytest.mark.parametrize("granularity", ["rows", "units"])
def test_random_masks_keep_what_the_recipe_says(granularity: str) -> None:
    """Random scores take the place of saliency alone: counts, layers and gates stay those of the recipe."""
    lstm, tensors = found_in(random_lstm(hidden_size=10, num_layers=2, bidirectional=True))
    recipe = Recipe(0.3, granularity, "random", layer_sparsity={1: 0.8}, seed=4)
    masks = score_lstm(lstm, tensors, "random", seed=4).masks(lstm, recipe)
    for name, mask in masks.items():
        assert [int((~kept).sum()) for kept in mask.chunk(4)] == [8 if "_l1" in name else 3] * 4
    if granularity == "units":
        assert dropped_in(masks, 10) == {"0": 3, "0_reverse": 3, "1": 8, "1_reverse": 8}
