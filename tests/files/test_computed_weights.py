"""What a model computes with where its file holds parts, masks or copies: computed exactly, told, or declined by name."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.ao.pruning._experimental.pruner.lstm_saliency_pruner import LSTMSaliencyPruner
from torch.nn import utils
from torch.nn.utils import parametrizations, parametrize, prune

from pruner import Recipe, run
from pruner.exports.verify import verify
from pruner.files.checkpoint import Checkpoint
from pruner.files.opening import open_checkpoint
from pruner.files.writing import write
from pruner.lstm.module import build
from tests.helpers.containers import prune_norms
from tests.helpers.files import saved
from tests.helpers.models import named, random_lstm

STATE = named(random_lstm(), "rnn.")
NAME = "rnn.weight_hh_l0"
X = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(1))


def opened(state: dict[str, Tensor]) -> Checkpoint:
    return open_checkpoint(saved(state), "model.pt")


class RowMask(nn.Module):
    """A parametrization that keeps its mask of rows in the state dict."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.arange(16) % 3 > 0)

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.mask[:, None]


def prune_norms_for_good(model: nn.ModuleDict) -> None:
    prune_norms(model)
    for name in ("weight_hh_l0", "weight_ih_l0", "bias_ih_l0"):
        prune.remove(model["rnn"], name)


def prune_rows(model: nn.ModuleDict) -> LSTMSaliencyPruner:
    pruner = LSTMSaliencyPruner({"sparsity_level": 0.5})
    pruner.prepare(model, [{"tensor_fqn": f"rnn.{name}"} for name in ("weight_ih_l0", "weight_hh_l0")])
    pruner.enable_mask_update = True
    pruner.step()
    return pruner


def prune_rows_for_good(model: nn.ModuleDict) -> None:
    prune_rows(model).squash_mask()


def mask_rows(model: nn.ModuleDict) -> None:
    parametrize.register_parametrization(model["rnn"], "weight_hh_l0", RowMask())


@pytest.mark.parametrize("leave", [prune_norms, prune_norms_for_good, prune_rows_for_good, mask_rows])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_what_other_pruning_tools_leave_is_read_as_the_model_computes_it(
    leave: Callable[[nn.ModuleDict], None], dtype: torch.dtype
) -> None:
    model = nn.ModuleDict({"rnn": random_lstm(dtype=dtype)})
    leave(model)
    checkpoint = open_checkpoint(saved(model.state_dict()))
    (lstm,) = checkpoint.lstms
    assert (lstm.name, lstm.dtype) == ("rnn", str(dtype).removeprefix("torch."))
    assert checkpoint.skipped == []
    for standard, name in lstm.tensors.items():
        assert torch.equal(checkpoint.tensors[name], getattr(model["rnn"], standard)), name
        assert name in model.state_dict()
    assert not checkpoint.tensors[lstm.tensors["weight_hh_l0"]].all()


def test_masks_that_upstream_keeps_to_itself_are_not_made_up() -> None:
    model = nn.ModuleDict({"rnn": random_lstm()})
    prune_rows(model)
    checkpoint = open_checkpoint(saved(model.state_dict()))
    (lstm,) = checkpoint.lstms
    assert lstm.tensors["weight_hh_l0"] == "rnn.parametrizations.weight_hh_l0.original"
    assert torch.equal(checkpoint.tensors[lstm.tensors["weight_hh_l0"]], random_lstm().weight_hh_l0)


def test_a_masked_weight_keeps_its_dtype_whatever_that_of_the_mask() -> None:
    weights = {f"{NAME}_orig": STATE[NAME].half(), f"{NAME}_mask": torch.ones(16, 4)}
    assert open_checkpoint(saved(weights)).tensors[f"{NAME}_orig"].dtype == torch.float16


@pytest.mark.parametrize("mask", [torch.ones(15, 4), torch.ones(4), torch.tensor(1.0)], ids=["2-d", "1-d", "0-d"])
def test_a_mask_that_does_not_fit_its_weight_is_not_applied(mask: Tensor) -> None:
    weights = {
        "rnn.weight_hh_l0_orig": STATE[NAME],
        "rnn.weight_hh_l0_mask": mask,
        "rnn.weight_ih_l0": torch.ones(16, 3),
    }
    checkpoint = open_checkpoint(saved(weights))
    assert checkpoint.lstms == []
    assert "expected a recurrent weight_hh" in checkpoint.skipped[0].reason


