"""The ONNX graph of a pruned LSTM, whatever its kind and form, computes in ONNX Runtime what its PyTorch module does."""

from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

from pruner import Recipe, open_checkpoint
from pruner.exports.onnx import parts as parts_module
from pruner.exports.onnx.building import IR_VERSION, model_of
from pruner.exports.onnx.parts import Unwritable, parts_of
from pruner.exports.onnx.running import OnnxLSTM, lstms_of
from pruner.pipeline import prune
from tests.helpers.files import saved
from tests.helpers.models import named, random_lstm
from tests.helpers.onnx_exports import HIDDEN, INPUT, WAYS, Case, case, run, session_of, steps

SETTINGS: list[dict[str, Any]] = [
    {"num_layers": layers, "bidirectional": both, "bias": bias}
    for layers in (1, 2, 3)
    for both in (False, True)
    for bias in (True, False)
]
SHAPES = [(batch, length) for batch in (1, 5) for length in (1, 37)]


def close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted.detach(), rtol=0, atol=1e-5 * max(1.0, wanted.abs().max().item()))


def pruned_lstm(way: str, **settings: Any) -> Case:
    return case(way, random_lstm(hidden_size=HIDDEN, **settings))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("settings", SETTINGS, ids=lambda each: "-".join(map(str, each.values())))
def test_an_lstm_computes_what_its_module_does(settings: dict[str, Any], way: str) -> None:
    pruned = pruned_lstm(way, **settings)
    module, session = pruned.module(), session_of(pruned.graph())
    places = settings["num_layers"] * (2 if settings["bidirectional"] else 1)
    for batch, length in SHAPES:
        inputs = steps(batch, length, INPUT)
        state = steps(places, batch, HIDDEN, seed=2), steps(places, batch, HIDDEN, seed=3)
        for given in (None, state):
            output, (h_n, c_n) = module(inputs, given)
            states = {} if given is None else {"h_0": given[0], "c_0": given[1]}
            found = run(session, {"input": inputs, **states})
            assert list(found) == ["output", "h_n", "c_n", "linear"]
            for name, wanted in {"output": output, "h_n": h_n, "c_n": c_n, "linear": pruned.consumer(output)}.items():
                close(found[name], wanted)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("bias", [True, False])
def test_a_cell_computes_one_step_as_its_module_does(way: str, bias: bool) -> None:
    torch.manual_seed(0)
    pruned = case(way, nn.LSTMCell(INPUT, HIDDEN, bias=bias))
    module, session = pruned.module(), session_of(pruned.graph())
    for batch in (1, 5):
        inputs, state = steps(batch, INPUT), (steps(batch, HIDDEN, seed=2), steps(batch, HIDDEN, seed=3))
        for given in (None, state):
            h, c = module(inputs, given)
            found = run(session, {"input": inputs, **({} if given is None else {"h_0": state[0], "c_0": state[1]})})
            assert list(found) == ["h_1", "c_1", "linear"]
            for name, wanted in {"h_1": h, "c_1": c, "linear": pruned.consumer(h)}.items():
                close(found[name], wanted)


def test_one_state_can_be_given_alone() -> None:
    pruned = pruned_lstm("units compact")
    inputs, h_0 = steps(5, 4, INPUT), steps(1, 5, HIDDEN, seed=2)
    found = run(session_of(pruned.graph()), {"input": inputs, "h_0": h_0})
    close(found["output"], pruned.module()(inputs, (h_0, torch.zeros_like(h_0)))[0])


def test_time_can_come_first() -> None:
    pruned = pruned_lstm("unequal layers", num_layers=2, bidirectional=True)
    inputs = steps(5, 9, INPUT)
    output, (h_n, _) = pruned.module()(inputs)
    found = run(session_of(pruned.graph(batch_first=False)), {"input": inputs.transpose(0, 1)})
    close(found["output"], output.transpose(0, 1))
    close(found["linear"], pruned.consumer(output).transpose(0, 1))
    close(found["h_n"], h_n)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_are_computed_in_float32(dtype: torch.dtype) -> None:
    pruned = pruned_lstm("units compact", dtype=dtype)
    inputs = steps(5, 9, INPUT)
    close(run(session_of(pruned.graph()), {"input": inputs})["output"], pruned.module().float()(inputs)[0])


def test_a_layer_and_direction_is_a_node_of_its_own_size() -> None:
    graph = pruned_lstm("unequal layers", num_layers=2, bidirectional=True).graph().graph
    nodes = [node for node in graph.node if node.op_type == "LSTM"]
    facts = [{each.name: onnx.helper.get_attribute_value(each) for each in node.attribute} for node in nodes]
    assert [(fact["hidden_size"], fact["direction"]) for fact in facts] == [
        (5, b"forward"),
        (5, b"reverse"),
        (3, b"forward"),
        (3, b"reverse"),
    ]
    assert [node.op_type for node in graph.node].count("MatMul") == 1


