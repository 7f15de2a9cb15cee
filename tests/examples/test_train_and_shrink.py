"""The script that trains, shrinks, trains on and exports, with fewer steps."""

from pathlib import Path

import torch

from pruner import load_pruned
from pruner.cli.main import main
from pruner.examples.train_and_shrink import SPARSITY, train_and_shrink
from pruner.examples.train_embedded_reber import HIDDEN_SIZE, GrammarModel


def test_it_leaves_a_smaller_model_and_an_export_that_verifies(tmp_path: Path) -> None:
    found = train_and_shrink(tmp_path, steps=60)
    assert list(found) == ["dense", "masked", "smaller"]
    units = HIDDEN_SIZE - int(HIDDEN_SIZE * SPARSITY)
    model = load_pruned(GrammarModel, tmp_path / "model.pt")
    assert (model.lstm.hidden_size, model.linear.in_features) == (units, units)
    assert main(["verify", str(tmp_path / "smaller"), "--source", str(tmp_path / "model.pt")]) == 0
    stored = torch.load(tmp_path / "smaller" / "pruned.pt", weights_only=True)["state_dict"]
    assert torch.equal(stored["lstm.weight_hh_l0"], model.lstm.weight_hh_l0)
