"""JSON: nested lists of numbers are tensors, anything else is said to be what it is."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from pruner.errors import PrunerError
from pruner.files import formats
from pruner.files.opening import open_checkpoint
from tests.helpers.models import named, random_lstm

STATE = named(random_lstm(), "rec.")
LISTS = {name: tensor.tolist() for name, tensor in STATE.items()}


def written(value: Any) -> bytes:
    return json.dumps(value).encode()


@pytest.mark.parametrize(
    "value",
    [LISTS, {"state_dict": LISTS}, {"model_data": {"hidden_size": 4, "bias": True}, "net": {"model": LISTS}}],
    ids=["flat", "nested", "deeper"],
)
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf", b"\n  "], ids=["plain", "marked", "spaced"])
def test_a_state_dict_of_lists_opens(value: dict[str, Any], start: bytes) -> None:
    checkpoint = open_checkpoint(start + written(value), "model.json")
    assert (checkpoint.format, [lstm.name for lstm in checkpoint.lstms]) == ("JSON state dict", ["rec"])
    for name, tensor in STATE.items():
        assert torch.equal(checkpoint.tensors[name], tensor)


def test_what_stands_beside_the_tensors_is_kept() -> None:
    contents = formats.read(written({"model_data": {"hidden_size": 4}, "state_dict": LISTS, "loss": [0.5]}), "m")
    assert contents.container["model_data"] == {"hidden_size": 4}


def test_numbers_of_every_kind_are_read() -> None:
    tensors = open_checkpoint(b'{"a": [[1, 2.5], [-3e2, 1e-3]], "b": [NaN, Infinity], "c": [1e999]}', "m").tensors
    assert torch.equal(tensors["a"], torch.tensor([[1, 2.5], [-300, 0.001]]))
    assert tensors["b"].isnan().tolist() == [True, False]
    assert tensors["c"].isinf().all()


NO_TENSORS = {
    "Keras": (
        {"class_name": "Sequential", "config": {}},
        "JSON of a Keras model's layers, without its weights; open the .h5",
    ),
    "an index": ({"metadata": {}, "weight_map": {"a": "b"}}, "JSON that lists files with weights; join those"),
    "an export": (
        {"source": 1, "recipe": 2, "certificate": 3},
        "JSON of an export of this project; open the pruned file",
    ),
    "an export with consumers": (
        {"source": 1, "recipe": 2, "certificate": 3, "rest": {"linear.weight": [4, 8]}},
        "JSON of an export of this project; open the pruned file",
    ),
    "settings": (
        {"hidden_size": 4, "names": ["a"]},
        "JSON without lists of numbers ('hidden_size', 'names'); open the file",
    ),
    "nothing": ({}, "JSON without lists of numbers (empty)"),
    "rows of different lengths": ({"a": [[1, 2], [3]]}, "JSON without lists of numbers ('a')"),
    "flags": ({"a": [True, False]}, "JSON without lists of numbers ('a')"),
    "lists too deep": ({"a": [[[[[[[[[1]]]]]]]]]}, "JSON without lists of numbers ('a')"),
}


@pytest.mark.parametrize("case", NO_TENSORS)
def test_json_without_tensors_is_said_to_be_what_it_is(case: str) -> None:
    value, what = NO_TENSORS[case]
    with pytest.raises(PrunerError) as raised:
        open_checkpoint(written(value), "model.json")
    assert str(raised.value).startswith(f"expected a state dict in model.json, found {what}")


HOSTILE = {
    "cut": (written(LISTS)[:-9], "found a damaged file"),
    "no text": (b'{"a": "\xff\xfe"}', "found a damaged file"),
    "lists without end": (b'{"a": ' + b"[" * 100_000, "found a damaged file"),
    "a number without end": (b'{"a": [' + b"1" * 100_000 + b"]}", "found a damaged file"),
    "lists of nothing": (b'{"a": [' + b"[]," * 6_000_000 + b"[]]}", "that takes not much more memory than the file"),
    "too large": (b"{" + bytes(64 * 2**20), "expected JSON of at most 67,108,864 bytes"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_json_is_refused_in_one_sentence(case: str) -> None:
    data, reason = HOSTILE[case]
    with pytest.raises(PrunerError, match=f"^expected .*{reason}|^{reason}"):
        open_checkpoint(data, "model.json")


def test_a_real_file_holds_the_numbers_that_it_says(foreign: Path) -> None:
    path = foreign / "Automated-GuitarAmpModel__Results_ht1-ht11_model_best.json"
    state = json.loads(path.read_text())["state_dict"]
    checkpoint = open_checkpoint(path)
    assert checkpoint.tensors.keys() == state.keys()
    for name, numbers in state.items():
        assert torch.equal(checkpoint.tensors[name], torch.tensor(numbers))