def test_nothing_of_the_full_size_is_stored_in_a_compact_graph() -> None:
    pruned = pruned_lstm("units compact", num_layers=2)
    shapes = {each.name: tuple(each.dims) for each in pruned.graph().graph.initializer}
    assert shapes["lstm.weight_ih_l1.iofc"] == (1, 12, 3) and shapes["linear.weight.transposed"] == (3, 4)


def test_what_is_stored_unchanged_keeps_its_name() -> None:
    pruned = pruned_lstm("reconstructed compact", num_layers=2)
    arrays = {each.name: onnx.numpy_helper.to_array(each) for each in pruned.graph().graph.initializer}
    for name in ("linear.bias", "lstm.layers.0.kept", "lstm.layers.1.kept", "lstm.layers.1.reconstruction.bias"):
        assert torch.equal(torch.from_numpy(arrays[name].copy()), pruned.tensors[name]), name


def test_the_model_says_which_versions_it_needs_and_what_it_was_made_from() -> None:
    parts = parts_of([(pruned := pruned_lstm("units compact")).layout], pruned.tensors, {})
    model = model_of(parts, {"recipe": '{"sparsity": 0.5}', "source_sha256": "ab"})
    onnx.checker.check_model(model, full_check=True)
    assert model.ir_version == IR_VERSION and model.producer_name == "lstm-saliency-pruner"
    assert {each.key: each.value for each in model.metadata_props} == {
        "recipe": '{"sparsity": 0.5}',
        "source_sha256": "ab",
    }


def several() -> tuple[dict[str, OnnxLSTM], dict[str, nn.Module]]:
    """A checkpoint with an LSTM at the root, one called `a`, and a cell: in one session, and as modules."""
    torch.manual_seed(0)
    tensors = {**named(random_lstm()), **named(random_lstm(num_layers=2), "a."), **named(nn.LSTMCell(2, 5), "b.c.")}
    pruned = prune(open_checkpoint(saved(tensors), "model.pt"), Recipe(granularity="units"))
    form = pruned.forms["compact"]
    parts = parts_of(form.layouts, form.tensors(pruned.checkpoint), {})
    model = model_of(parts, {})
    names = [value.name for value in [*model.graph.input, *model.graph.output]]
    assert {"input", "a.input", "b.c.input", "a.h_n", "b.c.h_1"} <= set(names) and len(names) == len(set(names))
    return lstms_of(session_of(model), parts), pruned.modules("compact")


def test_several_lstms_share_a_graph_under_their_names() -> None:
    lstms, modules = several()
    assert lstms.keys() == modules.keys() == {"", "a", "b.c"}
    for name, lstm in lstms.items():
        inputs = steps(5, 9, modules[name].input_size)
        output, (h_n, c_n) = modules[name](inputs)
        found, (found_h, found_c) = lstm(inputs)
        close(found, output)
        close(found_h, h_n)
        close(found_c, c_n)


@pytest.mark.parametrize(
    ("consumer", "output"),
    [("output.weight", "output.weight"), ("h_n", "h_n_"), ("head.W", "head.W"), ("\ud800.weight", "\\ud800")],
)
def test_a_consumer_of_any_name_gets_an_output_of_its_own(consumer: str, output: str) -> None:
    pruned = pruned_lstm("units compact")
    tensors = {**pruned.tensors, consumer: pruned.whole["linear.weight"]}
    session = session_of(model_of(parts_of([pruned.layout], tensors, {"lstm": [consumer]}), {}))
    inputs = steps(2, 3, INPUT)
    read = pruned.module()(inputs)[0] @ pruned.whole["linear.weight"].t()
    close(run(session, {"input": inputs})[output], read)


def test_a_projection_is_declined_by_name() -> None:
    pruned = case("rows masked", random_lstm(hidden_size=HIDDEN))
    projected = prune(
        open_checkpoint(saved(named(random_lstm(proj_size=2), "encoder.")), "model.pt"), Recipe(granularity="units")
    ).forms["compact"]
    tensors = {name: tensor for name, tensor in projected.changed.items() if tensor is not None}
    assert parts_of([pruned.layout], pruned.tensors, {})
    with pytest.raises(Unwritable, match="without projection for an ONNX file, found encoder with proj_size 2"):
        parts_of(projected.layouts, tensors, {})


def test_what_is_too_large_for_a_file_is_declined_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    pruned = pruned_lstm("units compact")
    monkeypatch.setattr(parts_module, "MAX_BYTES", 100)
    with pytest.raises(Unwritable, match="less than 2 GiB for an ONNX file"):
        parts_of([pruned.layout], pruned.tensors, {})
