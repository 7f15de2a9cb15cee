"""Measures: multiply-accumulates and sizes by hand, differences between outputs, inputs that never vary."""

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from pruner import Recipe, open_checkpoint, run
from pruner.lstm import build, find_lstms
from pruner.measure import Cost, cost, difference, latency_ms, macs_per_step, outputs, random_input
from tests.conftest import named, random_lstm


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (nn.LSTM(3, 4), 16 * (3 + 4)),
        (nn.LSTM(3, 4, bias=False), 16 * (3 + 4)),
        (nn.LSTMCell(3, 4), 16 * (3 + 4)),
        (nn.LSTM(3, 4, num_layers=2), 16 * (3 + 4) + 16 * (4 + 4)),
        (nn.LSTM(3, 4, num_layers=2, bidirectional=True), 2 * 16 * (3 + 4) + 2 * 16 * (8 + 4)),
        (nn.LSTM(3, 4, proj_size=2), 16 * (3 + 2) + 2 * 4),
        (
            nn.LSTM(3, 4, num_layers=2, bidirectional=True, proj_size=2),
            2 * (16 * (3 + 2) + 2 * 4) + 2 * (16 * (4 + 2) + 2 * 4),
        ),
    ],
    ids=lambda value: str(value) if isinstance(value, nn.Module) else "",
)
def test_multiply_accumulates_by_hand(module: nn.Module, expected: int) -> None:
    (lstm,), _ = find_lstms(module.state_dict())
    assert macs_per_step(lstm) == expected


def test_cost_of_a_checkpoint(tmp_path: Path) -> None:
    head = nn.Linear(4, 2)
    nn.init.zeros_(head.bias)
    tensors = {**named(random_lstm(), "one."), **named(nn.LSTMCell(4, 2), "two."), **named(head, "head.")}
    tensors["one.bias_ih_l0"][:3] = 0
    path = tmp_path / "model.pt"
    torch.save(tensors, path)
    checkpoint = open_checkpoint(path)
    before = cost(checkpoint)
    assert before == Cost(144 + 64 + 10, 3, path.stat().st_size, 16 * 7 + 8 * 6)
    weight = torch.zeros_like(tensors["one.weight_hh_l0"])
    after = cost(checkpoint, {"one.weight_hh_l0": weight})
    assert (after.parameters, after.zeros, after.macs_per_step) == (218, 3 + 64, before.macs_per_step)


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_bytes_after_are_those_of_the_exported_file(tmp_path: Path, suffix: str) -> None:
    tensors = named(random_lstm(num_layers=2))
    path = tmp_path / f"model.{suffix}"
    (torch.save if suffix == "pt" else safetensors.torch.save_file)(tensors, path)
    result = run(open_checkpoint(path), Recipe(sparsity=0.5))
    folder = result.save(tmp_path / "export")
    assert result.before.bytes == path.stat().st_size
    assert result.after.bytes == (folder / f"pruned.{suffix}").stat().st_size


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


def test_latency_counts_every_lstm() -> None:
    calls: list[tuple[str, tuple[int, ...]]] = []

    class Recorder(nn.Module):
        def forward(self, inputs: Tensor) -> None:
            calls.append((str(inputs.dtype), tuple(inputs.shape)))

    lstms, _ = find_lstms({**named(random_lstm(), "one."), **named(random_lstm(input_size=5), "two.")})
    assert latency_ms({"one": Recorder(), "two": Recorder()}, lstms, batch_size=2, runs=3) > 0
    assert calls == [("torch.float32", (2, 64, 3)), ("torch.float32", (2, 64, 5))] * 4
