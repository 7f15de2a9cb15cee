"""The forms that a pruned checkpoint can take: masked, of full size with zeros, and compact, without what was dropped."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pruner.compact import load_pruned
from pruner.compact.compaction import compact_rows, compact_units, expand, kept_units
from pruner.compact.load_pruned import CompactLSTM, ReconstructingLSTM, RowCompactLSTM
from pruner.compensation.chain import NO_COMPENSATION, Compensation
from pruner.errors import PrunerError
from pruner.files.checkpoint import Checkpoint
from pruner.files.computed_weights import mask_beside
from pruner.importance.masks import drop_rows
from pruner.lstm.find import LSTM, build
from pruner.lstm.gates import BLOCKS, SIDES, split_gates

FORMS = ("masked", "compact")
DEFAULT_FORM = {"rows": "masked", "units": "compact"}


@dataclass(frozen=True)
class Layout:
    """How one pruned LSTM lies in a file.

    `stored_as` is `LSTM` (PyTorch's own tensors, smaller where units were removed), `CompactLSTM` (layers of different
    sizes, or removed units reconstructed), `ReconstructingLSTM` (the same masked) or `RowCompactLSTM`; `tensors` maps
    the names in that module's state dict to the names in the file. `consumers` are the tensors that lost the columns
    of the last layer's removed units.
    """

    lstm: LSTM  # of the source, at full size
    stored_as: str
    tensors: dict[str, str]
    kept_units: list[list[int]]  # by layer and direction: the units that are in the file
    kept_rows: list[dict[str, int]]  # by layer and direction: how many rows of each block are kept
    consumers: list[str]

    def describe(self) -> dict[str, Any]:
        """The entry in the manifest, with names of the file where that has the keys which lead to them."""
        facts = asdict(self.lstm)
        facts["source_tensors"] = facts.pop("tensors")
        facts |= {"stored_as": self.stored_as, "tensors": self.tensors, "consumers": self.consumers}
        facts["layers"] = [
            {
                "layer": index // self.lstm.directions,
                "direction": "reverse" if index % self.lstm.directions else "forward",
                "hidden_size": {"before": self.lstm.hidden_size, "after": len(units)},
                "kept_units": units,
                "kept_rows": self.kept_rows[index],
            }
            for index, units in enumerate(self.kept_units)
        ]
        return facts

    def module(self, tensors: Mapping[str, Tensor]) -> nn.Module:
        """The module that load_pruned.py gives, batch first, from the tensors of the file; of an LSTMCell, the LSTM that
        applies it step by step.

        Raises PrunerError if they do not fit together.
        """
        facts = self.describe()
        state = {name: tensors[stored] for name, stored in self.tensors.items()}
        if self.lstm.kind == "LSTMCell":
            facts["kind"] = "LSTM"
            own = self.lstm.tensors if self.stored_as in ("LSTM", "ReconstructingLSTM") else {}
            state = {f"{name}_l0" if name in own else name: tensor for name, tensor in state.items()}
        try:
            return load_pruned.assemble(facts, state, batch_first=True).eval().requires_grad_(False)
        except (ValueError, RuntimeError, KeyError) as error:
            raise PrunerError(f"expected the tensors of {self.lstm.title} to fit together, found {error}") from error


@dataclass(frozen=True)
class Form:
    """What a form changes in the source's file: new values by name, None for what is no longer there."""

    name: str
    changed: dict[str, Tensor | None]
    layouts: list[Layout]

    def tensors(self, checkpoint: Checkpoint) -> dict[str, Tensor]:
        """All tensors of the file in this form."""
        return {name: tensor for name, tensor in {**checkpoint.tensors, **self.changed}.items() if tensor is not None}

    def modules(self, checkpoint: Checkpoint, device: str = "cpu") -> dict[str, nn.Module]:
        """{LSTM name: runnable module of full output width}, the LSTMs that were left as they are included."""
        tensors = self.tensors(checkpoint)
        pruned = {layout.lstm.name: layout.module(tensors).to(device) for layout in self.layouts}
        return {
            lstm.name: pruned[lstm.name] if lstm.name in pruned else build(lstm, tensors, device)
            for lstm in checkpoint.lstms
        }


