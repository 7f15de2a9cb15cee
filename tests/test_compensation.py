import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

from pruner import Checkpoint, PrunerError, Recipe, open_checkpoint, run
from pruner.calibration import Calibration, gaussian
from pruner.compaction import expand
from pruner.load_pruned import CompactLSTM, ReconstructingLSTM, load_lstms
from pruner.verify import verify

SHAPES: list[dict[str, Any]] = [
    {},
    {"num_layers": 2},
    {"num_layers": 2, "bidirectional": True},
    {"proj_size": 3, "num_layers": 2},
    {"bias": False},
    {"cell": True},
    {"num_layers": 2, "dtype": torch.float16},
]
READERS = {
    "unknown readers": {"compensation": "fold"},
    "a named reader": {"compensation": "fold", "consumers": ("head.weight",)},
    "a task": {"compensation": "full", "consumers": ("head.weight",), "task": "softmax"},
    "numbers": {"compensation": "full", "consumers": ("head.weight",), "task": "regression"},
}


def model(cell: bool = False, dtype: torch.dtype = torch.float32, **settings: Any) -> Checkpoint:
    """An LSTM of 12 units with a linear head, its weights large enough for units to matter."""
    torch.manual_seed(0)
    lstm: nn.Module = nn.LSTMCell(5, 12) if cell else nn.LSTM(5, 12, **settings)
    width = (settings.get("proj_size") or 12) * (2 if settings.get("bidirectional") else 1)
    whole = nn.ModuleDict({"lstm": lstm, "head": nn.Linear(width, 4)})
    data = io.BytesIO()
    torch.save({name: (3 * tensor).to(dtype) for name, tensor in whole.state_dict().items()}, data)
    return open_checkpoint(data.getvalue(), "model.pt")


def inputs(checkpoint: Checkpoint, count: int = 10) -> Calibration:
    generator = torch.Generator().manual_seed(1)
    return Calibration(
        "file", {lstm.name: [torch.randn(count, 30, 5, generator=generator)] for lstm in checkpoint.lstms}
    )


def recipe(granularity: str, readers: str, **settings: Any) -> Recipe:
    known = dict(READERS[readers])
    if known["compensation"] == "fold" and granularity == "rows":
        known.pop("consumers", None)
    return Recipe(0.5, granularity, settings.pop("criterion", "fisher"), **known, **settings)


@pytest.mark.parametrize("granularity", ["rows", "units"])
@pytest.mark.parametrize(
    ("shape", "readers"),
    # What reads a projection keeps its width, so it is no consumer, and there is no head to refit.
    [
        (shape, readers)
        for shape in SHAPES
        for readers in READERS
        if "proj_size" not in shape or readers == "unknown readers"
    ],
    ids=str,
)
def test_both_forms_compute_the_same_and_verify(
    shape: dict[str, Any], granularity: str, readers: str, tmp_path: Path
) -> None:
    checkpoint = model(**shape)
    settled = recipe(granularity, readers)
    result = run(checkpoint, settled, calibration=inputs(checkpoint))
    for form in ("masked", "compact"):
        folder = result.save(tmp_path / form, form)
        manifest = json.loads((folder / "manifest.json").read_text())
        certificate = manifest["certificate"]
        assert certificate["holds"] and certificate["max_abs_difference"] <= 1e-9 * certificate["max_abs_output"]
        assert manifest["compensation"]["calibration"]["steps"] == {"lstm": 300}
        assert manifest["compensation"]["calibration"]["sha256"] == inputs(checkpoint).sha256
        for source in (None, checkpoint):
            verify(folder, source)
        assert load_lstms(folder).keys() == {"lstm"}
    masked = result.forms["masked"].tensors(checkpoint)
    for name, mask in result.masks.items():
        assert masked[name][~mask].count_nonzero() == 0
    for done in result.compensation.facts["lstms"]:
        losses = [step["before"] for step in done["steps"]]
        assert losses == sorted(losses, reverse=True)  # what made it worse was left out
        assert all(step["kept"] == (step["after"] < step["before"]) for step in done["steps"])


@pytest.mark.parametrize("readers", ["unknown readers", "a named reader", "a task"])
def test_layers_of_unequal_sizes(readers: str, tmp_path: Path) -> None:
    checkpoint = model(num_layers=2)
    settled = recipe("units", readers, criterion="obs", layer_sparsity={0: 0.25})
    result = run(checkpoint, settled, calibration=inputs(checkpoint))
    folder = result.save(tmp_path / "export")
    entry = json.loads((folder / "manifest.json").read_text())["lstms"][0]
    assert entry["stored_as"] == "CompactLSTM"
    assert [len(layer["kept_units"]) for layer in entry["layers"]] == [9, 6]
    verify(folder, checkpoint)


