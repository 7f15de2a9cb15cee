"""Load the pruned LSTMs of this folder with torch and safetensors alone.

    from load_pruned import load_lstms

    lstms = load_lstms("path/to/this/folder")   # {name: module}
    output, (h_n, c_n) = lstms["encoder"](sequence)

Each module is called like the nn.LSTM (or nn.LSTMCell) it came from and returns its full output width, whatever was
removed inside. Where manifest.json says "stored_as": "LSTM", the file also loads into your own class, built with its
"stored_hidden_size"; otherwise put the module in its place first: `model.encoder = lstms["encoder"]`. Its
"dense_hidden_size" is that of the LSTM before pruning, and so the width that the module returns.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence


def load_lstms(
    folder: str | Path, device: torch.device | str = "cpu", batch_first: bool | None = None
) -> dict[str, nn.Module]:
    """{name: module} for every pruned LSTM; `batch_first` as in nn.LSTM: where it is None, what the source said of it, else
    False, because most files do not record it."""
    folder = Path(folder)
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    if (folder / "pruned.safetensors").exists():
        from safetensors.torch import load_file

        container = load_file(folder / "pruned.safetensors")
    else:
        container = torch.load(folder / "pruned.pt", map_location="cpu", weights_only=True)
    lstms = {}
    for entry in manifest["lstms"]:
        state = {}
        for name, keys in entry["tensors"].items():
            state[name] = container
            for key in keys:
                state[name] = state[name][key]
        said = manifest.get("learned", {}).get(entry["name"], {}).get("batch_first", False)
        lstms[entry["name"]] = assemble(entry, state, said if batch_first is None else batch_first).to(device).eval()
    return lstms


def assemble(entry: Mapping[str, Any], state: Mapping[str, Tensor], batch_first: bool = False) -> nn.Module:
    """The module of one LSTM from its entry in the manifest and its stored tensors.

    Raises ValueError or RuntimeError where the two do not fit each other; nothing unchecked reaches a forward pass.
    """
    hidden_size, cell = entry["dense_hidden_size"], entry["kind"] == "LSTMCell"
    settings: dict[str, Any] = {"bias": entry["bias"], "dtype": getattr(torch, entry["dtype"])}
    if not cell:
        settings |= {
            "batch_first": batch_first,
            "bidirectional": entry["bidirectional"],
            "proj_size": entry["proj_size"],
        }
    sizes = entry["input_size"], hidden_size
    module: nn.Module
    if entry["stored_as"] == "RowCompactLSTM":
        count = sum(name.endswith(".rows_ih") for name in state)
        rows = [(state[f"layers.{index}.rows_ih"], state[f"layers.{index}.rows_hh"]) for index in range(count)]
        module = RowCompactLSTMCell(*sizes, rows, **settings) if cell else RowCompactLSTM(*sizes, rows, **settings)
    elif entry["stored_as"] == "ReconstructingLSTM":
        units = [tensor for name, tensor in state.items() if name.startswith("kept_")]
        if cell:
            module = ReconstructingLSTMCell(*sizes, units, **settings)
        else:
            module = ReconstructingLSTM(*sizes, entry["num_layers"], units, **settings)
    elif entry["stored_as"] == "LSTM" and all(len(layer["kept_units"]) == hidden_size for layer in entry["layers"]):
        module = nn.LSTMCell(*sizes, **settings) if cell else nn.LSTM(*sizes, entry["num_layers"], **settings)
    else:
        kept = [torch.tensor(layer["kept_units"], dtype=torch.int64) for layer in entry["layers"]]
        if entry["stored_as"] == "CompactLSTM":
            kept = [state[f"layers.{index}.kept"] for index in range(len(kept))]
            settings["reconstruct"] = any(".reconstruction." in name for name in state)
        module = CompactLSTMCell(*sizes, kept, **settings) if cell else CompactLSTM(*sizes, kept, **settings)
        if entry["stored_as"] == "LSTM":
            state = {inside(name, entry["bidirectional"]): tensor for name, tensor in state.items()}
            state |= {f"layers.{index}.kept": units for index, units in enumerate(kept)}
    module.load_state_dict(state)
    return module


def inside(name: str, bidirectional: bool) -> str:
    """Where a tensor of an nn.LSTM or LSTMCell (`weight_ih_l1_reverse`, `weight_ih`) lies in the state of a CompactLSTM."""
    kind, _, place = name.partition("_l")
    layer, _, reverse = place.partition("_")
    index = int(layer or 0) * (2 if bidirectional else 1) + bool(reverse)
    return f"layers.{index}.lstm.{kind}_l0"


class _Reconstruction(nn.Module):
    """The removed hidden units of one direction (.., R), as the kept ones (.., K) tell them."""

    removed: Tensor

    def __init__(
        self, kept: Tensor, hidden_size: int, device: torch.device | str | None, dtype: torch.dtype | None
    ) -> None:
        super().__init__()
        rest = torch.ones(hidden_size, dtype=torch.bool)
        rest[kept.cpu()] = False
        self.register_buffer("removed", rest.nonzero().flatten().to(kept.device), persistent=False)
        count = hidden_size - len(kept)
        self.weight = nn.Parameter(torch.zeros(count, len(kept), device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(count, device=device, dtype=dtype))

    def forward(self, compact: Tensor, wide: Tensor) -> Tensor:
        """`wide` (.., H) with the removed units filled in."""
        found = F.linear(compact, self.weight, self.bias)
        return wide.scatter(-1, self.removed.expand_as(found), found)


class _Units(nn.Module):
    """One layer and direction without its removed hidden units: a smaller nn.LSTM that knows where its units stood."""

    kept: Tensor

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        kept: Tensor,
        bias: bool,
        proj_size: int,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
        reconstruct: bool = False,
    ) -> None:
        super().__init__()
        _check_indices(kept, hidden_size, fewest=proj_size + 1)
        self.hidden_size, self.proj_size = hidden_size, proj_size
        self.output_size = proj_size or len(kept)
        self.register_buffer("kept", kept)
        self.lstm = nn.LSTM(input_size, len(kept), bias=bias, proj_size=proj_size, device=device, dtype=dtype)
        self.reconstruction = _Reconstruction(kept, hidden_size, device, dtype) if reconstruct else None

    def forward(
        self, steps: Tensor, batch_sizes: Tensor | None, h_0: Tensor | None, c_0: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Steps (T, B, I), or the data (N, I) of packed sequences -> outputs (.., K or P), and full-width final states."""
        state: tuple[Tensor, Tensor] | None = None
        if h_0 is not None and c_0 is not None:
            h_0 = h_0 if self.proj_size else h_0.index_select(-1, self.kept)
            state = h_0.contiguous(), c_0.index_select(-1, self.kept)
        if not torch.jit.is_scripting() and batch_sizes is not None:
            packed, (h_n, c_n) = self.lstm(PackedSequence(steps, batch_sizes), state)
            output = packed.data
        else:
            output, (h_n, c_n) = self.lstm(steps, state)
        return output, self.widen(h_n), self._spread(c_n)

    def widen(self, output: Tensor) -> Tensor:
        """(..., K) -> (..., H); a projection has its full width already."""
        if self.proj_size:
            return output
        wide = self._spread(output)
        return wide if self.reconstruction is None else self.reconstruction(output, wide)

    def _spread(self, compact: Tensor) -> Tensor:
        """(..., K) -> (..., H) with zeros where units were removed."""
        wide = compact.new_zeros(list(compact.shape[:-1]) + [self.hidden_size])  # noqa: RUF005 - TorchScript has no *
        return wide.scatter_(-1, self.kept.expand_as(compact), compact)


