"""Remove hidden units that masks dropped, exactly: a smaller module in place of an `nn.LSTM`."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence

from pruner.gates import GATES, layer_suffix


class CompactLSTM(nn.Module):
    """An LSTM without its removed hidden units, called like the `nn.LSTM` it replaces and of the same output width.

    `kept` holds, for each layer and direction in the order of `nn.LSTM`, the (K,) int64 indices of the units that are
    left of `hidden_size`; sizes may differ from layer to layer, which no single `nn.LSTM` can do. Inside is one `nn.LSTM`
    a layer and direction. Removed units come back as zeros in `output`, `h_n` and `c_n`, so whatever reads the output
    keeps working. Given an `hx`, the values of removed units are ignored: in a masked LSTM they would fade, here they are
    gone. Dropout between layers draws other random numbers than `nn.LSTM` does.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        kept: Sequence[Tensor],
        *,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.input_size, self.hidden_size, self.proj_size = input_size, hidden_size, proj_size
        self.bias, self.batch_first, self.dropout, self.bidirectional = bias, batch_first, dropout, bidirectional
        self.directions = 2 if bidirectional else 1
        self.num_layers = len(kept) // self.directions
        self.layers = nn.ModuleList()
        width = input_size
        for layer in range(self.num_layers):
            outputs = 0
            for direction in range(self.directions):
                units = kept[layer * self.directions + direction]
                self.register_buffer(f"kept{layer_suffix(layer, direction)}", units)
                single = nn.LSTM(width, len(units), bias=bias, proj_size=proj_size, device=device, dtype=dtype)
                self.layers.append(single)
                outputs += proj_size or len(units)
            width = outputs

    def extra_repr(self) -> str:
        sizes = ", ".join(str(len(units)) for units in self.kept())
        return f"{self.input_size}, {self.hidden_size} reduced to {sizes}"

    def kept(self) -> list[Tensor]:
        """The (K,) indices of the units left, for each layer and direction."""
        return [
            self.get_buffer(f"kept{layer_suffix(layer, direction)}")
            for layer in range(self.num_layers)
            for direction in range(self.directions)
        ]

    def forward(
        self,
        input: Tensor | PackedSequence,  # noqa: A002 - nn.LSTM's own name for it
        hx: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor | PackedSequence, tuple[Tensor, Tensor]]:
        """As `nn.LSTM`: (T, B, I), (B, T, I) if batch first, (T, I) unbatched, or packed sequences."""
        if isinstance(input, PackedSequence):
            output, (h_n, c_n) = self._run(input.data, input.batch_sizes, hx and _reordered(hx, input.sorted_indices))
            packed = PackedSequence(output, input.batch_sizes, input.sorted_indices, input.unsorted_indices)
            return packed, _reordered((h_n, c_n), input.unsorted_indices)
        if input.dim() == 3:
            steps = input.transpose(0, 1) if self.batch_first else input
        else:
            steps = input.unsqueeze(1)
            hx = hx and (hx[0].unsqueeze(1), hx[1].unsqueeze(1))
        output, (h_n, c_n) = self._run(steps, None, hx)
        if input.dim() != 3:
            return output.squeeze(1), (h_n.squeeze(1), c_n.squeeze(1))
        return output.transpose(0, 1) if self.batch_first else output, (h_n, c_n)

    def _run(
        self, steps: Tensor, batch_sizes: Tensor | None, hx: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Time-major steps (T, B, I), or the data (N, I) of packed sequences, through all layers."""
        backwards = None if batch_sizes is None else _backwards(batch_sizes).to(steps.device)
        hidden, cell, kept = [], [], self.kept()
        for layer in range(self.num_layers):
            outputs = []
            for direction in range(self.directions):
                index = layer * self.directions + direction
                units = kept[index]
                state = None
                if hx is not None:
                    h = hx[0][index] if self.proj_size else hx[0][index].index_select(-1, units)
                    state = h.unsqueeze(0).contiguous(), hx[1][index].index_select(-1, units).unsqueeze(0).contiguous()
                output, (h_n, c_n) = self._one(self.layers[index], steps, batch_sizes, backwards, direction, state)
                # Only what leaves the module is as wide as before; the next layer reads kept units alone.
                outputs.append(output if layer + 1 < self.num_layers else self._spread_output(output, units))
                hidden.append(self._spread_output(h_n, units))
                cell.append(self._spread(c_n, units))
            steps = outputs[0] if len(outputs) == 1 else torch.cat(outputs, -1)
            if layer + 1 < self.num_layers:
                steps = F.dropout(steps, self.dropout, self.training)
        return steps, (torch.cat(hidden), torch.cat(cell))

    def _one(
        self,
        single: nn.Module,
        steps: Tensor,
        batch_sizes: Tensor | None,
        backwards: Tensor | None,
        direction: int,
        state: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        if batch_sizes is None:
            output, state = single(steps.flip(0) if direction else steps, state)
            return output.flip(0) if direction else output, state
        if not direction:
            packed, state = single(PackedSequence(steps, batch_sizes), state)
            return packed.data, state
        packed, state = single(PackedSequence(steps[backwards], batch_sizes), state)
        return packed.data[backwards], state

    def _spread_output(self, compact: Tensor, units: Tensor) -> Tensor:
        """A projection already gives the full width."""
        return compact if self.proj_size else self._spread(compact, units)

    def _spread(self, compact: Tensor, units: Tensor) -> Tensor:
        """(..., K) -> (..., H) with zeros where units were removed."""
        wide = compact.new_zeros(*compact.shape[:-1], self.hidden_size)
        return wide.scatter_(-1, units.expand_as(compact), compact)


def compact(lstm: nn.LSTM, keep: Sequence[Tensor]) -> CompactLSTM:
    """The `CompactLSTM` of a masked `nn.LSTM`, equal to it from a zero state in `output`, `h_n` and `c_n`.

    `keep` holds a (H,) bool mask for each layer and direction. The rows and biases of dropped units must be zero in `lstm`
    already. PyTorch needs at least one unit, and more units than a projection has rows, so a few dropped units may stay:
    being zero, they change nothing but the size.
    """
    weight = lstm.get_parameter("weight_ih_l0")
    fewest = lstm.proj_size + 1
    kept = []
    for mask in keep:
        units = mask.nonzero().flatten()
        spare = (~mask).nonzero().flatten()[: max(0, fewest - len(units))]
        kept.append(torch.cat([units, spare]).sort().values)
    small = CompactLSTM(
        lstm.input_size,
        lstm.hidden_size,
        kept,
        bias=lstm.bias,
        batch_first=lstm.batch_first,
        dropout=lstm.dropout,
        bidirectional=lstm.bidirectional,
        proj_size=lstm.proj_size,
        device=weight.device,
        dtype=weight.dtype,
    )
    with torch.no_grad():
        for index, single in enumerate(small.layers):
            layer, direction = divmod(index, small.directions)
            _fill(single, lstm, kept, layer, direction, small.directions)
    return small.train(lstm.training)


def _fill(single: nn.Module, lstm: nn.LSTM, kept: list[Tensor], layer: int, direction: int, directions: int) -> None:
    """Copy into one layer and direction the rows of its units and the columns of the units it reads."""
    suffix = layer_suffix(layer, direction)
    own = kept[layer * directions + direction]
    rows = torch.cat([gate * lstm.hidden_size + own for gate in range(len(GATES))])
    read: Tensor | None = None  # the columns of what comes from below; None for all of them
    if layer and not lstm.proj_size:
        below = kept[(layer - 1) * directions : layer * directions]
        read = torch.cat([side * lstm.hidden_size + units for side, units in enumerate(below)])

    def take(name: str, rows: Tensor | None, columns: Tensor | None) -> None:
        source, target = lstm.get_parameter(f"{name}{suffix}"), single.get_parameter(f"{name}_l0")
        values = source if rows is None else source[rows]
        target.copy_(values if columns is None else values[:, columns])
        target.requires_grad_(source.requires_grad)

    take("weight_ih", rows, read)
    take("weight_hh", rows, None if lstm.proj_size else own)
    if lstm.bias:
        take("bias_ih", rows, None)
        take("bias_hh", rows, None)
    if lstm.proj_size:
        take("weight_hr", None, own)


def _backwards(batch_sizes: Tensor) -> Tensor:
    """For the data of packed sequences, where each step's counterpart lies when every sequence is read from its end."""
    lengths = (batch_sizes[None] > torch.arange(int(batch_sizes[0]))[:, None]).sum(1)
    starts = F.pad(batch_sizes.cumsum(0), (1, -1))
    return torch.cat(
        [starts[lengths[: int(size)] - 1 - step] + torch.arange(int(size)) for step, size in enumerate(batch_sizes)]
    )


def _reordered(state: tuple[Tensor, Tensor], order: Tensor | None) -> tuple[Tensor, Tensor]:
    if order is None:
        return state
    return state[0].index_select(1, order), state[1].index_select(1, order)