def test_columns_that_read_dropped_units_are_zero() -> None:
    checkpoint = model(num_layers=2)
    result = run(checkpoint, recipe("units", "a task"), calibration=inputs(checkpoint))
    masked = result.forms["masked"].tensors(checkpoint)
    for layer, readers in ((0, ["lstm.weight_hh_l0", "lstm.weight_ih_l1"]), (1, ["lstm.weight_hh_l1", "head.weight"])):
        dropped = ~result.masks[f"lstm.weight_ih_l{layer}"][:12]
        assert dropped.sum() == 6
        for name in readers:
            assert masked[name][:, dropped].count_nonzero() == 0
            assert not torch.equal(masked[name][:, ~dropped], checkpoint.tensors[name][:, ~dropped])


def redundant() -> Checkpoint:
    """Six units twice over: half of them can go without any loss, if those that stay take over."""
    once = model().tensors

    def twice(tensor: Tensor) -> Tensor:
        gates = tensor.view(4, 12, *tensor.shape[1:])[:, :6]
        return torch.cat([gates, gates], 1).flatten(0, 1)

    tensors = {name: twice(tensor) if name.startswith("lstm") else tensor for name, tensor in once.items()}
    tensors["lstm.weight_hh_l0"] = tensors["lstm.weight_hh_l0"][:, :6].repeat(1, 2) / 2
    data = io.BytesIO()
    torch.save({name: tensor.clone() for name, tensor in tensors.items()}, data)
    return open_checkpoint(data.getvalue(), "model.pt")


def test_what_is_there_twice_is_given_up_for_nothing() -> None:
    checkpoint = redundant()
    data = inputs(checkpoint)
    none, fold = (
        run(checkpoint, Recipe(0.5, "units", "obs", compensation=how), calibration=data).drift["lstm"].relative
        for how in ("none", "fold")
    )
    assert fold < 0.02 < 0.5 < none


def reconstructing() -> tuple[nn.LSTM, CompactLSTM]:
    checkpoint = model(num_layers=2, bidirectional=True)
    settled = Recipe(0.5, "units", "obs", compensation="fold")
    forms = run(checkpoint, settled, calibration=inputs(checkpoint)).forms
    masked, small = (forms[name].modules(checkpoint)["lstm"].double() for name in ("masked", "compact"))
    assert isinstance(masked, ReconstructingLSTM) and isinstance(small, CompactLSTM)
    return masked, small


def test_a_reconstructing_lstm_is_called_like_the_one_it_replaces() -> None:
    masked, small = reconstructing()
    steps = torch.randn(3, 7, 5, dtype=torch.float64)
    state = torch.randn(4, 3, 12, dtype=torch.float64), torch.zeros(4, 3, 12, dtype=torch.float64)
    for given in (steps, steps[0], pack_sequence([steps[0], steps[1, :4]], enforce_sorted=False)):
        (ours, ends), (theirs, their_ends) = small(given), masked(given)
        data = [each.data if hasattr(each, "batch_sizes") else each for each in (ours, theirs)]
        torch.testing.assert_close(data[0], data[1])
        torch.testing.assert_close(ends, their_ends)
        assert (data[0] != 0).all()
    torch.testing.assert_close(small(steps, state), masked(steps, state))
    torch.testing.assert_close(expand(small)(steps), masked(steps))


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_it_can_be_scripted() -> None:
    _, small = reconstructing()
    steps = torch.randn(3, 7, 5, dtype=torch.float64)
    torch.testing.assert_close(torch.jit.script(small)(steps), small(steps))


@pytest.mark.parametrize(
    ("settings", "data", "message"),
    [
        ({"compensation": "fold"}, None, "expected calibration inputs for this recipe"),
        ({"criterion": "obs"}, None, "expected calibration inputs for this recipe"),
        ({"compensation": "full"}, inputs, "expected a task .* found no task"),
        ({"criterion": "taylor"}, inputs, "expected a task and the tensors that read the output"),
        ({"compensation": "fold", "sparsity": 1.0}, inputs, "found a layer without"),
        (
            {"compensation": "full", "consumers": ("head.weight",), "task": "softmax"},
            lambda checkpoint: gaussian(checkpoint, checkpoint.lstms),
            "expected real or sampled inputs for compensation 'full', found random ones",
        ),
        (
            {"compensation": "fold"},
            lambda _: Calibration("file", {}),
            "expected calibration inputs for lstm, found none",
        ),
        (
            {"compensation": "fold"},
            lambda checkpoint: inputs(checkpoint, 1),
            "expected at least 10 time steps of lstm to hold",
        ),
    ],
)
def test_what_is_missing_is_said(settings: dict[str, Any], data: Any, message: str) -> None:
    checkpoint = model()
    settled = Recipe(**{"sparsity": 0.5, "granularity": "units", **settings})
    calibration = data(checkpoint) if data else None
    with pytest.raises(PrunerError, match=message):
        run(checkpoint, settled, calibration=calibration)