class _Rows(nn.Module):
    """One layer and direction that multiplies its kept rows only; every other row adds nothing to its gate.

    The packed rows kept of (4H, ...) are `rows_ih` and `rows_hh`. Both biases (4H,) are whole, and apart, because their sum
    would be rounded.
    """

    rows_ih: Tensor
    rows_hh: Tensor
    ih_bias: Tensor | None
    hh_bias: Tensor | None
    projection: Tensor | None

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        rows: tuple[Tensor, Tensor],
        bias: bool,
        proj_size: int,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__()
        self.hidden_size, self.proj_size = hidden_size, proj_size
        self.output_size = proj_size or hidden_size
        for name, kept in zip(("rows_ih", "rows_hh"), rows, strict=True):
            _check_indices(kept, 4 * hidden_size, fewest=0)
            self.register_buffer(name, kept)

        def parameter(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.zeros(shape, device=device, dtype=dtype))

        self.weight_ih_rows = parameter(len(rows[0]), input_size)
        # Kept by columns in memory: a matrix that fits into the cache is multiplied with one vector twice as fast so.
        by_columns = torch.zeros(self.output_size, len(rows[1]), device=device, dtype=dtype)
        self.weight_hh_rows = nn.Parameter(by_columns.t())
        self.register_parameter("ih_bias", parameter(4 * hidden_size) if bias else None)
        self.register_parameter("hh_bias", parameter(4 * hidden_size) if bias else None)
        self.register_parameter("projection", parameter(proj_size, hidden_size) if proj_size else None)

    def forward(
        self, steps: Tensor, batch_sizes: Tensor | None, h_0: Tensor | None, c_0: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Steps (T, B, I), or the data (N, I) of packed sequences -> outputs (.., H or P), and final states (1, B, ..)."""
        if batch_sizes is None:
            sizes = [steps.size(1)] * steps.size(0)
            data = steps.flatten(0, 1)
        else:
            sizes: list[int] = batch_sizes.tolist()
            data = steps
        width = sizes[0]
        ih_bias, hh_bias, projection = self.ih_bias, self.hh_bias, self.projection  # TorchScript narrows no attributes
        bias = data.new_zeros(4 * self.hidden_size)
        if ih_bias is not None and hh_bias is not None:
            bias = ih_bias + hh_bias
        kept = (data @ self.weight_ih_rows.t()).to(bias.dtype)  # autocast multiplies in a lower precision
        gates = bias.expand(data.size(0), -1).index_add(1, self.rows_ih, kept)
        h = data.new_zeros(width, self.output_size) if h_0 is None else h_0[0]
        c = data.new_zeros(width, self.hidden_size) if c_0 is None else c_0[0]
        # One sequence alone is a vector: its product with a matrix is faster than that of a matrix of one row.
        alone = width == 1
        if alone:
            h, c = h.squeeze(0), c.squeeze(0)
        pieces = gates.unbind(0) if alone else gates.split(sizes)
        ragged = batch_sizes is not None and not alone
        # Looked up once, not every step.
        rows, weight, hidden_size = self.rows_hh, self.weight_hh_rows, self.hidden_size
        ended_h, ended_c = h, c
        outputs: list[Tensor] = []
        for piece in pieces:
            if ragged:  # shorter sequences have ended and keep their state
                alive = piece.size(0)
                ended_h, ended_c, h, c = h[alive:], c[alive:], h[:alive], c[:alive]
            product = weight @ h if alone else h @ weight.t()
            both = piece.index_add(-1, rows, product.to(piece.dtype))
            g = both[..., 2 * hidden_size : 3 * hidden_size].tanh()
            i, f, _, o = both.sigmoid().chunk(4, -1)
            c = torch.addcmul(f * c, i, g)
            h = o * c.tanh()
            if projection is not None:
                h = h @ projection.t()
            outputs.append(h)
            if ragged:
                h, c = torch.cat([h, ended_h]), torch.cat([c, ended_c])
        if alone:
            output, h, c = torch.stack(outputs), h.unsqueeze(0), c.unsqueeze(0)
        else:
            output = torch.cat(outputs)
        return output if batch_sizes is not None else output.unflatten(0, [len(sizes), width]), h[None], c[None]

    def widen(self, output: Tensor) -> Tensor:
        """Nothing was removed from the output, so it has its full width."""
        return output

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        """Rows in the order of their shape: safetensors writes nothing else."""
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if not keep_vars:
            destination[f"{prefix}weight_hh_rows"] = destination[f"{prefix}weight_hh_rows"].contiguous()


class _Compact(nn.Module):
    """What stands for an nn.LSTM: its signature around one module a layer and direction, of the class `LAYER`."""

    LAYER: type[_Units] | type[_Rows]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        kept: Sequence[Any],
        *,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        reconstruct: bool = False,
    ) -> None:
        super().__init__()
        self.input_size, self.hidden_size, self.proj_size = input_size, hidden_size, proj_size
        self.bias, self.batch_first, self.dropout, self.bidirectional = bias, batch_first, dropout, bidirectional
        self.directions = 2 if bidirectional else 1
        self.num_layers = len(kept) // self.directions
        self.layers = nn.ModuleList()
        width = input_size
        for layer in range(self.num_layers):
            own = kept[layer * self.directions : (layer + 1) * self.directions]
            filled = {"reconstruct": True} if reconstruct and layer == self.num_layers - 1 else {}
            directions = [
                self.LAYER(width, hidden_size, each, bias, proj_size, device, dtype, **filled) for each in own
            ]
            self.layers.extend(directions)
            width = sum(each.output_size for each in directions)

    def forward(
        self,
        input: Tensor,  # noqa: A002 - nn.LSTM's own name for it
        hx: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """As `nn.LSTM`: (T, B, I), (B, T, I) if batch first, (T, I) unbatched; packed sequences except when scripted."""
        if not torch.jit.is_scripting():  # noqa: SIM102 - TorchScript reads the two conditions apart
            if isinstance(input, PackedSequence):
                return self._packed(input, hx)
        h_0: Tensor | None = None
        c_0: Tensor | None = None
        if hx is not None:
            h_0, c_0 = hx
        if input.dim() != 3:
            if h_0 is not None and c_0 is not None:
                h_0, c_0 = h_0.unsqueeze(1), c_0.unsqueeze(1)
            output, h_n, c_n = self._run(input.unsqueeze(1), None, None, h_0, c_0)
            return output.squeeze(1), (h_n.squeeze(1), c_n.squeeze(1))
        output, h_n, c_n = self._run(input.transpose(0, 1) if self.batch_first else input, None, None, h_0, c_0)
        return output.transpose(0, 1) if self.batch_first else output, (h_n, c_n)

    def flatten_parameters(self) -> None:
        """Nothing to do. It is here because the `forward` of many models calls it on their `nn.LSTM`."""

    def _packed(self, packed: PackedSequence, hx: tuple[Tensor, Tensor] | None) -> Any:
        """The packed sequences of the output, and the final states in the order of the caller."""
        h_0, c_0 = (None, None) if hx is None else (_reordered(part, packed.sorted_indices) for part in hx)
        order = _backwards(packed.batch_sizes).to(packed.data.device)
        output, h_n, c_n = self._run(packed.data, packed.batch_sizes, order, h_0, c_0)
        state = _reordered(h_n, packed.unsorted_indices), _reordered(c_n, packed.unsorted_indices)
        return PackedSequence(output, packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices), state

    def _run(
        self,
        steps: Tensor,
        batch_sizes: Tensor | None,
        backwards: Tensor | None,
        h_0: Tensor | None,
        c_0: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Time-major steps, or the data of packed sequences with the order that reads them from their ends."""
        outputs: list[Tensor] = []
        hidden: list[Tensor] = []
        cell: list[Tensor] = []
        last_layer = (self.num_layers - 1) * self.directions
        for index, layer in enumerate(self.layers):
            reverse = index % self.directions == 1
            h = h_0 if h_0 is None else h_0[index : index + 1]
            c = c_0 if c_0 is None else c_0[index : index + 1]
            read = _turned(steps, backwards) if reverse else steps
            output, h_n, c_n = layer(read, batch_sizes, h, c)
            if index >= last_layer:  # only what leaves is as wide as before; the next layer reads kept units alone
                output = layer.widen(output)
            outputs.append(_turned(output, backwards) if reverse else output)
            hidden.append(h_n)
            cell.append(c_n)
            if len(outputs) == self.directions:
                steps = torch.cat(outputs, -1) if self.bidirectional else outputs[0]
                outputs = []
                if index < last_layer:
                    steps = F.dropout(steps, self.dropout, self.training)
        return steps, torch.cat(hidden), torch.cat(cell)


class CompactLSTM(_Compact):
    """An LSTM without its removed hidden units, called like the `nn.LSTM` it replaces and of the same output width.

    `kept` holds, for each layer and direction in the order of `nn.LSTM`, the (K,) int64 indices of the units that are
    left of `hidden_size`; sizes may differ from layer to layer, which no single `nn.LSTM` can do. Inside is one `nn.LSTM`
    a layer and direction. Removed units come back as zeros in `output`, `h_n` and `c_n`, so whatever reads the output
    keeps working; with `reconstruct`, those of the last layer come back in `output` and `h_n` as a linear map of the kept
    ones tells them. Given an `hx`, the values of removed units are ignored: in a masked LSTM they would fade, here they are
    gone. Dropout between layers draws other random numbers than `nn.LSTM` does. Scripted, it takes tensors, not packed
    sequences. Raises ValueError for indices that are not increasing or not below `hidden_size`.
    """

    LAYER = _Units

    def extra_repr(self) -> str:
        sizes = ", ".join(str(len(layer.kept)) for layer in self.layers)
        return f"{self.input_size}, {self.hidden_size} reduced to {sizes}"


class RowCompactLSTM(_Compact):
    """An LSTM that multiplies only the rows its masks kept, called like the `nn.LSTM` it replaces.

    `kept` holds, for each layer and direction in the order of `nn.LSTM`, the int64 indices of the rows kept of
    `weight_ih` and of `weight_hh`, both of (4H, ...). A gate whose rows are dropped in both weights is constant, its bias.
    All hidden units are there, so `output`, `h_n`, `c_n` and `hx` are those of the masked LSTM. Dropout and scripting as in
    `CompactLSTM`, and so are the errors.
    """

    LAYER = _Rows

    def extra_repr(self) -> str:
        kept = ", ".join(f"{len(layer.rows_ih)} + {len(layer.rows_hh)}" for layer in self.layers)
        return f"{self.input_size}, {self.hidden_size}, rows {kept} of 2 x {4 * self.hidden_size}"


class _CompactCell(nn.Module):
    """What stands for an nn.LSTMCell: one step of one layer."""

    LAYER: type[_Units] | type[_Rows]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        kept: Sequence[Any],
        *,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        reconstruct: bool = False,
    ) -> None:
        super().__init__()
        self.input_size, self.hidden_size, self.bias = input_size, hidden_size, bias
        (own,) = kept
        filled = {"reconstruct": True} if reconstruct else {}
        self.layers = nn.ModuleList([self.LAYER(input_size, hidden_size, own, bias, 0, device, dtype, **filled)])

    def forward(
        self,
        input: Tensor,  # noqa: A002 - nn.LSTMCell's own name for it
        hx: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """As `nn.LSTMCell`: (B, I) or (I,), and (h, c) of (B, H) or (H,)."""
        step = input.view(1, -1, self.input_size)
        h_0: Tensor | None = None
        c_0: Tensor | None = None
        if hx is not None:
            h_0, c_0 = hx[0].view(1, -1, self.hidden_size), hx[1].view(1, -1, self.hidden_size)
        for layer in self.layers:
            _, h_0, c_0 = layer(step, None, h_0, c_0)
        assert h_0 is not None and c_0 is not None  # noqa: S101 - TorchScript cannot know that there is one layer
        wide = list(input.shape[:-1]) + [self.hidden_size]  # noqa: RUF005 - TorchScript has no *
        return h_0.view(wide), c_0.view(wide)


class CompactLSTMCell(_CompactCell):
    """An `nn.LSTMCell` without its removed hidden units, which come back as zeros, or reconstructed as in `CompactLSTM`;
    `kept` holds one tensor of indices."""

    LAYER = _Units


class RowCompactLSTMCell(_CompactCell):
    """An `nn.LSTMCell` that multiplies only the rows its masks kept; `kept` holds one pair of tensors of indices."""

    LAYER = _Rows


class ReconstructingLSTM(nn.LSTM):
    """An `nn.LSTM` of full size whose removed hidden units are zero inside and, in the `output` and `h_n` of its last layer,
    what a linear map of the kept ones tells: the masked form of a `CompactLSTM` that reconstructs.

    `kept` holds the (K,) int64 indices of the kept units for each direction of the last layer. Raises ValueError for indices
    that are not increasing or not below `hidden_size`.
    """

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int, kept: Sequence[Tensor], **settings: Any
    ) -> None:
        super().__init__(input_size, hidden_size, num_layers, **settings)
        where = {"device": self.weight_ih_l0.device, "dtype": self.weight_ih_l0.dtype}
        for direction, units in enumerate(kept):
            _check_indices(units, hidden_size, fewest=1)
            self.register_buffer(f"kept_{direction}", units)
        self.reconstruction = nn.ModuleList([_Reconstruction(units, hidden_size, **where) for units in kept])

    def forward(
        self,
        input: Tensor | PackedSequence,  # noqa: A002 - nn.LSTM's own name for it
        hx: tuple[Tensor, Tensor] | None = None,
    ) -> Any:
        """As `nn.LSTM`."""
        output, (h_n, c_n) = super().forward(input, hx)
        last = len(h_n) - len(self.reconstruction)
        h_n = torch.cat([h_n[:last], *(self._filled(each, h_n[last + each])[None] for each in range(len(h_n) - last))])
        if isinstance(output, PackedSequence):
            return output._replace(data=self._both(output.data)), (h_n, c_n)
        return self._both(output), (h_n, c_n)

    def _both(self, output: Tensor) -> Tensor:
        parts = output.split(self.hidden_size, -1)
        return torch.cat([self._filled(direction, part) for direction, part in enumerate(parts)], -1)

    def _filled(self, direction: int, wide: Tensor) -> Tensor:
        return self.reconstruction[direction](wide.index_select(-1, self.get_buffer(f"kept_{direction}")), wide)


