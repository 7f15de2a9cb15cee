"""Which of a file's tensors form an LSTM."""

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from pruner.lstm.gates import StandardName, layer_suffix, parse_standard_name
from pruner.lstm.lstm import DTYPES, LSTM, Skipped
from pruner.lstm.sizes import parameters


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
    stored = {str(parsed): name for parsed, name in names.items()}
    lstm = LSTM(
        name=prefix,
        kind="LSTMCell" if is_cell else "LSTM",
        num_layers=len(layers),
        bidirectional=bidirectional,
        input_size=_columns(f"weight_ih{layer_suffix(None if is_cell else 0, 0)}", names, tensors),
        hidden_size=hidden_size,
        proj_size=proj_size,
        bias=bias,
        dtype="",
        parameters=0,
        tensors=stored,
    )
    expected = lstm.shapes()
    for standard, shape in expected.items():
        if standard not in stored:
            raise _NotAnLSTM(f"expected a tensor {standard}, found none beside {', '.join(sorted(stored))}")
        found = tuple(tensors[stored[standard]].shape)
        if found != shape:
            raise _NotAnLSTM(f"expected {standard} of shape {shape}, found {found}")
    if lstm.input_size == 0:
        raise _NotAnLSTM(f"expected at least one input, found {(4 * hidden_size, 0)} for weight_ih")
    for standard in stored.keys() - expected.keys():
        raise _NotAnLSTM(f"found a tensor {standard} that an LSTM of this shape does not have")
    dtypes = {tensors[name].dtype for name in stored.values()}
    if len(dtypes) > 1 or not dtypes <= set(DTYPES):
        listed = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
        raise _NotAnLSTM(f"expected one floating-point dtype (float16, bfloat16, float32 or float64), found {listed}")
    return replace(
        lstm,
        dtype=str(dtypes.pop()).removeprefix("torch."),
        parameters=parameters(tensors[name] for name in stored.values()),
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
