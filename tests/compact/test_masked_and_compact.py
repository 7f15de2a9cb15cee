"""Compact exports compute what the masks say, wherever they are loaded."""

import runpy
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from pruner import Checkpoint, PrunerError, Recipe, open_checkpoint, run
from pruner.exports.opened import read_export
from pruner.exports.verify import verify
from pruner.importance.masks import drop_rows
from pruner.lstm.lstm import LSTM
from pruner.lstm.measure import difference, outputs, random_input
from pruner.lstm.module import build
from tests.helpers.compact import INPUTS, wide
from tests.helpers.exports import read_manifest
from tests.helpers.files import saved_in
from tests.helpers.models import named, random_lstm
from tests.helpers.real_files import real_checkpoints


@dataclass(frozen=True)
class Case:
    """A checkpoint to be made, and how its compact export lies in its file."""

    container: Callable[[], Any]
    stored_as: str = "LSTM"  # with granularity units; rows are always a RowCompactLSTM
    suffix: str = "pt"
    settings: dict[str, Any] | None = None


def pruned_before() -> dict[str, Tensor]:
    lstm = random_lstm(hidden_size=6, num_layers=2)
    for name in ("weight_ih_l0", "weight_hh_l1", "bias_ih_l0"):
        prune.random_unstructured(lstm, name, 0.3)
    return named(lstm, "rnn.")


def parametrized() -> dict[str, Tensor]:
    tensors = wide()
    mask = torch.ones(24, dtype=torch.bool)
    mask[3] = False
    inside = "rnn.parametrizations.weight_hh_l0."
    return tensors | {f"{inside}original": tensors.pop("rnn.weight_hh_l0"), f"{inside}0.mask": mask}


EVERYTHING = {"num_layers": 2, "bidirectional": True, "proj_size": 2, "bias": False}
UNEQUAL = {"layer_sparsity": {0: 0.2}}
CASES = {
    "plain": Case(wide),
    "at the root": Case(lambda: wide("")),
    "two layers": Case(lambda: wide(num_layers=2)),
    "bidirectional": Case(lambda: wide(num_layers=2, bidirectional=True)),
    "projection": Case(lambda: wide(proj_size=2)),
    "a wide projection": Case(lambda: wide(proj_size=4, num_layers=2)),
    "no bias": Case(lambda: wide(bias=False)),
    "everything": Case(lambda: wide(**EVERYTHING)),
    "cell": Case(lambda: named(nn.LSTMCell(3, 6), "rnn.")),
    "cell without bias": Case(lambda: named(nn.LSTMCell(3, 6, bias=False), "rnn.")),
    "float16": Case(lambda: wide(dtype=torch.float16)),
    "bfloat16": Case(lambda: wide(dtype=torch.bfloat16, **EVERYTHING)),
    "bfloat16 cell": Case(lambda: named(nn.LSTMCell(3, 6, dtype=torch.bfloat16), "rnn.")),
    "float64": Case(lambda: wide(dtype=torch.float64, num_layers=2)),
    "unequal layers": Case(lambda: wide(num_layers=2), "CompactLSTM", settings=UNEQUAL),
    "unequal in both directions": Case(lambda: wide(num_layers=3, bidirectional=True), "CompactLSTM", settings=UNEQUAL),
    "unequal, everything": Case(lambda: wide(**EVERYTHING), "CompactLSTM", settings=UNEQUAL),
    "unequal, float64": Case(lambda: wide(num_layers=2, dtype=torch.float64), "CompactLSTM", settings=UNEQUAL),
    "unequal, bfloat16": Case(lambda: wide(num_layers=2, dtype=torch.bfloat16), "CompactLSTM", settings=UNEQUAL),
    "unequal, at the root": Case(lambda: wide("", num_layers=2), "CompactLSTM", settings=UNEQUAL),
    "unequal, pruned before": Case(pruned_before, "CompactLSTM", settings=UNEQUAL),
    "unequal, safetensors": Case(lambda: wide(num_layers=2), "CompactLSTM", suffix="safetensors", settings=UNEQUAL),
    "unequal, nested": Case(
        lambda: {"model": {"state_dict": wide(num_layers=2)}, "epoch": 3}, "CompactLSTM", settings=UNEQUAL
    ),
    "pruned before": Case(pruned_before),
    "parametrized": Case(parametrized),
    "safetensors": Case(wide, suffix="safetensors"),
    "nested": Case(lambda: {"model": {"state_dict": wide()}, "epoch": 3}),
    "side by side": Case(
        lambda: {"encoder": wide(""), "decoder": wide("", seed=1), "step": torch.tensor(3)},
    ),
    "side by side, unequal": Case(
        lambda: {"encoder": wide("", num_layers=2), "decoder": wide("", num_layers=2), "step": torch.tensor(3)},
        "CompactLSTM",
        settings=UNEQUAL,
    ),
    "a linear layer beside": Case(lambda: wide() | named(nn.Linear(6, 2), "head.")),
}
GRANULARITIES = ("rows", "units")
EACH = pytest.mark.parametrize(
    ("granularity", "case"), [(granularity, case) for case in CASES for granularity in GRANULARITIES]
)


