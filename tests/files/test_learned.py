"""What a file says of its LSTMs beside their weights: told, used for consumers where it proves them, and carried along."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pruner import PrunerError, Recipe, run
from pruner.cli.main import main
from pruner.compact.load_pruned import load_lstms
from pruner.exports.verify import verify
from pruner.files.consumer_choice import consumers_of, proven
from pruner.files.learned import told_beside
from pruner.files.opening import open_checkpoint
from tests.helpers.files import saved
from tests.helpers.keras_models import dense_weights, layer, lstm_layer, lstm_weights, saved_h5, sequential
from tests.helpers.models import named, random_lstm

TWO = saved_h5(
    sequential(
        layer("InputLayer", "in", batch_shape=[None, 7, 3]),
        lstm_layer("first", 4),
        lstm_layer("second", 4, return_sequences=False),
        layer("Dense", "head", units=2),
    ),
    {"first/first": lstm_weights(3, 4), "second/second": lstm_weights(4, 4), "head/head": dense_weights(4, 2)},
)


def test_consumers_that_the_file_proves_are_told_and_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("model.h5").write_bytes(TWO)
    checkpoint = open_checkpoint("model.h5")
    first, second = checkpoint.lstms
    assert told_beside(checkpoint, second) == [
        "Reads batches first (N, T, I).",
        "Its last output is used.",
        "Read by head.weight, as the file shows.",
    ]
    assert proven(checkpoint, [first]) == ()  # the second LSTM reads it: its output keeps its width
    assert proven(checkpoint, [first, second]) == ("head.weight",)
    assert main(["prune", "model.h5", "--granularity", "units", "--output", "pruned"]) == 0
    assert capsys.readouterr().err == "note: consumers, as model.h5 shows them: head.weight\n"
    manifest = json.loads(Path("pruned/manifest.json").read_text())
    assert manifest["recipe"]["consumers"] == ["head.weight"]
    assert manifest["learned"]["second"]["batch_first"] is True
    assert manifest["notes"] == [
        "what is written for PyTorch of model.h5 (Keras h5) is a plain state dict under its tensors' names, without what "
        "stands beside them",
        "pruned.h5: the states of the optimizer, whose tensors have the old shapes, are left out: it begins anew",
    ]
    assert verify("pruned", checkpoint)
    assert torch.load("pruned/pruned.pt", weights_only=True)["head.weight"].shape == (2, 2)


def test_a_width_of_two_lstms_is_settled_by_the_file() -> None:
    recipe = Recipe(granularity="units", consumers=("head.weight",))
    assert consumers_of(open_checkpoint(TWO), recipe) == {"first": [], "second": ["head.weight"]}
    alike = named(random_lstm(), "a.") | named(random_lstm(), "b.") | {"head.weight": torch.ones(2, 4)}
    with pytest.raises(PrunerError, match="expected a consumer that fits one LSTM"):
        consumers_of(open_checkpoint(saved(alike)), recipe)


def test_the_loader_calls_an_lstm_as_its_file_says(tmp_path: Path) -> None:
    folder = run(open_checkpoint(TWO), Recipe(granularity="units")).save(tmp_path / "pruned")
    inputs = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 7, 3))).float()
    unsaid, said, other = (load_lstms(folder, batch_first=first)["first"] for first in (None, True, False))
    assert torch.equal(unsaid(inputs)[0], said(inputs)[0])
    assert torch.equal(other(inputs.transpose(0, 1))[0].transpose(0, 1), said(inputs)[0])


def test_of_a_state_dict_nothing_is_said() -> None:
    checkpoint = open_checkpoint(saved(named(random_lstm(), "a.")))
    assert told_beside(checkpoint, checkpoint.lstms[0]) == []
    assert proven(checkpoint, checkpoint.lstms) == ()
