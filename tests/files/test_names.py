"""Tensors by the names that people know, and the nearest ones where there is none."""

import pytest
import torch

from pruner import Recipe, open_checkpoint, run
from pruner.errors import PrunerError
from pruner.files.names import settled, tensor_named
from tests.helpers.files import saved
from tests.helpers.models import named, random_lstm

STATE = named(random_lstm(), "rnn.")
HEAD = {"linear.weight": torch.ones(2, 4), "linear.bias": torch.ones(2)}
NESTED = open_checkpoint(saved({"model_state": {**STATE, **HEAD}, "epoch": 3}), "model.pt")
SIDE_BY_SIDE = open_checkpoint(
    saved({"lstm": named(random_lstm()), "lin1": {"weight": torch.ones(2, 4)}, "lin2": {"weight": torch.ones(3, 4)}}),
    "model.pt",
)
PRUNED = open_checkpoint(
    saved({**STATE, "linear.weight_orig": torch.ones(2, 4), "linear.weight_mask": torch.ones(2, 4)})
)


@pytest.mark.parametrize(
    ("checkpoint", "name", "own"),
    [
        (NESTED, "linear.weight", "linear.weight"),
        (NESTED, "model_state.linear.weight", "linear.weight"),
        (NESTED, "model_state.rnn.bias_hh_l0", "rnn.bias_hh_l0"),
        (SIDE_BY_SIDE, "lin1.weight", "lin1.weight"),
        (SIDE_BY_SIDE, "weight_hh_l0", "lstm.weight_hh_l0"),
        (PRUNED, "linear.weight", "linear.weight_orig"),
        (PRUNED, "linear.weight_orig", "linear.weight_orig"),
    ],
)
def test_a_tensor_is_known_by_its_keys_and_by_its_short_name(checkpoint: object, name: str, own: str) -> None:
    assert tensor_named(checkpoint, name) == own


def test_layers_that_lie_beside_each_other_keep_their_names() -> None:
    assert [lstm.name for lstm in SIDE_BY_SIDE.lstms] == ["lstm"]
    assert {"lin1.weight", "lin2.weight"} < SIDE_BY_SIDE.tensors.keys()


@pytest.mark.parametrize(
    ("checkpoint", "name", "advice"),
    [
        (NESTED, "linear.weigth", "did you mean 'linear.weight'"),
        (NESTED, "fc.weight", "did you mean 'linear.weight'"),
        (NESTED, "model.linear.weight", "did you mean 'model_state.linear.weight'"),
        (NESTED, "zzz", "the file has 'rnn.weight_ih_l0', 'rnn.weight_hh_l0'"),
        (
            SIDE_BY_SIDE,
            "weight",
            "expected the name of one tensor, found 'weight', which fits 'lin1.weight', 'lin2.weight'",
        ),
    ],
)
def test_a_name_that_is_not_there_is_answered_with_the_nearest(checkpoint: object, name: str, advice: str) -> None:
    with pytest.raises(PrunerError, match=r"^expected the name of .*, found ") as raised:
        tensor_named(checkpoint, name)
    assert advice in str(raised.value)


def test_a_recipe_settles_on_the_files_own_names() -> None:
    recipe = Recipe(0.5, granularity="units", consumers=("model_state.linear.weight", "linear.weight"))
    assert settled(NESTED, recipe).consumers == ("linear.weight",)
    result = run(NESTED, recipe)
    assert result.recipe.consumers == ("linear.weight",)
    assert result.forms["compact"].changed["linear.weight"].shape == (2, 2)
