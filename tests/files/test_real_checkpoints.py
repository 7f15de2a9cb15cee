"""Real checkpoints: what is found, what is refused, and masks equal to those of torch.ao.pruning."""

import hashlib
import json
import re
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pruner import PrunerError, Recipe, open_checkpoint
from pruner.files.writing import write
from pruner.importance.masks import drop_rows, keep_mask, row_ranks
from pruner.importance.weights import score
from pruner.lstm.find import find_lstms
from pruner.lstm.lstm import LSTM
from pruner.pipeline import choose_masks
from tests.helpers.real_files import real_checkpoints

ENTRIES = real_checkpoints()
FACTS = {
    "prefix": "name",
    "kind": "kind",
    "input": "input_size",
    "hidden": "hidden_size",
    "layers": "num_layers",
    "bidirectional": "bidirectional",
    "proj": "proj_size",
    "bias": "bias",
    "dtype": "dtype",
}

Entry = dict[str, Any]


def expected_to(*verdicts: str) -> list[Entry]:
    return [entry for entry in ENTRIES if entry["expect"].startswith(verdicts)]


def each(entries: list[Entry]) -> pytest.MarkDecorator:
    """Once for each file; where there are none, the fixture `checkpoints` says so."""
    return pytest.mark.parametrize("entry", entries or [None], ids=lambda entry: entry["name"] if entry else "absent")


def read_with_trust(path: Path, entry: Entry, monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """The state dict in a file that the project refuses, once it is certain which file that is."""
    assert hashlib.sha256(path.read_bytes()).hexdigest() == entry["sha256"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if entry["format"].startswith("TorchScript"):
            return torch.jit.load(path).state_dict()
        model = ModuleType("model")
        model.BDA = type("BDA", (nn.Module,), {})
        monkeypatch.setitem(sys.modules, "model", model)
        container = torch.load(path, map_location="cpu", weights_only=False)
    return container.state_dict() if isinstance(container, nn.Module) else container["state_dict"]


def lstms_and_tensors(
    path: Path, entry: Entry, monkeypatch: pytest.MonkeyPatch
) -> tuple[dict[str, LSTM], dict[str, Tensor]]:
    if entry["expect"].startswith("refuse"):
        tensors = read_with_trust(path, entry, monkeypatch)
        lstms, _ = find_lstms(tensors)
    else:
        checkpoint = open_checkpoint(path)
        lstms, tensors = checkpoint.lstms, checkpoint.tensors
    return {lstm.name: lstm for lstm in lstms}, tensors


@each(expected_to("accept"))
def test_the_lstms_of_a_file_are_found_with_their_sizes(entry: Entry, checkpoints: Path) -> None:
    checkpoint = open_checkpoint(checkpoints / entry["name"])
    found = [{key: getattr(lstm, fact) for key, fact in FACTS.items()} for lstm in checkpoint.lstms]
    assert found == sorted(entry["lstm"], key=lambda lstm: lstm["prefix"])
    assert (checkpoint.sha256, checkpoint.size) == (entry["sha256"], entry["size"])
    assert entry["format"].startswith(checkpoint.format)
    assert len(checkpoint.tensors) == entry["tensors"]
    assert sum(tensor.numel() for tensor in checkpoint.tensors.values()) == entry["params"]


@each(expected_to("accept", "decline"))
def test_other_recurrent_layers_are_skipped_with_their_kind(entry: Entry, checkpoints: Path) -> None:
    skipped = open_checkpoint(checkpoints / entry["name"]).skipped
    assert [(other.name, other.reason.split(":")[0]) for other in skipped] == [
        (other["prefix"], f"a {other['kind']}") for other in entry["other_recurrent"]
    ]


@each(expected_to("decline"))
def test_a_file_without_an_lstm_opens_and_has_nothing_to_select(entry: Entry, checkpoints: Path) -> None:
    checkpoint = open_checkpoint(checkpoints / entry["name"])
    assert checkpoint.lstms == []
    with pytest.raises(PrunerError, match=f"^expected an LSTM in {re.escape(entry['name'])}, found none; it holds "):
        checkpoint.select()


@each(expected_to("refuse"))
def test_a_file_that_could_run_code_is_refused(entry: Entry, checkpoints: Path) -> None:
    with pytest.raises(PrunerError, match=f"^expected .*, found .*{re.escape(entry['name'])}.* run any code"):
        open_checkpoint(checkpoints / entry["name"])


@each([entry for entry in ENTRIES if "upstream_masks" in entry])
def test_masks_equal_those_of_upstream_bit_for_bit(
    entry: Entry, checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lstms, tensors = lstms_and_tensors(checkpoints / entry["name"], entry, monkeypatch)
    upstream = dict(np.load(checkpoints / entry["upstream_masks"]))
    groups = json.loads(upstream.pop("meta").item())
    assert {group["prefix"] for group in groups} == lstms.keys()
    scores = [score(lstms[group["prefix"]], tensors) for group in groups]
    for key, expected in upstream.items():
        index, standard, what = re.fullmatch(r"g(\d+)\.(\w+)\.(.+)", key).groups()
        saliency = scores[int(index)][groups[int(index)]["key_of"][standard]]
        if what == "sal":
            np.testing.assert_allclose(saliency, expected, rtol=1e-5, err_msg=key)
        else:
            sparsity = float(what.removeprefix("mask@"))
            mask = keep_mask(row_ranks(saliency), (sparsity,) * 4)
            assert np.array_equal(mask, expected), key


@each(expected_to("accept"))
def test_a_masked_copy_differs_from_its_source_only_in_the_masked_rows(
    entry: Entry, checkpoints: Path, tmp_path: Path
) -> None:
    source = open_checkpoint(checkpoints / entry["name"])
    masks = choose_masks(source, Recipe(0.5))
    write(source, {name: drop_rows(source.tensors[name], mask) for name, mask in masks.items()}, tmp_path / "model")
    copy = open_checkpoint(tmp_path / "model")
    assert (type(copy.container), copy.locations) == (type(source.container), source.locations)
    assert (copy.lstms, copy.metadata) == (source.lstms, source.metadata)
    for name, tensor in source.tensors.items():
        written = copy.tensors[name]
        assert (written.shape, written.dtype) == (tensor.shape, tensor.dtype)
        mask = masks.get(name, torch.ones(len(tensor) if tensor.dim() else 1, dtype=torch.bool))
        rows, written_rows = (value.reshape(len(mask), -1) for value in (tensor, written))
        assert torch.equal(written_rows[mask], rows[mask]), name
        assert not written_rows[~mask].any(), name
        assert rows[~mask].any(1).all(), name
