"""Tensors made on demand: anew each time, whole or by rows, with their shapes known before."""

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pruner import Recipe, open_checkpoint
from pruner.files import on_demand
from pruner.files.on_demand import Made, OnDemand, described, pieces, unmade, without_numbers
from pruner.files.writing import size_when_written, write
from pruner.pipeline import prune
from tests.helpers.files import saved_in
from tests.helpers.models import named, random_lstm

WEIGHT = torch.arange(24.0).reshape(6, 4)


def doubled(weight: Tensor, rows: slice = slice(None)) -> Tensor:
    return weight[rows] * 2


VALUES: dict[str, Tensor | Made | None] = {
    "held": WEIGHT,
    "made": Made(without_numbers(WEIGHT), partial(doubled, WEIGHT)),
    "made by rows": Made(without_numbers(WEIGHT), partial(doubled, WEIGHT), True),
    "one number": torch.tensor(3),
    "gone": None,
}


def test_values_are_made_anew_and_known_before() -> None:
    tensors = OnDemand(VALUES)
    assert list(tensors) == list(VALUES) and len(tensors) == len(VALUES) and "gone" in tensors
    assert tensors["held"] is WEIGHT and tensors["gone"] is None
    first, second = tensors["made"], tensors["made"]
    assert first is not None and first is not second and torch.equal(first, WEIGHT * 2)
    likes = described(tensors)
    assert likes["made"] is not None and likes["made"].device.type == "meta" and likes["made"].shape == WEIGHT.shape
    assert unmade(tensors) == VALUES and unmade({"held": WEIGHT}) == {"held": WEIGHT}


@pytest.mark.parametrize("most", [1, 5, 8, 100])
@pytest.mark.parametrize("name", VALUES)
def test_pieces_make_the_whole(name: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_demand, "_PIECE", most)
    tensors = OnDemand(VALUES)
    found, whole = list(pieces(tensors, name)), tensors[name]
    if whole is None:
        assert found == []
    else:
        assert torch.equal(torch.cat(found) if whole.dim() else found[0], whole)
        assert whole.dim() == 0 or all(piece.numel() <= max(most, 4) for piece in found)


@pytest.mark.parametrize("granularity", ["rows", "units"])
@pytest.mark.parametrize("form", ["masked", "compact"])
def test_a_form_is_the_same_in_pieces(
    form: str, granularity: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = {**named(random_lstm(hidden_size=8, num_layers=2), "rnn."), **named(nn.Linear(8, 3), "head.")}
    checkpoint = saved_in(tmp_path, tensors)
    recipe = Recipe(0.5, granularity, consumers=("head.weight",) if granularity == "units" else ())
    changed = prune(checkpoint, recipe).forms[form].changed
    monkeypatch.setattr(on_demand, "_PIECE", 7)
    for name, whole in changed.items():
        if whole is not None:
            assert torch.equal(torch.cat(list(pieces(changed, name))), whole), name
            assert described(changed)[name].shape == whole.shape  # type: ignore[union-attr]
            assert described(changed)[name].dtype == whole.dtype  # type: ignore[union-attr]


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_the_size_is_known_before_a_file_is_written(suffix: str, tmp_path: Path) -> None:
    tied = torch.ones(3, 3)
    tensors = {**named(random_lstm(), "rnn."), "one": tied, "other": tied if suffix == "pt" else tied.clone()}
    checkpoint = saved_in(tmp_path, tensors, suffix)
    for changed in ({}, {"one": torch.zeros(3, 3)}, {"one": torch.zeros(3, 3), "other": torch.zeros(3, 3)}):
        write(checkpoint, changed, tmp_path / "pruned")
        assert size_when_written(checkpoint, changed) == (tmp_path / "pruned").stat().st_size


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_an_own_copy_outlives_the_file(suffix: str, tmp_path: Path) -> None:
    """Mapped bytes that are gone would kill this process."""
    tensors = named(random_lstm(hidden_size=64), "rnn.")
    path = tmp_path / f"model.{suffix}"
    saved_in(tmp_path, tensors, suffix)
    checkpoint = open_checkpoint(path, isolated=True, own=True)
    checkpoint.source.let_go()
    path.write_bytes(b"")
    assert all(torch.equal(checkpoint.tensors[name], tensor) for name, tensor in tensors.items())
    assert len(checkpoint.sha256) == 64
