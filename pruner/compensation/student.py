"""A pruned LSTM and its consumers as a module that trains, made from what is left of them and turned back into that."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence

from pruner.compact.load_pruned import backwards, reordered, turned
from pruner.compensation.fold import Shrunk
from pruner.files.consumers import read
from pruner.lstm.kept import Kept, Part, consumer_part, last_layer
from pruner.lstm.lstm import LSTM, Place
from pruner.lstm.rebuilt import Rebuilt, without
from pruner.lstm.traces import Weights

State = list[tuple[Tensor, Tensor]]  # h and c of each layer, of LSTMs that read forwards only


class Student(nn.Module):
    """One `nn.LSTM` a layer and direction, of whatever sizes are left, and the consumers of the last layer's output.

    `masks` holds the (4H,) bool masks of both weights by place where rows were dropped, and `kept` the units by place where
    those were; rows that are masked stay zero, because no gradient reaches them. Units that went in an `earlier` round come
    back in the output as that says. Everything is time-major.
    """

    def __init__(
        self,
        shrunk: Shrunk,
        lstm: LSTM,
        kept: Kept | None,
        masks: Mapping[Place, tuple[Tensor, Tensor]] | None,
        earlier: Rebuilt | None = None,
    ) -> None:
        super().__init__()
        self._start, self._lstm, self._kept, self._earlier = shrunk, lstm, kept, earlier
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
        steps, after = self._steps(steps, state if self._lstm.directions == 1 else None)
        return self._read(steps), after

    def called(
        self, inputs: Tensor | PackedSequence, state: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor | PackedSequence, tuple[Tensor, Tensor]]:
        """Called like an `nn.LSTM` with `batch_first`: (B, T, I) -> (B, T, D*H), h_n and c_n of full width, zeros where
        units were removed, or what others tell of them in `h_n` of the last layer. A state reaches the units that stay.
        Everything comes back in the type of the inputs."""
        data = inputs.data if isinstance(inputs, PackedSequence) else inputs
        begins = None if state is None else self._narrowed(*(part.float() for part in state))
        if isinstance(inputs, PackedSequence):
            if begins is not None:
                begins = [(reordered(h, inputs.sorted_indices), reordered(c, inputs.sorted_indices)) for h, c in begins]
            steps, after = self._steps(data.float(), begins, inputs.batch_sizes)
            after = [(reordered(h, inputs.unsorted_indices), reordered(c, inputs.unsorted_indices)) for h, c in after]
        else:
            steps, after = self._steps(data.float().transpose(0, 1), begins)
        h_n, c_n = (
            torch.cat([self._wide(each, place, what) for place, each in enumerate(column)]).to(data.dtype)
            for what, column in zip("hc", zip(*after, strict=True), strict=True)
        )
        h_n = self._with_last(h_n, torch.cat([h for h, _ in after[-self._lstm.directions :]], -1)[0])
        output = self._full(steps).to(data.dtype)
        if isinstance(inputs, PackedSequence):
            return inputs._replace(data=output), (h_n, c_n)
        return output.transpose(0, 1), (h_n, c_n)

    def trained(self, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The consumers' tensors by their names in the file, at the width and in the types that they have there."""
        part = Part() if self._kept is None else consumer_part(self._lstm, self._kept)
        found: dict[str, Tensor] = {}
        for before, (weight, bias) in zip(self._start.consumers, self._consumers(), strict=True):
            found[before.name] = part.widen(weight, like[before.name].shape).to(like[before.name].dtype)
            if before.bias_name is not None and bias is not None:
                found[before.bias_name] = bias.to(like[before.bias_name].dtype)
        return found

    def widths(self) -> list[int]:
        """How many numbers are compared with the dense model's a step: of each consumer, else of the output."""
        return [weight.numel() // weight.shape[1] for weight in self.weights] or [self._lstm.output_width]

    def _steps(self, steps: Tensor, state: State | None, batch_sizes: Tensor | None = None) -> tuple[Tensor, State]:
        """Inputs (T, B, I), or the data (N, I) of packed sequences -> the output of what is left of the last layer, and the
        state of each layer and direction."""
        directions, after = self._lstm.directions, []
        order = None if batch_sizes is None else backwards(batch_sizes).to(steps.device)
        for layer in range(self._lstm.num_layers):
            outputs = []
            for direction in range(directions):
                place = layer * directions + direction
                read = turned(steps, order) if direction else steps
                packed = read if batch_sizes is None else PackedSequence(read, batch_sizes)
                output, now = self.cells[place](packed, None if state is None else state[place])
                output = output if batch_sizes is None else output.data
                outputs.append(turned(output, order) if direction else output)
                after.append(now)
            steps = torch.cat(outputs, -1) if directions > 1 else outputs[0]
        return steps, after

    def _read(self, outputs: Tensor) -> Tensor:
        if len(self.weights):
            return torch.cat([read(outputs, *pair) for pair in self._consumers()], -1)
        return self._full(outputs)

    def _with_last(self, h_n: Tensor, last: Tensor) -> Tensor:
        """Final states (L*D, B, H) with those of the last layer as the output has them, from what is left of them."""
        directions = self._lstm.directions
        wide = self._full(last).unflatten(-1, (directions, -1)).movedim(-2, 0)
        return torch.cat([h_n[:-directions], wide.to(h_n.dtype)])

    def _full(self, outputs: Tensor) -> Tensor:
        """The output at full width, removed units as zeros or reconstructed."""
        wide = self._spread(outputs)
        return wide if self._earlier is None else self._earlier.fill(wide)

    def _spread(self, outputs: Tensor) -> Tensor:
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

    def _units(self, place: int, part: str) -> Tensor | None:
        """The units that stay of a layer and direction, for a state `h` or `c`; None where its width does."""
        if self._kept is None or (part == "h" and self._lstm.proj_size):
            return None
        return self._kept[self._lstm.places[place]]

    def _wide(self, state: Tensor, place: int, part: str) -> Tensor:
        units = self._units(place, part)
        if units is None:
            return state
        return state.new_zeros(*state.shape[:-1], self._lstm.hidden_size).index_copy(-1, units, state)

    def _narrowed(self, h_0: Tensor, c_0: Tensor) -> State:
        found = []
        for place in range(len(self.cells)):
            both = zip("hc", (h_0[place : place + 1], c_0[place : place + 1]), strict=True)
            h, c = (own if (units := self._units(place, part)) is None else own[..., units] for part, own in both)
            found.append((h.contiguous(), c.contiguous()))
        return found

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
