"""Load the pruned LSTMs of this folder with torch and safetensors alone.

    from load_pruned import load_lstms, replace, resize

    lstms = load_lstms("path/to/this/folder")   # {name: module}
    output, (h_n, c_n) = lstms["encoder"](sequence)

    model = replace(model, "path/to/this/folder")   # your own dense model becomes the pruned one
    resize("path/to/this/folder")   # {"encoder.hidden_size": {"before": 512, "after": 256}}

Each module is called like the nn.LSTM (or nn.LSTMCell) it came from and returns its full output width, whatever was
removed inside; only where the tensors that read it were trimmed along, `replace` puts a smaller nn.LSTM. Where manifest.json
says "stored_as": "LSTM", the file also loads into your own class, built with its "stored_hidden_size". Its
"dense_hidden_size" is that of the LSTM before pruning, and so the width that the module returns.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence

# In files, what a compact module was at full size, which its other tensors do not tell: its hidden size and, of an LSTM, how
# many layers and directions it has.
STANDS_FOR = "stands_for"
# The tensors of a plain LSTM that read its input.
_INPUT_WEIGHTS = ("weight_ih", "weight_ih_l0", "weight_ih_l0_reverse")


def load_lstms(
    folder: str | Path, device: torch.device | str = "cpu", batch_first: bool | None = None
) -> dict[str, nn.Module]:
    """{name: module} for every pruned LSTM, in evaluation mode.

    `batch_first` as in nn.LSTM; None for what the manifest knows of it. Raises ValueError where that says nothing either.
    """
    manifest, container = _opened(folder)
    lstms = {}
    for entry in manifest["lstms"]:
        first = _batch_first(manifest, entry) if batch_first is None else batch_first
        state = _with_all_inputs(manifest, entry, _state(entry, container))
        lstms[entry["name"]] = assemble(entry, state, first).to(device).eval()
        settle(lstms[entry["name"]], _learned(manifest, entry["name"]).get("handed_states"))
    return lstms


def replace(model: nn.Module, folder: str | Path) -> nn.Module:
    """Make a dense model, built by its own class as before pruning, the pruned one, in place, and return it.

    Every pruned LSTM is replaced by its pruned module, with the `batch_first`, `dropout`, mode, device and type of what
    stood there. Tensors that read it and were trimmed become smaller, with `in_features` and the like. All other tensors of
    the file are copied to where the model has them under the same names; what the file does not hold stays as it is. Make
    optimizers afterwards. Raises ValueError, before anything is changed, where the two do not fit each other.

        model = Tagger(hidden_size=512)
        replace(model, "path/to/this/folder")
    """
    manifest, container = _opened(folder)
    if "rest" not in manifest:
        raise ValueError(
            f"expected an export that says where all its tensors lie, found an older one in {folder}; export again"
        )
    if any(not entry["name"] for entry in manifest["lstms"]):
        raise ValueError(
            "expected a file of a model that holds its LSTM, found that of the LSTM itself; call load_lstms(folder)"
        )
    return put(model, _unwrapped(manifest, model), container)


def put(model: nn.Module, manifest: Mapping[str, Any], container: Any) -> nn.Module:
    """As `replace`, from what a manifest says of LSTMs and of the other tensors, and what holds the tensors. A model that is
    itself the LSTM becomes another module, which is returned."""
    rest = {name: _at(container, place["keys"]) for name, place in manifest["rest"].items()}
    widths = _trimmed_widths(manifest, rest)
    swaps = [_swap(model, manifest, entry, _state(entry, container)) for entry in manifest["lstms"]]
    own = {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers(remove_duplicate=False))}
    for name, tensor in rest.items():
        _check_place(name, tensor, own.get(name), widths.get(name))
    for old, new in swaps:
        for parent in list(model.modules()):
            for name, child in list(parent._modules.items()):  # under each of its names
                if child is old:
                    setattr(parent, name, new)
        model = new if model is old else model
    written: set[int] = set()
    for name, tensor in rest.items():
        if name in own:
            _write(model, name, tensor, own[name], written)
    return model


def resize(folder: str | Path) -> dict[str, dict[str, int]]:
    """{setting: {"before": size, "after": size}}: what to build the model's own class with, so that the file loads into it.

    Settings are the hidden sizes of its LSTMs, and the numbers in the file that hold an old one. Empty where the file has
    its full size. Raises ValueError where no class of another size takes it.

        >>> resize("path/to/this/folder")
        {'encoder.hidden_size': {'before': 512, 'after': 256}, 'config.hidden_dim': {'before': 512, 'after': 256}}
    """
    manifest, _ = _opened(folder)
    if manifest["form"] == "masked":
        return {}
    found = {}
    for entry in manifest["lstms"]:
        name, before, after = entry["name"], entry["dense_hidden_size"], entry["stored_hidden_size"]
        title = repr(name) if name else "the LSTM"
        if entry["stored_as"] != "LSTM":
            raise ValueError(
                f"expected plain LSTMs of one size to build a class for, found {title} stored as {entry['stored_as']}; call "
                "replace(model, folder)"
            )
        if before != after and not (entry["consumers"] or entry["proj_size"] or not manifest.get("rest", True)):
            raise ValueError(
                f"expected what reads {title} to be as narrow as its output, found its full width ({before}); call "
                "replace(model, folder), or export again with the consumers named"
            )
        found[f"{name}.hidden_size" if name else "hidden_size"] = {"before": before, "after": after}
        if "stored_input_size" in entry:
            sizes = {"before": entry["input_size"], "after": entry["stored_input_size"]}
            found[f"{name}.input_size" if name else "input_size"] = sizes
    return found | manifest.get("settings", {})


def _opened(folder: str | Path) -> tuple[dict[str, Any], Any]:
    """The manifest of an export, and the container of its tensors."""
    folder = Path(folder)
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(
            f"expected an export folder with a manifest.json, found none in {folder}; check the path"
        ) from error
    if any("dense_hidden_size" not in entry for entry in manifest["lstms"]):
        raise ValueError(
            f"expected a manifest as this load_pruned.py reads it, found an older one in {folder}; use the "
            "load_pruned.py that lies beside it, or export again"
        )
    if (folder / "pruned.safetensors").exists():
        from safetensors.torch import load_file

        return manifest, load_file(folder / "pruned.safetensors")
    return manifest, torch.load(folder / "pruned.pt", map_location="cpu", weights_only=True)


def _at(container: Any, keys: Sequence[str]) -> Tensor:
    for key in keys:
        container = container[key]
    return container


def _state(entry: Mapping[str, Any], container: Any) -> dict[str, Tensor]:
    """Copies of the tensors of one LSTM, by their names in its module."""
    return {name: _at(container, keys).clone() for name, keys in entry["tensors"].items()}


def _with_all_inputs(
    manifest: Mapping[str, Any], entry: Mapping[str, Any], state: dict[str, Tensor]
) -> dict[str, Tensor]:
    """The tensors of an LSTM with zeros in the columns that it lost because it reads another, which gives zeros there."""
    for before in manifest["lstms"]:
        for name in _INPUT_WEIGHTS:
            if name in state and entry["source_tensors"][name] in before["consumers"]:
                last = before["layers"][-2:] if before["bidirectional"] else before["layers"][-1:]
                columns = [
                    direction * before["dense_hidden_size"] + unit
                    for direction, layer in enumerate(last)
                    for unit in layer["kept_units"]
                ]
                wide = state[name].new_zeros(len(state[name]), entry["input_size"])
                wide[:, columns] = state[name]
                state[name] = wide
    return state


def _batch_first(manifest: Mapping[str, Any], entry: Mapping[str, Any]) -> bool:
    """What the manifest knows of it; cells have none."""
    known = _learned(manifest, entry["name"]).get("batch_first")
    if known is None and entry["kind"] == "LSTM":
        title = repr(entry["name"]) if entry["name"] else "the LSTM"
        raise ValueError(
            f"expected batch_first as {title} had it in its model, because its file does not say, found none; call "
            "load_lstms(folder, batch_first=True) if it reads (N, T, I), batch_first=False if it reads (T, N, I)"
        )
    return bool(known)


def _unwrapped(manifest: dict[str, Any], model: nn.Module) -> dict[str, Any]:
    """The manifest under the names of a model that DataParallel or torch.compile wrapped when it was saved, but not now."""
    names = [*(entry["name"] for entry in manifest["lstms"]), *manifest["rest"]]
    for wrapper in ("module", "_orig_mod"):
        prefix = f"{wrapper}."
        if all(name.startswith(prefix) for name in names) and not hasattr(model, wrapper):
            lstms = [
                entry
                | {"name": entry["name"].removeprefix(prefix)}
                | {"consumers": [name.removeprefix(prefix) for name in entry["consumers"]]}
                for entry in manifest["lstms"]
            ]
            rest = {name.removeprefix(prefix): place for name, place in manifest["rest"].items()}
            return manifest | {"lstms": lstms, "rest": rest}
    return manifest


def _trimmed_widths(manifest: Mapping[str, Any], rest: Mapping[str, Tensor]) -> dict[str, int]:
    """{name of a trimmed tensor outside the pruned LSTMs: how many columns it had}."""
    return {
        name: entry["dense_hidden_size"] * (2 if entry["bidirectional"] else 1)
        for entry in manifest["lstms"]
        for name in entry["consumers"]
        if name in rest
    }


def _swap(
    model: nn.Module, manifest: Mapping[str, Any], entry: Mapping[str, Any], state: Mapping[str, Tensor]
) -> tuple[nn.Module, nn.Module]:
    """(the dense LSTM of a model, what takes its place). Raises ValueError where it is not the one that was pruned."""
    name, wanted = entry["name"], nn.LSTMCell if entry["kind"] == "LSTMCell" else nn.LSTM
    places = dict(model.named_modules(remove_duplicate=False))
    old = places.get(name)
    if type(old) is not wanted:
        there = [path for path, module in places.items() if isinstance(module, nn.LSTM | nn.LSTMCell)]
        found = f"a {type(old).__name__}" if old is not None else f"none (but {', '.join(there) or 'no LSTM at all'})"
        raise ValueError(
            f"expected a plain nn.{wanted.__name__} {name!r} in the model, found {found}; build the model as it was before "
            "pruning, or put what load_lstms(folder) gives in its place yourself"
        )
    sizes = {"input_size": entry["input_size"], "hidden_size": entry["dense_hidden_size"], "bias": entry["bias"]}
    if wanted is nn.LSTM:
        sizes |= {key: entry[key] for key in ("num_layers", "bidirectional", "proj_size")}
    for key, size in sizes.items():
        if getattr(old, key) != size:
            raise ValueError(
                f"expected {name!r} of the model with {key}={size}, as before pruning, found {key}={getattr(old, key)}; "
                "build the dense model"
            )
    new = assemble(entry, state, getattr(old, "batch_first", False), full_width=not entry["consumers"])
    settle(new, _learned(manifest, name).get("handed_states"))
    if wanted is nn.LSTM:
        new.dropout = old.dropout  # set afterwards, because nn.LSTM warns of one with a single layer
    weight = next(old.parameters())
    trained = {own.rpartition(".")[2]: parameter.requires_grad for own, parameter in old.named_parameters()}
    inner = {inside(own, entry["bidirectional"]): flag for own, flag in trained.items()}
    for own, parameter in new.named_parameters():
        parameter.requires_grad_(inner.get(own, trained.get(own, any(trained.values()))))
    return old, new.to(weight.device, weight.dtype).train(old.training)


def settle(module: nn.Module, handed_states: bool | None) -> None:
    """Have an LSTM that is handed the states of others drop what they say of units that it no longer has."""
    if handed_states and isinstance(module, _Standing):
        module.on_lost_state = "ignore"


def _learned(manifest: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """What the manifest knows of an LSTM beside its weights."""
    return manifest.get("learned", {}).get(name, {})


def _check_place(name: str, tensor: Tensor, own: Tensor | None, width: int | None) -> None:
    """Raise ValueError unless a tensor of the file fits into its place in the model; `width` is what a trimmed one had."""
    wanted = tuple(tensor.shape) if width is None else (len(tensor), width, *tensor.shape[2:])
    if own is None and width is not None:
        raise ValueError(
            f"expected a parameter {name!r} in the model, because it reads a pruned LSTM, found none; build the model as it "
            "was before pruning, without what computes that tensor from others"
        )
    if own is not None and tuple(own.shape) != wanted:
        raise ValueError(
            f"expected {name!r} of the model in the shape {wanted}, as before pruning, found {tuple(own.shape)}; build the "
            "dense model"
        )


@torch.no_grad()
def _write(model: nn.Module, name: str, tensor: Tensor, own: Tensor, written: set[int]) -> None:
    """Copy a tensor of the file over the model's own, or put it in its place, if it became smaller or is no longer tied."""
    values = tensor.to(own.device, own.dtype)
    if own.shape == values.shape and (id(own) not in written or torch.equal(own, values)):
        own.copy_(values)
        written.add(id(own))
        return
    path, _, last = name.rpartition(".")
    module = model.get_submodule(path)
    setattr(module, last, nn.Parameter(values.clone(), own.requires_grad))
    for size in ("in_features", "in_channels", "input_size"):
        if tensor.dim() > 1 and getattr(module, size, None) == own.shape[1]:
            setattr(module, size, tensor.shape[1])


