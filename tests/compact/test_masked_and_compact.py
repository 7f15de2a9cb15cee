"""Compact exports: they compute what the masks say wherever they are loaded, and tell when they were tampered with."""

import json
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from pruner import Checkpoint, PrunerError, Recipe, open_checkpoint, run
from pruner.exports import export
from pruner.exports.export import pack
from pruner.exports.verify import read_export, verify
from pruner.files.consumers import consumers_of, suggestions
from pruner.importance.masks import drop_rows
from pruner.lstm.lstm import LSTM
from pruner.lstm.measure import difference, outputs, random_input
from pruner.lstm.module import build
from pruner.result import forms_of
from tests.helpers.allocations import Allocations
from tests.helpers.exports import HOSTILE, edit_manifest, paths, read_manifest, rehash, write_manifest
from tests.helpers.files import saved_in
from tests.helpers.models import named, random_lstm
from tests.helpers.real_files import real_checkpoints

Edit = Callable[[dict[str, Tensor]], Any]


@dataclass(frozen=True)
class Case:
    """A checkpoint to be made, and how its compact export lies in its file."""

    container: Callable[[], Any]
    stored_as: str = "LSTM"  # with granularity units; rows are always a RowCompactLSTM
    suffix: str = "pt"
    settings: dict[str, Any] | None = None


def wide(prefix: str = "rnn.", **settings: Any) -> dict[str, Tensor]:
    return named(random_lstm(hidden_size=6, **settings), prefix)


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


