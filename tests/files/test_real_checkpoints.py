"""Real checkpoints: what is found, what is refused, and masks equal to those of torch.ao.pruning."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pruner import PrunerError, Recipe, open_checkpoint
from pruner.files.writing import write
from pruner.importance.masks import drop_rows, keep_mask, row_ranks
from pruner.importance.weights import score
from pruner.pipeline import choose_masks
from tests.helpers.real_files import FACTS, Entry, each, foreign_files, real_checkpoints

ENTRIES = real_checkpoints() + foreign_files()
READ = ("torch", "safetensors", "TorchScript", "raw pickle")


def expected_to(*verdicts: str) -> list[Entry]:
    return [entry for entry in ENTRIES if entry["expect"].startswith(verdicts)]


@each(expected_to("accept"))
def test_the_lstms_of_a_file_are_found_with_their_sizes(entry: Entry) -> None:
    checkpoint = open_checkpoint(entry["folder"] / entry["name"])
    found = [{key: getattr(lstm, fact) for key, fact in FACTS.items()} for lstm in checkpoint.lstms]
    assert found == sorted(entry["lstm"], key=lambda lstm: lstm["prefix"])
    assert (checkpoint.sha256, checkpoint.size) == (entry["sha256"], entry["size"])
    assert entry["format"].startswith(checkpoint.format)
    assert len(checkpoint.tensors) == entry["tensors"]
    assert sum(tensor.numel() for tensor in checkpoint.tensors.values()) == entry["params"]


@each([entry for entry in expected_to("accept", "decline") if "other_recurrent" in entry])
def test_other_recurrent_layers_are_skipped_with_their_kind(entry: Entry) -> None:
    skipped = open_checkpoint(entry["folder"] / entry["name"]).skipped
    assert [(other.name, other.reason.split(":")[0]) for other in skipped] == [
        (other["prefix"], f"a {other['kind']}") for other in entry["other_recurrent"]
    ]


@each([entry for entry in expected_to("decline") if entry["format"].startswith(READ)])
def test_a_file_without_an_lstm_opens_and_has_nothing_to_select(entry: Entry) -> None:
    checkpoint = open_checkpoint(entry["folder"] / entry["name"])
    assert checkpoint.lstms == []
    with pytest.raises(PrunerError, match=f"^expected an LSTM in {re.escape(entry['name'])}, found none; it holds "):
        checkpoint.select()


@each([entry for entry in expected_to("refuse", "open") if entry["format"].startswith(READ)])
def test_a_file_that_names_code_is_read_and_not_run(entry: Entry) -> None:
    checkpoint = open_checkpoint(entry["folder"] / entry["name"])
    found = [{key: getattr(lstm, fact) for key, fact in FACTS.items()} for lstm in checkpoint.lstms]
    assert found == sorted(entry["lstm"], key=lambda lstm: lstm["prefix"])
    assert entry["format"].startswith(checkpoint.format)
    assert not {"model", "__torch__", "pytorch_lightning"} & sys.modules.keys()


@each([entry for entry in ENTRIES if "upstream_masks" in entry])
def test_masks_equal_those_of_upstream_bit_for_bit(entry: Entry) -> None:
    checkpoint = open_checkpoint(entry["folder"] / entry["name"])
    lstms, tensors = {lstm.name: lstm for lstm in checkpoint.lstms}, checkpoint.tensors
    upstream = dict(np.load(entry["folder"] / entry["upstream_masks"]))
    groups = (
        json.loads(upstream.pop("meta").item())
        if "meta" in upstream
        else [
            {"prefix": prefix, "key_of": {name: name for name in lstm.tensors.values()}}
            for prefix, lstm in lstms.items()
        ]
    )
    assert {group["prefix"] for group in groups} == lstms.keys()
    scores = [score(lstms[group["prefix"]], tensors) for group in groups]
    for key, expected in upstream.items():
        index, tensor, what = re.fullmatch(r"g(\d+)\.(.+)\.(sal|mask@.+)", key).groups()
        saliency = scores[int(index)][groups[int(index)]["key_of"][tensor]]
        if what == "sal":
            np.testing.assert_allclose(saliency, expected, rtol=1e-5, err_msg=key)
        else:
            sparsity = float(what.removeprefix("mask@"))
            mask = keep_mask(row_ranks(saliency), (sparsity,) * 4)
            assert np.array_equal(mask, expected), key


@each([entry for entry in expected_to("accept", "refuse", "open") if entry["format"].startswith(READ)])
def test_a_masked_copy_differs_from_its_source_only_in_the_masked_rows(entry: Entry, tmp_path: Path) -> None:
    source = open_checkpoint(entry["folder"] / entry["name"])
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
