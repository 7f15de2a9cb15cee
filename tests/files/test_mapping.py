"""LSTMs written by hand: pointed out with a mapping to begin with, and opened by the one that their owner gives."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pruner.errors import PrunerError
from pruner.exports.verify import verify
from pruner.files.checkpoint import Checkpoint
from pruner.files.mapping import apply_mapping, read_mapping
from pruner.files.opening import open_checkpoint
from pruner.lstm.module import build
from pruner.recipe import Recipe
from pruner.result import run
from tests.helpers.files import saved
from tests.helpers.models import named, random_lstm

REAL = random_lstm()  # 3 -> 4
STATE = REAL.state_dict()
X = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(1))


def gates_of(name: str) -> dict[str, Tensor]:
    return dict(zip("ifgo", STATE[name].chunk(4), strict=True))


def layers(weights: Mapping[str, Tensor], biases: Mapping[str, Tensor], prefix: str = "cell.") -> dict[str, Tensor]:
    made = {f"{prefix}{name}.weight": tensor for name, tensor in weights.items()}
    return made | {f"{prefix}{name}.bias": tensor for name, tensor in biases.items()}


def reordered(packed: Tensor, order: str) -> Tensor:
    """PyTorch's rows of i, f, g, o in another order."""
    return torch.cat([dict(zip("ifgo", packed.chunk(4), strict=True))[gate] for gate in order])


def packed(inputs: str, states: str, order: str = "ifgo") -> dict[str, Tensor]:
    rows = {name: reordered(tensor, order) for name, tensor in STATE.items()}
    weights = {inputs: rows["weight_ih_l0"], states: rows["weight_hh_l0"]}
    return layers(weights, {inputs: rows["bias_ih_l0"], states: rows["bias_hh_l0"]})


def gate_by_gate(inputs: str, states: str, names: Mapping[str, str] | None = None) -> dict[str, Tensor]:
    """One layer a gate and side; `{}` in a name stands for the gate."""
    names = names or {gate: gate for gate in "ifgo"}
    weights, biases = {}, {}
    for form, side in ((inputs, "ih"), (states, "hh")):
        weights |= {form.format(names[gate]): part for gate, part in gates_of(f"weight_{side}_l0").items()}
        biases |= {form.format(names[gate]): part for gate, part in gates_of(f"bias_{side}_l0").items()}
    return layers(weights, biases)


def joined() -> dict[str, Tensor]:
    """One layer a gate, which reads inputs and states side by side; its bias is the sum of both."""
    weights = zip(gates_of("weight_ih_l0").values(), gates_of("weight_hh_l0").values(), strict=True)
    biases = (gates_of("bias_ih_l0")[gate] + gates_of("bias_hh_l0")[gate] for gate in "ifgo")
    return layers(
        {f"{gate}l": torch.cat(pair, 1) for gate, pair in zip("ifCo", weights, strict=True)},
        {f"{gate}l": bias for gate, bias in zip("ifCo", biases, strict=True)},
        "",
    )


def parameters() -> dict[str, Tensor]:
    """Bare parameters W_i, U_i, b_i, ..., to be multiplied from the right."""
    made = {}
    for name, gate in zip("ifco", "ifgo", strict=True):
        made |= {f"W_{name}": gates_of("weight_ih_l0")[gate], f"U_{name}": gates_of("weight_hh_l0")[gate]}
        made[f"b_{name}"] = gates_of("bias_ih_l0")[gate] + gates_of("bias_hh_l0")[gate]
    return made


WORDS = {"i": "input", "f": "forget", "g": "cell", "o": "output"}
BY_HAND = {
    "two layers": packed("weight_ih", "weight_hh"),
    "x2h and h2h": packed("x2h", "h2h"),
    "i2h and h2h": packed("i2h", "h2h"),
    "gates, W and U": gate_by_gate("W{}", "U{}"),
    "gates, doubled letters": gate_by_gate("W_i{}", "W_h{}"),
    "gates, in words": gate_by_gate("{}_gate_x", "{}_gate_h", WORDS),
    "gates that read both": joined(),
    "bare parameters": parameters(),
}