def assemble(
    entry: Mapping[str, Any], state: Mapping[str, Tensor], batch_first: bool, full_width: bool = True
) -> nn.Module:
    """The module of one LSTM from its entry in the manifest and its stored tensors; of full output width, or as narrow as
    the stored LSTM.

    It computes with these tensors themselves, not with copies, where their type is that of the entry. Raises ValueError or
    RuntimeError where the two do not fit each other; nothing unchecked reaches a forward pass.
    """
    hidden_size, cell = entry["dense_hidden_size"], entry["kind"] == "LSTMCell"
    settings: dict[str, Any] = {"bias": entry["bias"], "dtype": getattr(torch, entry["dtype"])}
    if not cell:
        settings |= {
            "batch_first": batch_first,
            "bidirectional": entry["bidirectional"],
            "proj_size": entry["proj_size"],
        }
    # An LSTM that reads a smaller one may have fewer inputs than before.
    first = next((state[name] for name in _INPUT_WEIGHTS if name in state), None)
    sizes = entry["input_size"] if first is None else first.shape[-1], hidden_size
    dtype = settings["dtype"]
    state = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    with torch.device("meta"):  # without numbers, which the state brings
        module, state = _assembled(entry, state, sizes, settings, full_width)
    module.load_state_dict(state, assign=True)
    return module


