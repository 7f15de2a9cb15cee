"""LSTMs: which tensors form one, which only look like it, and the module made from them."""

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from pruner.errors import PrunerError
from pruner.lstm.find import find_lstms
from pruner.lstm.lstm import DTYPES, LSTM
from pruner.lstm.module import build
from tests.helpers.models import named, random_lstm

Tensors = dict[str, Tensor]

SETTINGS = [
    {"num_layers": layers, "bidirectional": bidirectional, "proj_size": projection, "bias": bias}
    for layers, bidirectional, projection, bias in itertools.product((1, 2, 3), (False, True), (0, 2), (True, False))
]
WRONG_SHAPES = {
    "too few rows": (12, 3),
    "too many columns": (16, 7),
    "another hidden size": (20, 3),
    "a vector": (15,),
    "three dimensions": (16, 3, 1),
    "nothing": (0, 0),
}


def describe(setting: dict[str, Any]) -> str:
    return "-".join(f"{key}={value}" for key, value in setting.items())


def find_only(tensors: Tensors) -> LSTM:
    lstms, skipped = find_lstms(tensors)
    assert skipped == []
    (lstm,) = lstms
    return lstm


def replaced(tensors: Tensors, **shapes: tuple[int, ...] | None) -> Tensors:
    """The tensors with some of them of other shapes; None leaves one out."""
    others = {name: torch.zeros(shape) for name, shape in shapes.items() if shape is not None}
    return {name: tensor for name, tensor in {**tensors, **others}.items() if shapes.get(name, ()) is not None}