def example_in(checkpoint: Checkpoint) -> dict[str, Any]:
    (reason,) = [skipped.reason for skipped in checkpoint.skipped if "by hand" in skipped.reason]
    assert "weight_ih_l0 (4H, I) and weight_hh_l0 (4H, H)" in reason
    return json.loads(re.search(r"\{.*\}", reason).group())


@pytest.mark.parametrize("case", BY_HAND)
def test_an_lstm_by_hand_is_pointed_out_with_a_mapping_that_opens_it(case: str) -> None:
    data = saved(BY_HAND[case] | {"fc.weight": torch.ones(2, 4)})
    found = open_checkpoint(data, "model.pt")
    assert found.lstms == []
    checkpoint = open_checkpoint(data, "model.pt", mapping=example_in(found))
    (lstm,) = checkpoint.lstms
    torch.testing.assert_close(build(lstm, checkpoint.tensors)(X)[0], REAL(X.transpose(0, 1))[0].transpose(0, 1))
    assert checkpoint.skipped == []
    assert checkpoint.tensors.keys() == {*lstm.tensors.values(), "fc.weight"}


NOT_BY_HAND = {
    "a feed-forward block": layers({"fc1": torch.ones(16, 4), "fc2": torch.ones(4, 16)}, {}),
    "attention": layers({name: torch.ones(4, 4) for name in ("q", "k", "v", "o")}, {}),
    "a GRU by hand": layers({f"W_{name}": torch.ones(4, 3) for name in "rzn"}, {}),
    "two gates of four": layers({"Wi": torch.ones(4, 3), "Wf": torch.ones(4, 3)}, {}),
    "four squares": layers({f"W{name}": torch.ones(4, 4) for name in "ifco"}, {}),
    "rows that do not divide": layers({"x2h": torch.ones(12, 3), "h2h": torch.ones(12, 4)}, {}),
    "a real LSTM": named(REAL, "rnn."),
}


@pytest.mark.parametrize("case", NOT_BY_HAND)
def test_other_layers_are_not_taken_for_one(case: str) -> None:
    assert not any("by hand" in skipped.reason for skipped in open_checkpoint(saved(NOT_BY_HAND[case])).skipped)


@pytest.mark.parametrize("order", ["ifgo", "iofg", "gfio"])
def test_the_order_of_gates_is_the_owners_to_say(order: str) -> None:
    mapping = {"gates": order, "a.weight_ih_l0": "cell.x2h.weight", "a.weight_hh_l0": "cell.h2h.weight"}
    mapping |= {"a.bias_ih_l0": "cell.x2h.bias", "a.bias_hh_l0": "cell.h2h.bias"}
    made = apply_mapping(packed("x2h", "h2h", order), mapping, "m")
    assert made.keys() == {f"a.{name}" for name in STATE}
    assert all(torch.equal(made[f"a.{name}"], STATE[name]) for name in STATE)


def test_rows_columns_and_transposes_can_be_said() -> None:
    whole = torch.cat([STATE["weight_ih_l0"], STATE["weight_hh_l0"]], 1).T  # (I + H, 4H)
    mapping = {"weight_ih": "kernel[:3, :].T", "weight_hh": "kernel[3:, 0:].T", "bias_hh": "b[16:]"}
    made = apply_mapping({"kernel": whole, "b": torch.cat([torch.ones(16), STATE["bias_hh_l0"]])}, mapping, "m")
    assert torch.equal(made["weight_ih"], STATE["weight_ih_l0"])
    assert torch.equal(made["weight_hh"], STATE["weight_hh_l0"])
    assert torch.equal(made["bias_hh"], STATE["bias_hh_l0"])
    assert torch.equal(made["bias_ih"], torch.zeros(16))