def _assembled(
    entry: Mapping[str, Any],
    state: Mapping[str, Tensor],
    sizes: tuple[int, int],
    settings: dict[str, Any],
    full_width: bool,
) -> tuple[nn.Module, Mapping[str, Tensor]]:
    """A module of these sizes whose numbers are still to come, and the state that brings them."""
    hidden_size, cell = sizes[1], entry["kind"] == "LSTMCell"
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
    elif entry["stored_as"] == "LSTM" and (not full_width or entry["stored_hidden_size"] == hidden_size):
        sizes = sizes[0], entry["stored_hidden_size"]
        module = nn.LSTMCell(*sizes, **settings) if cell else nn.LSTM(*sizes, entry["num_layers"], **settings)
    else:
        kept = [torch.tensor(layer["kept_units"], dtype=torch.int64, device="cpu") for layer in entry["layers"]]
        if entry["stored_as"] == "CompactLSTM":
            kept = [state[f"layers.{index}.kept"] for index in range(len(kept))]
            settings["reconstruct"] = any(".reconstruction." in name for name in state)
        module = CompactLSTMCell(*sizes, kept, **settings) if cell else CompactLSTM(*sizes, kept, **settings)
        if entry["stored_as"] == "LSTM":
            state = {inside(name, entry["bidirectional"]): tensor for name, tensor in state.items()}
            state |= {f"layers.{index}.kept": units for index, units in enumerate(kept)}
    return module, state