LOADER = """
import importlib.util, runpy, sys
from pathlib import Path
import torch

torch.set_num_threads(1)
assert importlib.util.find_spec("pruner") is None
root = Path(sys.argv[1])
inputs = torch.load(root / "inputs.pt")
found = {}
for folder in root.glob("*/export"):
    load_lstms = runpy.run_path(folder / "load_pruned.py")["load_lstms"]
    for batch_first in (False, True):
        for name, module in load_lstms(folder, batch_first=batch_first).items():
            assert not module.training
            dtype = next(module.parameters()).dtype
            wide = torch.float64 if dtype == torch.float64 else torch.float32
            cell = "Cell" in type(module).__name__
            with torch.inference_mode():
                output = module.to(wide)((inputs[:, 0] if cell else inputs).to(wide))
            found[folder.parent.name, batch_first, name] = type(module).__name__, dtype, output
torch.save(found, root / "found.pt")
"""


@dataclass(frozen=True)
class Loaded:
    root: Path
    checkpoints: dict[str, Checkpoint]
    masks: dict[str, dict[str, Tensor]]
    found: dict[tuple[str, bool, str], Any]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """A compact export of every case, and what its `load_pruned.py` gives in a Python that cannot import this project."""
    root = tmp_path_factory.mktemp("exports")
    torch.save(INPUTS, root / "inputs.pt")
    checkpoints, masks = {}, {}
    for name, case in CASES.items():
        for granularity in GRANULARITIES:
            key = f"{granularity} {name}"
            (root / key).mkdir()
            checkpoints[key] = saved_in(root / key, case.container(), case.suffix)
            result = run(checkpoints[key], Recipe(0.5, granularity, **(case.settings or {})))
            masks[key] = result.masks
            result.save(root / key / "export", "compact")
    subprocess.run([sys.executable, "-I", "-c", LOADER, str(root)], check=True)
    return Loaded(root, checkpoints, masks, torch.load(root / "found.pt"))


def masked_twin(lstm: LSTM, tensors: dict[str, Tensor], masks: dict[str, Tensor], batch_first: bool) -> nn.Module:
    """PyTorch's own module, with zeros where the masks say, in the precision that the LSTM is computed in."""
    dtype = torch.float64 if lstm.dtype == "float64" else torch.float32
    if lstm.kind == "LSTMCell":
        module: nn.Module = nn.LSTMCell(lstm.input_size, lstm.hidden_size, bias=lstm.bias, dtype=dtype)
    else:
        settings = {name: getattr(lstm, name) for name in ("num_layers", "bidirectional", "proj_size", "bias")}
        module = nn.LSTM(lstm.input_size, lstm.hidden_size, batch_first=batch_first, dtype=dtype, **settings)
    state = {}
    for standard, name in lstm.tensors.items():
        state[standard] = tensors[name].to(dtype)
        if name in masks:
            state[standard] = state[standard] * masks[name].to(dtype).reshape(-1, *[1] * (state[standard].dim() - 1))
    module.load_state_dict(state)
    return module


