"""Compact LSTMs that somebody saved are opened as what they compute: the masked LSTM of full size."""

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pruner import PrunerError, Recipe, load_pruned, open_checkpoint, run, save_pruned
from pruner.compact.load_pruned import CompactLSTM, CompactLSTMCell, RowCompactLSTM, RowCompactLSTMCell, load_lstms
from pruner.exports.verify import verify
from pruner.lstm.module import build
from tests.helpers.compensated import calibration
from tests.helpers.exports import read_manifest
from tests.helpers.files import saved, saved_in
from tests.helpers.models import named, random_lstm, random_steps
from tests.helpers.modules import scripted

KEPT = [torch.tensor([0, 2, 5]), torch.tensor([1, 2, 3, 4])]
ROWS = [(torch.arange(7), torch.arange(9)), (torch.arange(7), torch.arange(0))]
SMALL: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "units": (lambda: CompactLSTM(3, 8, KEPT), r"a CompactLSTM of this project, .*\(3, 4 hidden units left of 8\)"),
    "both directions": (lambda: CompactLSTM(3, 8, KEPT, bidirectional=True), r"\(3, 4 hidden units left of 8\)"),
    "projected": (lambda: CompactLSTM(3, 8, KEPT, proj_size=2, bias=False), r"\(3, 4 hidden units left of 8\)"),
    "units of a cell": (lambda: CompactLSTMCell(3, 8, KEPT[:1]), r"\(3 hidden units left of 8\)"),
    "rows": (
        lambda: RowCompactLSTM(3, 8, ROWS),
        r"a RowCompactLSTM of this project, .*\(9, 0 recurrent rows left of 32\)",
    ),
    "rows, projected": (
        lambda: RowCompactLSTM(3, 8, ROWS[:1], proj_size=2, bias=False),
        r"\(9 recurrent rows left of 32\)",
    ),
    "rows of a cell": (lambda: RowCompactLSTMCell(3, 8, ROWS[:1]), r"\(9 recurrent rows left of 32\)"),
}


def small(case: str) -> nn.Module:
    torch.manual_seed(0)
    module = SMALL[case][0]()
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    return module.eval()


def pickled(module: nn.Module) -> bytes:
    file = io.BytesIO()
    torch.save(module, file)
    return file.getvalue()


def as_state_dict(module: nn.Module) -> bytes:
    return saved(module.state_dict())


def computes_the_same(module: nn.Module, wide: nn.Module) -> None:
    inputs = random_steps(2, 5, 3, dtype=torch.float32)
    cell = isinstance(module, CompactLSTMCell | RowCompactLSTMCell)
    found = module(inputs[:, 0])[0] if cell else module(inputs.transpose(0, 1))[0].transpose(0, 1)
    given = wide(inputs[:, :1])[0][:, 0] if cell else wide(inputs)[0]
    torch.testing.assert_close(given, found, rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.jit.script itself is on its way out
@pytest.mark.parametrize("how", [as_state_dict, pickled, scripted])
@pytest.mark.parametrize("case", SMALL)
def test_it_is_opened_at_its_dense_size_and_said_to_be_compact(case: str, how: Callable[[nn.Module], bytes]) -> None:
    checkpoint = open_checkpoint(how(small(case)), "small.pt")
    (lstm,), (note,) = checkpoint.lstms, checkpoint.notes
    assert (lstm.name, lstm.hidden_size, lstm.input_size, checkpoint.skipped) == ("", 8, 3, [])
    assert lstm.kind == ("LSTMCell" if "cell" in case else "LSTM")
    assert re.search(SMALL[case][1], note)
    computes_the_same(small(case), build(lstm, checkpoint.tensors))


def test_what_a_whole_module_says_is_known() -> None:
    module = CompactLSTM(3, 8, KEPT, batch_first=True, on_lost_state="ignore")
    learned = open_checkpoint(pickled(nn.ModuleDict({"rnn": module})), "small.pt").learned["rnn"]
    assert (learned.batch_first, learned.handed_states) == (True, True)


@pytest.mark.parametrize("granularity", ["units", "rows"])
@pytest.mark.parametrize("form", ["masked", "compact"])
@pytest.mark.parametrize("case", SMALL)
def test_it_is_pruned_further_and_no_compact_module_lies_in_another(
    tmp_path: Path, case: str, form: str, granularity: str
) -> None:
    checkpoint = saved_in(tmp_path, {**named(small(case), "rnn."), "head.weight": torch.ones(2, 8)})
    folder = run(checkpoint, Recipe(0.75, granularity)).save(tmp_path / "export", form, batch_first=True)
    assert verify(folder) and verify(folder, checkpoint)
    module = load_lstms(folder)["rnn"]
    assert sum("Compact" in type(each).__name__ for each in module.modules()) <= 1
    if granularity == "units":
        (entry,) = read_manifest(folder)["lstms"]
        fewest = 3 if "projected" in case else 2  # a projection needs more units than it has rows
        assert {len(layer["kept_units"]) for layer in entry["layers"]} == {8 if form == "masked" else fewest}


def test_it_is_healed_and_its_readers_are_trimmed(tmp_path: Path) -> None:
    checkpoint = saved_in(tmp_path, {**named(small("units"), "rnn."), "head.weight": torch.randn(2, 8)})
    recipe = Recipe(0.75, "units", criterion="obs", compensation="heal", steps=3, consumers=("head.weight",))
    folder = run(checkpoint, recipe, calibration=calibration("rnn")).save(tmp_path / "export")
    assert verify(folder, checkpoint)
    (lstm,) = open_checkpoint(folder / "pruned.pt").lstms
    assert lstm.hidden_size == 2 and set(lstm.tensors.values()) >= {"rnn.weight_ih_l0"}


def test_a_model_that_was_saved_after_a_round_comes_back(tmp_path: Path) -> None:
    model = nn.ModuleDict({"rnn": small("units")})
    save_pruned(model, tmp_path / "model.pt")
    assert open_checkpoint(tmp_path / "model.pt").lstms[0].hidden_size == 8
    again = load_pruned(nn.ModuleDict({"rnn": nn.LSTM(3, 12, 2)}), tmp_path / "model.pt")
    assert again["rnn"].hidden_size == 8
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in again.state_dict().items())
    with pytest.raises(RuntimeError, match="expected 12 hidden units at full size, found 8"):
        CompactLSTM(3, 12, KEPT).load_state_dict(model["rnn"].state_dict())


