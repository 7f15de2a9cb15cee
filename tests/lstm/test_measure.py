"""Measures: differences between outputs, inputs that never vary, times."""

import time
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pruner.lstm.find import find_lstms
from pruner.lstm.lstm import LSTM
from pruner.lstm.measure import Latency, difference, latency, outputs, random_input
from pruner.lstm.module import build
from tests.helpers.models import named, random_lstm


def tensor(*values: float) -> Tensor:
    return torch.tensor(values)


@pytest.mark.parametrize(
    ("reference", "other", "largest", "scale", "relative"),
    [
        ([tensor(3, -4)], [tensor(3, -4)], 0, 4, 0),
        ([tensor(3, -4)], [tensor(0, 0)], 4, 4, 1),
        ([tensor(3, -4)], [tensor(6, -4)], 3, 4, 0.6),
        ([tensor(3), tensor(4)], [tensor(3), tensor(6)], 2, 4, 0.4),
        ([tensor(0, 0)], [tensor(0, 0)], 0, 0, 0),
        ([tensor(0, 0)], [tensor(1, 0)], 1, 0, torch.inf),
        ([tensor(1, 1)], [tensor(torch.nan, 1)], torch.nan, 1, torch.nan),
        ([tensor(1), tensor(1)], [tensor(torch.nan), tensor(5)], torch.nan, 1, torch.nan),
    ],
    ids=["equal", "zeroed", "one value", "two outputs", "both zero", "from zero", "NaN", "NaN, then a number"],
)
def test_differences_by_hand(
    reference: list[Tensor], other: list[Tensor], largest: float, scale: float, relative: float
) -> None:
    drift = difference(reference, other)
    found = (drift.max_abs_difference, drift.max_abs_output, drift.relative)
    assert found == pytest.approx((largest, scale, relative), nan_ok=True)


def test_differences_are_taken_in_float64() -> None:
    one = torch.tensor([1.0], dtype=torch.float64)
    assert difference([one], [one + 1e-12]).max_abs_difference == pytest.approx(1e-12, rel=1e-3, abs=0)


@pytest.mark.parametrize("settings", [{}, {"num_layers": 2, "bidirectional": True, "proj_size": 2}], ids=str)
def test_outputs_are_all_three_of_the_module(settings: dict[str, Any]) -> None:
    module = random_lstm(batch_first=True, **settings)
    (lstm,), _ = find_lstms(module.state_dict())
    inputs = random_input(lstm)
    found = outputs(build(lstm, module.state_dict()), inputs)
    with torch.inference_mode():
        output, state = module(inputs.float())
    torch.testing.assert_close(found, (output, *state))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_computed_in_float32_and_left_as_it_was(dtype: torch.dtype) -> None:
    tensors = named(random_lstm(dtype=dtype))
    copies = {name: tensor.clone() for name, tensor in tensors.items()}
    (lstm,), _ = find_lstms(tensors)
    inputs = random_input(lstm)
    found = outputs(build(lstm, tensors), inputs)
    (wide,), _ = find_lstms({name: tensor.float() for name, tensor in tensors.items()})
    expected = outputs(build(wide, {name: tensor.float() for name, tensor in tensors.items()}), inputs)
    assert all(map(torch.equal, found, expected))
    assert all(tensors[name].dtype == dtype and torch.equal(tensors[name], copies[name]) for name in tensors)


def test_random_input_is_the_same_every_time() -> None:
    (lstm,), _ = find_lstms(random_lstm(seed=1).state_dict())
    state = torch.get_rng_state()
    first = random_input(lstm)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(random_input(lstm), first)
    assert first.shape == (4, 64, 3) and first.dtype == torch.float64
    assert first[0, 0].tolist() == pytest.approx([-2.3104118, -0.3732509, -1.0608167], abs=1e-6)


Calls = list[tuple[str, str, tuple[int, ...]]]


class Recorder(nn.Module):
    """Writes down what it is called with, and waits a moment."""

    def __init__(self, form: str, calls: Calls, seconds: float = 0.0) -> None:
        super().__init__()
        self.form, self.seconds = form, seconds
        self.weight = nn.Parameter(torch.zeros(1, dtype=torch.float16))
        object.__setattr__(self, "calls", calls)

    def __deepcopy__(self, memo: Any) -> "Recorder":
        return Recorder(self.form, self.calls, self.seconds)

    def forward(self, inputs: Tensor) -> None:
        assert inputs.dtype == self.weight.dtype == torch.float32
        time.sleep(self.seconds)
        self.calls.append((self.form, str(inputs.dtype), tuple(inputs.shape)))


def recorded(calls: Calls, **seconds: float) -> tuple[dict[str, dict[str, nn.Module]], list[LSTM]]:
    lstms, _ = find_lstms({**named(random_lstm(), "one."), **named(random_lstm(input_size=5), "two.")})
    return {form: {lstm.name: Recorder(form, calls, wait) for lstm in lstms} for form, wait in seconds.items()}, lstms


def test_latency_counts_every_lstm_and_takes_the_forms_in_turns() -> None:
    calls: Calls = []
    forms, lstms = recorded(calls, dense=0.0, compact=0.0)
    assert latency(forms, lstms, batch_size=2, turns=3).keys() == {"dense", "compact"}
    read = {form: [(form, "torch.float32", shape) for shape in ((2, 64, 3), (2, 64, 5))] for form in forms}
    assert calls == read["dense"] + read["compact"] + (2 * read["dense"] + 2 * read["compact"]) * 3
    assert all(module.weight.dtype == torch.float16 for modules in forms.values() for module in modules.values())


def test_latency_tells_a_slow_form_from_a_fast_one() -> None:
    forms, lstms = recorded([], slow=0.004, fast=0.0)
    times = latency(forms, lstms, turns=5)
    assert 8 <= times["slow"].low <= times["slow"].typical <= times["slow"].high
    assert 0 < times["fast"].typical < times["slow"].typical
    assert times["slow"].faster in (None, 1)


@pytest.mark.parametrize(
    ("faster", "words"), [(2.0, "1.50 (1.25 to 3.00)"), (None, "too noisy to tell")], ids=["quiet", "busy"]
)
def test_a_latency_in_words(faster: float | None, words: str) -> None:
    assert str(Latency(1.5, 1.25, 3.0, faster)) == words