def inside(name: str, bidirectional: bool) -> str:
    """Where a tensor of an nn.LSTM or LSTMCell (`weight_ih_l1_reverse`, `weight_ih`) lies in the state of a CompactLSTM."""
    kind, _, place = name.partition("_l")
    layer, _, reverse = place.partition("_")
    index = int(layer or 0) * (2 if bidirectional else 1) + bool(reverse)
    return f"layers.{index}.lstm.{kind}_l0"


class _Indexed(nn.Module):
    """A module with indices as buffers: they keep their values where `to_empty` leaves none, and their type always."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        buffers = {name: buffer for name, buffer in self._buffers.items() if buffer is not None}
        indices = {name: buffer for name, buffer in buffers.items() if buffer.dtype == torch.int64}
        super()._apply(fn, recurse)
        for name, before in indices.items():
            device = self._buffers[name].device
            self._buffers[name] = before if device.type == "meta" else before.to(device)
        return self


class Reconstruction(_Indexed):
    """The removed hidden units of one direction (.., R), as the kept ones (.., K) tell them."""

    kept: Tensor
    removed: Tensor

    def __init__(
        self, kept: Tensor, hidden_size: int, device: torch.device | str | None, dtype: torch.dtype | None
    ) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        # Whoever holds it stores the indices, and says when they have changed.
        self.register_buffer("kept", kept, persistent=False)
        self.register_buffer("removed", _without(kept, hidden_size), persistent=False)
        count = hidden_size - len(kept)
        self.weight = nn.Parameter(torch.zeros(count, len(kept), device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(count, device=device, dtype=dtype))

    def follow(self, kept: Tensor) -> None:
        """Take over the indices that were loaded."""
        self.kept, self.removed = kept, _without(kept, self.hidden_size)

    def reset_parameters(self) -> None:
        """Zeros: removed units tell nothing until they are fitted."""
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, compact: Tensor, wide: Tensor) -> Tensor:
        """`wide` (.., H) with the removed units filled in."""
        found = F.linear(compact, self.weight, self.bias)
        return wide.scatter(-1, self.removed.expand_as(found), found)


class _Units(_Indexed):
    """One layer and direction without its removed hidden units: a smaller nn.LSTM that knows where its units stood."""

    kept: Tensor
    removed: Tensor

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
        self.register_buffer("kept", kept.clone())  # what is loaded is written into it
        self.register_buffer("removed", _without(kept, hidden_size), persistent=False)
        self.lstm = nn.LSTM(input_size, len(kept), bias=bias, proj_size=proj_size, device=device, dtype=dtype)
        self.reconstruction = Reconstruction(kept, hidden_size, device, dtype) if reconstruct else None

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

    def loses(self, h_0: Tensor, c_0: Tensor) -> bool:
        """Whether a state (B, ..) of full width says anything of removed units, but for `h` that were reconstructed."""
        both = c_0 if self.proj_size or self.reconstruction is not None else torch.cat([h_0, c_0])
        return bool(both.index_select(-1, self.removed).any())

    def weights(self) -> list[Tensor]:
        """As `nn.LSTM.all_weights` lists those of a layer and direction."""
        return self.lstm.all_weights[0]

    def reset_parameters(self) -> None:
        """As `nn.LSTM` begins, at the size that is left."""
        self.lstm.reset_parameters()
        if self.reconstruction is not None:
            self.reconstruction.reset_parameters()

    def _load_from_state_dict(self, *arguments: Any) -> None:
        super()._load_from_state_dict(*arguments)
        self.removed = _without(self.kept, self.hidden_size)
        if self.reconstruction is not None:
            self.reconstruction.follow(self.kept)


class _Rows(_Indexed):
    """One layer and direction that multiplies its kept rows only; every other row adds nothing to its gate.

    The packed rows kept of (4H, ...) are `rows_ih` and `rows_hh`. Both biases (4H,) are whole, and apart, because their sum
    would be rounded. The kept rows of `weight_hh` are turned, (R, K), in memory, because a matrix that fits into the cache
    is multiplied with one vector twice as fast so; files hold them as `weight_hh_rows` (K, R).
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
            self.register_buffer(name, kept.clone())  # what is loaded is written into it

        def parameter(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.zeros(shape, device=device, dtype=dtype))

        self.weight_ih_rows = parameter(len(rows[0]), input_size)
        self.weight_hh_columns = parameter(self.output_size, len(rows[1]))
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
        rows, columns, hidden_size = self.rows_hh, self.weight_hh_columns, self.hidden_size
        weight = columns.t()
        ended_h, ended_c = h, c
        outputs: list[Tensor] = []
        for piece in pieces:
            if ragged:  # shorter sequences have ended and keep their state
                alive = piece.size(0)
                ended_h, ended_c, h, c = h[alive:], c[alive:], h[:alive], c[:alive]
            product = weight @ h if alone else h @ columns
            both = piece.index_add(0 if alone else 1, rows, product.to(piece.dtype))
            g = both[..., 2 * hidden_size : 3 * hidden_size].tanh()
            open_ = both.sigmoid()  # sliced and not cut into chunks, through which TorchScript has no gradient
            i, f = open_[..., :hidden_size], open_[..., hidden_size : 2 * hidden_size]
            c = torch.addcmul(f * c, i, g)
            h = open_[..., 3 * hidden_size :] * c.tanh()
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

    def loses(self, h_0: Tensor, c_0: Tensor) -> bool:
        """Nothing of a state is lost, because every unit is there."""
        return False

    def weights(self) -> list[Tensor]:
        """As `nn.LSTM.all_weights` lists those of a layer and direction, of the kept rows alone."""
        found = (self.weight_ih_rows, self.weight_hh_columns.t(), self.ih_bias, self.hh_bias, self.projection)
        return [weight for weight in found if weight is not None]

    def reset_parameters(self) -> None:
        """As `nn.LSTM` begins."""
        bound = self.hidden_size**-0.5
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if not keep_vars:  # who asks for those wants the parameters themselves
            columns = destination.pop(f"{prefix}weight_hh_columns")
            destination[f"{prefix}weight_hh_rows"] = columns.t().contiguous()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        if f"{prefix}weight_hh_rows" in state_dict:
            state_dict[f"{prefix}weight_hh_columns"] = state_dict.pop(f"{prefix}weight_hh_rows").t().contiguous()
        super()._load_from_state_dict(state_dict, prefix, *arguments)


