"""Which tensors form an LSTM, and a real `nn.LSTM` made from them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pruner.errors import PrunerError, label
from pruner.lstm.gates import SIDES, StandardName, layer_suffix, parse_standard_name

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True)
class LSTM:
    """One `nn.LSTM` or `nn.LSTMCell` found in a checkpoint.

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
        return label(self.name) or "(root)"

    @property
    def directions(self) -> int:
        return 2 if self.bidirectional else 1

    @property
    def output_size(self) -> int:
        """Width of one direction's output: the projection if there is one, else the hidden size."""
        return self.proj_size or self.hidden_size

    def layer_input_size(self, layer: int) -> int:
        return self.input_size if layer == 0 else self.directions * self.output_size

    def suffix(self, layer: int, direction: int) -> str:
        return layer_suffix(None if self.kind == "LSTMCell" else layer, direction)

    def weight_names(self) -> dict[tuple[int, int, str], str]:
        """{(layer, direction, side): name in the file} of the packed weights, in the order of the computation."""
        return {
            (layer, direction, side): self.tensors[f"weight_{side}{self.suffix(layer, direction)}"]
            for layer in range(self.num_layers)
            for direction in range(self.directions)
            for side in SIDES
        }

    def bias_name(self, layer: int, direction: int, side: str) -> str | None:
        return self.tensors.get(f"bias_{side}{self.suffix(layer, direction)}")

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


class _NotAnLSTM(Exception):
    pass


def find_lstms(tensors: Mapping[str, Tensor]) -> tuple[list[LSTM], list[Skipped]]:
    """Every LSTM among named tensors, sorted by name, and what only looks like one."""
    groups: dict[tuple[str, bool], dict[StandardName, str]] = {}
    for name in tensors:
        prefix, _, last = name.rpartition(".")
        parsed = parse_standard_name(last)
        if parsed is not None:
            groups.setdefault((prefix, parsed.layer is None), {})[parsed] = name
    lstms: list[LSTM] = []
    skipped = []
    for (prefix, is_cell), names in sorted(groups.items()):
        try:
            found = _assemble(prefix, is_cell, names, tensors)
            if lstms and lstms[-1].name == prefix:
                raise _NotAnLSTM("an LSTMCell under the name of an LSTM; rename one to prune both")
            lstms.append(found)
        except _NotAnLSTM as reason:
            skipped.append(Skipped(prefix, str(reason)))
    return lstms, skipped


def _assemble(prefix: str, is_cell: bool, names: dict[StandardName, str], tensors: Mapping[str, Tensor]) -> LSTM:
    hidden_size, proj_size = _sizes(is_cell, names, tensors)
    layers = {parsed.layer or 0 for parsed in names}
    if layers != set(range(len(layers))):
        missing = min(set(range(max(layers) + 1)) - layers)
        raise _NotAnLSTM(f"expected layers 0 to {max(layers)}, found no layer {missing}")
    bidirectional = any(parsed.direction for parsed in names)
    bias = any(parsed.kind == "bias" for parsed in names)
    output_size = proj_size or hidden_size
    input_size = 0
    expected: dict[str, tuple[int, ...]] = {}
    for layer in range(len(layers)):
        for direction in range(2 if bidirectional else 1):
            suffix = layer_suffix(None if is_cell else layer, direction)
            if layer == 0:
                input_size = input_size or _columns(f"weight_ih{suffix}", names, tensors)
                width = input_size
            else:
                width = output_size * (2 if bidirectional else 1)
            expected[f"weight_ih{suffix}"] = (4 * hidden_size, width)
            expected[f"weight_hh{suffix}"] = (4 * hidden_size, output_size)
            if bias:
                expected[f"bias_ih{suffix}"] = expected[f"bias_hh{suffix}"] = (4 * hidden_size,)
            if proj_size:
                expected[f"weight_hr{suffix}"] = (proj_size, hidden_size)
    stored = {str(parsed): name for parsed, name in names.items()}
    for standard, shape in expected.items():
        if standard not in stored:
            raise _NotAnLSTM(f"expected a tensor {standard}, found none beside {', '.join(sorted(stored))}")
        found = tuple(tensors[stored[standard]].shape)
        if found != shape:
            raise _NotAnLSTM(f"expected {standard} of shape {shape}, found {found}")
    if input_size == 0:
        raise _NotAnLSTM(f"expected at least one input, found {(4 * hidden_size, 0)} for weight_ih")
    for standard in stored.keys() - expected.keys():
        raise _NotAnLSTM(f"found a tensor {standard} that an LSTM of this shape does not have")
    dtypes = {tensors[name].dtype for name in stored.values()}
    if len(dtypes) > 1 or not dtypes <= set(DTYPES):
        listed = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
        raise _NotAnLSTM(f"expected one floating-point dtype (float16, bfloat16, float32 or float64), found {listed}")
    return LSTM(
        name=prefix,
        kind="LSTMCell" if is_cell else "LSTM",
        num_layers=len(layers),
        bidirectional=bidirectional,
        input_size=input_size,
        hidden_size=hidden_size,
        proj_size=proj_size,
        bias=bias,
        dtype=str(dtypes.pop()).removeprefix("torch."),
        parameters=sum(tensors[name].numel() for name in stored.values()),
        tensors={standard: stored[standard] for standard in expected},
    )


