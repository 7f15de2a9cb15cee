"""Whole ONNX graphs around LSTMs, made of PyTorch's modules: of the same modules with other weights, the same graph."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from onnx import NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn

from tests.helpers.onnx_models import packed

STEPS, BATCH, INPUT, HIDDEN, OUT = 7, 2, 3, 6, 4
Modules = Mapping[str, nn.Module]
Shape = list[int | str]


@dataclass(frozen=True)
class Whole:
    """A graph by how it is made: its modules, nodes, other constants, and the shapes of what goes in and out."""

    modules: Callable[[], dict[str, nn.Module]]
    nodes: list[NodeProto]
    inputs: dict[str, Shape]
    outputs: dict[str, Shape]
    constants: Mapping[str, list[int]]
    opset: int = 17
    ir_version: int = 8
    through_nodes: bool = False  # whether weights are cut, joined and turned by nodes, as old exporters of PyTorch do

    def bytes_of(self, modules: Modules) -> bytes:
        arrays: dict[str, np.ndarray] = {name: np.array(values, np.int64) for name, values in self.constants.items()}
        nodes = list(self.nodes)
        for name, module in modules.items():
            if isinstance(module, nn.LSTM):
                for kind, array in packed(module).items():
                    arrays[f"{name}_{kind}"] = array
            elif isinstance(module, nn.Linear):
                arrays |= {
                    f"{name}.weight": module.weight.detach().numpy().T,
                    f"{name}.bias": module.bias.detach().numpy(),
                }
        if self.through_nodes:
            for name in [name for name in arrays if name.endswith(("_W", "_R"))]:
                value = numpy_helper.from_array(np.ascontiguousarray(arrays.pop(name)[0].T))
                nodes = [
                    helper.make_node("Constant", [], [f"{name}_constant"], value=value),
                    helper.make_node("Transpose", [f"{name}_constant"], [f"{name}_turned"], perm=[1, 0]),
                    helper.make_node("Unsqueeze", [f"{name}_turned", "zero"], [name]),
                    *nodes,
                ]
        infos = {
            name: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in self.inputs.items()
        }
        listed = (
            []
            if self.ir_version > 3
            else [
                helper.make_tensor_value_info(
                    name, TensorProto.INT64 if array.dtype == np.int64 else TensorProto.FLOAT, array.shape
                )
                for name, array in arrays.items()
            ]
        )
        graph = helper.make_graph(
            nodes,
            "whole",
            [*infos.values(), *listed],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in self.outputs.items()],
            [numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in arrays.items()],
        )
        made = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", self.opset)],
            ir_version=self.ir_version,
            producer_name="author",
        )
        helper.set_model_props(made, {"said": "by the author"})
        onnx.checker.check_model(made, full_check=True)
        return made.SerializeToString()


def with_tensors(modules: Modules, tensors: Mapping[str, Tensor]) -> Modules:
    """The same modules with the tensors of a checkpoint of their graph."""
    for name, module in modules.items():
        own = {key: tensors.get(f"{name}.{key}", value) for key, value in module.state_dict().items()}
        if all(own[key].shape == value.shape for key, value in module.state_dict().items()):  # else nothing reads it
            module.load_state_dict(own)
    return modules


def lstm(name: str, x: str = "x", states: tuple[str, str] = ("", ""), **attributes: object) -> NodeProto:
    inputs = [x, f"{name}_W", f"{name}_R", f"{name}_B", "", *states]
    return helper.make_node(
        "LSTM", inputs, [f"{name}_{end}" for end in ("Y", "h", "c")], name=name, hidden_size=HIDDEN, **attributes
    )


def node(kind: str, inputs: str, output: str, **attributes: object) -> NodeProto:
    return helper.make_node(kind, inputs.split(), [output], name=f"{kind} {output}", **attributes)


def _modules(directions: int = 1, chain: bool = False) -> Callable[[], dict[str, nn.Module]]:
    def made() -> dict[str, nn.Module]:
        torch.manual_seed(0)
        width = HIDDEN * directions
        first = nn.LSTM(INPUT, HIDDEN, bidirectional=directions == 2)
        more = {"second": nn.LSTM(HIDDEN, HIDDEN)} if chain else {}
        return {"first": first, **more, "linear": nn.Linear(width, OUT)}

    return made


X: dict[str, Shape] = {"x": ["time", "batch", INPUT]}
READ = [node("MatMul", "flat linear.weight", "product"), node("Add", "product linear.bias", "y")]
Y: dict[str, Shape] = {"y": ["time", "batch", OUT]}
STATES: dict[str, Shape] = {"h_0": [1, BATCH, HIDDEN], "c_0": [1, BATCH, HIDDEN]}

WHOLE = {
    "a linear layer reads it": Whole(
        _modules(), [lstm("first"), node("Squeeze", "first_Y one", "flat"), *READ], X, Y, {"one": [1]}
    ),
    "weights through nodes": Whole(
        _modules(),
        [lstm("first"), node("Squeeze", "first_Y one", "flat"), *READ],
        X,
        Y,
        {"one": [1], "zero": [0]},
        through_nodes=True,
    ),
    "both directions, through a fixed shape": Whole(
        _modules(2),
        [
            lstm("first", direction="bidirectional"),
            node("Transpose", "first_Y", "turned", perm=[0, 2, 1, 3]),
            node("Reshape", "turned shape", "flat"),
            *READ,
        ],
        {"x": [STEPS, BATCH, INPUT]},
        {"y": [STEPS, BATCH, OUT]},
        {"shape": [STEPS, BATCH, 2 * HIDDEN]},
    ),
    "the last state is read": Whole(
        _modules(),
        [lstm("first"), node("Squeeze", "first_h zero", "last"), node("Gemm", "last linear.weight linear.bias", "y")],
        X,
        {"y": ["batch", OUT]},
        {"zero": [0]},
    ),
    "two in a chain": Whole(
        _modules(chain=True),
        [
            lstm("first"),
            node("Squeeze", "first_Y one", "between"),
            lstm("second", "between"),
            node("Squeeze", "second_Y one", "flat"),
            *READ,
        ],
        X,
        Y,
        {"one": [1]},
    ),
    "states taken and given": Whole(
        _modules(),
        [
            lstm("first", states=("h_0", "c_0")),
            node("Squeeze", "first_Y one", "flat"),
            *READ,
            node("Identity", "first_h", "h_n"),
            node("Identity", "first_c", "c_n"),
        ],
        {"x": [1, BATCH, INPUT], **STATES},
        {"y": [1, BATCH, OUT], "h_n": [1, BATCH, HIDDEN], "c_n": [1, BATCH, HIDDEN]},
        {"one": [1]},
    ),
    "its output goes out": Whole(
        _modules(2),
        [lstm("first", direction="bidirectional"), node("Mul", "first_Y first_Y", "y")],
        X,
        {"y": ["time", 2, "batch", HIDDEN]},
        {},
        opset=9,
    ),
    "initializers among the inputs": Whole(
        _modules(),
        [lstm("first"), node("Squeeze", "first_Y", "flat", axes=[1]), *READ],
        X,
        Y,
        {},
        opset=11,
        ir_version=3,
    ),
}
