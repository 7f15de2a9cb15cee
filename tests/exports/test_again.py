"""Exports that are opened again as folders: pruned further, with all that their manifests know."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pruner import PrunerError, Recipe, run
from pruner.cli.main import main
from pruner.compact.load_pruned import load_lstms, replace
from pruner.exports.again import open_again
from pruner.exports.verify import verify
from pruner.files.contents import Learned
from pruner.lstm.module import build
from tests.helpers.compensated import calibration
from tests.helpers.exports import edit_manifest, read_manifest
from tests.helpers.files import saved_in
from tests.helpers.models import named, random_lstm, random_steps

INPUTS = random_steps(2, 7, 3, dtype=torch.float32)


def first_model(folder: Path, **settings: Any) -> Any:
    width = 32 if settings.get("bidirectional") else 16
    tensors = {
        **named(random_lstm(input_size=3, hidden_size=16, **settings), "rnn."),
        "head.weight": torch.randn(2, width),
    }
    return saved_in(folder, tensors)


@pytest.mark.parametrize("settings", [{}, {"num_layers": 2, "bidirectional": True}, {"bias": False}])
@pytest.mark.parametrize("granularity", ["units", "rows"])
@pytest.mark.parametrize("form", ["masked", "compact"])
def test_it_is_opened_at_the_size_that_its_readers_have(
    tmp_path: Path, form: str, granularity: str, settings: dict[str, Any]
) -> None:
    result = run(first_model(tmp_path, **settings), Recipe(0.25, granularity))
    again = open_again(result.save(tmp_path / "0", form, batch_first=True))
    (lstm,) = again.lstms
    assert (lstm.name, lstm.hidden_size, again.learned["rnn"].batch_first) == ("rnn", 16, True)
    wanted = result.pruned.modules("masked")["rnn"](INPUTS)[0]
    torch.testing.assert_close(build(lstm, again.tensors)(INPUTS)[0], wanted, rtol=0, atol=1e-6)
    assert (form == "masked") == (not again.notes)


@pytest.mark.parametrize("form", ["masked", "compact"])
@pytest.mark.parametrize("granularity", ["units", "rows"])
def test_what_comes_of_it_loads_into_the_first_model(tmp_path: Path, granularity: str, form: str) -> None:
    """Its readers had their full width, which the second export's modules have as well."""
    checkpoint = first_model(tmp_path)
    again = open_again(run(checkpoint, Recipe(0.25, "units")).save(tmp_path / "0", batch_first=True))
    result = run(again, Recipe(0.5, granularity))
    folder = result.save(tmp_path / "1", form)
    assert verify(folder) and verify(folder, again)
    model = nn.ModuleDict({"rnn": nn.LSTM(3, 16, batch_first=True), "head": nn.Linear(16, 2, bias=False)})
    wanted = result.pruned.modules("masked")["rnn"](INPUTS)[0]
    assert wanted.shape[-1] == 16
    for module in (load_lstms(folder)["rnn"], replace(model.eval(), folder)["rnn"]):
        torch.testing.assert_close(module(INPUTS)[0], wanted, rtol=0, atol=1e-6)


def test_its_readers_can_be_named_and_its_units_keep_the_numbers_of_the_first_model(tmp_path: Path) -> None:
    checkpoint = first_model(tmp_path)
    recipe = Recipe(0.75, "units", criterion="obs", compensation="heal", steps=3, consumers=("head.weight",))
    one = run(checkpoint, Recipe(0.25, "units")).save(tmp_path / "1", batch_first=True)
    two = run(open_again(one), recipe, calibration=calibration("rnn")).save(tmp_path / "2")
    three = run(open_again(two), Recipe(0.5, "units")).save(tmp_path / "3")
    left = [read_manifest(one)["lstms"][0]["layers"][0]["kept_units"]]
    for folder, size in ((two, 4), (three, 2)):
        told = read_manifest(folder)["first"]
        assert told["source"]["sha256"] == checkpoint.sha256
        left.append(told["kept_units"]["rnn"][0])
        assert len(left[-1]) == size and set(left[-1]) < set(left[-2])
        assert verify(folder, open_again(folder.with_name(str(int(folder.name) - 1))))
    (lstm,) = open_again(three).lstms
    assert lstm.hidden_size == 4  # what read it was trimmed to that


@pytest.mark.parametrize("form", ["masked", "compact"])
def test_names_that_pruning_tools_left_are_no_obstacle(tmp_path: Path, form: str) -> None:
    tensors = named(random_lstm(input_size=3, hidden_size=16), "rnn.")
    weight = tensors.pop("rnn.weight_hh_l0")
    checkpoint = saved_in(
        tmp_path, tensors | {"rnn.weight_hh_l0_orig": weight, "rnn.weight_hh_l0_mask": weight * 0 + 1}
    )
    again = open_again(run(checkpoint, Recipe(0.25, "units")).save(tmp_path / "0", form))
    assert [(lstm.name, lstm.hidden_size) for lstm in again.lstms] == [("rnn", 16)]
    assert verify(run(again, Recipe(0.5, "units")).save(tmp_path / "1", form), again)


def test_the_commands_take_the_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(first_model(tmp_path), Recipe(0.25, "units")).save(tmp_path / "0", batch_first=True)
    assert main(["inspect", str(tmp_path / "0")]) == 0
    assert "rnn was pruned already (12 of 16 hidden units left)" in capsys.readouterr().out
    command = ["prune", str(tmp_path / "0"), "--granularity", "rows", "--output", str(tmp_path / "1")]
    assert main(command) == 0
    assert main(["verify", str(tmp_path / "1"), "--source", str(tmp_path / "0")]) == 0
    assert "--batch-first" not in capsys.readouterr().out


REFUSED: dict[str, tuple[tuple[Any, ...], Any]] = {
    "another file": (("files", "pruned.pt", "sha256"), "0" * 64),
    "another size": (("lstms", 0, "dense_hidden_size"), 15),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_folder_that_is_not_as_its_manifest_says_is_refused(tmp_path: Path, case: str) -> None:
    folder = run(first_model(tmp_path), Recipe(0.25, "units")).save(tmp_path / "0", batch_first=True)
    edit_manifest(folder, *REFUSED[case])
    with pytest.raises(PrunerError, match="is not the export it claims to be"):
        open_again(folder)


@pytest.mark.parametrize("told", [{"rnn": {"batch_first": "yes", "dropout": [], "handed_states": 1}}, {"rnn": 3}, {}])
def test_what_a_manifest_says_of_how_it_is_called_is_believed_only_of_its_type(tmp_path: Path, told: Any) -> None:
    folder = run(first_model(tmp_path), Recipe(0.25, "units")).save(tmp_path / "0", batch_first=True)
    edit_manifest(folder, ("learned",), told)
    known = open_again(folder).learned.get("rnn", Learned())
    assert (known.batch_first, known.dropout, known.handed_states) == (None, None, None)
