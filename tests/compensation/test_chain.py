"""Compensation from end to end: every form of every kind of LSTM, held against a masked model run by PyTorch itself."""

import itertools
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from pruner import Checkpoint, PrunerError, Recipe, run
from pruner.calibration.inputs import Calibration, gaussian
from pruner.compact.compaction import expand
from pruner.compact.load_pruned import (
    CompactLSTM,
    CompactLSTMCell,
    ReconstructingLSTM,
    ReconstructingLSTMCell,
    load_lstms,
)
from pruner.compact.masked_and_compact import FORMS
from pruner.compensation import chain as compensation
from pruner.compensation import fold
from pruner.compensation.chain import compensate
from pruner.exports.verify import read_export, verify
from pruner.lstm.lstm import LSTM
from pruner.lstm.module import build
from pruner.lstm.traces import run_layers
from pruner.result import Result, choose_masks, gather_statistics
from tests.helpers.files import saved_in
from tests.helpers.models import named, random_lstm, random_steps, with_twins

HIDDEN, BURN_IN = 6, 2


def model(head: bool = False, gain: float = 3.0, **settings: Any) -> dict[str, Tensor]:
    """An LSTM called rnn, its weights large enough that removing units hurts, and, if wanted, a linear layer after it."""
    tensors = named(random_lstm(hidden_size=HIDDEN, **settings), "rnn.")
    tensors = {name: gain * tensor for name, tensor in tensors.items()}
    if head:
        width = HIDDEN * (2 if settings.get("bidirectional") else 1)
        tensors["linear.weight"] = random_steps(4, width, seed=7, dtype=torch.float32)
        tensors["linear.bias"] = random_steps(4, seed=8, dtype=torch.float32)
    return tensors


def calibration(*names: str, count: int = 30, steps: int = 16, width: int = 3, burn_in: int = BURN_IN) -> Calibration:
    groups = {name: [random_steps(count, steps, width, seed=3, dtype=torch.float32)] for name in names or ("rnn",)}
    return Calibration("file", groups, burn_in=burn_in, name="inputs.npy")


@dataclass(frozen=True)
class Way:
    """How an LSTM is compensated."""

    compensation: str = "fold"
    task: str | None = None
    head: bool = False

    def recipe(self, sparsity: float = 0.4, **settings: Any) -> Recipe:
        consumers = ("linear.weight",) if self.head else ()
        return Recipe(sparsity, consumers=consumers, compensation=self.compensation, task=self.task, **settings)


WAYS = {
    "fold": Way(),
    "fold, head": Way(head=True),
    "full softmax": Way("full", "softmax", head=True),
    "full regression": Way("full", "regression", head=True),
}
STEPS = {
    ("fold", None): [],
    ("full", "softmax"): ["refit", "least-squares readout", "divergence readout"],
    ("full", "regression"): ["refit", "least-squares readout"],
}
CASES = [
    (way, granularity, {"num_layers": layers, "bidirectional": both, "proj_size": projection, "bias": bias})
    for way, granularity, layers, both, projection, bias in itertools.product(
        WAYS, ("units", "rows"), (1, 2), (False, True), (0, 2), (False, True)
    )
    if not (projection and WAYS[way].head)  # nothing of what reads a projection goes
]


def dropped_columns(result: Result, lstm: LSTM, layer: int) -> Tensor:
    """(D * H,) bool: the units of one layer that are gone, both directions side by side."""
    masks = [
        result.masks[lstm.weight_names()[layer, side, "ih"]][: lstm.hidden_size] for side in range(lstm.directions)
    ]
    return ~torch.cat(masks)


def check_zeros(result: Result) -> None:
    """What masks drop is zero in the masked file, and so is what reads it."""
    (lstm,) = result.checkpoint.lstms
    tensors = result.forms["masked"].tensors(result.checkpoint)
    for name, mask in result.masks.items():
        assert not tensors[name][~mask].any(), name
    if result.recipe.granularity == "rows":
        return
    for layer in range(lstm.num_layers):
        gone = dropped_columns(result, lstm, layer)
        for side, own in enumerate(gone.chunk(lstm.directions)):
            back = "hr" if lstm.proj_size else "hh"
            assert not tensors[lstm.tensors[f"weight_{back}{lstm.suffix(layer, side)}"]][:, own].any()
            if layer + 1 < lstm.num_layers and not lstm.proj_size:
                assert not tensors[lstm.tensors[f"weight_ih{lstm.suffix(layer + 1, side)}"]][:, gone].any()
    for name in result.recipe.consumers:
        assert not tensors[name][:, dropped_columns(result, lstm, lstm.num_layers - 1)].any()