def masked_form(
    checkpoint: Checkpoint,
    lstms: list[LSTM],
    masks: Mapping[str, Tensor],
    compensation: Compensation = NO_COMPENSATION,
) -> Form:
    """The source's own tensors, compensated or not, with zeros in every dropped row. Raises PrunerError if the file already
    holds a tensor of a name that a reconstruction needs."""
    tensors = {**checkpoint.tensors, **compensation.tensors}
    changed: dict[str, Tensor | None] = {**compensation.tensors}
    changed |= {name: drop_rows(tensors[name], mask) for name, mask in masks.items()}
    for name in compensation.tensors:
        changed |= _leftover_mask(name, changed[name], checkpoint.tensors)
    layouts = []
    for lstm in lstms:
        filled = compensation.reconstructions.get(lstm.name)
        here = layout(lstm, masks, "masked", "rows", [], filled is not None)
        if filled is not None:
            _check_names(here, checkpoint, set(lstm.tensors.values()))
            dtype = getattr(torch, lstm.dtype)
            values: dict[str, Tensor] = stored_indices(here, masks)
            for side, (weight, bias) in enumerate(filled):
                values |= {f"reconstruction.{side}.weight": weight, f"reconstruction.{side}.bias": bias}
            changed |= {
                here.tensors[name]: value.cpu() if value.dtype == torch.int64 else value.cpu().to(dtype)
                for name, value in values.items()
            }
        layouts.append(here)
    return Form("masked", changed, layouts)


def _check_names(layout: Layout, checkpoint: Checkpoint, own: set[str]) -> None:
    taken = next((name for name in layout.tensors.values() if name in checkpoint.tensors and name not in own), None)
    if taken is not None:
        raise PrunerError(
            f"expected no tensor {taken!r}, which the pruned form of {layout.lstm.title} needs; rename it"
        )


def compact_form(
    checkpoint: Checkpoint,
    lstms: list[LSTM],
    masks: Mapping[str, Tensor],
    granularity: str,
    consumers: Mapping[str, list[str]],
    compensation: Compensation = NO_COMPENSATION,
    from_data: bool = False,
) -> Form:
    """The source's tensors, compensated or not, without what the masks dropped.

    Raises PrunerError if there are consumers to fold and the layers are left with different numbers of units. Those that
    a recipe `from_data` names, for its scores or its compensation, then keep their width.
    """
    tensors = {**checkpoint.tensors, **compensation.tensors}
    changed: dict[str, Tensor | None] = {**compensation.tensors}
    for name in compensation.tensors:
        changed |= _leftover_mask(name, changed[name], checkpoint.tensors)
    layouts = []
    for lstm in lstms:
        filled = compensation.reconstructions.get(lstm.name)
        read = consumers.get(lstm.name, [])
        here = layout(lstm, masks, "compact", granularity, read, filled is not None, from_data)
        names = {name: tensors[name] for name in lstm.tensors.values()}
        wide = build(lstm, {name: drop_rows(t, masks[name]) if name in masks else t for name, t in names.items()})
        pairs = _masks_in_order(lstm, masks)
        small: nn.Module
        if granularity == "rows":
            small = compact_rows(wide, pairs)
        else:
            small = compact_units(wide, [split_gates(ih)[0] for ih, _ in pairs], filled)
        state = small.state_dict()
        if here.stored_as == "LSTM":
            for name, stored in here.tensors.items():
                changed[stored] = state[load_pruned.inside(name, lstm.bidirectional)].contiguous()
        else:
            _check_names(here, checkpoint, set())
            changed |= dict.fromkeys(names)
            changed |= {stored: state[name].contiguous() for name, stored in here.tensors.items()}
        for name in names:
            changed |= _leftover_mask(name, changed[name], checkpoint.tensors)
        for name in here.consumers:
            changed[name] = tensors[name].index_select(1, read_columns(here)).contiguous()
            changed |= _leftover_mask(name, changed[name], checkpoint.tensors)
        layouts.append(here)
    return Form("compact", changed, layouts)


