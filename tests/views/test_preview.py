"""Previews against what really becomes of a model."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pruner import Recipe, run
from pruner.calibration.inputs import gaussian
from pruner.compact.costs import size_of_file, size_when_compact
from pruner.compact.masked_and_compact import pruned_by
from pruner.compensation.chain import compensate
from pruner.exports.verify import verify
from pruner.files.checkpoint import Checkpoint
from pruner.importance.scores import score_lstm
from pruner.lstm.gates import ALL_BLOCKS, SIDES, split_gates
from pruner.pipeline import choose_masks, gather_statistics
from pruner.views.preview import block_ranks, block_scores, dropped_at_every_percent
from tests.helpers.files import saved_in
from tests.helpers.models import named, random_lstm

SHAPES = [
    {},
    {"num_layers": 2, "bidirectional": True},
    {"num_layers": 2, "hidden_size": 6, "proj_size": 2},
    {"bias": False},
    {"dtype": torch.float16},
]


def lstm_and_head(tmp_path: Path, **settings: Any) -> Checkpoint:
    lstm = random_lstm(hidden_size=settings.pop("hidden_size", 9), **settings)
    width = lstm.proj_size or lstm.hidden_size
    head = torch.nn.Linear(width * (2 if lstm.bidirectional else 1), 3).to(next(lstm.parameters()).dtype)
    return saved_in(tmp_path, named(lstm, "lstm.") | named(head, "head."))


@pytest.mark.parametrize("settings", SHAPES, ids=str)
@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(),
        Recipe(granularity="units"),
        Recipe(granularity="units", round_to=4),
        Recipe(granularity="units", allocation="global", criterion="l2"),
    ],
    ids=lambda recipe: f"{recipe.granularity} {recipe.allocation} {recipe.round_to}",
)
def test_the_rows_below_the_count_are_those_that_the_mask_drops(
    tmp_path: Path, settings: dict[str, Any], recipe: Recipe
) -> None:
    checkpoint = lstm_and_head(tmp_path, **settings)
    lstm = checkpoint.lstms[0]
    scores = score_lstm(lstm, checkpoint.tensors, recipe.criterion)
    for layer in range(lstm.num_layers):
        for direction in range(lstm.directions):
            ranks = block_ranks(lstm, scores, recipe, layer, direction)
            counts = dropped_at_every_percent(lstm, scores, recipe, layer, direction)
            assert counts.shape == (101, len(ALL_BLOCKS))
            for percent in range(101):
                masks = scores.masks(lstm, replace(recipe, sparsity=percent / 100))
                names = lstm.weight_names()
                kept = torch.cat([split_gates(masks[names[layer, direction, side]]) for side in SIDES])
                assert torch.equal(ranks >= counts[percent][:, None], kept), percent


def test_block_scores_are_the_rows_of_the_eight_blocks(tmp_path: Path) -> None:
    checkpoint = lstm_and_head(tmp_path)
    lstm = checkpoint.lstms[0]
    scores = block_scores(lstm, score_lstm(lstm, checkpoint.tensors, "l1"), 0, 0)
    weight = checkpoint.tensors["lstm.weight_hh_l0"]
    assert torch.allclose(scores[ALL_BLOCKS.index("hg")], weight[18:27].abs().double().sum(1))


@pytest.mark.parametrize("settings", SHAPES, ids=str)
@pytest.mark.parametrize("granularity", ["rows", "units"])
@pytest.mark.parametrize("compensation", ["none", "fold"])
@pytest.mark.parametrize("consumers", [(), ("head.weight",)], ids=["unknown", "head"])
def test_the_size_from_shapes_is_that_of_the_real_tensors(
    tmp_path: Path, settings: dict[str, Any], granularity: str, compensation: str, consumers: tuple[str, ...]
) -> None:
    checkpoint = lstm_and_head(tmp_path, **settings)
    if checkpoint.lstms[0].proj_size and consumers:
        pytest.skip("what reads a projection loses nothing")
    recipe = Recipe(0.4, granularity, compensation=compensation, consumers=consumers if granularity == "units" else ())
    inputs = gaussian(checkpoint, checkpoint.lstms)
    statistics = gather_statistics(checkpoint, recipe, inputs) if compensation != "none" else None
    masks = choose_masks(checkpoint, recipe, statistics=statistics)
    filled = [compensate(checkpoint, recipe, masks, statistics, inputs)] if statistics else []
    tensors = pruned_by(checkpoint, recipe, masks, *filled).forms["compact"].tensors(checkpoint)
    size = size_when_compact(checkpoint, recipe, masks)
    assert size.parameters == sum(tensor.numel() for tensor in tensors.values() if tensor.is_floating_point())
    assert size.tensor_bytes == sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    matrices = [tensor for name, tensor in tensors.items() if tensor.dim() == 2 and not name.startswith("head")]
    assert size.macs_per_step == sum(tensor.numel() for tensor in matrices)
    assert size_of_file(checkpoint).macs_per_step > size.macs_per_step


def test_readers_named_for_scores_keep_their_width_where_layers_are_left_unequal(tmp_path: Path) -> None:
    checkpoint = lstm_and_head(tmp_path, num_layers=2, hidden_size=12)
    recipe = Recipe(0.5, "units", "activation", layer_sparsity={0: 0.25, 1: 0.75}, consumers=("head.weight",))
    inputs = gaussian(checkpoint, checkpoint.lstms)
    result = run(checkpoint, recipe, calibration=inputs)
    assert [len(units) for units in result.forms["compact"].layouts[0].kept_units.values()] == [9, 3]
    assert result.forms["compact"].tensors(checkpoint)["head.weight"].shape == (3, 12)
    assert size_when_compact(checkpoint, recipe, result.masks).parameters == result.costs["compact"].parameters
    verify(result.save(tmp_path / "export"), checkpoint)