def scores(tensors: Mapping[str, Tensor], output: Tensor, head: bool) -> Tensor:
    found = output[:, BURN_IN:].flatten(0, 1)
    return F.linear(found, tensors["linear.weight"], tensors.get("linear.bias")) if head else found


def held_back_loss(result: Result, way: Way, inputs: Tensor) -> float:
    """How far the masked model is from the dense one on sequences that nothing was fitted to, run by PyTorch."""
    tensors = result.forms["masked"].tensors(result.checkpoint)
    dense, masked = (
        scores(values, module(inputs)[0], way.head)
        for values, module in (
            (result.checkpoint.tensors, dense_module(result.checkpoint)),
            (tensors, result.forms["masked"].modules(result.checkpoint)["rnn"]),
        )
    )
    if way.task == "softmax":
        return float(F.kl_div(masked.log_softmax(-1), dense.softmax(-1), reduction="batchmean"))
    return float((masked - dense).square().sum() / dense.square().sum())


def dense_module(checkpoint: Checkpoint, name: str = "rnn") -> nn.LSTM:
    (lstm,) = [lstm for lstm in checkpoint.lstms if lstm.name == name]
    return build(lstm, checkpoint.tensors)


def check_exports(result: Result, folder: Path, tolerance: float = 1e-5) -> None:
    """Both forms are certified, verified and load without this project, and compute what the masked modules do."""
    sequences = random_steps(3, 9, result.checkpoint.lstms[0].input_size, seed=11, dtype=torch.float32)
    masked = result.forms["masked"].modules(result.checkpoint)
    for form in FORMS:
        saved = result.save(folder / form, form)
        manifest = json.loads((saved / "manifest.json").read_text())
        certificate = manifest["certificate"]
        assert certificate["holds"]
        assert certificate["max_abs_difference"] <= 1e-9 * certificate["max_abs_output"]
        assert "compensation" in manifest
        verify(saved)
        assert any("all but those that compensation may change" in line for line in verify(saved, result.checkpoint))
        for name, module in load_lstms(saved, batch_first=True).items():
            if hasattr(module, "num_layers"):  # cells are stepped elsewhere
                found, wanted = module.float()(sequences)[0], masked[name].float()(sequences)[0]
                torch.testing.assert_close(found, wanted, rtol=0, atol=tolerance)
        opened = read_export(saved).masked
        for lstm in result.checkpoint.lstms:
            assert [each for each in opened.lstms if each.name == lstm.name] == [lstm]


def steps_of(result: Result, lstm: int = 0) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = result.compensation.facts["lstms"][lstm]["steps"]
    return found


