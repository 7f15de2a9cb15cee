"""Compact LSTMs that somebody saved are called by their name, and not taken for what lies inside them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pruner import PrunerError, Recipe, open_checkpoint, run
from pruner.compact.load_pruned import CompactLSTM, RowCompactLSTM
from tests.helpers.files import saved, saved_in
from tests.helpers.models import named, random_lstm

KEPT = [torch.tensor([0, 2, 5]), torch.tensor([1, 2, 3, 4])]
ROWS = [(torch.arange(7), torch.arange(9)), (torch.arange(7), torch.arange(0))]
SMALL: dict[str, tuple[nn.Module, str]] = {
    "units": (CompactLSTM(3, 8, KEPT), r"a CompactLSTM of this project, .*\(3 hidden units, 4 hidden units left\)"),
    "reconstructing": (CompactLSTM(3, 8, KEPT[:1], reconstruct=True), r"a CompactLSTM .*\(3 hidden units left\)"),
    "rows": (RowCompactLSTM(3, 8, ROWS), r"a RowCompactLSTM .*\(9 of 32 recurrent rows, 0 of 32 recurrent rows left\)"),
    "rows, projected": (RowCompactLSTM(3, 8, ROWS[:1], proj_size=2, bias=False), r"\(9 of 32 recurrent rows left\)"),
}


@pytest.mark.parametrize("prefix", ["", "net.rnn."])
@pytest.mark.parametrize("case", SMALL)
def test_it_is_called_by_its_name(case: str, prefix: str) -> None:
    module, told = SMALL[case]
    checkpoint = open_checkpoint(saved({**named(module, prefix), "head.weight": torch.ones(2, 8)}), "small.pt")
    assert checkpoint.lstms == []
    (skipped,) = [each for each in checkpoint.skipped if "of this project" in each.reason]
    assert skipped.name == prefix.removesuffix(".")
    with pytest.raises(PrunerError, match=told):
        run(checkpoint, Recipe())


def test_others_beside_it_are_found() -> None:
    tensors = named(SMALL["units"][0], "rnn.") | named(random_lstm(), "rnn.other.") | named(random_lstm(), "two.")
    checkpoint = open_checkpoint(saved(tensors), "small.pt")
    assert [lstm.name for lstm in checkpoint.lstms] == ["rnn.other", "two"]


OTHERS: dict[str, Any] = {
    "no LSTM beside": {"rnn.layers.0.kept": torch.arange(3)},
    "of another size": named(SMALL["units"][0], "rnn.") | {f"rnn.layers.{i}.kept": torch.arange(2) for i in range(2)},
    "no indices": named(SMALL["units"][0], "rnn.") | {f"rnn.layers.{i}.kept": torch.ones(3) for i in range(2)},
    "rows without weights": {"rnn.layers.0.rows_hh": torch.arange(3)},
}


@pytest.mark.parametrize("case", OTHERS)
def test_what_only_looks_like_one_is_none(case: str) -> None:
    checkpoint = open_checkpoint(saved(OTHERS[case]), "other.pt")
    assert not any("of this project" in each.reason for each in checkpoint.skipped)


@pytest.mark.parametrize("granularity", ["units", "rows"])
def test_an_export_opened_as_a_file_is_told_so(tmp_path: Path, granularity: str) -> None:
    checkpoint = saved_in(tmp_path, named(random_lstm(num_layers=2), "rnn."))
    recipe = Recipe(0.5, granularity, layer_sparsity={0: 0.25})
    folder = run(checkpoint, recipe).save(tmp_path / "export", "compact")
    again = open_checkpoint(folder / "pruned.pt")
    assert [each.name for each in again.skipped] == ["rnn"] and not again.lstms