def _sizes(is_cell: bool, names: dict[StandardName, str], tensors: Mapping[str, Tensor]) -> tuple[int, int]:
    """(hidden size, projection size) from the recurrent weight, whose columns are the previous output.

    The test is `rows == 4 * hidden`: a GRU packs 3 and a plain RNN 1, and their rows may divide by 4 all the same.
    """
    first = next(
        (name for parsed, name in sorted(names.items(), key=_order) if (parsed.kind, parsed.side) == ("weight", "hh")),
        None,
    )
    if first is None:
        raise _NotAnLSTM(f"expected a recurrent weight_hh, found only {', '.join(sorted(map(str, names)))}")
    recurrent = tensors[first]
    if recurrent.dim() != 2 or 0 in recurrent.shape:
        raise _NotAnLSTM(f"expected weight_hh of shape (4H, H), found {tuple(recurrent.shape)}")
    rows, columns = recurrent.shape
    projection = next(
        (tensors[name] for parsed, name in names.items() if (parsed.kind, parsed.side) == ("weight", "hr")), None
    )
    if projection is not None:
        if is_cell:
            raise _NotAnLSTM("found a projection weight_hr, which an LSTMCell does not have")
        if projection.dim() != 2 or projection.shape[0] != columns or rows != 4 * projection.shape[1]:
            raise _NotAnLSTM(
                f"expected weight_hr of shape ({columns}, {rows // 4}) beside weight_hh {tuple(recurrent.shape)}, "
                f"found {tuple(projection.shape)}"
            )
        if columns >= rows // 4:
            raise _NotAnLSTM(f"expected a weight_hr of fewer rows than the hidden size {rows // 4}, found {columns}")
        return rows // 4, columns
    if rows == 4 * columns:
        return columns, 0
    cell = "Cell" if is_cell else ""
    if rows == 3 * columns:
        raise _NotAnLSTM(f"a GRU{cell}: 3 gates of {columns} rows, an LSTM has 4")
    if rows == columns:
        raise _NotAnLSTM(f"a plain RNN{cell}: no gates, {rows} rows, an LSTM has 4 gates of {columns}")
    raise _NotAnLSTM(f"expected 4 x {columns} rows in weight_hh, found {rows} (and no projection weight_hr)")


def _order(item: tuple[StandardName, str]) -> tuple[int, int]:
    return item[0].layer or 0, item[0].direction


def _columns(standard: str, names: dict[StandardName, str], tensors: Mapping[str, Tensor]) -> int:
    """The width of a 2-dimensional tensor; 0 where there is none, which the check of shapes then reports."""
    for parsed, name in names.items():
        if str(parsed) == standard and tensors[name].dim() == 2:
            return tensors[name].shape[1]
    return 0


def build(lstm: LSTM, tensors: Mapping[str, Tensor], device: str = "cpu") -> nn.LSTM:
    """A real `nn.LSTM` (batch first, evaluation mode) that computes with the given tensors.

    `tensors` is keyed by the names in the file. An `LSTMCell` becomes the one-layer LSTM that applies it step by step.
    Raises PrunerError if a tensor does not have the shape that `lstm` says: unequal layers inside one `nn.LSTM` can
    return garbage or abort the process, so nothing unchecked reaches a forward pass.
    """
    with torch.device("meta"):
        module = nn.LSTM(
            lstm.input_size,
            lstm.hidden_size,
            lstm.num_layers,
            bias=lstm.bias,
            batch_first=True,
            bidirectional=lstm.bidirectional,
            proj_size=lstm.proj_size,
            dtype=getattr(torch, lstm.dtype),
        )
    state = {}
    for standard, name in lstm.tensors.items():
        layered = standard if lstm.kind == "LSTM" else f"{standard}_l0"
        expected = getattr(module, layered).shape
        if tensors[name].shape != expected:
            raise PrunerError(
                f"expected {name} of shape {tuple(expected)}, found {tuple(tensors[name].shape)}; "
                "an LSTM whose layers do not fit together cannot be run"
            )
        state[layered] = tensors[name].detach().to(device)
    module.load_state_dict(state, assign=True)
    return module.eval().requires_grad_(False)
