"""Exports that are pruned again tell their units by the numbers that the first model gave them."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from pruner import Recipe, open_checkpoint, run
from tests.helpers.exports import read_manifest
from tests.helpers.files import saved_in
from tests.helpers.models import named, random_lstm

HALF = Recipe(0.5, "units")


def again(source: Path, folder: Path) -> Path:
    return run(open_checkpoint(source), HALF).save(folder, "compact") / "pruned.pt"


@pytest.mark.parametrize("settings", [{}, {"num_layers": 2, "bidirectional": True}, {"num_layers": 2, "bias": False}])
def test_units_keep_the_numbers_of_the_first_model(settings: dict[str, Any], tmp_path: Path) -> None:
    first = named(random_lstm(hidden_size=16, **settings), "rnn.")
    path = tmp_path / "model.pt"
    torch.save(first, path)
    paths = [path]
    for rounds in range(3):
        paths.append(again(paths[-1], tmp_path / f"{rounds}"))
    assert "first" not in read_manifest(tmp_path / "0")
    for rounds, size in ((1, 4), (2, 2)):
        told = read_manifest(tmp_path / f"{rounds}")["first"]
        assert told["source"]["name"] == "model.pt" and told["source"]["sha256"] == open_checkpoint(path).sha256
        small = open_checkpoint(paths[rounds + 1])
        (lstm,) = small.lstms
        for place, units in zip(lstm.places, told["kept_units"]["rnn"], strict=True):
            name = lstm.weight_names()[*place, "hh"]
            assert len(units) == size
            assert torch.equal(small.tensors[name][:size], first[name][:16][units][:, units])
        assert "model.pt" in (tmp_path / f"{rounds}" / "README.md").read_text()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda manifest: manifest["files"]["pruned.pt"].update(sha256="0" * 64),
        lambda manifest: manifest["lstms"][0]["layers"][0].update(kept_units=[1]),
        lambda manifest: manifest["lstms"][0]["layers"][0].update(kept_units="units"),
        lambda manifest: manifest.update(first={"source": {}, "kept_units": {}}),
        lambda manifest: manifest.update(first={"source": None, "kept_units": {"rnn": [{}]}}),
        lambda manifest: manifest.update(files={}),
    ],
)
def test_a_manifest_that_is_not_of_this_model_is_no_ancestor(spoil: Any, tmp_path: Path) -> None:
    checkpoint = saved_in(tmp_path, named(random_lstm(hidden_size=16), "rnn."))
    source = run(checkpoint, HALF).save(tmp_path / "0", "compact") / "pruned.pt"
    manifest = read_manifest(tmp_path / "0")
    spoil(manifest)
    (tmp_path / "0" / "manifest.json").write_text(json.dumps(manifest))
    again(source, tmp_path / "1")
    assert "first" not in read_manifest(tmp_path / "1")


def test_a_model_that_left_its_folder_has_no_ancestor(tmp_path: Path) -> None:
    checkpoint = saved_in(tmp_path, named(random_lstm(hidden_size=16), "rnn."))
    source = run(checkpoint, HALF).save(tmp_path / "0", "compact") / "pruned.pt"
    shutil.copy(source, tmp_path / "pruned.pt")
    again(tmp_path / "pruned.pt", tmp_path / "1")
    assert "first" not in read_manifest(tmp_path / "1")
