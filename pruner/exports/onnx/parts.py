"""What the ONNX graph of an LSTM is written from: its layers and directions, whatever form it lies in a file in."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from pruner.compact.compaction import expand
from pruner.compact.layout import Layout
from pruner.compact.load_pruned import CompactLSTM, ReconstructingLSTM, RowCompactLSTM
from pruner.errors import PrunerError
from pruner.exports.onnx.names import as_text, fresh
from pruner.files.consumers import Consumer, load_consumers
from pruner.lstm.gates import GATES, SIDES, layer_suffix, split_gates
from pruner.lstm.kept import consumer_part
from pruner.lstm.lstm import LSTM

ONNX_GATES = ("i", "o", "f", "g")  # whose cell gate is called c there
MAX_BYTES = 2**31 - 2**27  # of the weights: protobuf writes no file of 2 GiB, and there are biases and indices, too


class Unwritable(PrunerError):
    """A pruned model that ONNX cannot hold."""


@dataclass(frozen=True)
class Direction:
    """One layer and direction with K of H hidden units, in float32: `weight_ih` (4K, I) and `weight_hh` (4K, K) with gates
    in PyTorch's order, both biases (4K,) or none, and the (K,) units that are there, under the name that those have in the
    file if it holds them."""

    weight_ih: Tensor
    weight_hh: Tensor
    bias_ih: Tensor | None
    bias_hh: Tensor | None
    units: Tensor
    units_name: str
    reconstruction: "Reconstruction | None" = None


@dataclass(frozen=True)
class Reconstruction:
    """How the removed units come back in the output and `h_n`: weight (R, K) times the units `told_by` (K,), plus bias (R,),
    which the file has under this name and `weight` or `bias`."""

    name: str
    told_by: Tensor
    removed: Tensor
    weight: Tensor
    bias: Tensor


@dataclass(frozen=True)
class Part:
    """One LSTM of a graph: its directions in the order of `nn.LSTM`, and the consumers that are matrices, with a column for
    each number that they read: all of the output where removed units are reconstructed, else those of the units that are
    there."""

    lstm: LSTM  # of the source, at full size
    directions: list[Direction]
    consumers: list[Consumer]

    @property
    def last(self) -> list[Direction]:
        """The directions of the last layer."""
        return self.directions[-self.lstm.directions :]

    @property
    def reconstructs(self) -> bool:
        return any(each.reconstruction is not None for each in self.last)


def parts_of(
    layouts: Iterable[Layout], tensors: Mapping[str, Tensor], consumers: Mapping[str, list[str]]
) -> list[Part]:
    """The LSTMs of an export, from the tensors of its file; `consumers` are the names of what reads each, by its name.

    What keeps single rows is taken at full size, with zeros: no ONNX node multiplies them alone. Consumers that are no
    matrices (convolutions, whose padding no file says) are left out. Raises Unwritable for projections, and for more than
    2 GiB.
    """
    parts = [_part(layout, tensors, consumers.get(layout.lstm.name, [])) for layout in layouts]
    size = weight_bytes(parts)
    if size > MAX_BYTES:
        raise Unwritable(
            f"expected LSTMs of less than 2 GiB for an ONNX file, found {size:,} bytes of float32 weights; prune more, or "
            "export without ONNX"
        )
    return parts


def wide_directions(layout: Layout, tensors: Mapping[str, Tensor]) -> list[Direction]:
    """The layers and directions of an LSTM of an export at full size, with zeros, from the tensors of its file."""
    return _of_full_size(layout, layout.masked_twin(tensors).float().requires_grad_(False))


def _part(layout: Layout, tensors: Mapping[str, Tensor], names: list[str]) -> Part:
    lstm = layout.lstm
    if lstm.proj_size:
        raise Unwritable(
            f"expected LSTMs without projection for an ONNX file, found {lstm.title} with proj_size {lstm.proj_size}: the "
            "LSTM of ONNX has none; load this export with load_pruned.py"
        )
    module: Any = layout.module(tensors).float()
    if isinstance(module, RowCompactLSTM):
        module = expand(module)
    directions = (_of_compact if isinstance(module, CompactLSTM) else _of_full_size)(layout, module)
    part = Part(lstm, directions, load_consumers(tensors, (name for name in names if tensors[name].dim() == 2)))
    if part.reconstructs:
        return part
    units = dict(zip(lstm.places, (each.units for each in directions), strict=True))
    trimmed = [
        replace(consumer, weight=consumer_part(lstm, units).shrink(consumer.weight))
        if consumer.weight.shape[1] == lstm.output_width  # else the file holds it trimmed
        else consumer
        for consumer in part.consumers
    ]
    return replace(part, consumers=trimmed)


def _of_compact(layout: Layout, module: Any) -> list[Direction]:
    directions = []
    for index, layer in enumerate(module.layers):
        inside = f"layers.{index}.reconstruction"
        filled = _reconstruction(layout, inside, layer.kept, layer.reconstruction)
        name = layout.tensors.get(f"layers.{index}.kept", f"{layout.lstm.name}.layers.{index}.kept")
        directions.append(_direction(layer.lstm, "_l0", layer.kept, name, filled))
    return directions


def _of_full_size(layout: Layout, module: Any) -> list[Direction]:
    lstm = layout.lstm
    filled: list[Reconstruction | None] = [None] * len(lstm.places)
    if isinstance(module, ReconstructingLSTM):
        filled[-lstm.directions :] = [
            _reconstruction(layout, f"reconstruction.{direction}", module.get_buffer(f"kept_{direction}"), told)
            for direction, told in enumerate(module.reconstruction)
        ]
    units = torch.arange(lstm.hidden_size)
    return [
        _direction(module, layer_suffix(*place), units, "", told)
        for place, told in zip(lstm.places, filled, strict=True)
    ]


def _reconstruction(layout: Layout, name: str, kept: Tensor, told: Any) -> Reconstruction | None:
    """As a module has it; none where nothing was removed."""
    if told is None or not len(told.removed):
        return None
    stored = layout.tensors.get(f"{name}.weight", f"{layout.lstm.name}.{name}.weight").removesuffix(".weight")
    return Reconstruction(stored, kept, told.removed, told.weight, told.bias)


def _direction(
    module: nn.Module, suffix: str, units: Tensor, units_name: str, filled: Reconstruction | None
) -> Direction:
    ih, hh = (module.get_parameter(f"weight_{side}{suffix}") for side in SIDES)
    bias_ih, bias_hh = (getattr(module, f"bias_{side}{suffix}", None) for side in SIDES)
    return Direction(ih, hh, bias_ih, bias_hh, units, units_name, filled)


def iofc(packed: Tensor) -> Tensor:
    """PyTorch's rows of i, f, g, o as ONNX packs them."""
    gates = dict(zip(GATES, split_gates(packed), strict=True))
    return torch.cat([gates[gate] for gate in ONNX_GATES])


