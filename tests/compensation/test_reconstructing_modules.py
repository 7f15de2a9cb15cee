"""Modules that fill in what removed units would have said, in every way in which PyTorch calls them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from pruner import run
from pruner.compact.compaction import expand
from pruner.compact.load_pruned import (
    CompactLSTM,
    CompactLSTMCell,
    ReconstructingLSTM,
    ReconstructingLSTMCell,
    load_lstms,
)
from pruner.compact.masked_and_compact import FORMS
from tests.helpers.compensated import HIDDEN, Way, calibration, dropped_columns, model
from tests.helpers.files import saved_in
from tests.helpers.models import random_steps

RECONSTRUCTING: list[dict[str, Any]] = [
    {},
    {"num_layers": 2},
    {"bidirectional": True},
    {"num_layers": 2, "bidirectional": True},
]


@pytest.fixture(params=RECONSTRUCTING, ids=str)
def reconstructing(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """The modules of both forms, from their exports, and the masked tensors, that PyTorch's own LSTM runs."""
    checkpoint = saved_in(tmp_path, model(**request.param))
    result = run(checkpoint, Way().recipe(granularity="units"), calibration=calibration())
    modules = {form: load_lstms(result.save(tmp_path / form, form), batch_first=True)["rnn"] for form in FORMS}
    assert isinstance(modules["masked"], ReconstructingLSTM) and isinstance(modules["compact"], CompactLSTM)
    bare = nn.LSTM(3, HIDDEN, batch_first=True, **request.param)
    tensors = result.forms["masked"].tensors(checkpoint)
    bare.load_state_dict({name: tensors[f"rnn.{name}"] for name in bare.state_dict()})
    (lstm,) = checkpoint.lstms
    gone = dropped_columns(result, lstm, lstm.num_layers - 1)
    return {**modules, "bare": bare, "gone": gone, "filled": result.compensation.reconstructions["rnn"]}


def widened(case: dict[str, Any], output: Tensor) -> Tensor:
    """The output of a masked LSTM with its removed units as their linear maps say, one direction after the other."""
    parts = []
    for part, gone, (weight, bias) in zip(
        output.split(HIDDEN, -1), case["gone"].split(HIDDEN), case["filled"], strict=True
    ):
        wide = part.clone()
        wide[..., gone] = part[..., ~gone] @ weight.t() + bias
        parts.append(wide)
    return torch.cat(parts, -1)


def close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


def compare(case: dict[str, Any], call: Callable[[nn.Module], Any]) -> None:
    """Output and final states of both forms against the bare masked LSTM, its removed units filled in."""
    output, (h, c) = call(case["bare"])
    sides = len(case["filled"])
    last = torch.cat(list(h[-sides:]), -1)
    h = torch.cat([h[:-sides], torch.stack(widened(case, last).split(HIDDEN, -1))])
    for form in FORMS:
        found, (found_h, found_c) = call(case[form])
        close(found, widened(case, output))
        close(found_h, h)
        close(found_c, c)


def test_a_reconstruction_fills_output_and_last_state(reconstructing: dict[str, Any]) -> None:
    inputs = random_steps(4, 9, 3, dtype=torch.float32)
    assert reconstructing["gone"].any()
    compare(reconstructing, lambda module: module(inputs))
    output = reconstructing["compact"](inputs)[0]
    assert output[..., reconstructing["gone"]].abs().max() > 1e-2  # and not with zeros


def test_a_reconstruction_of_one_sequence_alone(reconstructing: dict[str, Any]) -> None:
    inputs = random_steps(9, 3, dtype=torch.float32)
    compare(reconstructing, lambda module: module(inputs))


def test_a_reconstruction_of_packed_sequences(reconstructing: dict[str, Any]) -> None:
    inputs = random_steps(4, 9, 3, dtype=torch.float32)
    packed = pack_padded_sequence(inputs, torch.tensor([5, 9, 2, 7]), batch_first=True, enforce_sorted=False)

    def call(module: nn.Module) -> tuple[Tensor, Any]:
        output, state = module(packed)
        padded = pad_packed_sequence(output, batch_first=True)[0]
        return torch.cat([padded[index, :length] for index, length in enumerate([5, 9, 2, 7])]), state

    compare(reconstructing, call)


def test_a_reconstruction_from_a_state(reconstructing: dict[str, Any]) -> None:
    """Of removed units neither h, which nothing reads, nor a c of zero matters, if one says so."""
    inputs = random_steps(4, 9, 3, dtype=torch.float32)
    layers = len(reconstructing["bare"](inputs)[1][0])
    h, c = random_steps(2, layers, 4, HIDDEN, seed=5, dtype=torch.float32)
    bare: nn.LSTM = reconstructing["bare"]
    for index in range(layers):
        suffix = f"l{index // len(reconstructing['filled'])}" + "_reverse" * (index % len(reconstructing["filled"]))
        c[index][:, ~getattr(bare, f"weight_ih_{suffix}")[:HIDDEN].any(1)] = 0
    reconstructing["compact"].on_lost_state = "ignore"
    compare(reconstructing, lambda module: module(inputs, (h, c)))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.jit.script itself is on its way out
def test_a_scripted_reconstruction_is_the_same(reconstructing: dict[str, Any]) -> None:
    inputs = random_steps(4, 9, 3, dtype=torch.float32)
    scripted = torch.jit.script(reconstructing["compact"])
    for found, wanted in zip(
        (scripted(inputs)[0], *scripted(inputs)[1]),
        (reconstructing["compact"](inputs)[0], *reconstructing["compact"](inputs)[1]),
        strict=True,
    ):
        close(found, wanted)


def test_a_compact_reconstruction_expands_to_the_masked_one(reconstructing: dict[str, Any]) -> None:
    wide = expand(reconstructing["compact"])
    assert isinstance(wide, ReconstructingLSTM) and wide.batch_first
    state = reconstructing["masked"].state_dict()
    assert wide.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in wide.state_dict().items())


def test_a_compact_cell_that_reconstructs_expands_to_the_masked_one() -> None:
    small = CompactLSTMCell(3, 8, [torch.tensor([0, 2, 5])], reconstruct=True)
    for parameter in small.parameters():
        nn.init.normal_(parameter)
    wide, steps = expand(small), torch.randn(4, 3)
    assert isinstance(wide, ReconstructingLSTMCell)
    state = small(steps)
    for found, wanted in zip(wide(steps, wide(steps)), small(steps, state), strict=True):
        close(found, wanted)
