"""Suggestions are the best of all choices for a target, and say when it cannot be reached."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pruner import Checkpoint, PrunerError, Recipe, open_checkpoint, run
from pruner.importance.masks import dropped_rows
from pruner.search.parts import Sensitivity
from pruner.search.suggest import suggest
from tests.helpers.files import saved

LEVELS = (0.25, 0.5, 0.75)


def lstm_of_8(**settings: object) -> Checkpoint:
    """An LSTM of 8 units a layer that reads 5 numbers, as a checkpoint."""
    return open_checkpoint(saved(nn.LSTM(5, 8, **settings).state_dict()), "model.pt")  # type: ignore[arg-type]


def left(sparsities: tuple[float, ...], settings: dict[str, object], counted: str) -> int:
    """Parameters or multiply-accumulates, counted on a bare LSTM a layer."""
    sides, below, total = (2 if settings.get("bidirectional") else 1), 5, 0
    for sparsity in sparsities:
        kept = 8 - dropped_rows(8, sparsity)
        layer = nn.LSTM(below, kept, bidirectional=sides == 2, bias=bool(settings.get("bias", True)))
        total += sum(each.numel() for each in layer.parameters() if counted == "parameters" or each.dim() == 2)
        below = sides * kept
    return total


@pytest.mark.parametrize("shape", [{}, {"bidirectional": True}, {"bias": False}])
@pytest.mark.parametrize("target", ["parameters", "macs", "loss"])
@settings(max_examples=25)
@given(data=st.data())
def test_it_is_the_best_of_all_choices(shape: dict[str, object], target: str, data: st.DataObject) -> None:
    layers = data.draw(st.integers(1, 4))
    loss = st.floats(0, 1, allow_nan=False)
    losses = {(layer, "units"): tuple(data.draw(loss) for _ in LEVELS) for layer in range(layers)}
    amount = data.draw(st.floats(0.15, 1.0))
    measured = Sensitivity(LEVELS, 0.0, False, losses)
    checkpoint = lstm_of_8(num_layers=layers, **shape)
    counted = "parameters" if target == "parameters" else "macs"
    whole = left((0.0,) * layers, shape, counted)
    every = [
        (
            left(choice, shape, counted) / whole,
            sum(
                dict(zip((0.0, *LEVELS), (0.0, *losses[layer, "units"]), strict=True))[s]
                for layer, s in enumerate(choice)
            ),
        )
        for choice in itertools.product((0.0, *LEVELS), repeat=layers)
    ]
    fitting = [each for each in every if (each[1] if target == "loss" else each[0]) <= amount]
    if not fitting:
        with pytest.raises(PrunerError, match="is the least"):
            suggest(checkpoint, Recipe(0.5, "units"), measured, target, amount)
        return
    found = suggest(checkpoint, Recipe(0.5, "units"), measured, target, amount)
    chosen = tuple(found.recipe.layer_sparsity[layer] for layer in range(layers))
    assert found.share == pytest.approx(left(chosen, shape, counted) / whole)
    if target == "loss":
        assert found.share == pytest.approx(min(share for share, _ in fitting)) and found.predicted_loss <= amount
    else:
        assert found.predicted_loss == pytest.approx(min(lost for _, lost in fitting)) and found.share <= amount + 1e-12


def test_rows_add_up_their_blocks_and_cost_no_columns() -> None:
    measured = Sensitivity((0.5,), 1.0, True, {(0, "ii"): (0.9,), (0, "hg"): (0.7,), (1, "ii"): (0.5,)})
    found = suggest(lstm_of_8(num_layers=2), Recipe(0.1, gate_sparsity={"hf": 0.3}), measured, "macs", 0.8)
    assert found.recipe.layer_sparsity == {0: 0.5, 1: 0.0} and found.recipe.gate_sparsity == {}
    assert found.predicted_loss == pytest.approx(0.4)
    assert found.share == pytest.approx((16 * 13 + 32 * 16) / (32 * 13 + 32 * 16))


@pytest.mark.parametrize(("target", "amount"), [("speed", 0.5), ("macs", -0.1), ("macs", float("nan")), ("macs", 0.01)])
def test_what_cannot_be_reached_is_said(target: str, amount: float) -> None:
    measured = Sensitivity((0.5,), 0.0, False, {(0, "units"): (0.5,)})
    with pytest.raises(PrunerError, match="expected"):
        suggest(lstm_of_8(), Recipe(0.5, "units"), measured, target, amount)


def test_kept_counts_are_rounded_as_the_recipe_rounds_them() -> None:
    measured = Sensitivity(LEVELS, 0.0, False, {(0, "units"): (0.1, 0.2, 0.3), (1, "units"): (0.1, 0.2, 0.3)})
    checkpoint = lstm_of_8(num_layers=2)
    found = suggest(checkpoint, Recipe(0.5, "units", round_to=4), measured, "macs", 0.7)
    result = run(checkpoint, found.recipe)
    assert found.recipe.round_to == 4
    assert found.share == result.costs["compact"].macs_per_step / result.costs["dense"].macs_per_step <= 0.7
    with pytest.raises(PrunerError, match="is the least"):
        suggest(checkpoint, Recipe(0.5, "units", round_to=8), measured, "macs", 0.9)