def test_masks_that_pruning_left_are_written_into_the_weights(tmp_path: Path) -> None:
    model = nn.ModuleDict({"rnn": random_lstm()})
    prune_norms(model)
    state = model.state_dict()
    write(open_checkpoint(saved(state)), {}, tmp_path / "model.pt")
    written = torch.load(tmp_path / "model.pt", weights_only=True)
    assert list(written) == list(state)
    for name, tensor in state.items():
        expected = getattr(model["rnn"], name.split(".")[1].removesuffix("_orig")) if name.endswith("_orig") else tensor
        assert torch.equal(written[name], expected), name


class Model(nn.Module):
    """An LSTM and what reads it."""

    def __init__(self, hidden_size: int = 4) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rnn = nn.LSTM(3, hidden_size, batch_first=True)
        self.fc = nn.Linear(hidden_size, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.fc(self.rnn(inputs)[0])


def old_weight_norm(model: Model) -> None:
    for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0"):
        utils.weight_norm(model.rnn, name)
    utils.weight_norm(model.rnn, "bias_hh_l0", dim=None)


def old_weight_norm_of_columns(model: Model) -> None:
    utils.weight_norm(model.rnn, "weight_hh_l0", dim=1)


def new_weight_norm(model: Model) -> None:
    for name in ("weight_ih_l0", "weight_hh_l0"):
        parametrizations.weight_norm(model.rnn, name)


def old_spectral_norm(model: Model) -> None:
    utils.spectral_norm(model.rnn, "weight_hh_l0")


def new_spectral_norm(model: Model) -> None:
    parametrizations.spectral_norm(model.rnn, "weight_hh_l0")


NORMS = [old_weight_norm, old_weight_norm_of_columns, new_weight_norm, old_spectral_norm, new_spectral_norm]


def moved(model: Model) -> Model:
    """The model with all its parameters moved, so that lengths and directions no longer say the same."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.rand(parameter.shape, generator=generator)
    return model.eval()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("register", NORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_normalised_weights_are_computed_as_the_model_does(
    register: Callable[[Model], None], dtype: torch.dtype
) -> None:
    model = Model().to(dtype)
    register(model)
    checkpoint = opened(moved(model).state_dict())
    (lstm,) = checkpoint.lstms
    with torch.no_grad():
        expected = model.rnn(X.to(dtype))[0]
    torch.testing.assert_close(build(lstm, checkpoint.tensors)(X.to(dtype))[0], expected, atol=1e-6, rtol=0)
    assert lstm.tensors["weight_hh_l0"] == NAME
    assert not any("_v" in name or "original" in name for name in checkpoint.tensors)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("register", NORMS)
@pytest.mark.parametrize("granularity", ["rows", "units"])
def test_exports_hold_the_weight_itself_and_say_what_to_remove(
    register: Callable[[Model], None], granularity: str, tmp_path: Path
) -> None:
    model = Model()
    register(model)
    source = tmp_path / "model.pt"
    source.write_bytes(saved(moved(model).state_dict()))
    result = run(
        open_checkpoint(source),
        Recipe(0.5, granularity=granularity, consumers=("fc.weight",) if granularity == "units" else ()),
    )
    folder = result.save(tmp_path / "out")
    verify(folder, open_checkpoint(source))
    plain = Model(2 if granularity == "units" else 4)
    plain.load_state_dict(torch.load(folder / "pruned.pt", weights_only=True))
    notes = json.loads((folder / "manifest.json").read_text())["notes"]
    assert any(note.startswith(f"{NAME} is written as the model computes it, in place of rnn.") for note in notes)
    assert any("remove_" in note and "'weight_hh_l0')" in note for note in notes)


@pytest.mark.filterwarnings("ignore")
def test_parts_of_what_did_not_change_stay_as_they_are(tmp_path: Path) -> None:
    model = Model()
    utils.weight_norm(model.fc)
    state = moved(model).state_dict()
    model(X)
    checkpoint = opened(state)
    assert torch.allclose(checkpoint.tensors["fc.weight"], model.fc.weight)
    write(checkpoint, {NAME: torch.zeros(16, 4)}, tmp_path / "model.pt")
    written = torch.load(tmp_path / "model.pt", weights_only=True)
    assert list(written) == list(state)
    assert torch.equal(written["fc.weight_v"], state["fc.weight_v"])
    assert open_checkpoint(tmp_path / "model.pt").locations == checkpoint.locations


def test_a_half_precision_weight_keeps_its_dtype() -> None:
    state = named(random_lstm(dtype=torch.float16), "rnn.")
    state["rnn.weight_hh_l0_v"] = state.pop(NAME)
    state["rnn.weight_hh_l0_g"] = torch.ones(16, 1, dtype=torch.float16)
    checkpoint = opened(state)
    assert checkpoint.lstms[0].dtype == "float16"
    torch.testing.assert_close(checkpoint.tensors[NAME].float().norm(dim=1), torch.ones(16), atol=1e-3, rtol=0)


class Dropped(nn.Module):
    """Weight drop: every forward copies the raw weight over the LSTM's own."""

    def __init__(self, hidden_size: int = 4) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.module = nn.LSTM(3, hidden_size, batch_first=True)
        self.weight_hh_l0_raw = nn.Parameter(torch.randn(4 * hidden_size, hidden_size))

    def forward(self, inputs: Tensor) -> Tensor:
        with torch.no_grad():
            self.module.weight_hh_l0.copy_(self.weight_hh_l0_raw)
        return self.module(inputs)[0]


@pytest.mark.parametrize("granularity", ["rows", "units"])
def test_weight_drop_computes_with_the_raw_weight_before_and_after_pruning(granularity: str, tmp_path: Path) -> None:
    model = Dropped().eval()
    source = tmp_path / "model.pt"
    source.write_bytes(saved(model.state_dict()))
    checkpoint = open_checkpoint(source)
    (lstm,) = checkpoint.lstms
    assert (lstm.name, lstm.tensors["weight_hh_l0"]) == ("module", "weight_hh_l0_raw")
    assert "which the model copies over it at every forward" in checkpoint.notes[0]
    torch.testing.assert_close(build(lstm, checkpoint.tensors)(X)[0], model(X))
    result = run(checkpoint, Recipe(0.5, granularity=granularity))
    folder = result.save(tmp_path / "out")
    verify(folder, open_checkpoint(source))
    state = torch.load(folder / "pruned.pt", weights_only=True)
    assert torch.equal(state["module.weight_hh_l0"], state["weight_hh_l0_raw"])
    pruned = Dropped(2 if granularity == "units" else 4)
    pruned.load_state_dict(state)
    assert bool((pruned.weight_hh_l0_raw == 0).all(1).any()) == (granularity == "rows")


@pytest.mark.parametrize("prefix", ["rnn.", "rnn.module."])
def test_a_raw_weight_in_the_lstm_itself_is_its_weight(prefix: str) -> None:
    state = {
        f"{prefix}{name}{'_raw' if name == 'weight_hh_l0' else ''}": tensor
        for name, tensor in random_lstm().state_dict().items()
    }
    checkpoint = opened(state)
    assert checkpoint.lstms[0].tensors["weight_hh_l0"] == f"{prefix}weight_hh_l0_raw"
    assert checkpoint.copies == {}


def test_a_raw_weight_around_several_lstms_is_not_guessed() -> None:
    state = {**named(random_lstm(), "wrap.a."), **named(random_lstm(), "wrap.b."), "wrap.weight_hh_l0_raw": STATE[NAME]}
    assert any("the file does not say which" in skipped.reason for skipped in opened(state).skipped)


@pytest.mark.parametrize("granularity", ["rows", "units"])
def test_a_mask_of_the_models_own_is_multiplied_in(granularity: str, tmp_path: Path) -> None:
    mask = (torch.arange(64).reshape(16, 4) % 3 > 0).float()
    source = tmp_path / "model.pt"
    source.write_bytes(saved({**STATE, f"{NAME}_mask": mask}))
    checkpoint = open_checkpoint(source)
    assert torch.equal(checkpoint.tensors[NAME], STATE[NAME] * mask)
    folder = run(checkpoint, Recipe(0.5, granularity=granularity)).save(tmp_path / "out")
    verify(folder, open_checkpoint(source))
    written = torch.load(folder / "pruned.pt", weights_only=True)
    assert written[f"{NAME}_mask"].shape == written[NAME].shape
    assert torch.equal(open_checkpoint(folder / "pruned.pt").tensors[NAME], written[NAME])


DECLINED: dict[str, tuple[dict[str, Tensor], str]] = {
    "layer normalisation": (
        {f"rnn.ln_{part}.{kind}": torch.ones(16) for part in ("ih", "hh") for kind in ("weight", "bias")},
        "found layer normalisation: rnn.ln_hh.bias, rnn.ln_hh.weight, rnn.ln_ih.bias, rnn.ln_ih.weight",
    ),
    "that of PyTorch's benchmarks": (
        {"rnn.layernorm_i.weight": torch.ones(16)},
        "layer normalisation: rnn.layernorm_i.weight",
    ),
    "peepholes": ({"rnn.weight_ch_l0": torch.ones(12)}, "found peephole weights: rnn.weight_ch_l0"),
    "something else": (
        {f"rnn.attention.{index}": torch.ones(1) for index in range(6)},
        "in the computation is unknown: rnn.attention.0, rnn.attention.1, rnn.attention.2, rnn.attention.3 and 2 more",
    ),
    "half of a norm": ({"rnn.weight_hh_l0_u": torch.ones(16)}, "unknown: rnn.weight_hh_l0_u"),
    "a mask that does not fit": ({"rnn.bias_hh_l0_mask": torch.ones(3)}, "unknown: rnn.bias_hh_l0_mask"),
    "a reconstruction of this project": ({"rnn.kept_0": torch.ones(3)}, "but not as it writes them): rnn.kept_0"),
}


@pytest.mark.parametrize("case", DECLINED)
def test_other_tensors_under_an_lstms_name_decline_it(case: str) -> None:
    more, reason = DECLINED[case]
    checkpoint = opened({**STATE, **more, "fc.weight": torch.ones(2, 4)})
    assert checkpoint.lstms == []
    (skipped,) = checkpoint.skipped
    assert (skipped.name, reason in skipped.reason) == ("rnn", True), skipped.reason


def test_at_the_root_only_parts_of_an_lstm_decline_it() -> None:
    root = named(random_lstm())
    assert [lstm.name for lstm in opened({**root, "fc.weight": torch.ones(2, 4), "scale": torch.ones(1)}).lstms] == [""]
    for part in ("weight_ch", "ln_ih.weight", "layer_norm.bias"):
        assert opened({**root, part: torch.ones(4)}).lstms == [], part


def test_a_parametrization_that_the_file_does_not_describe_is_told() -> None:
    model = nn.ModuleDict({"rnn": random_lstm()})
    parametrizations.orthogonal(model["rnn"], "weight_hh_l0")
    checkpoint = opened(model.state_dict())
    assert checkpoint.lstms == []
    assert any("remove_parametrizations(model.rnn, 'weight_hh_l0')" in other.reason for other in checkpoint.skipped)
    alone = {**STATE, "rnn.parametrizations.weight_hh_l0.original": STATE[NAME]}
    del alone[NAME]
    assert "is stored before a parametrization that the file does not describe" in opened(alone).notes[0]


@pytest.mark.parametrize(
    "odd", ["_g", "_v", "_u", "_orig", "_raw", "_mask", "x_g", ".weight_hh_l0_raw", "weight_hh_l0_raw"]
)
def test_names_with_nothing_but_an_ending_do_no_harm(odd: str) -> None:
    for more in ({}, {"_v": torch.ones(3, 3)}):
        assert odd in opened({odd: torch.ones(3, 3), **more}).tensors or odd == "_g"


def test_weights_that_only_look_like_parts_are_left_alone() -> None:
    state: dict[str, Any] = {
        "a_g": torch.ones(2, 1),
        "a_v": torch.ones(3, 3),
        "b_orig": torch.ones(2),
        "b_u": torch.ones(2),
    }
    state |= {
        "b_v": torch.ones(5),
        "c_g": torch.ones(3, 1, dtype=torch.int64),
        "c_v": torch.ones(3, 3, dtype=torch.int64),
    }
    assert opened(state).tensors.keys() == state.keys()
