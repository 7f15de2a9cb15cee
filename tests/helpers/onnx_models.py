"""Small ONNX models made on the spot from PyTorch's LSTMs, and what ONNX Runtime computes with them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn

OPSET = 17


def iofc(packed: Tensor) -> Tensor:
    """PyTorch's rows of i, f, g, o as ONNX packs them: i, o, f, c."""
    i, f, g, o = packed.chunk(4)
    return torch.cat([i, o, f, g])


def packed(module: nn.LSTM, layer: int = 0) -> dict[str, np.ndarray]:
    """W, R and B of one layer, both directions of it."""
    ends = [f"_l{layer}", f"_l{layer}_reverse"][: 2 if module.bidirectional else 1]
    state = {name: iofc(tensor) for name, tensor in module.state_dict().items()}
    arrays = {
        "W": torch.stack([state[f"weight_ih{end}"] for end in ends]),
        "R": torch.stack([state[f"weight_hh{end}"] for end in ends]),
    }
    if module.bias:
        arrays["B"] = torch.stack([torch.cat([state[f"bias_ih{end}"], state[f"bias_hh{end}"]]) for end in ends])
    return {name: tensor.numpy() for name, tensor in arrays.items()}


def lstm_node(
    name: str = "", inputs: Sequence[str] = ("x", "W", "R", "B"), outputs: Sequence[str] = ("y",), **attributes: Any
) -> NodeProto:
    return helper.make_node("LSTM", list(inputs), list(outputs), name=name, **{"hidden_size": 4, **attributes})


def model(
    nodes: list[NodeProto],
    initializers: dict[str, np.ndarray],
    outputs: Sequence[str] = ("y",),
    inputs: Sequence[str] = ("x",),
    opset: int = OPSET,
    sizes: Sequence[int] = (7, 2, 3),
) -> bytes:
    """A model of these nodes. All inputs are float arrays; "x" has `sizes` (steps, batch, features)."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes if name == "x" else None) for name in inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in initializers.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return made.SerializeToString()


def run(data: bytes, inputs: dict[str, Tensor], outputs: Sequence[str]) -> list[Tensor]:
    """What ONNX Runtime computes; any value of the graph can be asked for."""
    loaded = onnx.load_from_string(data)
    loaded.opset_import[0].version = max(loaded.opset_import[0].version, 7)  # the first that ONNX Runtime has LSTMs of
    known = {output.name for output in loaded.graph.output}
    loaded.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in outputs if name not in known)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(loaded.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found = session.run(list(outputs), {name: tensor.numpy() for name, tensor in inputs.items()})
    return [torch.from_numpy(array) for array in found]
