"""Consumers of an LSTM: their columns go with its units, so that a model loads into its own smaller class."""

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from pruner import PrunerError, Recipe, run
from pruner.exports.opened import read_export
from pruner.exports.verify import verify
from pruner.files.consumer_choice import consumers_of, suggestions
from tests.helpers.compact import FOLDED, INPUTS, Tagger, wide
from tests.helpers.exports import read_manifest
from tests.helpers.files import saved_in
from tests.helpers.models import named, random_lstm

SHAPES = [{}, {"num_layers": 2}, {"bidirectional": True}, {"num_layers": 2, "bidirectional": True, "bias": False}]


@pytest.mark.parametrize("criterion", ["l1", "group"])
@pytest.mark.parametrize("settings", SHAPES, ids=str)
def test_a_whole_model_with_its_consumers_loads_into_its_own_class(
    tmp_path: Path, settings: dict[str, Any], criterion: str
) -> None:
    torch.manual_seed(0)
    model = Tagger(8, **settings).double()
    checkpoint = saved_in(tmp_path, model.state_dict())
    recipe = Recipe(0.3, "units", criterion, round_to=3, consumers=FOLDED)
    result = run(checkpoint, recipe)
    folder = result.save(tmp_path / "export")
    assert verify(folder) and verify(folder, checkpoint)
    small = Tagger(6, **settings).double()
    small.load_state_dict(torch.load(folder / "pruned.pt"), strict=True)
    model.load_state_dict({**checkpoint.tensors, **result.forms["masked"].changed})
    with torch.inference_mode():
        for found, expected in zip(small(INPUTS), model(INPUTS), strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    stored = read_export(folder).masked
    model.load_state_dict(stored.tensors)
    with torch.inference_mode():
        for found, expected in zip(model(INPUTS), small(INPUTS), strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("settings", [*SHAPES, {"proj_size": 2}], ids=str)
def test_equal_sizes_load_into_an_lstm_of_the_smaller_size(tmp_path: Path, settings: dict[str, Any]) -> None:
    checkpoint = saved_in(tmp_path, wide("", **settings))
    folder = run(checkpoint, Recipe(0.5, "units")).save(tmp_path / "export")
    small = nn.LSTM(3, 3, batch_first=True, **settings)
    small.load_state_dict(torch.load(folder / "pruned.pt"), strict=True)
    (entry,) = read_manifest(folder)["lstms"]
    own = entry["layers"][-1 - small.bidirectional :]
    columns = [side * 6 + unit for side, layer in enumerate(own) for unit in layer["kept_units"]]
    full = runpy.run_path(str(folder / "load_pruned.py"))["load_lstms"](folder, batch_first=True)[""]
    with torch.inference_mode():
        output, _ = full(INPUTS.float())
        expected = output if "proj_size" in settings else output[..., columns]
        torch.testing.assert_close(small(INPUTS.float())[0], expected, rtol=0, atol=1e-6)
    dropped = [column for column in range(output.shape[-1]) if column not in columns]
    assert "proj_size" in settings or (dropped and not output[..., dropped].any())


def test_unequal_sizes_and_consumers_are_refused(tmp_path: Path) -> None:
    checkpoint = saved_in(tmp_path, Tagger(8, num_layers=2).state_dict())
    recipe = Recipe(0.5, "units", layer_sparsity={0: 0.25}, consumers=FOLDED)
    with pytest.raises(PrunerError, match=r"as many units in every layer of rnn to trim its consumers, found 6, 4"):
        run(checkpoint, recipe)


def test_consumers_go_in_the_compact_form_alone(tmp_path: Path) -> None:
    checkpoint = saved_in(tmp_path, Tagger(8).state_dict())
    result = run(checkpoint, Recipe(0.5, "units", consumers=FOLDED))
    assert not set(FOLDED) & result.forms["masked"].changed.keys()
    assert result.forms["compact"].changed["head.weight"].shape == (5, 4)
    assert result.forms["compact"].changed["conv.weight"].shape == (2, 4, 3)
    folder = result.save(tmp_path / "export", "masked")
    assert verify(folder, checkpoint)
    assert read_manifest(folder)["lstms"][0]["consumers"] == []


def test_a_mask_left_beside_a_consumer_shrinks_with_it(tmp_path: Path) -> None:
    model = Tagger(8)
    prune.random_unstructured(model.head, "weight", 0.5)
    checkpoint = saved_in(tmp_path, model.state_dict())
    folder = run(checkpoint, Recipe(0.5, "units", consumers=("head.weight_orig",))).save(tmp_path / "export")
    assert verify(folder, checkpoint)
    stored = torch.load(folder / "pruned.pt")
    assert stored["head.weight_mask"].shape == stored["head.weight_orig"].shape == (5, 4)


TWO = named(random_lstm(), "one.") | named(random_lstm(seed=1), "two.")
NO_CONSUMERS: dict[str, tuple[dict[str, Tensor], str, str]] = {
    "missing": (TWO, "head.weight", "found 'head.weight', which is not there"),
    "of an LSTM": (TWO, "one.weight_hh_l0", r"outside of the LSTMs, or .*, found 'one.weight_hh_l0' of one"),
    "too narrow": (wide() | {"head": torch.zeros(2, 5)}, "head", r"\(6 of rnn\), found 'head' of shape \(2, 5\)"),
    "turned around": (wide() | {"head": torch.zeros(6, 2)}, "head", r"\(6 of rnn\), found 'head' of shape \(6, 2\)"),
    "one direction": (
        wide(bidirectional=True) | {"head": torch.zeros(2, 6)},
        "head",
        r"\(12 of rnn\), found 'head' of shape \(2, 6\)",
    ),
    "a vector": (wide() | {"head": torch.zeros(6)}, "head", r"found 'head' of shape \(6,\)"),
    "a number": (wide() | {"head": torch.tensor(6.0)}, "head", r"found 'head' of shape \(\)"),
    "of a projection": (wide(proj_size=2) | {"head": torch.zeros(3, 2)}, "head", "there is none"),
    "of integers": (wide() | {"head": torch.zeros(2, 6, dtype=torch.int64)}, "head", "found 'head'"),
    "fits two": (TWO | {"head": torch.zeros(2, 4)}, "head", "fits one LSTM, found 'head', which fits one and two"),
}


@pytest.mark.parametrize(("tensors", "name", "message"), NO_CONSUMERS.values(), ids=NO_CONSUMERS)
def test_a_consumer_that_is_none_is_refused(
    tmp_path: Path, tensors: dict[str, Tensor], name: str, message: str
) -> None:
    checkpoint = saved_in(tmp_path, tensors)
    assert name not in suggestions(checkpoint, checkpoint.lstms) or "fits" in message
    for criterion in ("l1", "group"):
        with pytest.raises(PrunerError, match=message):
            run(checkpoint, Recipe(0.5, "units", criterion, consumers=(name,)))


def test_consumers_belong_to_the_lstm_that_they_fit(tmp_path: Path) -> None:
    tensors = wide("one.") | named(random_lstm(seed=1), "two.") | {"b": torch.zeros(2, 4), "a": torch.zeros(2, 6)}
    checkpoint = saved_in(tmp_path, tensors | {"other": torch.zeros(2, 7), "head": torch.zeros(1, 6, 3)})
    found = consumers_of(checkpoint, Recipe(0.5, "units", consumers=("a", "b", "head", "a")))
    assert found == {"one": ["a", "head"], "two": ["b"]}
    assert suggestions(checkpoint, checkpoint.lstms) == ["a", "b", "head"]
    assert suggestions(checkpoint, checkpoint.lstms[1:]) == ["b"]
    with pytest.raises(PrunerError, match="found 'b'"):
        consumers_of(checkpoint, Recipe(0.5, "units", lstms=("one",), consumers=("b",)))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_consumer_that_is_not_finite_has_no_rank(tmp_path: Path, value: float) -> None:
    checkpoint = saved_in(tmp_path, wide() | {"head": torch.full((2, 6), value)})
    with pytest.raises(PrunerError, match="finite"):
        run(checkpoint, Recipe(0.5, "units", "group", consumers=("head",)))
    assert run(checkpoint, Recipe(0.5, "units", consumers=("head",)))
