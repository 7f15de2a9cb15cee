"""A run: masks and changed tensors from the source's own weights, progress, cancellation, devices, quality."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pruner import Cancelled, Checkpoint, PrunerError, Recipe, open_checkpoint, run
from pruner.compact.load_pruned import CompactLSTM, RowCompactLSTM
from pruner.importance.masks import drop_rows
from pruner.pipeline import choose_masks
from pruner.result import available_devices
from tests.helpers.files import hashes_of, saved_in
from tests.helpers.models import named, random_lstm

ENCODER = {"num_layers": 2, "bidirectional": True}
MODEL = {
    **named(random_lstm(**ENCODER), "encoder."),
    **named(nn.LSTMCell(8, 4), "cell."),
    **named(nn.Linear(4, 2), "head."),
}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    return saved_in(tmp_path, MODEL)


@pytest.mark.parametrize("sparsity", [0.0, 0.25, 0.5, 1.0])
def test_masked_rows_are_zero_and_all_else_is_unchanged(checkpoint: Checkpoint, sparsity: float) -> None:
    result = run(checkpoint, Recipe(sparsity))
    packed = {name for lstm in checkpoint.lstms for name in lstm.weight_names().values()}
    changed = result.forms["masked"].changed
    assert result.masks.keys() == changed.keys() == packed
    for name, mask in result.masks.items():
        assert [int((~kept).sum()) for kept in mask.chunk(4)] == [int(4 * sparsity)] * 4
        assert torch.equal(changed[name], drop_rows(checkpoint.tensors[name], mask))
    assert result.masks.keys() == choose_masks(checkpoint, Recipe(sparsity)).keys()
    dense, masked = result.costs["dense"], result.costs["masked"]
    assert masked.parameters == dense.parameters
    assert masked.zeros - dense.zeros == sum(
        int((~mask).sum()) * checkpoint.tensors[name].shape[1] for name, mask in result.masks.items()
    )


def test_criteria_choose_different_rows(tmp_path: Path) -> None:
    tensors = named(random_lstm(input_size=2, hidden_size=2))
    tensors["weight_ih_l0"] = torch.tensor([[3.0, 3.0], [5.0, 0.0]]).repeat(4, 1)
    checkpoint = saved_in(tmp_path, tensors)
    l1, l2 = (choose_masks(checkpoint, Recipe(0.5, criterion=criterion))["weight_ih_l0"] for criterion in ("l1", "l2"))
    assert l1.tolist() == [True, False] * 4 and l2.tolist() == [False, True] * 4


def test_nothing_drifts_at_sparsity_zero(checkpoint: Checkpoint) -> None:
    drift = run(checkpoint, Recipe(0.0)).drift
    assert drift.keys() == {"encoder", "cell"}
    assert all(moved.max_abs_difference == moved.relative == 0 < moved.max_abs_output for moved in drift.values())


def test_a_form_that_is_unknown_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(PrunerError, match="expected a form among masked, compact; found 'small'"):
        run(checkpoint, Recipe()).save(tmp_path / "export", "small")
    assert not (tmp_path / "export").exists()


def test_drift_grows_with_sparsity(checkpoint: Checkpoint) -> None:
    low, high = (run(checkpoint, Recipe(sparsity)).drift["encoder"].relative for sparsity in (0.25, 1.0))
    assert 0 < low < high


@pytest.mark.parametrize(
    "nesting",
    [(), ("state_dict",), ("model", "net"), ("model", "model")],
    ids=["flat", "nested", "nested twice", "nested twice under one key"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_the_source_stays_untouched(tmp_path: Path, nesting: tuple[str, ...], dtype: torch.dtype) -> None:
    container: Any = named(random_lstm(dtype=dtype))
    for key in reversed(nesting):
        container = {key: container, "epoch": 3}
    checkpoint = saved_in(tmp_path, container)
    before = hashes_of(tmp_path)
    fresh = open_checkpoint(tmp_path / "model.pt")
    run(checkpoint, Recipe(0.5))
    assert hashes_of(tmp_path) == before
    stored = checkpoint.container
    for key in nesting:
        stored = stored[key]
    for name, tensor in fresh.tensors.items():
        assert torch.equal(checkpoint.tensors[name], tensor) and checkpoint.tensors[name].dtype == dtype
        assert torch.equal(stored[name], tensor)


def test_only_the_named_lstms_are_pruned(checkpoint: Checkpoint) -> None:
    result = run(checkpoint, Recipe(0.5, lstms=("cell",)))
    changed = result.forms["masked"].changed
    assert changed.keys() == result.masks.keys() == {"cell.weight_ih", "cell.weight_hh"}
    compact = result.forms["compact"]
    assert [layout.lstm.name for layout in compact.layouts] == ["cell"]
    assert all(name.startswith("cell.") for name in compact.changed)
    assert result.drift.keys() == {"cell"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lstms": ("decoder",)}, r"name of an LSTM in model\.pt \('cell', 'encoder'\), found 'decoder'"),
        ({"lstms": ()}, "expected"),
        ({"layer_sparsity": {2: 0.5}}, "expected a layer from 0 to 1 in layer_sparsity, found 2"),
        ({"layer_sparsity": {1: 0.5}, "lstms": ("cell",)}, "expected a layer from 0 to 0 in layer_sparsity, found 1"),
    ],
    ids=["unknown LSTM", "no LSTM", "unknown layer", "layer of another LSTM"],
)
def test_a_recipe_that_does_not_fit_is_refused(checkpoint: Checkpoint, settings: Any, message: str) -> None:
    with pytest.raises(PrunerError, match=message):
        run(checkpoint, Recipe(**settings))


@pytest.mark.parametrize("tensor", ["encoder.weight_ih_l0", "encoder.bias_ih_l0"])
def test_weights_that_are_not_finite_are_refused_or_told(tmp_path: Path, tensor: str) -> None:
    tensors = named(random_lstm(), "encoder.")
    tensors[tensor][3] = torch.nan
    checkpoint = saved_in(tmp_path, tensors)
    try:
        drift = run(checkpoint, Recipe(0.0)).drift["encoder"]
    except PrunerError as error:
        assert tensor in str(error)
    else:
        assert drift.max_abs_difference != drift.max_abs_difference


def test_progress_rises_from_zero_to_one(tmp_path: Path) -> None:
    checkpoint = saved_in(
        tmp_path, {name: tensor for i in range(9) for name, tensor in named(random_lstm(), f"{i}.").items()}
    )
    told: list[tuple[float, str]] = []
    run(checkpoint, Recipe(), progress=lambda *step: told.append(step), quality=lambda *_: 0.0)
    fractions = [fraction for fraction, _ in told]
    assert fractions[0] == 0 and fractions[-1] == 1 and fractions == sorted(fractions)
    assert all(what for _, what in told)
    forms = {f"Measuring the quality, {form}" for form in ("dense", "masked", "compact")}
    expected = {"Scoring 0", "Scoring 8", "Measuring the drift of 8", "Measuring the size", "Done"} | forms
    assert expected <= {what for _, what in told}


def test_a_run_can_be_cancelled_at_every_step(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = hashes_of(tmp_path)
    steps: list[float] = []
    run(checkpoint, Recipe(), progress=lambda fraction, _: steps.append(fraction), quality=lambda *_: 0.0)
    for last in range(len(steps)):
        remaining = iter(range(last))

        def progress(fraction: float, what: str, remaining: Any = remaining) -> None:
            if next(remaining, None) is None:
                raise Cancelled

        with pytest.raises(Cancelled):
            run(checkpoint, Recipe(), progress=progress, quality=lambda *_: 0.0)
        assert next(remaining, None) is None
    assert hashes_of(tmp_path) == before


@pytest.mark.parametrize(("granularity", "compact"), [("rows", RowCompactLSTM), ("units", CompactLSTM)])
def test_quality_is_rated_for_every_form(checkpoint: Checkpoint, granularity: str, compact: type) -> None:
    rated: list[tuple[Mapping[str, Tensor], Mapping[str, nn.Module]]] = []

    def quality(tensors: Mapping[str, Tensor], lstms: Mapping[str, nn.Module]) -> float:
        rated.append((tensors, lstms))
        assert lstms.keys() == {"encoder", "cell"}
        assert torch.equal(lstms["encoder"].weight_hh_l1, tensors["encoder.weight_hh_l1"])
        return float(len(rated))

    result = run(checkpoint, Recipe(0.5, granularity, lstms=("cell",)), quality=quality)
    assert result.quality == {"dense": 1.0, "masked": 2.0, "compact": 3.0}
    masked = result.forms["masked"].changed
    for (tensors, lstms), changed in zip(rated, ({}, masked, masked), strict=True):
        expected = {**checkpoint.tensors, **changed}
        assert tensors.keys() == expected.keys()
        assert all(torch.equal(tensors[name], expected[name]) for name in expected)
        state = {f"{name}_l0": tensors[f"cell.{name}"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
        whole = nn.LSTM(8, 4, batch_first=True)
        whole.load_state_dict(state)
        inputs = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            torch.testing.assert_close(lstms["cell"](inputs), whole(inputs))
    assert isinstance(rated[2][1]["cell"], compact) and isinstance(rated[1][1]["cell"], nn.LSTM)


@pytest.mark.parametrize("granularity", ["rows", "units"])
def test_latency_is_measured_for_every_form_and_batch_where_asked_for(checkpoint: Checkpoint, granularity: str) -> None:
    assert run(checkpoint, Recipe(0.5, granularity)).latency is None
    times = run(checkpoint, Recipe(0.5, granularity), timed=True).latency
    assert times is not None and times.keys() == {1, 32}
    for by_form in times.values():
        assert by_form.keys() == {"dense", "masked", "compact"}
        assert all(0 < found.low <= found.typical <= found.high for found in by_form.values())
        assert by_form["dense"].faster in (None, 1)


def test_no_quality_without_a_way_to_rate_it(checkpoint: Checkpoint) -> None:
    assert run(checkpoint, Recipe()).quality is None


def pretend_cuda(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(names))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(names))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: names[index])


@pytest.mark.parametrize(
    ("names", "expected"),
    [((), {"cpu": "CPU"}), (("H200", "T4"), {"cpu": "CPU", "cuda:0": "H200", "cuda:1": "T4"})],
    ids=["none", "two"],
)
def test_cuda_devices_are_listed_by_name(
    monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...], expected: dict[str, str]
) -> None:
    pretend_cuda(monkeypatch, *names)
    assert available_devices() == expected


@pytest.mark.parametrize(
    ("names", "device", "message"),
    [
        ((), "cuda", "a device among cpu; found 'cuda:0'"),
        (("T4",), "cuda:1", "a device among cpu, cuda:0; found 'cuda:1'"),
        ((), "gpu", "found 'gpu'"),
        ((), "", "found ''"),
    ],
)
def test_a_device_that_is_not_there_is_refused(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...], device: str, message: str
) -> None:
    pretend_cuda(monkeypatch, *names)
    with pytest.raises(PrunerError, match=f"{message}; run on cpu instead"):
        run(checkpoint, Recipe(), device)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_gives_the_same_masks_and_nearly_the_same_drift(checkpoint: Checkpoint) -> None:
    on_cpu, on_cuda = run(checkpoint, Recipe()), run(checkpoint, Recipe(), "cuda")
    assert on_cuda.device == "cuda:0"
    assert all(torch.equal(mask, on_cpu.masks[name]) for name, mask in on_cuda.masks.items())
    assert on_cuda.drift["encoder"].relative == pytest.approx(on_cpu.drift["encoder"].relative, rel=1e-2)
