"""ONNX: LSTM nodes compute as ONNX Runtime does, others are declined by name, readers are offered only where proven."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn

from pruner.errors import PrunerError
from pruner.files import formats
from pruner.files.checkpoint import Checkpoint
from pruner.files.contents import Learned
from pruner.files.opening import open_checkpoint
from pruner.lstm.module import build
from tests.helpers.models import random_lstm
from tests.helpers.onnx_models import OPSET, lstm_node, model, packed, run

X = torch.randn(7, 2, 3, generator=torch.Generator().manual_seed(1))  # (steps, batch, features)
TOLERANCE = 1e-5


def outputs(checkpoint: Checkpoint, inputs: Tensor, names: list[str] | None = None) -> Tensor:
    """What the LSTMs of a checkpoint compute one after the other, (steps, batch, features) as ONNX has them."""
    for lstm in checkpoint.select(names):
        inputs = build(lstm, checkpoint.tensors)(inputs.transpose(0, 1))[0].transpose(0, 1)
    return inputs


def sequence(y: Tensor) -> Tensor:
    """ONNX's (steps, directions, batch, H) with the directions side by side."""
    return y.transpose(1, 2).flatten(2)


def learned(data: bytes) -> dict[str, Learned]:
    return dict(formats.read(data, "model.onnx").learned)