def test_others_beside_it_are_found() -> None:
    tensors = named(small("units"), "rnn.") | named(random_lstm(), "rnn.other.") | named(random_lstm(), "two.")
    checkpoint = open_checkpoint(saved(tensors), "small.pt")
    assert [lstm.name for lstm in checkpoint.lstms] == ["rnn.other", "two"]


UNITS = named(CompactLSTM(3, 8, KEPT), "rnn.")
DECLINED: dict[str, tuple[dict[str, Tensor | None], str]] = {
    "it does not say its size, as older ones": ({"stands_for": None}, "its dense size is not in the file"),
    "another number of layers": (
        {"stands_for": torch.tensor([8, 3, 1])},
        "expected 2 layers and directions of one size",
    ),
    "no size": ({"stands_for": torch.tensor(8)}, "expected 2 layers and directions"),
    "a size below its units": ({"stands_for": torch.tensor([5, 2, 1])}, "expected increasing indices below 5"),
    "a huge size": ({"stands_for": torch.tensor([2**20, 2, 1])}, "expected a dense size that fits what is stored"),
    "indices that fall": ({"layers.0.kept": torch.tensor([2, 0, 5])}, "expected increasing indices below 8"),
    "a weight of another shape": (
        {"layers.1.lstm.weight_ih_l0": torch.ones(16, 4)},
        r"of shape \(16, 3\) in it, found \(16, 4\)",
    ),
    "no bias": ({"layers.1.lstm.bias_ih_l0": None}, "expected layers.1.lstm.bias_ih_l0 of shape .*, found none"),
    "more tensors": ({"layers.0.norm": torch.ones(3)}, "expected its own tensors alone in it, found layers.0.norm"),
    "both at once": ({"weight_hh_l0": torch.ones(32, 8)}, "expected rnn.weight_hh_l0 once in it, found it beside"),
    "half of what rebuilds units": ({"layers.1.reconstruction.weight": torch.ones(4, 4)}, "rebuilds units of its last"),
    "what rebuilds those of another layer": (
        {
            f"layers.0.reconstruction.{kind}": torch.ones(5, 3)[: 5 if kind == "weight" else 1]
            for kind in ("weight", "bias")
        },
        "rebuilds units of its last layer",
    ),
    "maps that do not fit": (
        {"layers.1.reconstruction.weight": torch.ones(4, 3), "layers.1.reconstruction.bias": torch.ones(4)},
        "expected maps that fit its units",
    ),
}


@pytest.mark.parametrize("case", DECLINED)
def test_what_is_not_as_it_was_made_is_declined_by_name(case: str) -> None:
    changes, told = DECLINED[case]
    tensors: dict[str, Any] = UNITS | {f"rnn.{name}": tensor for name, tensor in changes.items()}
    checkpoint = open_checkpoint(saved({name: each for name, each in tensors.items() if each is not None}), "small.pt")
    assert checkpoint.lstms == []
    with pytest.raises(PrunerError, match=rf"rnn \(a CompactLSTM of this project, .*{told}"):
        run(checkpoint, Recipe())


OTHERS: dict[str, Any] = {
    "no LSTM beside": {"rnn.layers.0.kept": torch.arange(3)},
    "of another size": UNITS | {f"rnn.layers.{i}.kept": torch.arange(2) for i in range(2)},
    "no indices": UNITS | {f"rnn.layers.{i}.kept": torch.ones(3) for i in range(2)},
    "rows without weights": {"rnn.layers.0.rows_hh": torch.arange(3)},
}


@pytest.mark.parametrize("case", OTHERS)
def test_what_only_looks_like_one_is_none(case: str) -> None:
    checkpoint = open_checkpoint(saved(OTHERS[case]), "other.pt")
    assert not any(
        "of this project" in told for told in (*checkpoint.notes, *(each.reason for each in checkpoint.skipped))
    )


@pytest.mark.parametrize("granularity", ["units", "rows"])
def test_an_export_opened_as_a_file_is_told_so(tmp_path: Path, granularity: str) -> None:
    checkpoint = saved_in(tmp_path, named(random_lstm(num_layers=2), "rnn."))
    recipe = Recipe(0.5, granularity, layer_sparsity={0: 0.25})
    folder = run(checkpoint, recipe).save(tmp_path / "export", "compact")
    again = open_checkpoint(folder / "pruned.pt")
    assert [lstm.name for lstm in again.lstms] == ["rnn"] and "pruned already" in again.notes[0]