def cast(tensors: Tensors, dtype: torch.dtype, *names: str) -> Tensors:
    return {name: tensor.to(dtype) if name in names else tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize("setting", SETTINGS, ids=describe)
def test_an_lstm_of_any_setting_is_found_with_its_sizes(setting: dict[str, Any]) -> None:
    tensors = named(random_lstm(**setting))
    lstm = find_only(tensors)
    assert [lstm.layer_input_size(layer) for layer in range(lstm.num_layers)] == [
        tensors[f"weight_ih_l{layer}"].shape[1] for layer in range(lstm.num_layers)
    ]
    assert {key: getattr(lstm, key) for key in setting} == setting
    assert (lstm.name, lstm.kind, lstm.input_size, lstm.hidden_size) == ("", "LSTM", 3, 4)
    assert lstm.parameters == sum(tensor.numel() for tensor in tensors.values())
    assert lstm.tensors == {name: name for name in tensors}


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_an_lstm_cell_is_found_with_its_sizes(bias: bool) -> None:
    tensors = named(nn.LSTMCell(3, 4, bias=bias), "cell.")
    lstm = find_only(tensors)
    assert (lstm.name, lstm.kind, lstm.input_size, lstm.hidden_size) == ("cell", "LSTMCell", 3, 4)
    assert (lstm.num_layers, lstm.bidirectional, lstm.proj_size, lstm.bias) == (1, False, 0, bias)
    assert lstm.parameters == sum(tensor.numel() for tensor in tensors.values())
    assert lstm.tensors == {name.removeprefix("cell."): name for name in tensors}


@pytest.mark.parametrize("prefix", ["", "a.b", "encoder._module", "module", "_orig_mod.x", "layers.0"])
@pytest.mark.parametrize("module", [nn.LSTM(3, 4), nn.LSTMCell(3, 4)], ids=["LSTM", "LSTMCell"])
def test_an_lstm_is_called_by_its_prefix_in_the_file(prefix: str, module: nn.Module) -> None:
    tensors = named(module, prefix and f"{prefix}.")
    lstm = find_only(tensors)
    assert lstm.name == prefix
    assert sorted(lstm.tensors.values()) == sorted(tensors)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_floating_point_dtype_is_accepted(dtype: torch.dtype) -> None:
    assert f"torch.{find_only(named(random_lstm(dtype=dtype))).dtype}" == str(dtype)


def test_several_lstms_are_listed_by_name_and_other_tensors_are_left_aside() -> None:
    tensors = {
        **named(random_lstm(), "decoder."),
        **named(nn.Linear(4, 4), "decoder."),
        **named(nn.LSTMCell(3, 4), "cell."),
        **named(nn.GRU(3, 4), "gru."),
        "decoder.weight_ih_l0_orig": torch.zeros(1),
    }
    lstms, skipped = find_lstms(tensors)
    assert [lstm.name for lstm in lstms] == ["cell", "decoder"]
    assert [other.name for other in skipped] == ["gru"]


def test_weights_are_named_in_the_order_of_the_computation() -> None:
    lstm = find_only(named(random_lstm(num_layers=2, bidirectional=True), "rnn."))
    assert lstm.weight_names() == {
        (layer, direction, side): f"rnn.weight_{side}_l{layer}{suffix}"
        for layer in (0, 1)
        for direction, suffix in enumerate(("", "_reverse"))
        for side in ("ih", "hh")
    }
    assert list(lstm.weight_names())[:3] == [(0, 0, "ih"), (0, 0, "hh"), (0, 1, "ih")]
    assert lstm.bias_name(1, 1, "hh") == "rnn.bias_hh_l1_reverse"


ONE = named(random_lstm())
TWO = named(random_lstm(num_layers=2))
BOTH_WAYS = named(random_lstm(num_layers=2, bidirectional=True))
PROJECTED = named(random_lstm(proj_size=2))
CELL = named(nn.LSTMCell(3, 4))
LOOKALIKES = {
    "GRU": (named(nn.GRU(3, 5)), "a GRU: 3 gates of 5 rows"),
    "GRU whose rows divide by four": (named(nn.GRU(3, 4)), "a GRU: 3 gates of 4 rows"),
    "GRUCell": (named(nn.GRUCell(3, 4)), "a GRUCell: 3 gates of 4 rows"),
    "RNN": (named(nn.RNN(3, 4, bidirectional=True)), "a plain RNN: no gates, 4 rows"),
    "RNNCell": (named(nn.RNNCell(3, 4)), "a plain RNNCell: no gates, 4 rows"),
    "no weight_ih": (replaced(ONE, weight_ih_l0=None), "expected a tensor weight_ih_l0, found none"),
    "no weight_hh": (replaced(ONE, weight_hh_l0=None), "expected a recurrent weight_hh, found only"),
    "no bias_hh": (replaced(ONE, bias_hh_l0=None), "expected a tensor bias_hh_l0, found none"),
    "cell without weight_ih": (replaced(CELL, weight_ih=None), "expected a tensor weight_ih, found none"),
    "no first layer": ({name.replace("l0", "l1"): ONE[name] for name in ONE}, "found no layer 0"),
    "no middle layer": (
        {name.replace("l1", "l2"): tensor for name, tensor in TWO.items()},
        "expected layers 0 to 2, found no layer 1",
    ),
    "half of a layer's reverse direction": (
        replaced(BOTH_WAYS, weight_ih_l1_reverse=None),
        "expected a tensor weight_ih_l1_reverse, found none",
    ),
    "one layer's reverse direction": (
        {name: tensor for name, tensor in BOTH_WAYS.items() if not name.endswith("l1_reverse")},
        "expected a tensor weight_ih_l1_reverse, found none",
    ),
    "rows of weight_ih": (replaced(ONE, weight_ih_l0=(20, 3)), "expected weight_ih_l0 of shape (16, 3), found (20, 3)"),
    "rows not four times hidden": (replaced(ONE, weight_hh_l0=(18, 4)), "expected 4 x 4 rows in weight_hh, found 18"),
    "rows of a bias": (replaced(ONE, bias_ih_l0=(12,)), "expected bias_ih_l0 of shape (16,), found (12,)"),
    "a bias of two dimensions": (
        replaced(ONE, bias_ih_l0=(16, 1)),
        "expected bias_ih_l0 of shape (16,), found (16, 1)",
    ),
    "input of the second layer": (
        replaced(TWO, weight_ih_l1=(16, 5)),
        "expected weight_ih_l1 of shape (16, 4), found (16, 5)",
    ),
    "layers of unequal sizes": (
        replaced(TWO, weight_ih_l1=(20, 4), weight_hh_l1=(20, 5), bias_ih_l1=(20,), bias_hh_l1=(20,)),
        "expected weight_ih_l1 of shape (16, 4), found (20, 4)",
    ),
    "two dtypes": (cast(ONE, torch.float16, "bias_hh_l0"), "expected one floating-point dtype"),
    "integers": (cast(ONE, torch.int64, *ONE), "found int64"),
    "complex numbers": (cast(ONE, torch.complex64, *ONE), "found complex64"),
    "weight_hh of one dimension": (
        replaced(ONE, weight_hh_l0=(16,)),
        "expected weight_hh of shape (4H, H), found (16,)",
    ),
    "weight_hh of three": (replaced(ONE, weight_hh_l0=(16, 4, 1)), "weight_hh of shape (4H, H), found (16, 4, 1)"),
    "weight_ih of one dimension": (replaced(ONE, weight_ih_l0=(16,)), "found (16,)"),
    "weight_ih of three": (replaced(ONE, weight_ih_l0=(16, 3, 1)), "found (16, 3, 1)"),
    "an empty weight_hh": (replaced(ONE, weight_hh_l0=(0, 0)), "expected weight_hh of shape (4H, H), found (0, 0)"),
    "an empty weight_ih": (replaced(ONE, weight_ih_l0=(16, 0)), "(16, 0)"),
    "no projection": (replaced(PROJECTED, weight_hr_l0=None), "found 16 (and no projection weight_hr)"),
    "rows of a projection": (replaced(PROJECTED, weight_hr_l0=(3, 4)), "expected weight_hr of shape (2, 4)"),
    "columns of a projection": (replaced(PROJECTED, weight_hr_l0=(2, 5)), "expected weight_hr of shape (2, 4)"),
    "a projection as wide as the hidden state": (replaced(ONE, weight_hr_l0=(4, 4)), "weight_hr"),
    "a projected cell": (replaced(CELL, weight_hh=(16, 2), weight_hr=(2, 4)), "weight_hr"),
    "a bias of the projection": (replaced(PROJECTED, bias_hr_l0=(2,)), "found a tensor bias_hr_l0"),
    "a bias of no projection": (replaced(ONE, bias_hr_l0=(16,)), "bias_hr_l0"),
    "a second layer in reverse only": (replaced(ONE, weight_hh_l1_reverse=(16, 4)), "expected a tensor"),
}


@pytest.mark.parametrize(("tensors", "reason"), LOOKALIKES.values(), ids=LOOKALIKES)
def test_what_only_looks_like_an_lstm_is_skipped_with_the_reason(tensors: Tensors, reason: str) -> None:
    lstms, skipped = find_lstms({f"rnn.{name}": tensor for name, tensor in tensors.items()})
    assert lstms == []
    (found,) = skipped
    assert found.name == "rnn"
    assert reason in found.reason


@st.composite
def almost_lstms(draw: st.DrawFn) -> Tensors:
    """The tensors of one or two recurrent modules, some taken away, added, reshaped or cast."""
    tensors = {}
    for prefix in draw(st.lists(st.sampled_from(["", "a.", "b.c.", "."]), max_size=2, unique=True)):
        tensors |= named(random_lstm(**draw(st.sampled_from(SETTINGS))), prefix)
        tensors |= named(nn.LSTMCell(3, 4), prefix) if draw(st.booleans()) else {}
    parts = st.tuples(*map(st.sampled_from, (["", "a."], ["weight", "bias"], ["ih", "hh", "hr"], ["", "_l0", "_l1"])))
    names = st.text() | parts.map(lambda part: "{}{}_{}{}".format(*part)) | st.sampled_from([*tensors, ""])
    likely = st.sampled_from([(16, 3), (16, 4), (16, 2), (16, 0), (4, 4), (2, 4), (12, 4), (16,)])
    shapes = likely | st.lists(st.sampled_from([0, 1, 2, 3, 4, 5, 12, 16]), max_size=3)
    dtypes = st.sampled_from([*DTYPES, torch.int64, torch.bool, torch.complex64])
    for name, shape, dtype in draw(st.lists(st.tuples(names, st.none() | shapes, dtypes), max_size=4)):
        if shape is None:
            tensors.pop(name, None)
        else:
            tensors[name] = torch.zeros(shape, dtype=dtype)
    return tensors


@given(almost_lstms())
def test_any_tensors_give_lstms_that_can_be_built_and_reasons(tensors: Tensors) -> None:
    lstms, skipped = find_lstms(tensors)
    for lstm in lstms:
        assert build(lstm, tensors).state_dict().keys()
    assert all(other.reason for other in skipped)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("setting", SETTINGS, ids=describe)
def test_a_built_lstm_computes_what_the_original_does(setting: dict[str, Any], dtype: torch.dtype) -> None:
    original = random_lstm(dtype=dtype, batch_first=True, **setting).requires_grad_(False)
    tensors = named(original, "rnn.")
    module = build(find_only(tensors), tensors)
    inputs = torch.randn(2, 5, 3, dtype=dtype)
    output, (hidden, cell) = module(inputs)
    expected, (expected_hidden, expected_cell) = original(inputs)
    assert torch.equal(output, expected)
    assert torch.equal(hidden, expected_hidden)
    assert torch.equal(cell, expected_cell)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_a_built_cell_computes_what_the_original_does_step_by_step(bias: bool) -> None:
    original = nn.LSTMCell(3, 4, bias=bias).requires_grad_(False)
    tensors = named(original, "cell.")
    inputs = torch.randn(2, 5, 3)
    output, (hidden, cell) = build(find_only(tensors), tensors)(inputs)
    state = None
    for step in range(5):
        state = original(inputs[:, step], state)
        torch.testing.assert_close(output[:, step], state[0])
    torch.testing.assert_close((hidden[0], cell[0]), state)


def test_a_built_lstm_is_for_evaluation_and_leaves_the_tensors_alone() -> None:
    tensors = {name: nn.Parameter(tensor) for name, tensor in named(random_lstm()).items()}
    module = build(find_only(tensors), tensors)
    assert not module.training
    assert not any(parameter.requires_grad for parameter in module.parameters())
    assert all(tensor.requires_grad for tensor in tensors.values())


@pytest.mark.parametrize("shape", WRONG_SHAPES.values(), ids=WRONG_SHAPES)
@pytest.mark.parametrize("name", TWO)
def test_tensors_of_other_shapes_are_refused_before_anything_runs(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(PrunerError, match=rf"expected {name} of shape .*, found \({', '.join(map(str, shape))},?\)"):
        build(find_only(TWO), replaced(TWO, **{name: shape}))