def test_a_name_that_looks_like_rows_is_a_name() -> None:
    odd = {"w[0:4]": STATE["weight_ih_l0"], "u.T": STATE["weight_hh_l0"]}
    made = apply_mapping(odd, {"weight_ih": "w[0:4]", "weight_hh": "u.T"}, "m")
    assert torch.equal(made["weight_hh"], STATE["weight_hh_l0"])


UNUSABLE: dict[str, tuple[Any, str]] = {
    "no object": ([1], "expected an object of names in a mapping, found [1]"),
    "gates alone": ({"gates": "ifgo"}, "expected an object of names"),
    "other gates": ({"gates": "ifco", "weight_ih": "a"}, 'expected "gates" as an order of the letters i, f, g, o'),
    "gates of another type": ({"gates": 4, "weight_ih": "a"}, 'expected "gates" as an order'),
    "another key": ({"lstm.weight": "a", "weight_hh": "b"}, "expected names such as lstm.weight_ih_l0 in a mapping"),
    "three gates": (
        {"weight_ih": ["a", "b", "c"], "weight_hh": "b"},
        "or a list of one a gate in a mapping, found ['a',",
    ),
    "a number": ({"weight_ih": 3, "weight_hh": "b"}, "expected a tensor's name for weight_ih"),
    "an unknown tensor": (
        {"weight_ih": "nowhere", "weight_hh": "h"},
        "of m in the mapping, found 'nowhere'; it has 'x', 'h'",
    ),
    "rows that do not divide": (
        {"weight_ih": "x[:3]", "weight_hh": "h"},
        "expected four gates of one shape for weight_ih in m",
    ),
    "gates of different shapes": (
        {"weight_ih": ["x", "x", "h", "h"], "weight_hh": "h"},
        "expected four gates of one shape for weight_ih in m, found (16, 3), (16, 3), (16, 4), (16, 4)",
    ),
    "columns of a bias": ({"weight_ih": "b[:, :2]", "weight_hh": "h"}, "expected a matrix or a bias in the mapping"),
    "a name that is taken": ({"weight_ih": "x", "weight_hh": "h", "bias_ih": "b"}, "found 'bias_hh', which m has"),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_a_mapping_that_makes_no_sense_is_refused(case: str) -> None:
    mapping, reason = UNUSABLE[case]
    tensors = {"x": torch.ones(16, 3), "h": torch.ones(16, 4), "b": torch.ones(16), "bias_hh": torch.ones(16)}
    with pytest.raises(PrunerError, match=r"^expected .*, found ") as raised:
        apply_mapping(tensors, mapping, "m")
    assert reason in str(raised.value)


def test_a_mapping_is_read_from_json(tmp_path: Path) -> None:
    path = tmp_path / "mapping.json"
    path.write_text('{"weight_ih": "a", "weight_hh": "b"}')
    assert read_mapping(path) == {"gates": "ifgo", "weight_ih": "a", "weight_hh": "b"}
    for text in ("{", "[" * 100_000, "\xff", " " * 2**20 + "{}"):
        path.write_bytes(text.encode("latin-1"))
        with pytest.raises(PrunerError, match=r"^expected a mapping"):
            read_mapping(path)
    with pytest.raises(PrunerError, match=r"^expected a mapping, found no file"):
        read_mapping(tmp_path / "none.json")


def test_an_export_of_a_mapped_file_is_a_plain_state_dict(tmp_path: Path) -> None:
    data = saved(joined() | {"fc.weight": torch.ones(2, 4)})
    mapping = example_in(open_checkpoint(data, "model.pt"))
    checkpoint = open_checkpoint(data, "model.pt", mapping=mapping)
    folder = run(checkpoint, Recipe(0.5, granularity="units", consumers=("fc.weight",))).save(tmp_path / "out")
    verify(folder, checkpoint)
    small = nn.ModuleDict({"lstm": nn.LSTM(3, 2), "fc": nn.Linear(2, 2, bias=False)})
    small.load_state_dict(torch.load(folder / "pruned.pt", weights_only=True))
