"""What is known of one LSTM: its sizes, the names of its tensors, and their shapes."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from pruner.errors import label
from pruner.lstm.gates import GATES, SIDES, layer_suffix
from pruner.lstm.sizes import Shape, macs_per_step, parameters_in

Place = tuple[int, int]  # layer and direction, 0 forward and 1 reverse

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)  # that an LSTM can have


def title_of(name: str) -> str:
    """What to call an LSTM of this name, which is empty at the root."""
    return label(name) or "(root)"


@dataclass(frozen=True)
class LSTM:
    """One `nn.LSTM` or `nn.LSTMCell`, in a checkpoint or in a model in memory.

    `tensors` maps PyTorch's name of each tensor (`weight_ih_l0`) to its name in the file (`encoder.weight_ih_l0`).
    """

    name: str  # the prefix in the file without its final dot; "" at the root
    kind: str  # "LSTM" or "LSTMCell"
    num_layers: int
    bidirectional: bool
    input_size: int
    hidden_size: int
    proj_size: int
    bias: bool
    dtype: str
    parameters: int
    tensors: dict[str, str]

    @property
    def title(self) -> str:
        return title_of(self.name)

    @property
    def directions(self) -> int:
        return 2 if self.bidirectional else 1

    @property
    def places(self) -> list[Place]:
        """Every layer and direction, in the order of `nn.LSTM`."""
        return [(layer, direction) for layer in range(self.num_layers) for direction in range(self.directions)]

    @property
    def input_weights(self) -> list[str]:
        """The names in the file of the tensors that read its input."""
        names = self.weight_names()
        return [names[0, direction, "ih"] for direction in range(self.directions)]

    @property
    def output_size(self) -> int:
        """Width of one direction's output: the projection if there is one, else the hidden size."""
        return self.proj_size or self.hidden_size

    @property
    def output_width(self) -> int:
        """Width of the last layer's output, both directions side by side."""
        return self.directions * self.output_size

    def layer_input_size(self, layer: int) -> int:
        return self.input_size if layer == 0 else self.output_width

    def columns(self, layer: int, side: str) -> int:
        """How many numbers a row of a packed weight multiplies."""
        return self.layer_input_size(layer) if side == "ih" else self.output_size

    def suffix(self, layer: int, direction: int) -> str:
        return layer_suffix(None if self.kind == "LSTMCell" else layer, direction)

    def weight_names(self) -> dict[tuple[int, int, str], str]:
        """{(layer, direction, side): name in the file} of the packed weights, in the order of the computation."""
        return {
            (layer, direction, side): self.tensors[f"weight_{side}{self.suffix(layer, direction)}"]
            for layer, direction in self.places
            for side in SIDES
        }

    def bias_name(self, layer: int, direction: int, side: str) -> str | None:
        return self.tensors.get(f"bias_{side}{self.suffix(layer, direction)}")

    def packed_names(self, layer: int, direction: int) -> list[str]:
        """The names in the file of the tensors of 4H rows of one layer and direction: both weights and, if any, biases."""
        suffix = self.suffix(layer, direction)
        standard = (f"{kind}_{side}{suffix}" for kind in ("weight", "bias") for side in SIDES)
        return [self.tensors[name] for name in standard if name in self.tensors]

    def place_shapes(self, layer: int, units: int | None = None, below: int | None = None) -> dict[str, Shape]:
        """{kind of tensor: shape} of one direction of a layer, in the order of `nn.LSTM`'s own.

        `units` hidden units are left in it, and `below` in the directions of the layer below together; None: all.
        """
        units = self.hidden_size if units is None else units
        inputs = self.layer_input_size(layer)
        if layer and below is not None and not self.proj_size:
            inputs = below
        rows = len(GATES) * units
        shapes: dict[str, Shape] = {"weight_ih": (rows, inputs), "weight_hh": (rows, self.proj_size or units)}
        if self.bias:
            shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
        if self.proj_size:
            shapes["weight_hr"] = (self.proj_size, units)
        return shapes

    def shapes(self, units: Mapping[Place, int] | None = None) -> dict[str, Shape]:
        """{PyTorch's name: shape} of every tensor, with `units` hidden units left at each place; None: all."""
        found: dict[str, Shape] = {}
        for layer, direction in self.places:
            own = below = None
            if units is not None:
                own = units[layer, direction]
                below = sum(units[layer - 1, each] for each in range(self.directions)) if layer else None
            suffix = self.suffix(layer, direction)
            found |= {f"{kind}{suffix}": shape for kind, shape in self.place_shapes(layer, own, below).items()}
        return found

    def macs_with_units(self, units: Mapping[Place, int]) -> int:
        """Multiply-accumulates of one time step with so many hidden units left at each place."""
        return macs_per_step(self.shapes(units).values())

    def layer(self, layer: int) -> "LSTM":
        """One of its layers, both directions, as an LSTM of its own."""
        if self.num_layers == 1:
            return self
        tensors = {}
        for direction in range(self.directions):
            for kind in self.place_shapes(layer):
                tensors[f"{kind}{self.suffix(0, direction)}"] = self.tensors[f"{kind}{self.suffix(layer, direction)}"]
        parameters = self.directions * parameters_in(self.place_shapes(layer).values())
        inputs = self.layer_input_size(layer)
        return replace(self, num_layers=1, input_size=inputs, parameters=parameters, tensors=tensors)

    def describe(self) -> dict[str, Any]:
        """The public facts, as `inspect --json` prints them."""
        facts = asdict(self)
        del facts["tensors"]
        return facts


@dataclass(frozen=True)
class Skipped:
    """Something that looks like a recurrent layer and is not a usable LSTM, with the reason."""

    name: str
    reason: str
    mapping: Mapping[str, Any] | None = None  # to begin with, where somebody wrote an LSTM by hand