def check_steps(result: Result, way: Way, inputs: Tensor) -> None:
    """Each step that was kept lowered the loss on what was held back, which is what a bare run of the model finds."""
    steps = steps_of(result)
    first = "fold" if result.recipe.granularity == "units" else "mean into bias"
    assert [step["name"] for step in steps] == [first, *STEPS[way.compensation, way.task]]
    best = steps[0]["before"]
    for step in steps:
        assert step["before"] == best
        assert step["kept"] == (step["after"] < step["before"])
        best = min(best, step["after"])
    assert held_back_loss(result, way, inputs) == pytest.approx(best, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize(("way", "granularity", "settings"), CASES, ids=str)
def test_every_form_computes_the_compensated_model(
    tmp_path: Path, way: str, granularity: str, settings: dict[str, Any]
) -> None:
    chosen = WAYS[way]
    checkpoint = saved_in(tmp_path, model(chosen.head, **settings))
    inputs = calibration()
    result = run(checkpoint, chosen.recipe(granularity=granularity), calibration=inputs)
    check_zeros(result)
    check_steps(result, chosen, inputs.split()[1].sequences["rnn"][0])
    reconstructs = granularity == "units" and not chosen.head and not settings["proj_size"]
    assert set(result.compensation.reconstructions) <= ({"rnn"} if reconstructs else set())
    if settings["bias"] and granularity == "units":  # where nothing would help, nothing would be tested
        assert steps_of(result)[0]["kept"]
        assert bool(result.compensation.reconstructions) == reconstructs
    check_exports(result, tmp_path)


def test_a_refit_and_a_readout_help_where_they_should(tmp_path: Path) -> None:
    checkpoint = saved_in(tmp_path, model(head=True, num_layers=2))
    for task in ("softmax", "regression"):
        recipe = Way("full", task, True).recipe(granularity="units")
        steps = steps_of(run(checkpoint, recipe, calibration=calibration(count=100)))
        assert {step["name"] for step in steps if step["kept"]} >= {"fold", "refit", "least-squares readout"}
        assert steps[0]["after"] < 0.6 * steps[0]["before"]
        assert min(step["after"] for step in steps) < 0.95 * steps[0]["after"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("both", [False, True])
def test_layers_may_lose_different_shares(tmp_path: Path, way: str, both: bool) -> None:
    chosen = WAYS[way]
    checkpoint = saved_in(tmp_path, model(chosen.head, num_layers=2, bidirectional=both))
    recipe = chosen.recipe(granularity="units", layer_sparsity={0: 0.5, 1: 0.2})
    result = run(checkpoint, recipe, calibration=calibration())
    (layout,) = result.forms["compact"].layouts
    assert {len(units) for units in layout.kept_units} == {3, 5} and layout.stored_as == "CompactLSTM"
    check_zeros(result)
    check_exports(result, tmp_path)


def test_equal_sizes_and_a_head_are_a_plain_smaller_model(tmp_path: Path) -> None:
    """The compact file of a compensated model loads into the class it came from, with a smaller hidden size."""
    checkpoint = saved_in(tmp_path, model(True, num_layers=2, bidirectional=True))
    result = run(checkpoint, WAYS["full softmax"].recipe(0.5, granularity="units"), calibration=calibration())
    folder = result.save(tmp_path / "out", "compact")
    small = nn.ModuleDict({"rnn": nn.LSTM(3, 3, 2, batch_first=True, bidirectional=True), "linear": nn.Linear(6, 4)})
    small.load_state_dict(torch.load(folder / "pruned.pt", weights_only=True))
    inputs = random_steps(5, 9, 3, dtype=torch.float32)
    tensors = result.forms["masked"].tensors(checkpoint)
    output = result.forms["masked"].modules(checkpoint)["rnn"](inputs)[0]
    wanted = F.linear(output, tensors["linear.weight"], tensors["linear.bias"])
    torch.testing.assert_close(small["linear"](small["rnn"](inputs)[0]), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("head", [False, True])
@pytest.mark.parametrize("settings", [{}, {"num_layers": 2, "bidirectional": True}, {"bias": False}], ids=str)
def test_twins_take_over_what_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], head: bool
) -> None:
    """Units that repeat others are what the brain surgeon takes, and their readers do without."""
    monkeypatch.setattr(fold, "RIDGE", 1e-7)
    _, tensors, _ = with_twins(**settings)
    tensors["linear.weight"], tensors["linear.bias"] = tensors.pop("head.weight"), tensors.pop("head.bias")
    checkpoint = saved_in(tmp_path, tensors)
    recipe = replace(Way(head=head).recipe(0.5, granularity="units"), criterion="obs")
    data = calibration(count=40, steps=30)
    inputs = data.split()[1].sequences["rnn"][0]
    losses = []
    for how in ("none", "fold"):
        result = run(checkpoint, replace(recipe, compensation=how), calibration=data)
        losses.append(held_back_loss(result, Way(head=head), inputs))
        if not head:
            assert result.drift["rnn"].relative > 0
    assert losses[1] < 1e-6 < 1e-3 < losses[0]
    if not head:
        drifts = [
            run(checkpoint, replace(recipe, compensation=each), calibration=data).drift["rnn"].relative
            for each in ("none", "fold")
        ]
        assert drifts[1] < 0.01 * drifts[0]


def test_nothing_removed_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    checkpoint = saved_in(tmp_path, model(head=True, num_layers=2))
    for way, granularity in itertools.product(("fold", "fold, head"), ("units", "rows")):
        result = run(checkpoint, WAYS[way].recipe(0.0, granularity=granularity), calibration=calibration())
        assert result.drift["rnn"].relative < 1e-6
        assert not any(step["kept"] for step in steps_of(result))
        folder = tmp_path / f"{way} {granularity}"
        folder.mkdir()
        check_exports(result, folder)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("granularity", ["units", "rows"])
@pytest.mark.parametrize("criterion", ["fisher", "obs"])
@pytest.mark.parametrize("bias", [True, False])
def test_a_model_that_says_nothing_is_compensated_by_nothing(
    tmp_path: Path, way: str, granularity: str, criterion: str, bias: bool
) -> None:
    """All its weights are zero, so that no unit ever moves and every ratio is 0 / 0."""
    if granularity == "rows" and criterion == "obs":
        return
    tensors = {name: 0 * tensor for name, tensor in model(WAYS[way].head, bias=bias).items()}
    checkpoint = saved_in(tmp_path, tensors)
    recipe = replace(WAYS[way].recipe(granularity=granularity), criterion=criterion)
    result = run(checkpoint, recipe, calibration=calibration())
    for name, tensor in result.forms["masked"].tensors(checkpoint).items():
        assert "kept" in name or not tensor.any(), name
    json.dumps(result.compensation.facts, allow_nan=False)
    check_exports(result, tmp_path)


@pytest.mark.parametrize("way", WAYS)
def test_a_judge_reads_no_more_than_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    """Of held-back inputs whose batches are alike, a few say the same as all."""
    checkpoint = saved_in(tmp_path, model(WAYS[way].head))
    data = calibration(count=400)
    data.sequences["rnn"][0][320:] = data.sequences["rnn"][0][320:321]
    monkeypatch.setattr(compensation, "HELD_BACK_STEPS", 10**6)
    every = run(checkpoint, WAYS[way].recipe(granularity="units"), calibration=data)
    monkeypatch.setattr(compensation, "HELD_BACK_STEPS", 33)
    read = []
    monkeypatch.setattr(
        compensation, "run_layers", lambda layers, inputs: (read.append(inputs), run_layers(layers, inputs))[1]
    )
    few = run(checkpoint, WAYS[way].recipe(granularity="units"), calibration=data)
    assert {tuple(inputs.shape) for inputs in read} == {(16, 3, 3)}
    for one, other in zip(steps_of(every), steps_of(few), strict=True):
        assert one["before"] == pytest.approx(other["before"], rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("granularity", ["units", "rows"])
def test_other_types_stay_what_they_are(tmp_path: Path, dtype: torch.dtype, way: str, granularity: str) -> None:
    tensors = {name: tensor.to(dtype) for name, tensor in model(WAYS[way].head, num_layers=2).items()}
    checkpoint = saved_in(tmp_path, tensors, "safetensors")
    result = run(checkpoint, WAYS[way].recipe(granularity=granularity), calibration=calibration())
    for form in FORMS:
        for name, tensor in result.forms[form].tensors(checkpoint).items():
            assert tensor.dtype == (torch.int64 if "kept" in name or "rows_" in name else dtype), name
    check_zeros(result)
    check_exports(result, tmp_path, tolerance=1e-4)


def test_several_lstms_are_compensated_each_with_its_own_readers(tmp_path: Path) -> None:
    tensors = model(head=True) | named(random_lstm(1, hidden_size=5, num_layers=2), "other.")
    checkpoint = saved_in(tmp_path, tensors)
    recipe = Way(head=True).recipe(granularity="units")
    result = run(checkpoint, recipe, calibration=calibration("rnn", "other"))
    assert [facts["name"] for facts in result.compensation.facts["lstms"]] == ["other", "rnn"]
    assert set(result.compensation.reconstructions) == {"other"}  # nobody said who reads it
    check_exports(result, tmp_path)
    alone = run(checkpoint, replace(recipe, lstms=("rnn",)), calibration=calibration("rnn", "other"))
    assert not any(name.startswith("other") for name in alone.compensation.tensors)
    for name in ("rnn.weight_hh_l0", "linear.weight", "linear.bias"):
        assert torch.equal(alone.compensation.tensors[name], result.compensation.tensors[name])


def cell_checkpoint(folder: Path, head: bool = False) -> Checkpoint:
    torch.manual_seed(0)
    tensors = {name: 3 * tensor for name, tensor in named(nn.LSTMCell(3, HIDDEN), "rnn.").items()}
    if head:
        tensors |= {name: tensor for name, tensor in model(head=True).items() if name.startswith("linear")}
    return saved_in(folder, tensors)


def stepped(cell: nn.Module, inputs: Tensor) -> Tensor:
    """The outputs of a cell that is fed its own state."""
    state, outputs = None, []
    for step in inputs:
        state = cell(step, state)
        outputs.append(state[0])
    return torch.stack(outputs)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("granularity", ["units", "rows"])
def test_cells_are_compensated_like_lstms(tmp_path: Path, way: str, granularity: str) -> None:
    chosen = WAYS[way]
    checkpoint = cell_checkpoint(tmp_path, chosen.head)
    result = run(checkpoint, chosen.recipe(granularity=granularity), calibration=calibration())
    check_zeros(result)
    check_exports(result, tmp_path)
    inputs = random_steps(9, 4, 3, seed=11, dtype=torch.float32)
    wanted = result.forms["masked"].modules(checkpoint)["rnn"](inputs.transpose(0, 1))[0].transpose(0, 1)
    kinds = {}
    for form in FORMS:
        cell = load_lstms(tmp_path / form)["rnn"]
        torch.testing.assert_close(stepped(cell, inputs), wanted, rtol=0, atol=1e-5)
        torch.testing.assert_close(cell(inputs[0, 0])[0], wanted[0, 0], rtol=0, atol=1e-5)  # unbatched
        kinds[form] = type(cell)
    if granularity == "units" and not chosen.head:
        assert kinds == {"masked": ReconstructingLSTMCell, "compact": CompactLSTMCell}


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
    """Of removed units neither h, which nothing reads, nor a c of zero matters."""
    inputs = random_steps(4, 9, 3, dtype=torch.float32)
    layers = len(reconstructing["bare"](inputs)[1][0])
    h, c = random_steps(2, layers, 4, HIDDEN, seed=5, dtype=torch.float32)
    bare: nn.LSTM = reconstructing["bare"]
    for index in range(layers):
        suffix = f"l{index // len(reconstructing['filled'])}" + "_reverse" * (index % len(reconstructing["filled"]))
        c[index][:, ~getattr(bare, f"weight_ih_{suffix}")[:HIDDEN].any(1)] = 0
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
    recipe = WAYS["full softmax"].recipe(granularity="units")
    result, wanted = (
        run(saved_in(folder, values), recipe, calibration=calibration())
        for folder, values in ((tmp_path, state), (tmp_path / "plain", tensors))
    )
    assert steps_of(result) == steps_of(wanted)
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


@pytest.mark.parametrize(
    ("recipe", "data", "message"),
    [
        (WAYS["fold"].recipe(), None, "expected calibration inputs for this recipe"),
        (Recipe(criterion="obs", granularity="units"), None, "expected calibration inputs for this recipe"),
        (WAYS["full softmax"].recipe(), "gaussian", "expected real or sampled inputs .* found random ones"),
        (Way("full", None, True).recipe(), "file", "expected a task .* found no task"),
        (Way("full").recipe(), "file", "expected a task .* found no task"),
        (WAYS["fold"].recipe(1.0, granularity="units"), "file", "units left in every layer of rnn .* a layer without"),
        (WAYS["fold"].recipe(granularity="units"), "other", "expected calibration inputs for rnn, found none"),
        (WAYS["fold"].recipe(granularity="units"), "short", "expected at least 10 time steps of rnn"),
    ],
    ids=str,
)
def test_what_cannot_be_compensated_is_told(tmp_path: Path, recipe: Recipe, data: str | None, message: str) -> None:
    checkpoint = saved_in(tmp_path, model(head=True))
    inputs = {
        "gaussian": gaussian(checkpoint, checkpoint.lstms),
        "file": calibration(),
        "other": calibration("encoder"),
        "short": calibration(count=2, steps=5),
    }
    with pytest.raises(PrunerError, match=message):
        run(checkpoint, recipe, calibration=inputs[data] if data else None)


def test_an_lstm_without_readers_cannot_be_fitted(tmp_path: Path) -> None:
    tensors = model(head=True) | named(random_lstm(1, hidden_size=5), "other.")
    checkpoint = saved_in(tmp_path, tensors)
    with pytest.raises(PrunerError, match=r"expected a task .* found no consumer of other"):
        run(checkpoint, WAYS["full softmax"].recipe(), calibration=calibration("rnn", "other"))


class Stop(Exception):
    pass


def test_progress_is_told_throughout_and_can_stop(tmp_path: Path) -> None:
    checkpoint = saved_in(tmp_path, model(head=True, num_layers=2))
    recipe, data = WAYS["full softmax"].recipe(granularity="units"), calibration()
    gathered = gather_statistics(checkpoint, recipe, data)
    masks = choose_masks(checkpoint, recipe, statistics=gathered)
    told: list[float] = []

    def ask(stop_at: float = math.inf) -> None:
        def progress(done: float, _: str) -> None:
            told.append(done)
            if done >= stop_at:
                raise Stop

        compensate(checkpoint, recipe, masks, gathered, data, progress=progress)

    ask()
    assert told == sorted(told) and told[0] >= 0 and told[-1] == 1 and len(told) > 8
    for stop_at in (0.0, 0.3, 0.75):
        with pytest.raises(Stop):
            ask(stop_at)


def test_neither_the_checkpoint_nor_the_data_is_changed(tmp_path: Path) -> None:
    checkpoint, data = saved_in(tmp_path, model(head=True)), calibration()
    before = {name: tensor.clone() for name, tensor in checkpoint.tensors.items()}
    inputs = data.sequences["rnn"][0].clone()
    run(checkpoint, WAYS["full softmax"].recipe(granularity="units"), calibration=data)
    assert all(torch.equal(checkpoint.tensors[name], tensor) for name, tensor in before.items())
    assert torch.equal(data.sequences["rnn"][0], inputs)


def test_the_same_run_gives_the_same_model(tmp_path: Path) -> None:
    checkpoint = saved_in(tmp_path, model(head=True))
    one, other = (
        run(checkpoint, WAYS["full softmax"].recipe(granularity="units"), calibration=calibration()) for _ in range(2)
    )
    assert one.compensation.facts == other.compensation.facts
    for name, tensor in one.compensation.tensors.items():
        assert torch.equal(tensor, other.compensation.tensors[name])


def test_a_run_takes_statistics_that_are_there_already(tmp_path: Path) -> None:
    checkpoint, recipe, data = saved_in(tmp_path, model(head=True)), WAYS["full softmax"].recipe(), calibration()
    said: list[str] = []
    given = run(
        checkpoint,
        recipe,
        calibration=data,
        statistics=gather_statistics(checkpoint, recipe, data),
        progress=lambda _, what: said.append(what),
    )
    assert said and not any(what.startswith("Reading") for what in said)
    wanted = run(checkpoint, recipe, calibration=data)
    assert given.compensation.facts == wanted.compensation.facts
    for name, tensor in wanted.compensation.tensors.items():
        assert torch.equal(given.compensation.tensors[name], tensor)


def test_the_facts_say_what_was_done(tmp_path: Path) -> None:
    checkpoint, data = saved_in(tmp_path, model(head=True)), calibration()
    result = run(checkpoint, WAYS["full softmax"].recipe(granularity="units"), calibration=data)
    facts = result.compensation.facts
    assert facts["calibration"] == {
        "source": "file",
        "name": "inputs.npy",
        "sha256": data.sha256,
        "steps": {"rnn": 30 * (16 - BURN_IN)},
    }
    assert facts["ridges"].keys() == {"fold", "refit", "readout"}
    manifest = json.loads((result.save(tmp_path / "out") / "manifest.json").read_text())
    assert manifest["compensation"] == json.loads(json.dumps(facts))
