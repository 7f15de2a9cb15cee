"""What checkpoints and their forms cost, by hand; and that every view of a size tells the same number."""

from pathlib import Path

import pytest
import torch
from torch import nn

from pruner import Recipe, run
from pruner.compact.costs import Cost, cost_of_file
from tests.helpers.files import saved_in
from tests.helpers.models import named, random_lstm


def test_cost_of_a_checkpoint(tmp_path: Path) -> None:
    head = nn.Linear(4, 2)
    nn.init.zeros_(head.bias)
    tensors = {**named(random_lstm(), "one."), **named(nn.LSTMCell(4, 2), "two."), **named(head, "head.")}
    tensors["one.bias_ih_l0"][:3] = 0
    checkpoint = saved_in(tmp_path, tensors)
    before = cost_of_file(checkpoint)
    assert before == Cost(144 + 64 + 10, 3, (tmp_path / "model.pt").stat().st_size, 16 * 7 + 8 * 6)
    masked = saved_in(tmp_path, {**tensors, "one.weight_hh_l0": torch.zeros_like(tensors["one.weight_hh_l0"])})
    assert cost_of_file(masked) == Cost(218, 3 + 64, before.bytes, before.macs_per_step)


ROWS_KEPT, UNITS_KEPT = 8 * 3 + 8 * 4 + 32, 8 * 3 + 8 * 2 + 16


@pytest.mark.parametrize(
    ("granularity", "parameters", "macs"),
    [("rows", ROWS_KEPT, ROWS_KEPT - 32), ("units", UNITS_KEPT, UNITS_KEPT - 16)],
)
def test_costs_of_all_forms_by_hand(tmp_path: Path, granularity: str, parameters: int, macs: int) -> None:
    checkpoint = saved_in(tmp_path, {**named(random_lstm(), "one."), **named(nn.Linear(4, 2), "head.")})
    costs = run(checkpoint, Recipe(0.5, granularity=granularity)).costs
    assert list(costs) == ["dense", "masked", "compact"]
    assert [costs[form].parameters for form in costs] == [144 + 10, 144 + 10, parameters + 10]
    assert [costs[form].macs_per_step for form in costs] == [112, 112, macs]
    assert [costs[form].zeros for form in costs] == [0, 56 if granularity == "rows" else 56 + 16, 0]


@pytest.mark.parametrize("form", ["masked", "compact"])
@pytest.mark.parametrize("granularity", ["rows", "units"])
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_bytes_of_a_form_are_those_of_its_exported_file(
    tmp_path: Path, suffix: str, granularity: str, form: str
) -> None:
    result = run(
        saved_in(tmp_path, named(random_lstm(num_layers=2)), suffix), Recipe(sparsity=0.5, granularity=granularity)
    )
    folder = result.save(tmp_path / "export", form)
    assert result.costs["dense"].bytes == (tmp_path / f"model.{suffix}").stat().st_size
    assert result.costs[form].bytes == (folder / f"pruned.{suffix}").stat().st_size