@pytest.mark.parametrize("settings", [{}, {"bias": False}, {"bidirectional": True}], ids=["plain", "no bias", "both"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["float32", "float16"])
def test_a_node_computes_as_onnx_runtime_does(settings: dict[str, Any], dtype: torch.dtype) -> None:
    module = random_lstm(**settings)
    arrays = {
        name: array.astype("float16" if dtype == torch.float16 else "float32") for name, array in packed(module).items()
    }
    direction = "bidirectional" if module.bidirectional else "forward"
    data = model([lstm_node("rec", ("x", *arrays), direction=direction)], arrays)
    checkpoint = open_checkpoint(data, "model.onnx")
    (lstm,) = checkpoint.lstms
    assert (checkpoint.format, lstm.name, lstm.kind, lstm.dtype) == ("ONNX", "rec", "LSTM", str(dtype)[6:])
    assert (lstm.bias, lstm.bidirectional, lstm.input_size, lstm.hidden_size) == (
        module.bias,
        module.bidirectional,
        3,
        4,
    )
    if dtype == torch.float32:
        (y,) = run(data, {"x": X}, ["y"])
        torch.testing.assert_close(outputs(checkpoint, X), sequence(y), atol=TOLERANCE, rtol=0)
    for standard, name in lstm.tensors.items():
        assert torch.equal(checkpoint.tensors[name], module.state_dict()[standard].to(dtype)), standard


def test_a_node_that_runs_backwards_is_read_and_said_to() -> None:
    data = model([lstm_node("rec", direction="reverse")], packed(random_lstm()))
    (y,) = run(data, {"x": X}, ["y"])
    checkpoint = open_checkpoint(data, "model.onnx")
    torch.testing.assert_close(outputs(checkpoint, X.flip(0)), sequence(y).flip(0), atol=TOLERANCE, rtol=0)
    assert "from the last step to the first" in learned(data)["rec"].notes[0]


def slices(name: str, old: bool) -> tuple[list[NodeProto], dict[str, np.ndarray]]:
    """The nodes by which PyTorch's exporter puts the gates of an initializer in order, in the old form or the new one."""
    nodes, constants = [], {}
    for part, (start, end) in enumerate(((0, 4), (12, 16), (4, 12))):
        out = f"{name}/{part}"
        if old:
            nodes.append(helper.make_node("Slice", [name], [out], axes=[0], starts=[start], ends=[end]))
            continue
        for key, value in (("starts", start), ("ends", end), ("axes", 0)):
            constants[f"{out}/{key}"] = np.array([value], np.int64)
        nodes.append(helper.make_node("Slice", [name, *(f"{out}/{key}" for key in ("starts", "ends", "axes"))], [out]))
    return [
        *nodes,
        helper.make_node("Concat", [f"{name}/{part}" for part in range(3)], [f"{name}/iofc"], axis=0),
    ], constants


def exported(module: nn.LSTM, prefix: str = "net.rec.", old: bool = False) -> bytes:
    """A stack of LSTMs whose initializers keep their PyTorch names and are cut and joined by nodes of the graph."""
    initializers = {f"{prefix}{name}": tensor.numpy() for name, tensor in module.state_dict().items()}
    nodes: list[NodeProto] = []
    constants: dict[str, np.ndarray] = {"axis": np.array([0], np.int64), "one": np.array([1], np.int64)}
    last = "x"
    for name in initializers:
        made, more = slices(name, old)
        nodes, constants = nodes + made, constants | more

    def unsqueeze(source: str, name: str) -> NodeProto:
        return helper.make_node(
            "Unsqueeze", [source] if old else [source, "axis"], [name], **({"axes": [0]} if old else {})
        )

    for layer in range(module.num_layers):
        joined = [f"{prefix}bias_{side}_l{layer}/iofc" for side in ("ih", "hh")]
        nodes += [
            unsqueeze(f"{prefix}weight_ih_l{layer}/iofc", f"W{layer}"),
            unsqueeze(f"{prefix}weight_hh_l{layer}/iofc", f"R{layer}"),
            helper.make_node("Concat", joined, [f"b{layer}"], axis=0),
            unsqueeze(f"b{layer}", f"B{layer}"),
            lstm_node("", (last, f"W{layer}", f"R{layer}", f"B{layer}"), (f"y{layer}",)),
            helper.make_node(
                "Squeeze",
                [f"y{layer}"] if old else [f"y{layer}", "one"],
                [f"s{layer}"],
                **({"axes": [1]} if old else {}),
            ),
        ]
        last = f"s{layer}"
    return model(nodes, initializers | ({} if old else constants), [last], opset=9 if old else OPSET)


@pytest.mark.parametrize("old", [False, True], ids=["opset 17", "opset 9"])
@pytest.mark.parametrize("layers", [1, 3])
def test_initializers_that_keep_their_names_give_the_module_back(layers: int, old: bool) -> None:
    module = random_lstm(num_layers=layers)
    data = exported(module, old=old)
    checkpoint = open_checkpoint(data, "model.onnx")
    (lstm,) = checkpoint.lstms
    assert (lstm.name, lstm.num_layers) == ("net.rec", layers)
    (y,) = run(data, {"x": X}, [f"s{layers - 1}"])
    torch.testing.assert_close(outputs(checkpoint, X), y, atol=TOLERANCE, rtol=0)
    assert checkpoint.tensors.keys() == {f"net.rec.{name}" for name in module.state_dict()}
    assert learned(data)["net.rec"].batch_first is False


def test_layers_that_do_not_fit_together_stay_apart() -> None:
    module = random_lstm()
    wide = random_lstm(input_size=5)
    arrays = {f"rec.weight_ih_l{index}": packed(each)["W"] for index, each in enumerate((module, wide))}
    arrays |= {f"rec.weight_hh_l{index}": packed(each)["R"] for index, each in enumerate((module, wide))}
    nodes = [
        lstm_node(f"n{index}", ("x", f"rec.weight_ih_l{index}", f"rec.weight_hh_l{index}"), (f"y{index}",))
        for index in (0, 1)
    ]
    assert [lstm.name for lstm in open_checkpoint(model(nodes, arrays, ["y0", "y1"]), "m").lstms] == ["n0", "n1"]


def test_nodes_without_names_have_the_root_or_a_number() -> None:
    arrays = packed(random_lstm())
    assert [lstm.name for lstm in open_checkpoint(model([lstm_node()], arrays), "m").lstms] == [""]
    both = model([lstm_node(outputs=["y"]), lstm_node(outputs=["z"])], arrays, ["y", "z"])
    assert [lstm.name for lstm in open_checkpoint(both, "m").lstms] == ["lstm", "lstm_1"]


def test_a_model_that_is_unrolled_has_its_lstm_once_or_shares_its_numbers() -> None:
    wide = random_lstm(hidden_size=64)
    named_arrays = {
        f"rec.{key}": packed(wide)[letter] for key, letter in (("weight_ih_l0", "W"), ("weight_hh_l0", "R"))
    }
    for arrays, names in (
        (named_arrays, {"rec"}),
        ({"W": packed(wide)["W"], "R": packed(wide)["R"]}, {f"n{i}" for i in range(50)}),
    ):
        nodes = [lstm_node(f"n{index}", ("x", *arrays), [f"y{index}"], hidden_size=64) for index in range(50)]
        checkpoint = open_checkpoint(model(nodes, arrays, ["y0"]), "m")
        assert {lstm.name for lstm in checkpoint.lstms} == names
        assert len({tensor.data_ptr() for tensor in checkpoint.tensors.values()}) == 2


def test_an_lstm_in_a_branch_reads_weights_from_around_it() -> None:
    arrays = packed(random_lstm())
    branches = [
        helper.make_graph(
            [lstm_node(f"{name}/rec", outputs=[name])], name, [], [helper.make_empty_tensor_value_info(name)]
        )
        for name in ("then", "else")
    ]
    node = helper.make_node("If", ["yes"], ["y"], then_branch=branches[0], else_branch=branches[1])
    data = model([node], {**arrays, "yes": np.array(True)})
    (y,) = run(data, {"x": X}, ["y"])
    checkpoint = open_checkpoint(data, "model.onnx")
    assert [lstm.name for lstm in checkpoint.lstms] == ["else/rec", "then/rec"]
    torch.testing.assert_close(outputs(checkpoint, X, ["then/rec"]), sequence(y), atol=TOLERANCE, rtol=0)
    assert [learned(data)[name].consumers for name in ("then/rec", "else/rec")] == [(), ()]


DECLINED = {
    "relu": ({"activations": ["Sigmoid", "Relu", "Tanh"]}, (), "found 'sigmoid, relu, tanh'"),
    "hard sigmoid": ({"activations": ["HardSigmoid", "Tanh", "Tanh"]}, (), "found 'hardsigmoid, tanh, tanh'"),
    "clip": ({"clip": 3.0}, (), "expected no clipping, as in nn.LSTM, found clip=3"),
    "input_forget": ({"input_forget": 1}, (), "found input_forget=1"),
    "peepholes": ({}, ("", "", "", "P"), "found peephole weights P"),
    "direction": ({"direction": "sideways"}, (), "found 'sideways'"),
    "two directions": ({"direction": "bidirectional"}, (), "expected W, R and B of 2 x 4 gates"),
}


@pytest.mark.parametrize("case", DECLINED)
def test_what_an_lstm_of_pytorch_cannot_compute_is_declined_by_name(case: str) -> None:
    attributes, more, reason = DECLINED[case]
    arrays = {**packed(random_lstm()), "P": np.zeros((1, 12), np.float32)}
    checkpoint = open_checkpoint(model([lstm_node("rec", ("x", "W", "R", "B", *more), **attributes)], arrays), "m")
    assert checkpoint.lstms == []
    assert [(skipped.name, reason in skipped.reason) for skipped in checkpoint.skipped] == [("rec", True)]


def test_activations_that_are_the_usual_ones_may_be_said() -> None:
    node = lstm_node("rec", activations=["Sigmoid", "Tanh", "Tanh"])
    assert [lstm.name for lstm in open_checkpoint(model([node], packed(random_lstm())), "m").lstms] == ["rec"]


@pytest.mark.parametrize(("kind", "gates", "reason"), [("GRU", 3, "a GRU: "), ("RNN", 1, "a plain RNN: ")])
def test_other_recurrent_nodes_are_skipped_by_name(kind: str, gates: int, reason: str) -> None:
    arrays = {"W": np.zeros((1, gates * 4, 3), np.float32), "R": np.zeros((1, gates * 4, 4), np.float32)}
    checkpoint = open_checkpoint(
        model([helper.make_node(kind, ["x", "W", "R"], ["y"], name="n", hidden_size=4)], arrays), "m"
    )
    assert [(skipped.name, skipped.reason[: len(reason)]) for skipped in checkpoint.skipped] == [("n", reason)]


def test_weights_that_the_graph_computes_are_not_guessed() -> None:
    arrays = packed(random_lstm())
    nodes = [helper.make_node("Mul", ["W", "W"], ["V"]), lstm_node("rec", ("x", "V", "R", "B"))]
    (skipped,) = open_checkpoint(model(nodes, arrays), "m").skipped
    assert skipped.reason == "expected weights that are constants, found that 'Mul' makes W"


def test_weights_outside_of_the_file_are_not_followed(tmp_path: Path) -> None:
    loaded = onnx.load_from_string(model([lstm_node("rec")], packed(random_lstm())))
    path = tmp_path / "model.onnx"
    onnx.save_model(loaded, path, save_as_external_data=True, location="secret.bin", size_threshold=0)
    with pytest.raises(PrunerError, match=r"found weights in a file of their own \('secret.bin'\).*onnx.save_model"):
        open_checkpoint(path)


I64 = {f"i{number}": np.array([number], np.int64) for number in (-1, 0, 1, 2)}
READERS: dict[str, tuple[list[tuple[Any, ...]], tuple[str, ...]]] = {
    "a product": ([("Squeeze", "y i1", "a"), ("MatMul", "a K", "z")], ("head.weight",)),
    "a product and its bias": (
        [("Squeeze", "y i1", "a"), ("MatMul", "a K", "b"), ("Add", "fc.bias b", "z")],
        ("fc.weight",),
    ),
    "the last step": (
        [
            ("Squeeze", "y i1", "a"),
            ("Gather", "a last", "b", {"axis": 0}),
            ("Gemm", "b lin.weight fc.bias", "z", {"transB": 1}),
        ],
        ("lin.weight",),
    ),
    "the last state": ([("Squeeze", "h i0", "a"), ("Gemm", "a K fc.bias", "z")], ("fc.weight",)),
    "turned and reshaped": (
        [
            ("Transpose", "y", "a", {"perm": [2, 0, 1, 3]}),
            ("Reshape", "a to_width", "b"),
            ("Relu", "b", "c"),
            ("MatMul", "c K", "z"),
        ],
        ("head.weight",),
    ),
    "two heads": (
        [("Squeeze", "y i1", "a"), ("MatMul", "a K", "z"), ("MatMul", "a L", "w")],
        ("head.weight", "head_1.weight"),
    ),
    "the output itself": ([("Squeeze", "y i1", "z")], ()),
    "a head and the output itself": ([("Squeeze", "y i1", "w"), ("MatMul", "w K", "z")], ()),
    "a sigmoid, which makes 0 to 0.5": ([("Squeeze", "y i1", "a"), ("Sigmoid", "a", "b"), ("MatMul", "b K", "z")], ()),
    "features turned into steps": (
        [("Transpose", "y", "a", {"perm": [3, 1, 2, 0]}), ("Reshape", "a to_width", "b"), ("MatMul", "b K", "z")],
        (),
    ),
    "a product with the state, too": (
        [("Squeeze", "y i1", "a"), ("MatMul", "a K", "z"), ("Squeeze", "h i0", "b"), ("Sigmoid", "b", "w")],
        (),
    ),
    "on the right of a product": ([("Squeeze", "y i1", "a"), ("MatMul", "M a", "z")], ()),
}


@pytest.mark.parametrize("case", READERS)
def test_readers_are_offered_where_the_graph_proves_them(case: str) -> None:
    steps, consumers = READERS[case]
    arrays = {
        **packed(random_lstm()),
        **I64,
        "last": np.array(-1, np.int64),
        "to_width": np.array([-1, 4], np.int64),
        "K": np.ones((4, 5), np.float32),
        "L": np.full((4, 5), 2, np.float32),
        "M": np.ones((5, 7), np.float32),
        "lin.weight": np.full((5, 4), 3, np.float32),
        "fc.bias": np.ones(5, np.float32),
    }
    nodes = [lstm_node("rec", outputs=("y", "h"))]
    heads = 0
    for operation, inputs, output, *attributes in steps:
        name = ""
        if operation in ("MatMul", "Gemm"):
            name = f"head_{heads}" if heads else "head"
            heads += 1
        nodes.append(helper.make_node(operation, inputs.split(), [output], name, **dict(*attributes)))
    final = sorted({node.output[0] for node in nodes} & {"z", "w"})
    data = model(nodes, arrays, final)
    assert set(learned(data)["rec"].consumers) == set(consumers)
    tensors = open_checkpoint(data, "m").tensors
    filled = {"head_1.weight": 2, "lin.weight": 3}
    for consumer in consumers:  # in PyTorch's layout: (outputs, features)
        assert torch.equal(tensors[consumer], torch.full((5, 4), filled.get(consumer, 1.0)))


def test_both_directions_are_followed_side_by_side() -> None:
    arrays = packed(random_lstm(bidirectional=True)) | {"K": np.ones((8, 5), np.float32)}
    arrays["kept"] = np.array([0, 0, -1], np.int64)
    nodes = [
        lstm_node("rec", direction="bidirectional"),
        helper.make_node("Transpose", ["y"], ["a"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["a", "kept"], ["b"]),
        helper.make_node("MatMul", ["b", "K"], ["z"], "head"),
    ]
    assert learned(model(nodes, arrays, ["z"]))["rec"].consumers == ("head.weight",)
    nodes[1] = helper.make_node("Transpose", ["y"], ["a"], perm=[0, 2, 3, 1])  # units and directions mixed
    assert learned(model(nodes, arrays, ["z"]))["rec"].consumers == ()


def test_a_state_that_is_handed_from_call_to_call_is_no_reader() -> None:
    arrays = {**packed(random_lstm()), **I64, "K": np.ones((4, 5), np.float32)}
    nodes = [
        lstm_node("rec", ("x", "W", "R", "B", "", "h0", "c0"), ("y", "h", "c")),
        helper.make_node("Squeeze", ["y", "i1"], ["a"]),
        helper.make_node("MatMul", ["a", "K"], ["z"], "head"),
    ]
    assert learned(model(nodes, arrays, ["z", "h", "c"], ["x", "h0", "c0"]))["rec"].consumers == ("head.weight",)
    nodes[0] = lstm_node("rec", outputs=("y", "h", "c"))
    assert learned(model(nodes, arrays, ["z", "h", "c"]))["rec"].consumers == ()


def test_an_lstm_that_reads_another_is_named_by_its_input_weights() -> None:
    arrays = {**packed(random_lstm()), **I64, "V": packed(random_lstm(input_size=4, bidirectional=True))["W"]}
    arrays["S"] = packed(random_lstm(bidirectional=True))["R"]
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
        lstm_node("first", ("t", "W", "R", "B")),
        helper.make_node("Squeeze", ["y", "i1"], ["a"]),
        lstm_node("second", ("a", "V", "S"), ("z",), direction="bidirectional"),
    ]
    found = learned(model(nodes, arrays, ["z"]))
    assert found["first"].consumers == ("second.weight_ih_l0", "second.weight_ih_l0_reverse")
    assert (found["first"].batch_first, found["second"].batch_first) == (True, None)


def test_other_weights_keep_their_names() -> None:
    arrays = {**packed(random_lstm()), "emb": np.ones((9, 3), np.float32), "index": np.array([1], np.int64)}
    tensors = open_checkpoint(model([lstm_node("rec")], arrays), "m").tensors
    assert sorted(tensors)[0] == "emb"
    assert "index" not in tensors


def deep_constants(depth: int) -> bytes:
    nodes = [helper.make_node("Concat", [f"c{step}"] * 2, [f"c{step + 1}"], axis=0) for step in range(depth)]
    arrays = {"c0": np.ones((1, 16, 3), np.float32), "R": packed(random_lstm())["R"]}
    return model([*nodes, lstm_node("rec", ("x", f"c{depth}", "R"))], arrays)


def field(number: int, data: bytes) -> bytes:
    """A field of a message, as protocol buffers write it."""
    length, size = len(data), b""
    while length > 127:
        size, length = size + bytes([length & 127 | 128]), length >> 7
    return bytes([number << 3 | 2]) + size + bytes([length]) + data


def nested_graphs(depth: int) -> bytes:
    """Each graph holds a node whose attribute holds the next one, deeper than onnx itself writes or reads them."""
    graph = b""
    for _ in range(depth):
        graph = field(1, field(5, field(6, graph)))
    return b"\x08\x08" + field(7, graph)


def with_tensor(**fields: Any) -> bytes:
    loaded = onnx.load_from_string(model([lstm_node("rec")], packed(random_lstm())))
    tensor = TensorProto(name="bad", data_type=TensorProto.FLOAT)
    for key, value in fields.items():
        if key == "dims":
            tensor.dims.extend(value)
        else:
            setattr(tensor, key, value)
    loaded.graph.initializer.append(tensor)
    return loaded.SerializeToString()


def many_readers(count: int) -> bytes:
    """One matrix, turned over for each of many products."""
    arrays = {**packed(random_lstm()), **I64, "K": np.ones((4, 4000), np.float32)}
    products = [helper.make_node("MatMul", ["a", "K"], [f"z{index}"], f"head{index}") for index in range(count)]
    return model([lstm_node("rec"), helper.make_node("Squeeze", ["y", "i1"], ["a"]), *products], arrays, ["z0"])


HOSTILE = {
    "many products of one matrix": many_readers(100),
    "cut": exported(random_lstm())[:-100],
    "doubled without end": deep_constants(50),
    "graphs in graphs": nested_graphs(70),
    "a shape larger than its bytes": with_tensor(dims=[2**40, 2**20], raw_data=b"1234"),
    "a negative shape": with_tensor(dims=[-1], raw_data=b"1234"),
    "fewer bytes than numbers": with_tensor(dims=[3], raw_data=b"12345678"),
    "a million fields": b"\x08\x08" + field(7, b"\x0a\x00" * 1_000_000),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_models_are_refused_in_one_sentence(case: str) -> None:
    with pytest.raises(PrunerError, match=r"^expected .*, found .*(damaged|no known format)"):
        open_checkpoint(HOSTILE[case], "model.onnx").select()


@pytest.mark.parametrize(
    ("file", "names", "x"),
    [
        ("Pytorch-TVM-LSTM__lstm.onnx", ["lstm"], "input.1"),
        ("dtln_model_1.onnx", ["lstm_4", "lstm_5"], "input_2"),
        ("onnx_to_tensorflow__lstm.onnx", [""], "0"),
    ],
)
def test_real_models_compute_as_onnx_runtime_does(file: str, names: list[str], x: str, foreign: Path) -> None:
    data = (foreign / file).read_bytes()
    graph = onnx.load_from_string(data).graph
    given = {initializer.name for initializer in graph.initializer}
    generator = torch.Generator().manual_seed(0)
    inputs = {
        value.name: torch.zeros([size.dim_value or 1 for size in value.type.tensor_type.shape.dim])
        for value in graph.input
        if value.name not in given
    }
    inputs[x] = torch.randn(inputs[x].shape, generator=generator)
    nodes = [node for node in graph.node if node.op_type == "LSTM"]
    values = run(data, inputs, [name for node in nodes for name in (node.input[0], node.output[0])])
    checkpoint = open_checkpoint(foreign / file)
    assert [lstm.name for lstm in checkpoint.lstms] == names
    for index, name in enumerate(names):
        seen, expected = values[2 * index : 2 * index + 2]
        torch.testing.assert_close(outputs(checkpoint, seen, [name]), sequence(expected), atol=TOLERANCE, rtol=0)


def test_arrays_of_every_encoding_are_read() -> None:
    """Numbers lie in fields of their own where an exporter does not write them as raw bytes."""
    expected = np.arange(6, dtype=np.float32).reshape(2, 3)
    for kind in (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16):
        for raw in (False, True):
            if raw and kind == TensorProto.BFLOAT16:
                continue
            dtype = helper.tensor_dtype_to_np_dtype(kind)
            values = expected.astype(dtype)
            tensor = helper.make_tensor("other", kind, (2, 3), values.tobytes() if raw else values.reshape(-1), raw)
            loaded = onnx.load_from_string(model([lstm_node("rec")], packed(random_lstm())))
            loaded.graph.initializer.append(tensor)
            found = open_checkpoint(loaded.SerializeToString(), "m").tensors["other"]
            assert torch.equal(found.float(), torch.from_numpy(expected)), (kind, raw)
            assert numpy_helper.to_array(tensor).shape == found.shape
