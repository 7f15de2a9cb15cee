"""Traces: the same outputs as `nn.LSTM`, the same derivatives and gradients as autograd through a plain loop."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from pruner.lstm.find import find_lstms
from pruner.lstm.module import build
from pruner.lstm.traces import (
    gradients,
    layers_of,
    run_layers,
    trace,
    unit_derivatives,
)
from tests.helpers.models import found_in, named, random_lstm, random_steps
from tests.helpers.plain_lstm import all_layers, plain, plain_layers

SETTINGS = [
    {"num_layers": layers, "bidirectional": both, "proj_size": projection, "bias": bias}
    for layers in (1, 2)
    for both in (False, True)
    for projection in (0, 2)
    for bias in (False, True)
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_trace_is_what_torch_computes(settings: dict[str, Any]) -> None:
    lstm, tensors = found_in(random_lstm(hidden_size=5, **settings))
    inputs = random_steps(9, 4, 3, dtype=torch.float32)
    traces, output = run_layers(layers_of(lstm, tensors), inputs)
    wanted, (h, c) = build(lstm, tensors)(inputs.transpose(0, 1))
    near = {"rtol": 0, "atol": 1e-5}
    torch.testing.assert_close(output, wanted.transpose(0, 1), **near)
    sides = [side for layer in traces for side in layer]
    torch.testing.assert_close(torch.stack([side.outputs[-1] for side in sides]), h, **near)
    torch.testing.assert_close(torch.stack([side.cells[-1] for side in sides]), c, **near)
    for side in sides:
        assert not side.outputs[0].any() and not side.cells[0].any()


def test_half_precision_is_traced_in_float32_and_a_bias_is_the_sum_of_both() -> None:
    tensors = {name: tensor.half() for name, tensor in named(random_lstm(), "rnn.").items()}
    (lstm,), _ = find_lstms(tensors)
    ((weights,),) = layers_of(lstm, tensors)
    assert weights.ih.dtype == weights.hh.dtype == weights.bias.dtype == torch.float32
    assert torch.equal(weights.bias, tensors["rnn.bias_ih_l0"].float() + tensors["rnn.bias_hh_l0"].float())


@pytest.mark.parametrize("settings", [{}, {"proj_size": 2}, {"bias": False}], ids=str)
def test_gates_and_units_are_those_of_the_plain_loop(settings: dict[str, Any]) -> None:
    ((weights,),) = all_layers(**settings)
    inputs = random_steps(6, 2, 3)
    found, wanted = trace(weights, inputs), plain(weights, inputs)
    pre = torch.stack(wanted.pre)
    i, f, g, o = pre.detach().chunk(4, -1)
    for gate, expected in zip(found.split(), (i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()), strict=True):
        torch.testing.assert_close(gate, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(found.units, torch.stack(wanted.units).detach(), rtol=0, atol=1e-12)


def test_each_unit_moves_with_its_own_pre_activations_as_autograd_says() -> None:
    ((weights,),) = all_layers()
    inputs = random_steps(7, 3, 3)
    found, wanted = unit_derivatives(trace(weights, inputs)), plain(weights, inputs)
    for step, (unit, pre) in enumerate(zip(wanted.units, wanted.pre, strict=True)):
        # A unit hangs on no other unit's pre-activations of the same step, so that the sum tells them apart.
        (expected,) = torch.autograd.grad(unit.sum(), pre, retain_graph=True)
        torch.testing.assert_close(found[step], expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("settings", [{}, {"proj_size": 2}, {"bias": False}, {"hidden_size": 1}], ids=str)
def test_gradients_through_time_are_those_of_autograd(settings: dict[str, Any]) -> None:
    ((weights,),) = all_layers(**settings)
    inputs = random_steps(8, 3, 3).requires_grad_()
    wanted = plain(weights, inputs)
    above = random_steps(8, 3, weights.hh.shape[1], seed=2)
    (torch.stack(wanted.outputs) * above).sum().backward()
    of_rows, of_units = gradients(weights, trace(weights, inputs.detach()), above)
    torch.testing.assert_close(of_rows, torch.stack([pre.grad for pre in wanted.pre]), rtol=0, atol=1e-9)
    torch.testing.assert_close(of_units, torch.stack([unit.grad for unit in wanted.units]), rtol=0, atol=1e-9)
    torch.testing.assert_close(of_rows @ weights.ih, inputs.grad, rtol=0, atol=1e-9)


def test_a_reverse_direction_reads_from_the_end() -> None:
    layers = all_layers(num_layers=2, bidirectional=True)
    inputs = random_steps(6, 2, 3)
    traces, output = run_layers(layers, inputs)
    _, wanted = plain_layers(layers, inputs)
    torch.testing.assert_close(output, wanted.detach(), rtol=0, atol=1e-12)
    assert torch.equal(traces[0][1].inputs, inputs.flip(0))
    changed = inputs.clone()
    changed[-1] += 1  # the first step that the reverse direction reads, the last of the other
    again = run_layers(layers, changed)[0][0]
    assert torch.equal(again[0].units[:-1], traces[0][0].units[:-1])
    assert not torch.equal(again[1].units[0], traces[0][1].units[0])


def test_tracing_changes_neither_weights_nor_inputs() -> None:
    ((weights,),) = all_layers(proj_size=2)
    copy = replace(weights, ih=weights.ih.clone(), hh=weights.hh.clone(), bias=weights.bias.clone())
    inputs = random_steps(5, 2, 3)
    before = inputs.clone()
    found = trace(weights, inputs)
    gradients(weights, found, random_steps(5, 2, 2))
    assert torch.equal(inputs, before)
    assert all(torch.equal(getattr(weights, name), getattr(copy, name)) for name in ("ih", "hh", "bias"))