class _Standing(nn.Module):
    """What stands for an nn.LSTM or nn.LSTMCell and may be given a state."""

    LAYER: type[_Units] | type[_Rows]
    on_lost_state: str
    hidden_size: int

    def _sizes(self) -> list[int]:
        """What files say of it under `STANDS_FOR`."""
        return [self.hidden_size]

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if not keep_vars:  # who asks for those wants the parameters themselves
            destination[f"{prefix}{STANDS_FOR}"] = torch.tensor(self._sizes(), device="cpu")

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        sizes = state_dict.pop(f"{prefix}{STANDS_FOR}", None)  # older files do not say
        if sizes is not None and int(sizes[0]) != self.hidden_size:
            errors: list[str] = arguments[-1]
            errors.append(f"expected {self.hidden_size} hidden units at full size, found {int(sizes[0])}")
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def _check_lost(self, h_0: Tensor, c_0: Tensor) -> None:
        """Raise ValueError for a state (L*D, B, H) that says something of removed units, unless that is to be ignored."""
        if self.on_lost_state == "ignore":
            return
        if not torch.jit.is_scripting():
            # Where no number can be looked at.
            if torch.jit.is_tracing() or torch.compiler.is_compiling():
                return
            if c_0.is_cuda and torch.cuda.is_current_stream_capturing():
                return
        for index, layer in enumerate(self.layers):
            if layer.loses(h_0[index], c_0[index]):
                raise ValueError(
                    "expected a state that is zero where hidden units were removed, found other numbers there, which the "
                    'masked model would go on from; pass zeros there, or set on_lost_state = "ignore" on this module to '
                    "drop them"
                )