@pytest.mark.parametrize("batch_first", [False, True], ids=["time first", "batch first"])
@EACH
def test_the_loader_alone_gives_the_masked_outputs(
    loaded: Loaded, granularity: str, case: str, batch_first: bool
) -> None:
    key = f"{granularity} {case}"
    checkpoint = loaded.checkpoints[key]
    names = {name for found, first, name in loaded.found if (found, first) == (key, batch_first)}
    assert names == {lstm.name for lstm in checkpoint.lstms} != set()
    for lstm in checkpoint.lstms:
        kind, dtype, output = loaded.found[key, batch_first, lstm.name]
        assert kind == ("RowCompact" if granularity == "rows" else "Compact") + lstm.kind
        assert str(dtype) == f"torch.{lstm.dtype}"
        twin = masked_twin(lstm, checkpoint.tensors, loaded.masks[key], batch_first)
        inputs = INPUTS.to(next(twin.parameters()).dtype)
        with torch.inference_mode():
            expected = twin(inputs[:, 0] if lstm.kind == "LSTMCell" else inputs)
        torch.testing.assert_close(output, expected, rtol=0, atol=1e-12 if lstm.dtype == "float64" else 1e-6)


@EACH
def test_a_compact_export_passes_with_its_source_and_without(loaded: Loaded, granularity: str, case: str) -> None:
    key = f"{granularity} {case}"
    folder = loaded.root / key / "export"
    assert any("not stored, or read by nothing" in sentence for sentence in verify(folder))
    told = verify(folder, loaded.checkpoints[key])
    assert "the recipe gives the same masks again" in told
    assert any(sentence.startswith("the certificate holds") for sentence in told)


@EACH
def test_the_manifest_says_how_each_lstm_is_stored(loaded: Loaded, granularity: str, case: str) -> None:
    key = f"{granularity} {case}"
    manifest, masks = read_manifest(loaded.root / key / "export"), loaded.masks[key]
    assert manifest["form"] == "compact"
    after = manifest["totals"]
    assert after["macs_per_step"]["after"] < after["macs_per_step"]["before"]
    assert after["parameters"]["after"] < after["parameters"]["before"]
    for entry, lstm in zip(manifest["lstms"], loaded.checkpoints[key].lstms, strict=True):
        assert entry["stored_as"] == ("RowCompactLSTM" if granularity == "rows" else CASES[case].stored_as)
        assert (entry["name"], entry["source_tensors"]) == (lstm.name, lstm.tensors)
        for layer in entry["layers"]:
            place = layer["layer"], int(layer["direction"] == "reverse")
            kept = {side: masks[lstm.weight_names()[*place, side]].reshape(4, -1) for side in ("ih", "hh")}
            assert list(layer["kept_rows"].values()) == [int(rows.sum()) for side in kept for rows in kept[side]]
            units = set(range(6)) if granularity == "rows" else set(kept["ih"][0].nonzero().flatten().tolist())
            assert units <= set(layer["kept_units"])  # more than a projection has rows must stay
            assert len(layer["kept_units"]) == max(len(units), lstm.proj_size + 1) == layer["hidden_size"]["after"]


@EACH
def test_an_export_opens_again_as_the_masked_checkpoint(loaded: Loaded, granularity: str, case: str) -> None:
    key = f"{granularity} {case}"
    checkpoint = loaded.checkpoints[key]
    opened = read_export(loaded.root / key / "export")
    for lstm in checkpoint.lstms:
        expected = masked_twin(lstm, checkpoint.tensors, loaded.masks[key], True)
        if lstm.kind == "LSTMCell":
            expected = build(lstm, {name: dict(expected.state_dict())[key] for key, name in lstm.tensors.items()})
        inputs = random_input(lstm)
        for module in (opened.modules[lstm.name], build(lstm, opened.masked.tensors)):
            moved = difference(outputs(expected.double(), inputs), outputs(module.double(), inputs))
            assert moved.max_abs_difference <= 1e-12