class ReconstructingLSTMCell(nn.LSTMCell):
    """The `nn.LSTMCell` of a `ReconstructingLSTM`; `kept` holds one tensor of indices."""

    def __init__(self, input_size: int, hidden_size: int, kept: Sequence[Tensor], **settings: Any) -> None:
        super().__init__(input_size, hidden_size, **settings)
        (units,) = kept
        _check_indices(units, hidden_size, fewest=1)
        self.register_buffer("kept_0", units)
        where = {"device": self.weight_ih.device, "dtype": self.weight_ih.dtype}
        self.reconstruction = nn.ModuleList([_Reconstruction(units, hidden_size, **where)])

    def forward(
        self,
        input: Tensor,  # noqa: A002 - nn.LSTMCell's own name for it
        hx: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """As `nn.LSTMCell`."""
        h, c = super().forward(input, hx)
        return self.reconstruction[0](h.index_select(-1, self.kept_0), h), c


def _check_indices(indices: Tensor, below: int, fewest: int) -> None:
    good = indices.dtype == torch.int64 and indices.dim() == 1 and len(indices) >= fewest
    if good and len(indices):
        good = int(indices[0]) >= 0 and int(indices[-1]) < below and bool((indices.diff() > 0).all())
    if not good:
        raise ValueError(f"expected at least {fewest} increasing int64 indices below {below}, found {indices}")


def _turned(steps: Tensor, backwards: Tensor | None) -> Tensor:
    return steps.flip(0) if backwards is None else steps[backwards]


def _backwards(batch_sizes: Tensor) -> Tensor:
    """For the data of packed sequences, where each step's counterpart lies when every sequence is read from its end."""
    lengths = (batch_sizes[None] > torch.arange(int(batch_sizes[0]))[:, None]).sum(1)
    starts = F.pad(batch_sizes.cumsum(0), (1, -1))
    return torch.cat(
        [starts[lengths[: int(size)] - 1 - step] + torch.arange(int(size)) for step, size in enumerate(batch_sizes)]
    )


def _reordered(state: Tensor, order: Tensor | None) -> Tensor:
    return state if order is None else state.index_select(1, order)
