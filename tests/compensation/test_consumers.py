"""What reads a compensated LSTM: masked weights, biases under other names, convolutions over time."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune

from pruner import run
from pruner.compact.masked_and_compact import FORMS
from tests.helpers.compensated import (
    HIDDEN,
    WAYS,
    Way,
    calibration,
    check_exports,
    check_zeros,
    dense_module,
    model,
    steps_of,
)
from tests.helpers.files import saved_in
from tests.helpers.models import random_steps


@pytest.mark.parametrize("granularity", ["units", "rows"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("both_biases", [False, True])
def test_masks_that_pruning_left_are_multiplied_in(
    tmp_path: Path, way: str, granularity: str, both_biases: bool
) -> None:
    """Of a model that torch.nn.utils.prune worked on: `weight_orig` and `weight_mask` in the LSTM and in what reads it."""
    chosen = WAYS[way]
    whole = nn.ModuleDict({"rnn": nn.LSTM(3, HIDDEN), "linear": nn.Linear(HIDDEN, 4)})
    plain = model(head=True)
    whole.load_state_dict(plain)
    for name in ("weight_ih_l0", "weight_hh_l0"):
        prune.random_unstructured(whole["rnn"], name, 0.3)
    prune.random_unstructured(whole["linear"], "weight", 0.3)
    if both_biases:
        prune.random_unstructured(whole["rnn"], "bias_ih_l0", 0.3)
    state = {name: tensor.detach().clone() for name, tensor in whole.state_dict().items()}
    checkpoint = saved_in(tmp_path, state)
    consumers = ("linear.weight_orig",) if chosen.head else ()
    recipe = replace(chosen.recipe(granularity=granularity), consumers=consumers)
    result = run(checkpoint, recipe, calibration=calibration())
    # The same as of a model in which the masks were multiplied in before.
    made = {
        name.removesuffix("_orig"): tensor * state.get(name.removesuffix("_orig") + "_mask", torch.ones(()))
        for name, tensor in state.items()
        if not name.endswith("_mask")
    }
    (tmp_path / "plain").mkdir()
    wanted = run(saved_in(tmp_path / "plain", made), chosen.recipe(granularity=granularity), calibration=calibration())
    assert [step["after"] for step in steps_of(result)] == [step["after"] for step in steps_of(wanted)]
    for form in FORMS:
        found, expected = (each.forms[form].tensors(each.checkpoint) for each in (result, wanted))
        for name, tensor in expected.items():
            own = found.get(f"{name}_orig", found.get(name))
            mask = found.get(f"{name}_mask", torch.ones(()))
            assert own is not None and torch.equal(own * mask, tensor), name
    check_exports(result, tmp_path)


@pytest.mark.parametrize(
    ("stored_as", "mask"),
    [("linear.bias_orig", "linear.bias_mask"), ("linear.parametrizations.bias.original", None)],
)
def test_a_bias_of_a_head_is_known_as_tools_have_left_it(tmp_path: Path, stored_as: str, mask: str | None) -> None:
    tensors = model(head=True)
    state = {name: tensor for name, tensor in tensors.items() if name != "linear.bias"}
    state[stored_as] = tensors["linear.bias"]
    if mask:
        state |= {mask: torch.tensor([1.0, 0.0, 1.0, 1.0])}
        tensors["linear.bias"] = tensors["linear.bias"] * state[mask]
    (tmp_path / "plain").mkdir()
    recipe = WAYS["heal softmax"].recipe(granularity="units")
    result, wanted = (
        run(saved_in(folder, values), recipe, calibration=calibration())
        for folder, values in ((tmp_path, state), (tmp_path / "plain", tensors))
    )
    assert [step | {"seconds": 0} for step in steps_of(result)] == [step | {"seconds": 0} for step in steps_of(wanted)]
    assert torch.equal(result.compensation.tensors[stored_as], wanted.compensation.tensors["linear.bias"])
    for form in FORMS:
        written = result.forms[form].tensors(result.checkpoint)
        assert torch.equal(written[stored_as], wanted.compensation.tensors["linear.bias"])
        assert mask is None or bool(written[mask].all())
    check_exports(result, tmp_path)


def test_a_convolution_over_time_takes_over_too(tmp_path: Path) -> None:
    tensors = model() | {
        "linear.weight": random_steps(4, HIDDEN, 3, dtype=torch.float32),
        "linear.bias": torch.zeros(4),
    }
    checkpoint = saved_in(tmp_path, tensors)
    recipe = Way(head=True).recipe(granularity="units")
    result = run(checkpoint, recipe, calibration=calibration(count=60))
    assert steps_of(result)[0]["kept"]
    check_zeros(result)
    check_exports(result, tmp_path)

    def read(form: str | None, how: str = "fold") -> Tensor:
        made = run(checkpoint, replace(recipe, compensation=how), calibration=calibration(count=60))
        values = checkpoint.tensors if form is None else made.forms[form].tensors(checkpoint)
        module = dense_module(checkpoint) if form is None else made.forms[form].modules(checkpoint)["rnn"]
        output = module(random_steps(20, 16, 3, seed=12, dtype=torch.float32))[0]
        return F.conv1d(output.transpose(1, 2), values["linear.weight"], values["linear.bias"])

    dense = read(None)
    assert float((read("masked") - dense).norm()) < 0.9 * float((read("masked", "none") - dense).norm())