class _Compact(_Standing):
    """What stands for an nn.LSTM: its signature around one module a layer and direction, of the class `LAYER`."""

    __jit_unused_properties__ = ["all_weights"]  # noqa: RUF012 - as nn.LSTM has it

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
        on_lost_state: str = "refuse",
    ) -> None:
        super().__init__()
        self.on_lost_state = _checked_choice(on_lost_state)
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

    def _sizes(self) -> list[int]:
        return [self.hidden_size, self.num_layers, self.directions]

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
        if input.dim() not in (2, 3):
            raise ValueError(f"expected an input of 2 or 3 dimensions, found {input.dim()}")
        if input.dim() == 2:
            if h_0 is not None and c_0 is not None:
                if h_0.dim() != 2 or c_0.dim() != 2:
                    raise RuntimeError(
                        f"expected a state of 2 dimensions for an input of 2, found {h_0.dim()} and {c_0.dim()}"
                    )
                h_0, c_0 = h_0.unsqueeze(1), c_0.unsqueeze(1)
                self._check_state(h_0, c_0, 1)
            output, h_n, c_n = self._run(input.unsqueeze(1), None, None, h_0, c_0)
            return output.squeeze(1), (h_n.squeeze(1), c_n.squeeze(1))
        if h_0 is not None and c_0 is not None:
            self._check_state(h_0, c_0, input.size(0) if self.batch_first else input.size(1))
        output, h_n, c_n = self._run(input.transpose(0, 1) if self.batch_first else input, None, None, h_0, c_0)
        return output.transpose(0, 1) if self.batch_first else output, (h_n, c_n)

    @property
    def all_weights(self) -> list[list[Tensor]]:
        """The weights of each layer and direction, as `nn.LSTM` lists them."""
        return [layer.weights() for layer in self.layers]

    def flatten_parameters(self) -> None:
        """Nothing to do. It is here because the `forward` of many models calls it on their `nn.LSTM`."""

    def reset_parameters(self) -> None:
        """New random weights, as `nn.LSTM` begins at the size that is left."""
        for layer in self.layers:
            layer.reset_parameters()

    def _check_state(self, h_0: Tensor, c_0: Tensor, batch: int) -> None:
        """Raise RuntimeError for a state of another shape, as `nn.LSTM` does, and ValueError as `_check_lost` does."""
        width = self.proj_size if self.proj_size else self.hidden_size  # TorchScript types `or` otherwise
        _check_shape(h_0, [len(self.layers), batch, width], 0)
        _check_shape(c_0, [len(self.layers), batch, self.hidden_size], 1)
        self._check_lost(h_0, c_0)

    def _packed(self, packed: PackedSequence, hx: tuple[Tensor, Tensor] | None) -> Any:
        """The packed sequences of the output, and the final states in the order of the caller."""
        if hx is not None:
            self._check_state(hx[0], hx[1], int(packed.batch_sizes[0]))
        h_0, c_0 = (None, None) if hx is None else (reordered(part, packed.sorted_indices) for part in hx)
        order = backwards(packed.batch_sizes).to(packed.data.device)
        output, h_n, c_n = self._run(packed.data, packed.batch_sizes, order, h_0, c_0)
        state = reordered(h_n, packed.unsorted_indices), reordered(c_n, packed.unsorted_indices)
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
            read = turned(steps, backwards) if reverse else steps
            output, h_n, c_n = layer(read, batch_sizes, h, c)
            if index >= last_layer:  # only what leaves is as wide as before; the next layer reads kept units alone
                output = layer.widen(output)
            outputs.append(turned(output, backwards) if reverse else output)
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
    ones tells them. An `hx` that is not zero where units were removed raises ValueError: in a masked LSTM they would fade,
    here they are gone; with `on_lost_state="ignore"` such values are dropped. Where a graph is traced or compiled, nobody
    looks. Dropout between layers draws other random numbers than `nn.LSTM` does. Scripted, it takes tensors, not packed
    sequences. Raises ValueError for indices that are not increasing or not below `hidden_size`, and RuntimeError for an `hx`
    of another shape.
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