def read_columns(layout: Layout) -> Tensor:
    """The columns of an LSTM's output that its kept units fill, both directions side by side."""
    last = layout.kept_units[-layout.lstm.directions :]
    return torch.cat([side * layout.lstm.hidden_size + torch.tensor(units) for side, units in enumerate(last)])


def layout(
    lstm: LSTM,
    masks: Mapping[str, Tensor],
    form: str,
    granularity: str,
    consumers: list[str],
    reconstructed: bool = False,
    from_data: bool = False,
) -> Layout:
    """How an LSTM under these masks lies in the file of a form. Raises PrunerError if its consumers cannot be folded."""
    pairs = _masks_in_order(lstm, masks)
    kept_rows = [
        {
            block: int(kept)
            for side, mask in zip(SIDES, pair, strict=True)
            for block, kept in zip(BLOCKS[side], split_gates(mask).sum(1), strict=True)
        }
        for pair in pairs
    ]
    everything = [list(range(lstm.hidden_size)) for _ in pairs]
    if form == "masked":
        names = dict(lstm.tensors)
        prefix = f"{lstm.name}." if lstm.name else ""
        for side in range(lstm.directions if reconstructed else 0):
            added = (f"kept_{side}", f"reconstruction.{side}.weight", f"reconstruction.{side}.bias")
            names |= {name: prefix + name for name in added}
        return Layout(lstm, "ReconstructingLSTM" if reconstructed else "LSTM", names, everything, kept_rows, [])
    if granularity == "rows":
        return Layout(lstm, "RowCompactLSTM", _names_beside(lstm, "RowCompactLSTM"), everything, kept_rows, [])
    units = [kept_units(split_gates(ih)[0], lstm.proj_size) for ih, _ in pairs]
    kept = [each.tolist() for each in units]
    counts = {len(each) for each in kept}
    if len(counts) == 1 and not reconstructed:
        return Layout(lstm, "LSTM", dict(lstm.tensors), kept, kept_rows, consumers)
    if consumers and not from_data:
        raise PrunerError(
            f"expected as many units in every layer of {lstm.title} to fold its consumers, found "
            f"{', '.join(str(len(each)) for each in kept)}; leave the consumers out, or use one sparsity for all layers"
        )
    return Layout(lstm, "CompactLSTM", _names_beside(lstm, "CompactLSTM", reconstructed), kept, kept_rows, [])


def _names_beside(lstm: LSTM, stored_as: str, reconstructed: bool = False) -> dict[str, str]:
    """{name in the state dict of a compact module: name in the file} under the LSTM's own prefix."""
    count = lstm.num_layers * lstm.directions
    settings: dict[str, Any] = {
        "bias": lstm.bias,
        "bidirectional": lstm.bidirectional,
        "proj_size": min(lstm.proj_size, 1),
    }
    units, none = torch.arange(2), torch.arange(0)
    small: nn.Module
    if stored_as == "CompactLSTM":
        small = CompactLSTM(1, 2, [units] * count, **settings, reconstruct=reconstructed)
    else:
        small = RowCompactLSTM(1, 2, [(none, none)] * count, **settings)
    prefix = f"{lstm.name}." if lstm.name else ""
    return {name: prefix + name for name in small.state_dict()}


def reconstructs(names: Iterable[str]) -> bool:
    """Whether a module of these names in its state dict reconstructs removed units."""
    return any("reconstruction." in name for name in names)