@pytest.mark.parametrize("case", ["pruned before", "parametrized", "unequal, pruned before"])
def test_masks_left_in_the_source_shrink_with_their_tensors(loaded: Loaded, case: str) -> None:
    """What a tool left beside a tensor must fit it, or the file would not load where the source does."""
    stored = torch.load(loaded.root / f"units {case}" / "export" / "pruned.pt")
    left = {name.removesuffix("_mask"): mask for name, mask in stored.items() if name.endswith("_mask")}
    for name, mask in left.items():
        assert mask.shape == stored[f"{name}_orig"].shape and mask.all()
    if case == "parametrized":
        inside = "rnn.parametrizations.weight_hh_l0."
        assert stored[f"{inside}original"].shape == (12, 3) and stored[f"{inside}0.mask"].tolist() == [True] * 12
    assert bool(left) == (case == "pruned before")


def test_what_is_no_lstm_stays_bit_for_bit(loaded: Loaded) -> None:
    for granularity in GRANULARITIES:
        root = loaded.root / f"{granularity} a linear layer beside"
        source, stored = torch.load(root / "model.pt"), torch.load(root / "export" / "pruned.pt")
        assert all(torch.equal(stored[name], source[name]) for name in ("head.weight", "head.bias"))
        side = torch.load(loaded.root / f"{granularity} side by side" / "export" / "pruned.pt")
        assert side.keys() == {"encoder", "decoder", "step"} and side["step"] == 3


def test_new_names_that_the_file_has_already_are_refused(tmp_path: Path) -> None:
    tensors = wide("", num_layers=2) | wide("layers.0.lstm.", seed=1)
    checkpoint = saved_in(tmp_path, tensors)
    with pytest.raises(PrunerError, match=r"layers\.0\.lstm\.weight_ih_l0"):
        run(checkpoint, Recipe(0.5, "units", lstms=("",), **UNEQUAL)).save(tmp_path / "export", "compact")


REAL = [entry for entry in real_checkpoints() if entry["expect"].startswith("accept")]


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("entry", REAL or [None], ids=lambda entry: entry["name"] if entry else "absent")
def test_a_real_checkpoint_computes_the_same_when_compact(
    entry: dict[str, Any], checkpoints: Path, tmp_path: Path, granularity: str
) -> None:
    source = open_checkpoint(checkpoints / entry["name"])
    result = run(source, Recipe(0.5, granularity))
    folder = result.save(tmp_path / "export", "compact")
    certificate = read_manifest(folder)["certificate"]
    assert certificate["holds"] and certificate["max_abs_difference"] <= 1e-9 * certificate["max_abs_output"]
    assert verify(folder, source)
    found = runpy.run_path(str(folder / "load_pruned.py"))["load_lstms"](folder, batch_first=True)
    masked = {name: drop_rows(source.tensors[name], mask) for name, mask in result.masks.items()}
    for lstm in source.lstms:
        module, inputs = found[lstm.name].double(), random_input(lstm, batch_size=2, length=8)
        expected = outputs(build(lstm, {**source.tensors, **masked}).double(), inputs)
        if lstm.kind == "LSTMCell":
            h, c = torch.zeros(2, 2, lstm.hidden_size, dtype=torch.float64)
            steps = []
            with torch.inference_mode():
                for step in inputs.unbind(1):
                    h, c = module(step, (h, c))
                    steps.append(h)
            actual = [torch.stack(steps, 1), h[None], c[None]]
        else:
            actual = list(outputs(module, inputs))
        assert [tensor.shape for tensor in actual] == [tensor.shape for tensor in expected]
        moved = difference(expected, actual)
        assert moved.max_abs_difference <= 1e-12 * moved.max_abs_output
