"""What checkpoints and their forms cost, by hand; and that every view of a size tells the same number."""

from pathlib import Path

import pytest
import torch
from torch import nn

from pruner import Recipe, open_checkpoint, run
from pruner.cli.main import main
from pruner.compact.costs import Cost, cost_of_file, cost_of_form, size_of_file, size_of_form, size_when_compact
from pruner.exports.opened import read_export
from pruner.search.parts import Sensitivity
from pruner.search.suggest import suggest
from pruner.search.sweep import rate
from tests.helpers.exports import read_manifest
from tests.helpers.files import saved_in
from tests.helpers.models import named, random_lstm
from tests.helpers.speeds import tell


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


@pytest.mark.parametrize("granularity", ["rows", "units"])
def test_every_view_of_a_size_tells_the_same_number(
    granularity: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Masks (before any run), Run, the manifest, the export read back, Sweep, Suggest and the command line; in a file with
    an integer buffer, which is no parameter."""
    lstm, linear = random_lstm(input_size=8, hidden_size=16), nn.Linear(16, 4)
    tensors = {**named(lstm, "lstm."), **named(linear, "linear."), "position_ids": torch.arange(5000)}
    checkpoint = saved_in(tmp_path, tensors)
    dense = 4 * 16 * (8 + 16 + 2) + 4 * 17
    small = (4 * 8 * (8 + 8 + 2) if granularity == "units" else 4 * 8 * (8 + 16) + 4 * 16 * 2) + 4 * 17
    macs = 4 * 8 * (8 + 8) if granularity == "units" else 4 * 8 * (8 + 16)
    recipe = Recipe(0.5, granularity)
    result = run(checkpoint, recipe)
    previewed = size_when_compact(checkpoint, recipe, result.masks)
    compact = result.forms["compact"]
    assert (previewed.parameters, previewed.macs_per_step) == (small, macs)
    assert previewed == size_of_form(checkpoint, compact)
    assert size_of_file(checkpoint).parameters == result.costs["dense"].parameters == dense
    assert result.costs["compact"] == cost_of_form(checkpoint, compact)
    assert (result.costs["compact"].parameters, result.costs["compact"].macs_per_step) == (small, macs)
    rated = rate(checkpoint, recipe)
    assert (rated.parameters, rated.macs_per_step) == (small, macs)
    before = {"parameters": 64 * 26, "macs": 64 * 24}  # of the LSTM alone
    left = {"parameters": small - 68, "macs": macs}
    bears = Sensitivity((0.5,), 0.0, False, {(0, "units"): (0.0,)})
    for target, whole in before.items():
        suggested = suggest(checkpoint, recipe, bears, target, left[target] / whole)
        assert suggested.share == left[target] / whole and suggested.recipe.layer_sparsity == {0: 0.5}
    folder = result.save(tmp_path / "export", "compact")
    totals = read_manifest(folder)["totals"]
    assert totals["parameters"] == {"before": dense, "after": small}
    assert totals["macs_per_step"] == {"before": 64 * 24, "after": macs}
    assert totals["bytes"]["after"] == (folder / "pruned.pt").stat().st_size == result.costs["compact"].bytes
    assert read_export(folder).cost == result.costs["compact"]
    options = ["--granularity", granularity, "--form", "compact", "--output", str(tmp_path / "by command")]
    assert main(["prune", str(tmp_path / "model.pt"), *options]) == 0
    told = capsys.readouterr().out
    assert f"{dense:,} parameters became {small:,}, {64 * 24:,} multiply-accumulates per time step {macs:,}" in told
    tell(monkeypatch)
    for path, parameters in ((tmp_path / "model.pt", dense), (folder, small)):
        assert main(["measure", str(path)]) == 0
        assert f"{parameters:,} parameters" in capsys.readouterr().out
    assert open_checkpoint(folder / "pruned.pt").tensors["position_ids"].shape == (5000,)
