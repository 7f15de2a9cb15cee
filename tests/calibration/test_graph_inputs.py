"""Calibration given as inputs of the graph that LSTMs came in: what they read there is what they are calibrated on."""

from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import helper
from torch import nn

from pruner import Checkpoint, PrunerError, Recipe, open_checkpoint, run
from pruner.calibration.calibration import Calibration
from pruner.calibration.inputs import read_calibration
from tests.helpers.input_files import npz
from tests.helpers.onnx_models import run as run_graph
from tests.helpers.whole_graphs import BATCH, HIDDEN, INPUT, WHOLE, Whole, lstm, node

GENERATOR = np.random.default_rng(0)
CHAIN, STEPWISE = WHOLE["two in a chain"], WHOLE["states taken and given"]
BACKWARDS = Whole(
    WHOLE["a linear layer reads it"].modules,
    [
        lstm("first", "turned", direction="reverse"),
        node("Squeeze", "first_Y one", "flat"),
        *WHOLE["a linear layer reads it"].nodes[2:],
    ],
    {"x": ["batch", "time", INPUT]},
    {"y": ["time", "batch", 4]},
    {"one": [1]},
)
BACKWARDS.nodes.insert(0, helper.make_node("Transpose", ["x"], ["turned"], perm=[1, 0, 2]))


def opened(whole: Whole) -> Checkpoint:
    return open_checkpoint(whole.bytes_of(whole.modules()), "model.onnx")


def numbers(*shape: int) -> np.ndarray:
    return GENERATOR.standard_normal(shape).astype(np.float32)


def read(whole: Whole, name: str = "inputs.npz", **arrays: np.ndarray) -> Calibration:
    checkpoint = opened(whole)
    return read_calibration(npz(arrays), name, checkpoint, checkpoint.lstms)


def test_each_lstm_of_a_chain_gets_what_it_reads_there() -> None:
    x = numbers(9, 70, INPUT)  # (T, N, I); more sequences than go in at once
    found = read(CHAIN, x=x)
    (between,) = run_graph(CHAIN.bytes_of(CHAIN.modules()), {"x": torch.from_numpy(x)}, ["between"])
    assert torch.equal(torch.cat(found.sequences["first"]), torch.from_numpy(x).transpose(0, 1))
    assert torch.allclose(torch.cat(found.sequences["second"]), between.transpose(0, 1), atol=1e-6)


def test_steps_are_fed_one_by_one_and_states_go_from_each_to_the_next() -> None:
    x = numbers(12, 2 * BATCH, INPUT)  # the graph takes one step of `BATCH` sequences
    found = torch.cat(read(STEPWISE, x=x).sequences["first"])
    assert torch.equal(found, torch.from_numpy(x).transpose(0, 1))


def test_a_chain_of_steps_is_fed_its_own_states() -> None:
    """The second LSTM reads what the first makes of all steps before."""
    shape: list[int | str] = [1, 1, HIDDEN]
    states = [f"{kind}_{which}" for which in (1, 2) for kind in ("h", "c")]
    whole = Whole(
        CHAIN.modules,
        [
            lstm("first", states=("h_1", "c_1")),
            node("Squeeze", "first_Y one", "between"),
            lstm("second", "between", states=("h_2", "c_2")),
            node("Squeeze", "second_Y one", "y"),
            *(
                node("Identity", f"{name}_{kind}", f"{kind}_{which}_n")
                for which, name in ((1, "first"), (2, "second"))
                for kind in ("h", "c")
            ),
        ],
        {"x": [1, 1, INPUT], **dict.fromkeys(states, shape)},
        {"y": [1, 1, HIDDEN], **{f"{name}_n": shape for name in states}},
        {"one": [1]},
    )
    x = numbers(8, 1, INPUT)
    first = whole.modules()["first"]
    assert isinstance(first, nn.LSTM)
    (found,) = read(whole, x=x).sequences["second"]
    assert torch.allclose(found, first(torch.from_numpy(x))[0].transpose(0, 1), atol=1e-6)


def test_what_is_read_backwards_is_turned_round() -> None:
    x = numbers(3, 9, INPUT)
    assert torch.equal(torch.cat(read(BACKWARDS, x=x).sequences["first"]), torch.from_numpy(x).flip(1))


def test_an_array_without_a_name_is_the_one_input_of_a_graph(tmp_path: Path) -> None:
    x = numbers(9, 5, INPUT)
    np.save(tmp_path / "x.npy", x)
    checkpoint = opened(CHAIN)
    found = read_calibration(tmp_path / "x.npy", "x.npy", checkpoint, checkpoint.lstms)
    assert torch.equal(torch.cat(found.sequences["first"]), torch.from_numpy(x).transpose(0, 1))


def test_arrays_of_the_names_of_lstms_are_theirs_as_ever() -> None:
    first, second = numbers(2, 9, INPUT), numbers(2, 9, HIDDEN)
    found = read(CHAIN, first=first, second=second)
    assert torch.equal(found.sequences["second"][0], torch.from_numpy(second))


def test_fold_works_on_what_was_read() -> None:
    checkpoint = opened(STEPWISE)
    calibration = read(STEPWISE, x=numbers(40, 4 * BATCH, INPUT))
    recipe = Recipe(0.5, "units", criterion="obs", compensation="fold", consumers=("linear.weight",))
    steps = run(checkpoint, recipe, calibration=calibration).compensation.facts["lstms"][0]["steps"]
    assert steps[0]["kept"] and steps[0]["after"] < steps[0]["before"]


REFUSED = {
    "another width": (
        {"x": numbers(9, 5, 8)},
        r"expected an array of the shape \('time', 'batch', 3\), as the graph's",
    ),
    "too few axes": ({"x": numbers(9, 3)}, "expected an array of the shape"),
    "no sequence": ({"x": numbers(1, 5, INPUT)}, "expected at least one sequence of at least 2 steps"),
    "nothing finite": ({"x": np.full((9, 5, INPUT), np.nan, np.float32)}, "expected finite inputs"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_the_graph_is_refused(case: str) -> None:
    arrays, message = REFUSED[case]
    with pytest.raises(PrunerError, match=message):
        read(CHAIN, **arrays)


def test_steps_without_states_to_feed_back_are_refused() -> None:
    whole = WHOLE["both directions, through a fixed shape"]
    with pytest.raises(PrunerError, match="expected 7 steps a call, since the graph does not give every state"):
        read(whole, x=numbers(14, BATCH, INPUT))


def test_an_input_that_is_missing_is_named() -> None:
    whole = Whole(
        CHAIN.modules,
        [node("Add", "a b", "x"), *CHAIN.nodes],
        {"a": CHAIN.inputs["x"], "b": CHAIN.inputs["x"]},
        CHAIN.outputs,
        CHAIN.constants,
    )
    with pytest.raises(PrunerError, match=r"that is no state \(a, b\), found a: inputs.npz"):
        read(whole, a=numbers(9, 5, INPUT))