class _CompactCell(_Standing):
    """What stands for an nn.LSTMCell: one step of one layer."""

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
        on_lost_state: str = "refuse",
    ) -> None:
        super().__init__()
        self.on_lost_state = _checked_choice(on_lost_state)
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
        if input.dim() not in (1, 2):
            raise ValueError(f"expected an input of 1 or 2 dimensions, found {input.dim()}")
        step = input[None] if input.dim() == 2 else input[None, None]
        wide = list(input.shape[:-1]) + [self.hidden_size]  # noqa: RUF005 - TorchScript has no *
        h_0: Tensor | None = None
        c_0: Tensor | None = None
        if hx is not None:
            h_0, c_0 = hx
            _check_shape(h_0, wide, 0)
            _check_shape(c_0, wide, 1)
            h_0, c_0 = h_0.reshape(1, -1, self.hidden_size), c_0.reshape(1, -1, self.hidden_size)
            self._check_lost(h_0, c_0)
        for layer in self.layers:
            _, h_0, c_0 = layer(step, None, h_0, c_0)
        assert h_0 is not None and c_0 is not None  # noqa: S101 - TorchScript cannot know that there is one layer
        return h_0.view(wide), c_0.view(wide)

    def reset_parameters(self) -> None:
        """New random weights, as `nn.LSTMCell` begins at the size that is left."""
        for layer in self.layers:
            layer.reset_parameters()


class CompactLSTMCell(_CompactCell):
    """An `nn.LSTMCell` without its removed hidden units, which come back as zeros, or reconstructed as in `CompactLSTM`;
    `kept` holds one tensor of indices."""

    LAYER = _Units


class RowCompactLSTMCell(_CompactCell):
    """An `nn.LSTMCell` that multiplies only the rows its masks kept; `kept` holds one pair of tensors of indices."""

    LAYER = _Rows


class _Reconstructing(_Indexed):
    """What an LSTM or cell of full size needs to fill in its removed units: the kept ones of each direction of its last
    layer, which the file holds as `kept_0` and `kept_1`."""

    def _register(self, kept: Sequence[Tensor], hidden_size: int, like: Tensor) -> None:
        for direction, units in enumerate(kept):
            _check_indices(units, hidden_size, fewest=1)
            self.register_buffer(f"kept_{direction}", units.clone())  # what is loaded is written into it
        self.reconstruction = nn.ModuleList(
            [Reconstruction(units, hidden_size, like.device, like.dtype) for units in kept]
        )

    def _load_from_state_dict(self, *arguments: Any) -> None:
        super()._load_from_state_dict(*arguments)
        for direction, filled in enumerate(self.reconstruction):
            filled.follow(self.get_buffer(f"kept_{direction}"))