# ------------------------------------------------------------------------------ what an export computes

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
INPUTS = torch.randn(5, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


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


# ------------------------------------------------------------------------------ into the user's own classes


class Tagger(nn.Module):
    """What a user's own model looks like."""

    def __init__(self, hidden_size: int, **settings: Any) -> None:
        super().__init__()
        self.rnn = nn.LSTM(3, hidden_size, batch_first=True, **settings)
        self.width = hidden_size * (2 if settings.get("bidirectional") else 1)
        self.head = nn.Linear(self.width, 5)
        self.conv = nn.Conv1d(self.width, 2, 3)

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        output, _ = self.rnn(inputs)
        return self.head(output), self.conv(output.transpose(1, 2))


SHAPES = [{}, {"num_layers": 2}, {"bidirectional": True}, {"num_layers": 2, "bidirectional": True, "bias": False}]
FOLDED = ("head.weight", "conv.weight")


@pytest.mark.parametrize("criterion", ["l1", "group"])
@pytest.mark.parametrize("settings", SHAPES, ids=str)
def test_a_whole_model_with_its_consumers_loads_into_its_own_class(
    tmp_path: Path, settings: dict[str, Any], criterion: str
) -> None:
    torch.manual_seed(0)
    model = Tagger(8, **settings).double()
    checkpoint = saved_in(tmp_path, model.state_dict())
    recipe = Recipe(0.3, "units", criterion, round_to=3, consumers=FOLDED)
    result = run(checkpoint, recipe)
    folder = result.save(tmp_path / "export")
    assert verify(folder) and verify(folder, checkpoint)
    small = Tagger(6, **settings).double()
    small.load_state_dict(torch.load(folder / "pruned.pt"), strict=True)
    model.load_state_dict({**checkpoint.tensors, **result.forms["masked"].changed})
    with torch.inference_mode():
        for found, expected in zip(small(INPUTS), model(INPUTS), strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    stored = read_export(folder).masked
    model.load_state_dict(stored.tensors)
    with torch.inference_mode():
        for found, expected in zip(model(INPUTS), small(INPUTS), strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("settings", [*SHAPES, {"proj_size": 2}], ids=str)
def test_equal_sizes_load_into_an_lstm_of_the_smaller_size(tmp_path: Path, settings: dict[str, Any]) -> None:
    checkpoint = saved_in(tmp_path, wide("", **settings))
    folder = run(checkpoint, Recipe(0.5, "units")).save(tmp_path / "export")
    small = nn.LSTM(3, 3, batch_first=True, **settings)
    small.load_state_dict(torch.load(folder / "pruned.pt"), strict=True)
    (entry,) = read_manifest(folder)["lstms"]
    own = entry["layers"][-1 - small.bidirectional :]
    columns = [side * 6 + unit for side, layer in enumerate(own) for unit in layer["kept_units"]]
    full = runpy.run_path(str(folder / "load_pruned.py"))["load_lstms"](folder, batch_first=True)[""]
    with torch.inference_mode():
        output, _ = full(INPUTS.float())
        expected = output if "proj_size" in settings else output[..., columns]
        torch.testing.assert_close(small(INPUTS.float())[0], expected, rtol=0, atol=1e-6)
    dropped = [column for column in range(output.shape[-1]) if column not in columns]
    assert "proj_size" in settings or (dropped and not output[..., dropped].any())


def test_unequal_sizes_and_consumers_are_refused(tmp_path: Path) -> None:
    checkpoint = saved_in(tmp_path, Tagger(8, num_layers=2).state_dict())
    recipe = Recipe(0.5, "units", layer_sparsity={0: 0.25}, consumers=FOLDED)
    with pytest.raises(PrunerError, match=r"as many units in every layer of rnn to fold its consumers, found 6, 4"):
        run(checkpoint, recipe)


def test_consumers_go_in_the_compact_form_alone(tmp_path: Path) -> None:
    checkpoint = saved_in(tmp_path, Tagger(8).state_dict())
    result = run(checkpoint, Recipe(0.5, "units", consumers=FOLDED))
    assert not set(FOLDED) & result.forms["masked"].changed.keys()
    assert result.forms["compact"].changed["head.weight"].shape == (5, 4)
    assert result.forms["compact"].changed["conv.weight"].shape == (2, 4, 3)
    folder = result.save(tmp_path / "export", "masked")
    assert verify(folder, checkpoint)
    assert read_manifest(folder)["lstms"][0]["consumers"] == []


def test_a_mask_left_beside_a_consumer_shrinks_with_it(tmp_path: Path) -> None:
    model = Tagger(8)
    prune.random_unstructured(model.head, "weight", 0.5)
    checkpoint = saved_in(tmp_path, model.state_dict())
    folder = run(checkpoint, Recipe(0.5, "units", consumers=("head.weight_orig",))).save(tmp_path / "export")
    assert verify(folder, checkpoint)
    stored = torch.load(folder / "pruned.pt")
    assert stored["head.weight_mask"].shape == stored["head.weight_orig"].shape == (5, 4)


TWO = named(random_lstm(), "one.") | named(random_lstm(seed=1), "two.")
NO_CONSUMERS: dict[str, tuple[dict[str, Tensor], str, str]] = {
    "missing": (TWO, "head.weight", "found 'head.weight', which is not there"),
    "of an LSTM": (TWO, "one.weight_hh_l0", r"a consumer outside of the LSTMs, found 'one.weight_hh_l0' of one"),
    "too narrow": (wide() | {"head": torch.zeros(2, 5)}, "head", r"\(6 of rnn\), found 'head' of shape \(2, 5\)"),
    "turned around": (wide() | {"head": torch.zeros(6, 2)}, "head", r"\(6 of rnn\), found 'head' of shape \(6, 2\)"),
    "one direction": (
        wide(bidirectional=True) | {"head": torch.zeros(2, 6)},
        "head",
        r"\(12 of rnn\), found 'head' of shape \(2, 6\)",
    ),
    "a vector": (wide() | {"head": torch.zeros(6)}, "head", r"found 'head' of shape \(6,\)"),
    "a number": (wide() | {"head": torch.tensor(6.0)}, "head", r"found 'head' of shape \(\)"),
    "of a projection": (wide(proj_size=2) | {"head": torch.zeros(3, 2)}, "head", "there is none"),
    "of integers": (wide() | {"head": torch.zeros(2, 6, dtype=torch.int64)}, "head", "found 'head'"),
    "fits two": (TWO | {"head": torch.zeros(2, 4)}, "head", "fits one LSTM, found 'head', which fits one and two"),
}


@pytest.mark.parametrize(("tensors", "name", "message"), NO_CONSUMERS.values(), ids=NO_CONSUMERS)
def test_a_consumer_that_is_none_is_refused(
    tmp_path: Path, tensors: dict[str, Tensor], name: str, message: str
) -> None:
    checkpoint = saved_in(tmp_path, tensors)
    assert name not in suggestions(checkpoint, checkpoint.lstms) or "fits" in message
    for criterion in ("l1", "group"):
        with pytest.raises(PrunerError, match=message):
            run(checkpoint, Recipe(0.5, "units", criterion, consumers=(name,)))


def test_consumers_belong_to_the_lstm_that_they_fit(tmp_path: Path) -> None:
    tensors = wide("one.") | named(random_lstm(seed=1), "two.") | {"b": torch.zeros(2, 4), "a": torch.zeros(2, 6)}
    checkpoint = saved_in(tmp_path, tensors | {"other": torch.zeros(2, 7), "head": torch.zeros(1, 6, 3)})
    found = consumers_of(checkpoint, Recipe(0.5, "units", consumers=("a", "b", "head", "a")))
    assert found == {"one": ["a", "head"], "two": ["b"]}
    assert suggestions(checkpoint, checkpoint.lstms) == ["a", "b", "head"]
    assert suggestions(checkpoint, checkpoint.lstms[1:]) == ["b"]
    with pytest.raises(PrunerError, match="found 'b'"):
        consumers_of(checkpoint, Recipe(0.5, "units", lstms=("one",), consumers=("b",)))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_consumer_that_is_not_finite_has_no_rank(tmp_path: Path, value: float) -> None:
    checkpoint = saved_in(tmp_path, wide() | {"head": torch.full((2, 6), value)})
    with pytest.raises(PrunerError, match="finite"):
        run(checkpoint, Recipe(0.5, "units", "group", consumers=("head",)))
    assert run(checkpoint, Recipe(0.5, "units", consumers=("head",)))


# ------------------------------------------------------------------------------ real checkpoints

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


# ------------------------------------------------------------------------------ tampering

FORMS = {
    "smaller": (lambda: Tagger(8, num_layers=2).state_dict(), Recipe(0.5, "units", consumers=FOLDED)),
    "unequal": (lambda: Tagger(8, num_layers=2).state_dict(), Recipe(0.5, "units", layer_sparsity={1: 0.25})),
    "rows": (lambda: Tagger(8, num_layers=2).state_dict(), Recipe(0.5, "rows")),
}
FIRST = {
    "smaller": "rnn.weight_ih_l0",
    "unequal": "rnn.layers.0.lstm.weight_ih_l0",
    "rows": "rnn.layers.0.weight_ih_rows",
}
SECOND = {
    "smaller": "rnn.weight_ih_l1",
    "unequal": "rnn.layers.1.lstm.weight_ih_l0",
    "rows": "rnn.layers.1.weight_ih_rows",
}


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("originals")
    for name, (make, recipe) in FORMS.items():
        (root / name).mkdir()
        torch.manual_seed(0)
        run(saved_in(root / name, make()), recipe).save(root / name / "export", "compact")
    return root


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def source(originals: Path, form: str) -> Checkpoint:
    return open_checkpoint(originals / form / "model.pt")


@pytest.fixture
def folder(originals: Path, form: str, tmp_path: Path) -> Path:
    """A copy of a compact export, to tamper with."""
    return Path(shutil.copytree(originals / form / "export", tmp_path / "export"))


def edit_model(folder: Path, edit: Edit) -> None:
    tensors = torch.load(folder / "pruned.pt")
    edit(tensors)
    torch.save(tensors, folder / "pruned.pt")
    rehash(folder)
    edit_manifest(folder, ("totals", "bytes", "after"), (folder / "pruned.pt").stat().st_size)


def edit_masks(folder: Path, edit: Edit) -> None:
    masks = safetensors.torch.load_file(folder / "masks.safetensors")
    edit(masks)
    safetensors.torch.save_file(masks, folder / "masks.safetensors")
    rehash(folder)


def told(folder: Path, source: Checkpoint | None = None, message: str = "not the export it claims to be") -> None:
    """Verification fails, alone and against the source, and so does opening the export."""
    for check in (
        (lambda: verify(folder, source), lambda: read_export(folder))
        if source is None
        else [lambda: verify(folder, source)]
    ):
        with pytest.raises(PrunerError, match=message):
            check()


def test_a_weight_that_is_not_the_sources_is_told(folder: Path, source: Checkpoint, form: str) -> None:
    edit_model(folder, lambda tensors: tensors[SECOND[form]][0, 0].mul_(1 + 1e-4))
    told(folder, source, r"own values in ")


@pytest.mark.parametrize("value", [50.0, torch.nan, torch.inf])
def test_weights_of_another_scale_are_told_without_the_source(folder: Path, form: str, value: float) -> None:
    edit_model(folder, lambda tensors: tensors[FIRST[form]][:].fill_(value))
    told(folder, None, "certificate")


def test_a_bias_that_is_not_the_sources_is_told(folder: Path, source: Checkpoint, form: str) -> None:
    name = {"smaller": "rnn.bias_ih_l0", "unequal": "rnn.layers.0.lstm.bias_ih_l0", "rows": "rnn.layers.0.ih_bias"}
    edit_model(folder, lambda tensors: tensors[name[form]][0].add_(1e-4))
    told(folder, source, f"own values in {name[form]}")


def test_a_folded_consumer_that_is_not_the_sources_is_told(originals: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(originals / "smaller" / "export", tmp_path / "export"))
    edit_model(folder, lambda tensors: tensors["head.weight"].neg_())
    told(folder, open_checkpoint(originals / "smaller" / "model.pt"), "own values in head.weight")


@pytest.mark.parametrize("columns", [3, 5, 8])
def test_a_consumer_of_another_width_is_told(originals: Path, tmp_path: Path, columns: int) -> None:
    folder = Path(shutil.copytree(originals / "smaller" / "export", tmp_path / "export"))
    edit_model(folder, lambda tensors: tensors.update({"head.weight": torch.zeros(5, columns)}))
    told(folder, None, "4 columns in 'head.weight'")


INDICES: dict[str, Callable[[Tensor], Tensor]] = {
    "another": lambda kept: torch.cat([kept[:-1], kept[-1:] - 1 if kept[-1] - kept[-2] > 1 else 31 - kept[-1:]]),
    "one less": lambda kept: kept[:-1].clone(),
    "twice": lambda kept: torch.cat([kept[:-1], kept[-2:-1]]),
    "backwards": lambda kept: kept.flip(0),
    "negative": lambda kept: -1 - kept,
    "too large": lambda kept: kept + 1000,
    "huge": lambda kept: kept + 2**62,
    "none": lambda kept: kept[:0].clone(),
    "of another type": lambda kept: kept.to(torch.int32),
    "floats": lambda kept: kept.float(),
    "of two dimensions": lambda kept: kept[None].clone(),
    "a number": lambda kept: kept[0].clone(),
}


@pytest.mark.parametrize("form", ["unequal", "rows"], indirect=True)
@pytest.mark.parametrize("edit", INDICES.values(), ids=INDICES)
def test_indices_that_are_not_those_of_the_masks_are_told(folder: Path, form: str, edit: Any) -> None:
    name = "rnn.layers.0.kept" if form == "unequal" else "rnn.layers.1.rows_hh"
    edit_model(folder, lambda tensors: tensors.update({name: edit(tensors[name])}))
    told(folder, None, name.replace(".", r"\."))


@pytest.mark.parametrize(
    "edit",
    [
        lambda tensor: torch.zeros(len(tensor), tensor.shape[1] + 1),
        lambda tensor: torch.zeros(len(tensor) + 4, tensor.shape[1]),
        lambda tensor: tensor[:-4].clone(),
        lambda tensor: tensor[:0].clone(),
        lambda tensor: tensor.flatten(),
        lambda tensor: tensor.double(),
        lambda tensor: tensor.half(),
        lambda tensor: tensor.to(torch.int64),
        lambda tensor: tensor.to(torch.complex64),
    ],
    ids=["wider", "taller", "shorter", "empty", "flat", "float64", "float16", "int64", "complex"],
)
def test_tensors_of_other_shapes_and_types_are_told_before_they_run(folder: Path, form: str, edit: Any) -> None:
    """Unequal layers inside one nn.LSTM can abort the process, so nothing may reach a forward pass."""
    for name in (FIRST[form], SECOND[form]):
        edit_model(folder, lambda tensors, name=name: tensors.update({name: edit(tensors[name])}))
        told(folder)


def test_a_whole_smaller_layer_under_plain_names_is_told(originals: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(originals / "smaller" / "export", tmp_path / "export"))
    layer = {"rnn.weight_ih_l1": (12, 4), "rnn.weight_hh_l1": (12, 3), "rnn.bias_ih_l1": (12,), "rnn.bias_hh_l1": (12,)}
    edit_model(folder, lambda tensors: tensors.update({name: torch.zeros(shape) for name, shape in layer.items()}))
    told(folder, None, r"rnn\.weight_ih_l1")


def test_a_missing_tensor_is_told(folder: Path, form: str) -> None:
    edit_model(folder, lambda tensors: tensors.pop(SECOND[form]))
    told(folder)


LAYER = ("lstms", 0, "layers", 0)
STATEMENTS: list[tuple[tuple[Any, ...], Any]] = [
    (("form",), "masked"),
    (("form",), "dense"),
    (("lstms", 0, "stored_as"), "LSTM "),
    (("lstms", 0, "stored_as"), "LSTM"),
    (("lstms", 0, "stored_as"), "CompactLSTM"),
    (("lstms", 0, "stored_as"), "RowCompactLSTM"),
    (("lstms", 0, "name"), "encoder"),
    (("lstms", 0, "kind"), "LSTMCell"),
    (("lstms", 0, "hidden_size"), 4),
    (("lstms", 0, "hidden_size"), 7),
    (("lstms", 0, "hidden_size"), 9),
    (("lstms", 0, "input_size"), 4),
    (("lstms", 0, "num_layers"), 1),
    (("lstms", 0, "num_layers"), 3),
    (("lstms", 0, "proj_size"), 2),
    (("lstms", 0, "bidirectional"), True),
    (("lstms", 0, "bias"), False),
    (("lstms", 0, "dtype"), "float64"),
    (("lstms", 0, "parameters"), 7),
    (("lstms", 0, "source_tensors", "bias_ih_l0"), "rnn.bias_hh_l0"),
    (("lstms", 0, "source_tensors", "weight_ih_l0"), "head.weight"),
    (("lstms", 0, "tensors"), {}),
    (("lstms", 0, "tensors", "weight_ih_l0"), ["rnn.weight_ih_l1"]),
    (("lstms", 0, "consumers"), ["head.bias"]),
    (("lstms", 0, "consumers"), [["head.weight"]]),
    ((*LAYER, "kept_units"), [0, 1, 2]),
    ((*LAYER, "kept_units"), [4, 5, 6, 7]),
    ((*LAYER, "kept_units"), []),
    ((*LAYER, "kept_rows", "hf"), 1),
    ((*LAYER, "hidden_size", "after"), 3),
    ((*LAYER, "hidden_size", "before"), 9),
    ((*LAYER, "layer"), 1),
    ((*LAYER, "direction"), "reverse"),
    (("totals", "parameters", "after"), 1),
    (("totals", "macs_per_step", "after"), 1),
    (("totals", "zeros", "after"), 1),
    (("certificate", "dtype"), "float32"),
    (("certificate", "max_abs_difference"), 0.5),
    (("certificate", "max_abs_output"), 1e9),
    (("certificate", "in_own_dtype", "dtype"), "float64"),
    (("certificate", "in_own_dtype", "max_abs_difference"), 0.5),
    (("recipe", "granularity"), "columns"),
]


@pytest.mark.parametrize(("path", "value"), STATEMENTS, ids=str)
def test_a_false_statement_about_a_compact_export_is_told(folder: Path, path: tuple[Any, ...], value: Any) -> None:
    before = (folder / "manifest.json").read_text()
    edit_manifest(folder, path, value)
    if json.loads((folder / "manifest.json").read_text()) == json.loads(before):
        return  # it is true of this form
    told(folder, None, "expected")


def test_another_recipe_is_told_with_the_source(folder: Path, source: Checkpoint) -> None:
    edit_manifest(folder, ("recipe", "sparsity"), 0.75)
    told(folder, source, "masks that the recipe gives")


def flipped(mask: Tensor) -> Tensor:
    """The same number of rows or units kept, not the same ones."""
    return mask.reshape(4, -1).flip(1).flatten()


MASKS: dict[str, Callable[[Tensor], Tensor]] = {
    "others kept": flipped,
    "all kept": torch.ones_like,
    "none kept": torch.zeros_like,
    "one more": lambda mask: mask.scatter(0, (mask == 0).nonzero()[0], 1),
    "one less": lambda mask: mask.scatter(0, mask.nonzero()[0], 0),
    "too short": lambda mask: mask[:-4].clone(),
    "too long": lambda mask: torch.cat([mask, mask[:4]]),
}


@pytest.mark.parametrize("edit", MASKS.values(), ids=MASKS)
def test_other_masks_are_told(folder: Path, source: Checkpoint, form: str, edit: Any) -> None:
    original = safetensors.torch.load_file(folder / "masks.safetensors")["rnn.weight_hh_l0"]
    assert not torch.equal(edit(original), original)
    edit_masks(folder, lambda masks: masks.update({"rnn.weight_hh_l0": edit(masks["rnn.weight_hh_l0"])}))
    told(folder)
    told(folder, source)


@pytest.mark.parametrize("edit", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("form", ["smaller", "unequal"], indirect=True)
def test_other_units_in_all_gates_are_told(folder: Path, source: Checkpoint, edit: Any) -> None:
    def edit_layer(masks: dict[str, Tensor]) -> None:
        masks.update({name: edit(mask) for name, mask in masks.items() if name.endswith("_l0")})

    if edit in (MASKS["one more"], MASKS["one less"]):
        return  # no whole units, as the test above has it
    edit_masks(folder, edit_layer)
    told(folder, None, "expected")
    told(folder, source, "expected")


def test_an_lstm_listed_twice_is_told(folder: Path, form: str) -> None:
    manifest = read_manifest(folder)
    manifest["lstms"] *= 2
    manifest["totals"]["macs_per_step"]["after"] *= 2
    write_manifest(folder, manifest)
    told(folder, None, "expected every tensor in one LSTM")


# ------------------------------------------------------------------------------ hostile manifests


HUGE = [
    {"hidden_size": 2**24},
    {"input_size": 2**24},
    {"num_layers": 1000},
    {"num_layers": 2**24},
    {"hidden_size": 2**24, "input_size": 2**24, "num_layers": 1000},
    {"hidden_size": 2**62},
    {"proj_size": 2**24, "hidden_size": 2**24 - 1},
    {"input_size": 10**400},
]


@pytest.mark.parametrize("sizes", HUGE, ids=lambda sizes: str(sizes)[:60])
def test_huge_sizes_in_the_manifest_are_told_at_once(folder: Path, sizes: dict[str, int]) -> None:
    for key, value in sizes.items():
        edit_manifest(folder, ("lstms", 0, key), value)
    with Allocations() as allocations:
        told(folder, None, "expected")
    assert allocations.largest < 2**20


def test_a_huge_input_that_no_stored_row_reads_is_told_at_once(tmp_path: Path) -> None:
    """All rows dropped, so that the file can claim any width: a random input of it would fill the memory."""
    checkpoint = saved_in(tmp_path, named(random_lstm(), "rnn."))
    folder = run(checkpoint, Recipe(1.0)).save(tmp_path / "export", "compact")
    assert verify(folder, checkpoint)
    edit_manifest(folder, ("lstms", 0, "input_size"), 2**24)
    edit_manifest(folder, ("lstms", 0, "parameters"), 16 * (2**24 + 4 + 2))
    edit_model(folder, lambda tensors: tensors.update({"rnn.layers.0.weight_ih_rows": torch.zeros(0, 2**24)}))
    with Allocations() as allocations:
        told(folder, None, "an LSTM of at most")
    assert allocations.largest < 2**20


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda value: repr(value)[:20])
def test_no_value_in_the_manifest_of_a_compact_export_breaks_the_check(tmp_path: Path, hostile: Any) -> None:
    tensors = named(random_lstm(input_size=1, hidden_size=2, num_layers=2, bias=False), "r.")
    checkpoint = saved_in(tmp_path, tensors)
    folder = run(checkpoint, Recipe(0.5, "units", layer_sparsity={0: 0})).save(tmp_path / "export")
    manifest = read_manifest(folder)
    broken = {}
    for path in paths(manifest):
        if path[0] in ("source", "files", "versions"):
            continue  # those of a masked export, in test_verify.py
        write_manifest(folder, manifest)
        edit_manifest(folder, path, hostile)
        try:
            verify(folder)
        except PrunerError:
            continue
        except Exception as error:
            broken[path] = error
    assert not broken


def test_the_zip_of_a_compact_export_passes_too(folder: Path, source: Checkpoint, tmp_path: Path) -> None:
    packed = tmp_path / "export.zip"
    packed.write_bytes(pack(folder))
    assert verify(packed, source) == verify(folder, source)


# ------------------------------------------------------------------------------ all of it or nothing


@pytest.mark.parametrize("factor", [1 + 1e-6, torch.nan], ids=["a little off", "NaN"])
def test_a_compact_model_that_does_not_compute_what_the_masks_say_is_not_exported(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factor: float
) -> None:
    make, recipe = FORMS[form]
    result = run(saved_in(tmp_path, make()), recipe)
    write = export.write

    def wrong(checkpoint: Checkpoint, changed: dict[str, Tensor | None], path: Path) -> None:
        tensor = changed[FIRST[form]]
        assert tensor is not None
        write(checkpoint, {**changed, FIRST[form]: tensor * factor}, path)

    monkeypatch.setattr(export, "write", wrong)
    with pytest.raises(PrunerError, match=r"found a difference of .*nothing was exported"):
        result.save(tmp_path / "export", "compact")
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]


def test_a_compact_model_that_does_not_fit_together_is_not_exported(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, recipe = FORMS[form]
    result = run(saved_in(tmp_path, make()), recipe)
    monkeypatch.setattr(
        export,
        "write",
        lambda checkpoint, changed, path: torch.save(
            {
                **checkpoint.tensors,
                **{name: tensor[1:].clone() for name, tensor in changed.items() if tensor is not None},
            },
            path,
        ),
    )
    with pytest.raises(PrunerError, match="fit together"):
        result.save(tmp_path / "export", "compact")
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]


def test_the_forms_of_a_result_share_nothing_with_its_source(form: str, tmp_path: Path) -> None:
    make, recipe = FORMS[form]
    checkpoint = saved_in(tmp_path, make())
    copies = {name: tensor.clone() for name, tensor in checkpoint.tensors.items()}
    result = run(checkpoint, recipe)
    for name, made in forms_of(checkpoint, recipe, result.masks).items():
        for tensor in made.changed.values():
            if tensor is not None:
                tensor.zero_()
        assert made.name == name
    assert all(torch.equal(checkpoint.tensors[name], copies[name]) for name in copies)