def weight_bytes(parts: Iterable[Part]) -> int:
    """Bytes of all matrices of a graph in float32."""
    return sum(4 * weight.numel() for part in parts for weight in _weights(part))


def _weights(part: Part) -> list[Tensor]:
    """All matrices of a graph."""
    filled = [each.reconstruction.weight for each in part.last if each.reconstruction is not None]
    packed = [weight for each in part.directions for weight in (each.weight_ih, each.weight_hh)]
    return [*packed, *filled, *(consumer.weight for consumer in part.consumers)]


@dataclass(frozen=True)
class Interface:
    """What inputs and outputs of an LSTM are called in a graph: `own` by what `nn.LSTM` and `nn.LSTMCell` call them, and the
    outputs of its `consumers` by their names in the file."""

    own: dict[str, str]
    consumers: dict[str, str]


def interfaces(parts: Sequence[Part]) -> list[Interface]:
    """The names for each LSTM of a graph. Those of several LSTMs begin with the name of the LSTM.

    Consumers are called like their layers; where that name is taken, by their full name, or something like it.
    """
    found = []
    for part in parts:
        prefix = f"{part.lstm.name}." if len(parts) > 1 and part.lstm.name else ""
        outputs = ["h_1", "c_1"] if part.lstm.kind == "LSTMCell" else ["output", "h_n", "c_n"]
        found.append(Interface({name: as_text(f"{prefix}{name}") for name in ("input", "h_0", "c_0", *outputs)}, {}))
    taken = {name for names in found for name in names.own.values()}
    for part, names in zip(parts, found, strict=True):
        for consumer in part.consumers:
            full = as_text(consumer.name)
            layer = full.removesuffix(".weight")
            names.consumers[consumer.name] = fresh(full if layer in taken else layer, taken)
    return found