def last_unit_masks(lstm: LSTM, masks: Mapping[str, Tensor]) -> list[Tensor]:
    """The (H,) masks of whole units for each direction of the last layer."""
    return [split_gates(ih)[0] for ih, _ in _masks_in_order(lstm, masks)[-lstm.directions :]]


def stored_indices(layout: Layout, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The indices of kept units or rows that a compact module stores, by their names in its state dict."""
    if layout.stored_as == "CompactLSTM":
        return {f"layers.{index}.kept": torch.tensor(units) for index, units in enumerate(layout.kept_units)}
    if layout.stored_as == "ReconstructingLSTM":
        last = last_unit_masks(layout.lstm, masks)
        return {f"kept_{side}": units.nonzero().flatten() for side, units in enumerate(last)}
    if layout.stored_as == "RowCompactLSTM":
        pairs = [_indices(pair) for pair in _masks_in_order(layout.lstm, masks)]
        return {
            f"layers.{index}.rows_{side}": rows
            for index, pair in enumerate(pairs)
            for side, rows in zip(SIDES, pair, strict=True)
        }
    return {}


def stored_shapes(layout: Layout, masks: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    """The shape of every tensor that a layout stores, by its name in the module's state dict."""
    lstm = layout.lstm
    settings: dict[str, Any] = {"bias": lstm.bias, "bidirectional": lstm.bidirectional, "proj_size": lstm.proj_size}
    small: nn.Module
    if layout.stored_as == "RowCompactLSTM":
        rows = [_indices(pair) for pair in _masks_in_order(lstm, masks)]
        small = RowCompactLSTM(lstm.input_size, lstm.hidden_size, rows, **settings, device="meta")
    elif layout.stored_as == "ReconstructingLSTM":
        last = list(stored_indices(layout, masks).values())
        small = ReconstructingLSTM(lstm.input_size, lstm.hidden_size, lstm.num_layers, last, **settings, device="meta")
        shapes = {name: tensor.shape for name, tensor in small.state_dict().items()}
        return {name: shapes[name if name in shapes else f"{name}_l0"] for name in layout.tensors}
    else:
        units = [torch.tensor(units) for units in layout.kept_units]
        filled = reconstructs(layout.tensors)
        small = CompactLSTM(lstm.input_size, lstm.hidden_size, units, **settings, device="meta", reconstruct=filled)
    shapes = {name: tensor.shape for name, tensor in small.state_dict().items()}
    if layout.stored_as == "LSTM":
        return {name: shapes[load_pruned.inside(name, lstm.bidirectional)] for name in layout.tensors}
    return shapes


def masked_twin(layout: Layout, tensors: Mapping[str, Tensor]) -> nn.Module:
    """The masked LSTM of full size, from the file of any form."""
    module = layout.module(tensors)
    return expand(module) if isinstance(module, CompactLSTM | RowCompactLSTM) else module


def _masks_in_order(lstm: LSTM, masks: Mapping[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    """The (4H,) masks of weight_ih and weight_hh for each layer and direction."""
    names = lstm.weight_names()
    places = [(layer, direction) for layer in range(lstm.num_layers) for direction in range(lstm.directions)]
    return [(masks[names[*place, "ih"]], masks[names[*place, "hh"]]) for place in places]


def _indices(pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return pair[0].nonzero().flatten(), pair[1].nonzero().flatten()


def _leftover_mask(name: str, tensor: Tensor | None, stored: Mapping[str, Tensor]) -> dict[str, Tensor | None]:
    """What becomes of the mask that a pruning tool left beside a tensor: it is multiplied in, and shrinks with it."""
    mask = mask_beside(name, stored)
    if mask is None:
        return {}
    if tensor is None:
        return {mask: None}
    shape = tensor.shape[:1] if stored[mask].dim() == 1 else tensor.shape
    return {mask: torch.ones(shape, dtype=stored[mask].dtype)}
