"""A pruned LSTM and its consumers as a module that trains, made from what is left of them and turned back into that."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pruner.compensation.fold import Shrunk
from pruner.files.consumers import read
from pruner.lstm.kept import Kept, last_layer, without
from pruner.lstm.lstm import LSTM, Place
from pruner.lstm.traces import Weights

State = list[tuple[Tensor, Tensor]]  # h and c of each layer, of LSTMs that read forwards only


class Student(nn.Module):
    """One `nn.LSTM` a layer and direction, of whatever sizes are left, and the consumers of the last layer's output.

    `masks` holds the (4H,) bool masks of both weights by place where rows were dropped, and `kept` the units by place where
    those were; rows that are masked stay zero, because no gradient reaches them. Everything is time-major.
    """

    def __init__(
        self, shrunk: Shrunk, lstm: LSTM, kept: Kept | None, masks: Mapping[Place, tuple[Tensor, Tensor]] | None
    ) -> None:
        super().__init__()
        self._start, self._lstm, self._kept = shrunk, lstm, kept
        self.cells = nn.ModuleList(_one_layer(shrunk.layers[layer][each], lstm.bias) for layer, each in lstm.places)
        self.weights = nn.ParameterList(_trained(consumer.weight) for consumer in shrunk.consumers)
        self.biases = nn.ParameterDict(
            {str(index): _trained(each.bias) for index, each in enumerate(shrunk.consumers) if each.bias is not None}
        )
        parts = shrunk.reconstruction or []
        self.rebuilt = nn.ParameterList(_trained(tensor) for part in parts for tensor in part)
        for place, cell in zip(lstm.places, self.cells, strict=True):
            for name, mask in zip(("weight_ih_l0", "weight_hh_l0"), masks[place] if masks else (), strict=False):
                weight = cell.get_parameter(name)
                weight.register_hook(partial(torch.mul, mask.to(weight.device)[:, None]))

    def forward(self, steps: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Inputs (T, B, I) -> what is compared with the dense model, (T, B, V) of all consumers side by side or (T, B, D*H),
        and the state to go on from (of LSTMs that read forwards only)."""
        directions, after = self._lstm.directions, []
        for layer in range(self._lstm.num_layers):
            outputs = []
            for direction in range(directions):
                cell = self.cells[layer * directions + direction]
                read = steps.flip(0) if direction else steps
                output, now = cell(read, None if state is None or directions > 1 else state[layer])
                outputs.append(output.flip(0) if direction else output)
                after.append(now)
            steps = torch.cat(outputs, -1) if directions > 1 else outputs[0]
        return self._read(steps), after

    def widths(self) -> list[int]:
        """How many numbers are compared with the dense model's a step: of each consumer, else of the output."""
        return [weight.numel() // weight.shape[1] for weight in self.weights] or [self._lstm.output_width]

    def _read(self, outputs: Tensor) -> Tensor:
        if len(self.weights):
            return torch.cat([read(outputs, *pair) for pair in self._consumers()], -1)
        if self._kept is None or self._lstm.proj_size:
            return outputs
        units, size = last_layer(self._lstm, self._kept), self._lstm.hidden_size
        parts = []
        for direction, own in enumerate(outputs.split([len(each) for each in units], -1)):
            wide = own.new_zeros(*own.shape[:-1], size).index_copy(-1, units[direction], own)
            if len(self.rebuilt):
                weight, bias = self.rebuilt[2 * direction], self.rebuilt[2 * direction + 1]
                wide = wide.index_copy(-1, without(units[direction], size), F.linear(own, weight, bias))
            parts.append(wide)
        return torch.cat(parts, -1)

    def _consumers(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        for index, weight in enumerate(self.weights):
            yield weight, dict(self.biases).get(str(index))

    @torch.no_grad()
    def shrunk(self) -> Shrunk:
        """What is left, as it is trained so far."""
        layers: list[list[Weights]] = [[] for _ in range(self._lstm.num_layers)]
        for (layer, direction), cell in zip(self._lstm.places, self.cells, strict=True):
            before = self._start.layers[layer][direction]
            taken = {
                field: cell.get_parameter(name).detach().clone() for field, name in _names(before, self._lstm.bias)
            }
            layers[layer].append(replace(before, **taken))
        consumers = [
            replace(before, weight=weight.detach().clone(), bias=None if bias is None else bias.detach().clone())
            for before, (weight, bias) in zip(self._start.consumers, self._consumers(), strict=True)
        ]
        flat = [each.detach().clone() for each in self.rebuilt]
        rebuilt = list(zip(flat[::2], flat[1::2], strict=True)) if flat else None
        return Shrunk(layers, consumers, rebuilt)


def _trained(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor.detach().clone())


def _one_layer(weights: Weights, bias: bool) -> nn.LSTM:
    """An `nn.LSTM` of one layer and direction; the sum of both biases is trained as the first, the second stays zero."""
    hidden, projected = weights.hidden_size, 0 if weights.hr is None else len(weights.hr)
    cell = nn.LSTM(weights.ih.shape[1], hidden, bias=bias, proj_size=projected, device=weights.ih.device)
    for field, name in _names(weights, bias):
        cell.get_parameter(name).data.copy_(getattr(weights, field))
    if bias:
        cell.get_parameter("bias_hh_l0").requires_grad_(False).zero_()
    return cell


def _names(weights: Weights, bias: bool) -> list[tuple[str, str]]:
    """(field of `Weights`, name in an `nn.LSTM`) of all that is trained."""
    found = [("ih", "weight_ih_l0"), ("hh", "weight_hh_l0")]
    found += [("bias", "bias_ih_l0")] if bias else []
    return found + ([] if weights.hr is None else [("hr", "weight_hr_l0")])
