"""A manifest that was edited so that it no longer fits the files is refused, with and without the source at hand."""

from pathlib import Path
from typing import Any

import pytest
from torch import nn

from pruner import Checkpoint, PrunerError, Recipe, run
from pruner.exports.verify import verify
from tests.helpers.exports import edit_manifest, read_manifest
from tests.helpers.files import saved_in
from tests.helpers.models import named, random_lstm


@pytest.fixture
def source(tmp_path: Path) -> Checkpoint:
    return saved_in(tmp_path, {**named(random_lstm(hidden_size=8), "lstm."), **named(nn.Linear(8, 2), "linear.")})


@pytest.fixture
def folder(source: Checkpoint, tmp_path: Path) -> Path:
    """An export whose consumer was trimmed from 8 to 4 columns."""
    recipe = Recipe(0.5, "units", consumers=("linear.weight",))
    return run(source, recipe).save(tmp_path / "export", "compact")


def refused(folder: Path, source: Checkpoint) -> list[str]:
    told = []
    for at_hand in (None, source):
        with pytest.raises(PrunerError) as error:
            verify(folder, at_hand)
        told.append(str(error.value))
    return told


def test_as_it_was_written_it_passes(folder: Path, source: Checkpoint) -> None:
    assert verify(folder) and verify(folder, source)
    assert read_manifest(folder)["lstms"][0]["consumers"] == ["linear.weight"]


def test_a_consumer_that_no_entry_names_any_more(folder: Path, source: Checkpoint) -> None:
    edit_manifest(folder, ("lstms", 0, "consumers"), [])
    for told in refused(folder, source):
        assert "expected the consumer 'linear.weight' in the entry of the LSTM it reads, found it in none" in told


def test_a_consumer_that_neither_entry_nor_recipe_names_any_more(folder: Path, source: Checkpoint) -> None:
    """The file alone cannot tell that its linear layer was once wider; what the manifest says of the sizes before can."""
    edit_manifest(folder, ("lstms", 0, "consumers"), [])
    edit_manifest(folder, ("recipe", "consumers"), [])
    assert all("parameters" in told or "linear.weight" in told for told in refused(folder, source))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("totals", "parameters", "before"), 10_000),
        (("totals", "macs_per_step", "before"), 10_000),
        (("totals", "parameters", "after"), 10_000),
        (("lstms", 0, "dense_hidden_size"), 16),
        (("lstms", 0, "stored_hidden_size"), 8),
        (("lstms", 0, "stored_hidden_size"), None),
        (("lstms", 0, "consumers"), ["linear.weight", "linear.weight"]),
        (("recipe", "consumers"), ["linear.weight", "linear.bias"]),
        (("recipe", "consumers"), ["linear.weight", "lstm.weight_hh_l0"]),
    ],
    ids=str,
)
def test_other_claims(folder: Path, source: Checkpoint, path: tuple[Any, ...], value: Any) -> None:
    edit_manifest(folder, path, value)
    assert all(
        "is not the export it claims to be" in told or told.startswith("expected") for told in refused(folder, source)
    )


def test_dense_and_stored_size_are_told_apart(folder: Path) -> None:
    entry = read_manifest(folder)["lstms"][0]
    assert (entry["dense_hidden_size"], entry["stored_hidden_size"]) == (8, 4) and "hidden_size" not in entry


def test_layers_of_unequal_sizes_have_no_stored_size(tmp_path: Path) -> None:
    deep = saved_in(tmp_path, named(random_lstm(hidden_size=8, num_layers=2)))
    recipe = Recipe(0.5, "units", layer_sparsity={0: 0.25})
    entry = read_manifest(run(deep, recipe).save(tmp_path / "export"))["lstms"][0]
    assert (entry["dense_hidden_size"], entry["stored_hidden_size"]) == (8, None)