class ReconstructingLSTM(_Reconstructing, nn.LSTM):
    """An `nn.LSTM` of full size whose removed hidden units are zero inside and, in the `output` and `h_n` of its last layer,
    what a linear map of the kept ones tells: the masked form of a `CompactLSTM` that reconstructs.

    `kept` holds the (K,) int64 indices of the kept units for each direction of the last layer. Scripted, it takes tensors,
    not packed sequences. Raises ValueError for indices that are not increasing or not below `hidden_size`.
    """

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int, kept: Sequence[Tensor], **settings: Any
    ) -> None:
        super().__init__(input_size, hidden_size, num_layers, **settings)
        self._register(kept, hidden_size, self.weight_ih_l0)

    def forward(
        self,
        input: Tensor,  # noqa: A002 - nn.LSTM's own name for it
        hx: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """As `nn.LSTM`."""
        if torch.jit.is_scripting():
            output, h_n, c_n = self._dense(input, hx)
        else:
            output, (h_n, c_n) = super().forward(input, hx)
            if isinstance(output, PackedSequence):
                return output._replace(data=self._filled(output.data)), (self._last_filled(h_n), c_n)
        return self._filled(output), (self._last_filled(h_n), c_n)

    def _dense(self, input: Tensor, hx: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor, Tensor]:  # noqa: A002
        """What `nn.LSTM.forward` makes of tensors, which TorchScript cannot call on a class below it."""
        alone = input.dim() == 2
        batch_axis = 0 if self.batch_first else 1
        steps = input.unsqueeze(batch_axis) if alone else input
        wanted = [self.num_layers * (2 if self.bidirectional else 1), steps.size(batch_axis), self.hidden_size]
        if hx is None:
            h_0 = steps.new_zeros(wanted)
            c_0 = h_0
        else:
            h_0, c_0 = hx
            if alone:
                h_0, c_0 = h_0.unsqueeze(1), c_0.unsqueeze(1)
            for which, state in enumerate((h_0, c_0)):
                _check_shape(state, wanted, which)
        output, h_n, c_n = torch._VF.lstm(
            steps,
            [h_0, c_0],
            self._flat_weights,
            self.bias,
            self.num_layers,
            self.dropout,
            self.training,
            self.bidirectional,
            self.batch_first,
        )
        if alone:
            output, h_n, c_n = output.squeeze(batch_axis), h_n.squeeze(1), c_n.squeeze(1)
        return output, h_n, c_n

    def _filled(self, output: Tensor) -> Tensor:
        """(.., D*H) with the removed units of every direction filled in."""
        parts = output.split(self.hidden_size, -1)
        filled: list[Tensor] = []
        for direction, each in enumerate(self.reconstruction):
            filled.append(each(parts[direction].index_select(-1, each.kept), parts[direction]))
        return torch.cat(filled, -1)

    def _last_filled(self, h_n: Tensor) -> Tensor:
        """(L*D, .., H) with the removed units of the last layer filled in."""
        last = h_n.size(0) - len(self.reconstruction)
        filled: list[Tensor] = [h_n[:last]]
        for direction, each in enumerate(self.reconstruction):
            own = h_n[last + direction : last + direction + 1]
            filled.append(each(own.index_select(-1, each.kept), own))
        return torch.cat(filled)


class ReconstructingLSTMCell(_Reconstructing, nn.LSTMCell):
    """The `nn.LSTMCell` of a `ReconstructingLSTM`; `kept` holds one tensor of indices."""

    def __init__(self, input_size: int, hidden_size: int, kept: Sequence[Tensor], **settings: Any) -> None:
        super().__init__(input_size, hidden_size, **settings)
        self._register(kept, hidden_size, self.weight_ih)

    def forward(
        self,
        input: Tensor,  # noqa: A002 - nn.LSTMCell's own name for it
        hx: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """As `nn.LSTMCell`."""
        if torch.jit.is_scripting():
            h, c = self._dense(input, hx)
        else:
            h, c = super().forward(input, hx)
        for each in self.reconstruction:
            h = each(h.index_select(-1, each.kept), h)
        return h, c

    def _dense(self, input: Tensor, hx: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:  # noqa: A002
        """What `nn.LSTMCell.forward` does, which TorchScript cannot call on a class below it."""
        wide = list(input.shape[:-1]) + [self.hidden_size]  # noqa: RUF005 - TorchScript has no *
        h_0 = input.new_zeros(wide)
        c_0 = h_0
        if hx is not None:
            h_0, c_0 = hx
            _check_shape(h_0, wide, 0)
            _check_shape(c_0, wide, 1)
        steps = input[None] if input.dim() == 1 else input
        state = [h_0.reshape(-1, self.hidden_size), c_0.reshape(-1, self.hidden_size)]
        h, c = torch._VF.lstm_cell(steps, state, self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)
        return h.view(wide), c.view(wide)


def _checked_choice(on_lost_state: str) -> str:
    if on_lost_state not in ("refuse", "ignore"):
        raise ValueError(f'expected on_lost_state "refuse" or "ignore", found {on_lost_state!r}')
    return on_lost_state


def _check_shape(state: Tensor, wanted: list[int], which: int) -> None:
    if list(state.shape) != wanted:
        raise RuntimeError(f"Expected hidden[{which}] size {wanted}, got {list(state.shape)}")


def _without(kept: Tensor, hidden_size: int) -> Tensor:
    """(K,) indices of kept units -> (H - K,) of the removed ones."""
    rest = torch.ones(hidden_size, dtype=torch.bool, device=kept.device)
    rest[kept] = False
    return rest.nonzero().flatten()


def _check_indices(indices: Tensor, below: int, fewest: int) -> None:
    good = indices.dtype == torch.int64 and indices.dim() == 1 and len(indices) >= fewest
    if good and len(indices):
        good = int(indices[0]) >= 0 and int(indices[-1]) < below and bool((indices.diff() > 0).all())
    if not good:
        raise ValueError(f"expected at least {fewest} increasing int64 indices below {below}, found {indices}")


def turned(steps: Tensor, backwards: Tensor | None) -> Tensor:
    return steps.flip(0) if backwards is None else steps[backwards]


def backwards(batch_sizes: Tensor) -> Tensor:
    """For the data of packed sequences, where each step's counterpart lies when every sequence is read from its end."""
    lengths = (batch_sizes[None] > torch.arange(int(batch_sizes[0]))[:, None]).sum(1)
    starts = F.pad(batch_sizes.cumsum(0), (1, -1))
    return torch.cat(
        [starts[lengths[: int(size)] - 1 - step] + torch.arange(int(size)) for step, size in enumerate(batch_sizes)]
    )


def reordered(state: Tensor, order: Tensor | None) -> Tensor:
    return state if order is None else state.index_select(1, order)
