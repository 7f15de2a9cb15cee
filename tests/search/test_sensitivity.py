"""Sensitivity: what each part of an LSTM loses when it alone is pruned."""

import torch

from pruner import Recipe, examples
from pruner.lstm.gates import ALL_BLOCKS, split_gates
from pruner.pipeline import choose_masks
from pruner.search.parts import Sensitivity, as_table
from pruner.search.sensitivity import measure_sensitivity, only
from pruner.search.sweep import rate

REBER, PYDOCS = examples.named("embedded-reber"), examples.named("pydocs-chars")


def test_only_one_part_falls() -> None:
    checkpoint = PYDOCS.open()
    rows = choose_masks(checkpoint, Recipe(0.5))
    found = only(checkpoint, Recipe(0.5), rows, (1, "hg"))
    for name, mask in found.items():
        kept = split_gates(mask).sum(1).tolist()
        assert kept == ([256, 256, 128, 256] if name == "lstm.weight_hh_l1" else [256] * 4)
    assert torch.equal(split_gates(found["lstm.weight_hh_l1"])[2], split_gates(rows["lstm.weight_hh_l1"])[2])
    assert split_gates(rows["lstm.weight_hh_l1"])[0].sum() == 128  # the masks given are left as they are
    units = choose_masks(checkpoint, Recipe(0.5, "units"))
    found = only(checkpoint, Recipe(0.5, "units"), units, (0, "units"))
    assert {name for name, mask in found.items() if not mask.all()} == {
        f"lstm.{kind}_{side}_l0" for kind in ("weight", "bias") for side in ("ih", "hh")
    }


def test_every_block_is_rated_alone() -> None:
    checkpoint, recipe = REBER.open(), Recipe(0.9)
    found = measure_sensitivity(checkpoint, recipe, [0.25, 0.5], quality=REBER.quality, higher_is_better=True)
    assert list(found.values) == [(0, block) for block in ALL_BLOCKS] and found.dense == 1.0
    masks = only(checkpoint, Recipe(0.5), choose_masks(checkpoint, Recipe(0.5)), (0, "hg"))
    assert found.values[0, "hg"][1] == rate(checkpoint, Recipe(0.5), quality=REBER.quality, masks=masks).value < 1
    assert found.losses((0, "hg")) == tuple(1.0 - value for value in found.values[0, "hg"])
    assert len(as_table(found)) == 16


def test_layers_are_rated_alone_by_drift_without_a_quality() -> None:
    checkpoint = PYDOCS.open()
    found = measure_sensitivity(checkpoint, Recipe(0.5, "units"), [0.0, 0.5])
    assert list(found.values) == [(0, "units"), (1, "units")] and found.dense == 0.0
    assert all(values[0] == 0.0 < values[1] for values in found.values.values())


def test_what_comes_out_better_is_no_loss() -> None:
    found = Sensitivity((0.1, 0.2), 1.5, False, {(0, "units"): (1.4, 1.7)})
    assert found.losses((0, "units")) == (0.0, 1.7 - 1.5)


def test_readers_hinder_no_layer_from_being_pruned_alone() -> None:
    checkpoint = PYDOCS.open()
    found = measure_sensitivity(checkpoint, Recipe(0.5, "units", consumers=("linear.weight",)), [0.5])
    without = measure_sensitivity(checkpoint, Recipe(0.5, "units"), [0.5])
    assert list(found.values) == [(0, "units"), (1, "units")] and found.values == without.values
