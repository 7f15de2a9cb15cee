"""How a pruned LSTM lies in a file: as which module, under which names, in which shapes."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from pruner.compact import load_pruned
from pruner.compact.compaction import expand
from pruner.compact.load_pruned import CompactLSTM, ReconstructingLSTM, RowCompactLSTM
from pruner.errors import PrunerError
from pruner.lstm.gates import BLOCKS, GATES, SIDES, split_gates
from pruner.lstm.kept import (
    Part,
    consumer_part,
    counts,
    row_masks,
    row_parts,
    unit_masks,
    unit_parts,
    units_to_hold,
    whole,
)
from pruner.lstm.lstm import LSTM, Place
from pruner.lstm.module import aligned
from pruner.lstm.rebuilt import names_of_maps, rebuilt_of

# How names of tensors end that read an LSTM's input.
READS_INPUT = ("weight_ih", "weight_ih_l0", "weight_ih_l0_reverse")


@dataclass(frozen=True)
class Layout:
    """How one pruned LSTM lies in a file.

    `stored_as` is `LSTM` (PyTorch's own tensors, smaller where units were removed), `CompactLSTM` (layers of different
    sizes, or removed units reconstructed), `ReconstructingLSTM` (the same masked) or `RowCompactLSTM`; `tensors` maps
    the names in that module's state dict to the names in the file. `consumers` are the tensors that were trimmed: they
    lost the columns of the last layer's removed units. `inputs` are the columns of its own input that are left where it is
    itself the consumer of another LSTM, `told_by` the units of each direction of a `ReconstructingLSTM` that tell others.
    """

    lstm: LSTM  # of the source, at full size
    stored_as: str
    tensors: dict[str, str]
    kept_units: dict[Place, list[int]]  # the units that are in the file
    kept_rows: dict[Place, dict[str, int]]  # how many rows of each block are kept
    consumers: list[str]
    inputs: list[int] | None = None
    told_by: list[list[int]] | None = None

    def describe(self) -> dict[str, Any]:
        """The entry in the manifest, with names of the file where that has the keys which lead to them."""
        facts = asdict(self.lstm)
        facts["source_tensors"] = facts.pop("tensors")
        facts["dense_hidden_size"] = facts.pop("hidden_size")
        sizes = {len(units) for units in self.kept_units.values()}
        facts["stored_hidden_size"] = sizes.pop() if len(sizes) == 1 else None
        facts |= {} if self.inputs is None else {"stored_input_size": len(self.inputs)}
        facts |= {"stored_as": self.stored_as, "tensors": self.tensors, "consumers": self.consumers}
        facts["layers"] = [
            {
                "layer": layer,
                "direction": "reverse" if direction else "forward",
                "hidden_size": {"before": self.lstm.hidden_size, "after": len(units)},
                "kept_units": units,
                "kept_rows": self.kept_rows[layer, direction],
            }
            for (layer, direction), units in self.kept_units.items()
        ]
        return facts

    @property
    def last_units(self) -> list[list[int]]:
        """The units of each direction of the last layer that are in the file."""
        return list(self.kept_units.values())[-self.lstm.directions :]

    @property
    def trimmed(self) -> Part:
        """What stays of each of its consumers."""
        return consumer_part(self.lstm, {place: torch.tensor(units) for place, units in self.kept_units.items()})

    @property
    def layers(self) -> list["Layout"]:
        """How its layers lie in the file, each as an LSTM of its own that reads the full output of the one below."""
        return [self._layer(layer) for layer in range(self.lstm.num_layers)]

    def _layer(self, layer: int) -> "Layout":
        lstm, directions = self.lstm.layer(layer), self.lstm.directions
        kept = {place: self.kept_units[layer, place[1]] for place in lstm.places}
        stored_as, inputs = self.stored_as, self.inputs if layer == 0 else None
        if stored_as == "ReconstructingLSTM" and layer < self.lstm.num_layers - 1:
            stored_as = "LSTM"
        if layer and stored_as in ("LSTM", "CompactLSTM") and not lstm.proj_size:
            below = {place: torch.tensor(self.kept_units[layer - 1, place[1]]) for place in lstm.places}
            inputs = _unless_whole(consumer_part(lstm, below), self.lstm.output_width)
        tensors = dict(lstm.tensors) if stored_as in ("LSTM", "ReconstructingLSTM") else {}
        for name, stored in self.tensors.items():
            kind, _, place = name.partition(".")
            if kind == "layers":
                index, _, rest = place.partition(".")
                if int(index) // directions == layer:
                    tensors[f"layers.{int(index) % directions}.{rest}"] = stored
            elif name not in self.lstm.tensors and stored_as == "ReconstructingLSTM":
                tensors[name] = stored
        rows = {place: self.kept_rows[layer, place[1]] for place in lstm.places}
        told_by = self.told_by if stored_as == "ReconstructingLSTM" else None
        return Layout(lstm, stored_as, tensors, kept, rows, [], inputs, told_by)

    def parts(self, masks: Mapping[str, Tensor]) -> Iterator[tuple[str, str, Part]]:
        """(PyTorch's name, name in the stored module's state dict, what stays of that tensor) of all of the source's."""
        if self.stored_as == "RowCompactLSTM":
            pairs = row_masks(self.lstm, masks).values()
            yield from row_parts(self.lstm, [(ih.nonzero().flatten(), hh.nonzero().flatten()) for ih, hh in pairs])
            return
        units = {place: torch.tensor(units) for place, units in self.kept_units.items()}
        plain = self.stored_as in ("LSTM", "ReconstructingLSTM")
        for name, part in unit_parts(self.lstm, units).items():
            yield name, name if plain else load_pruned.inside(name, self.lstm.bidirectional), part

    def module(self, tensors: Mapping[str, Tensor], full_width: bool = True) -> nn.Module:
        """The module that load_pruned.py gives, batch first, from the tensors of the file; of an LSTMCell, the LSTM that
        applies it step by step. Of full output width, or as narrow as the stored LSTM.

        Raises PrunerError if they do not fit together.
        """
        facts = self.describe()
        state = {name: aligned(self._as_wide_as_before(name, tensors[own])) for name, own in self.tensors.items()}
        if self.lstm.kind == "LSTMCell":
            facts["kind"] = "LSTM"
            own = self.lstm.tensors if self.stored_as in ("LSTM", "ReconstructingLSTM") else {}
            state = {f"{name}_l0" if name in own else name: tensor for name, tensor in state.items()}
        try:
            return load_pruned.assemble(facts, state, True, full_width).eval().requires_grad_(False)
        except (ValueError, RuntimeError, KeyError) as error:
            raise PrunerError(f"expected the tensors of {self.lstm.title} to fit together, found {error}") from error

    def _as_wide_as_before(self, name: str, tensor: Tensor) -> Tensor:
        """A tensor of a module with zeros in the columns that it lost as a consumer: what it read there is zero."""
        if self.inputs is None or not name.endswith(READS_INPUT):
            return tensor
        return Part(None, torch.tensor(self.inputs)).widen(tensor, (len(tensor), self.lstm.input_size))

    def as_it_reads(self, inputs: Tensor) -> Tensor:
        """Inputs (.., I) with zeros where the LSTM before it, of which this is a consumer, gives zeros."""
        if self.inputs is None:
            return inputs
        given = torch.zeros_like(inputs)
        given[..., self.inputs] = inputs[..., self.inputs]
        return given

    def masked_twin(self, tensors: Mapping[str, Tensor]) -> nn.Module:
        """The masked LSTM of full size, from the tensors of the file."""
        module = self.module(tensors)
        return expand(module) if isinstance(module, CompactLSTM | RowCompactLSTM) else module


def dense_layout(lstm: LSTM, tensors: Mapping[str, Tensor]) -> Layout:
    """How an LSTM lies in its own file, nothing dropped, but for units of which that holds what rebuilds them."""
    every = torch.ones(len(GATES) * lstm.hidden_size, dtype=torch.bool)
    masks = dict.fromkeys(lstm.weight_names().values(), every)
    rebuilt = rebuilt_of(lstm, tensors)
    return masked_layout(lstm, masks, None if rebuilt is None else rebuilt.kept)


def masked_layout(lstm: LSTM, masks: Mapping[str, Tensor], told_by: Sequence[Tensor] | None = None) -> Layout:
    """How an LSTM under masks, (4H,) by the names in the file, lies in a file of full size; `told_by` the (K,) units that
    tell the others in each direction of the last layer, where that is so."""
    rows, everything = _kept_rows(lstm, masks), _everything(lstm)
    if told_by is None:
        return Layout(lstm, "LSTM", dict(lstm.tensors), everything, rows, [])
    names, units = lstm.tensors | names_of_maps(lstm), [each.tolist() for each in told_by]
    return Layout(lstm, "ReconstructingLSTM", names, everything, rows, [], told_by=units)


def chained(layouts: list[Layout], from_data: bool = False) -> list[Layout]:
    """The layouts of a file with the `inputs` of those that read one of the others.

    Raises PrunerError where such a one has layers of different sizes, which the file does not hold under its own names (of
    a recipe `from_data`, the one that it reads then keeps its width), or other inputs than that has outputs.
    """
    if from_data:
        uneven = {name for each in layouts if each.stored_as != "LSTM" for name in each.lstm.input_weights}
        layouts = [replace(each, consumers=[]) if uneven & set(each.consumers) else each for each in layouts]
    found = []
    for layout in layouts:
        names = layout.lstm.input_weights
        before = next((each for each in layouts if set(names) & set(each.consumers)), None)
        if before is None:
            found.append(layout)
            continue
        if layout.lstm.input_size != before.lstm.output_width:
            raise PrunerError(
                f"expected {layout.lstm.title} to read the {before.lstm.output_width} outputs of {before.lstm.title}, found "
                f"{layout.lstm.input_size} inputs; leave out the consumer {names[0]!r}"
            )
        if layout.stored_as != "LSTM":
            raise PrunerError(
                f"expected as many units in every layer of {layout.lstm.title} to trim what it reads of "
                f"{before.lstm.title}, found {', '.join(str(len(each)) for each in layout.kept_units.values())}; use one "
                f"sparsity for all layers, or leave out the consumer {names[0]!r}"
            )
        columns = before.trimmed.columns
        found.append(layout if columns is None else replace(layout, inputs=columns.tolist()))
    return found


def compact_layout(
    lstm: LSTM,
    masks: Mapping[str, Tensor],
    granularity: str,
    consumers: list[str],
    told_by: Sequence[Tensor] | None = None,
    from_data: bool = False,
) -> Layout:
    """How an LSTM under masks lies in a file without what they drop; `told_by` as in `masked_layout`. Rows of such a one lie
    there as zeros, since its units come back from units.

    Raises PrunerError if its consumers cannot be trimmed, since its layers keep different numbers of units; those that a
    recipe `from_data` names then keep their width.
    """
    rows = _kept_rows(lstm, masks)
    if granularity == "rows" and told_by is not None:
        return masked_layout(lstm, masks, told_by)
    if granularity == "rows":
        return Layout(lstm, "RowCompactLSTM", _names_beside(lstm, "RowCompactLSTM"), _everything(lstm), rows, [])
    units = {place: units_to_hold(mask, lstm.proj_size) for place, mask in unit_masks(lstm, masks).items()}
    kept = {place: own.tolist() for place, own in units.items()}
    if len(counts(units.values())) == 1 and told_by is None:
        return Layout(lstm, "LSTM", dict(lstm.tensors), kept, rows, consumers)
    if consumers and not from_data:
        raise PrunerError(
            f"expected as many units in every layer of {lstm.title} to trim its consumers, found "
            f"{', '.join(str(len(each)) for each in kept.values())}; leave the consumers out, or use one sparsity for all "
            "layers"
        )
    return Layout(lstm, "CompactLSTM", _names_beside(lstm, "CompactLSTM", told_by is not None), kept, rows, [])


def reconstructs(names: Iterable[str]) -> bool:
    """Whether a module of these names in its state dict reconstructs removed units."""
    return any("reconstruction." in name for name in names)


def stored_indices(layout: Layout, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The indices of kept units or rows that a compact module stores, by their names in its state dict."""
    if layout.stored_as == "CompactLSTM":
        kept = enumerate(layout.kept_units.values())
        return {f"layers.{index}.kept": torch.tensor(units) for index, units in kept} | _stands_for(layout.lstm)
    if layout.told_by is not None:
        return {f"kept_{direction}": torch.tensor(units) for direction, units in enumerate(layout.told_by)}
    if layout.stored_as == "RowCompactLSTM":
        return {
            f"layers.{index}.rows_{side}": mask.nonzero().flatten()
            for index, pair in enumerate(row_masks(layout.lstm, masks).values())
            for side, mask in zip(SIDES, pair, strict=True)
        } | _stands_for(layout.lstm)
    return {}


def _stands_for(lstm: LSTM) -> dict[str, Tensor]:
    """What a compact module says in its file of its full size."""
    sizes = [lstm.hidden_size] if lstm.kind == "LSTMCell" else [lstm.hidden_size, lstm.num_layers, lstm.directions]
    return {load_pruned.STANDS_FOR: torch.tensor(sizes)}


def stored_tensors(layout: Layout, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every tensor that a layout stores, by its name in the module's state dict, of right shape and dtype and without
    values: on the device "meta"."""
    lstm = layout.lstm
    settings: dict[str, Any] = {"bias": lstm.bias, "bidirectional": lstm.bidirectional, "proj_size": lstm.proj_size}
    settings |= {"device": "meta", "dtype": getattr(torch, lstm.dtype)}
    indices = stored_indices(layout, masks)
    if layout.stored_as == "RowCompactLSTM":
        rows = [
            (indices[f"layers.{index}.rows_ih"], indices[f"layers.{index}.rows_hh"])
            for index in range(len(lstm.places))
        ]
        stored = RowCompactLSTM(lstm.input_size, lstm.hidden_size, rows, **settings).state_dict()
    elif layout.stored_as == "ReconstructingLSTM":
        kept = list(indices.values())
        module = ReconstructingLSTM(lstm.input_size, lstm.hidden_size, lstm.num_layers, kept, **settings)
        found = module.state_dict()
        stored = {name: found[name if name in found else f"{name}_l0"] for name in layout.tensors}
    else:
        units = [torch.tensor(units) for units in layout.kept_units.values()]
        filled = reconstructs(layout.tensors)
        inputs = lstm.input_size if layout.inputs is None else len(layout.inputs)
        stored = CompactLSTM(inputs, lstm.hidden_size, units, **settings, reconstruct=filled).state_dict()
    if layout.stored_as == "LSTM":
        return {name: stored[load_pruned.inside(name, lstm.bidirectional)] for name in layout.tensors}
    return {name: indices.get(name, like) for name, like in stored.items()}  # a cell says less of its size


def wide_tensors(layouts: Sequence[Layout], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of an export's file as a masked model of full size has them, under the names of its source."""
    own = {name for layout in layouts for name in layout.tensors.values()}
    wide = {name: tensor for name, tensor in tensors.items() if name not in own}
    for layout in layouts:
        for name in set(layout.consumers) & wide.keys():
            first, _, *rest = tensors[name].shape
            wide[name] = layout.trimmed.widen(tensors[name], (first, layout.lstm.output_width, *rest))
    for layout in layouts:
        state = layout.masked_twin(tensors).state_dict()
        wide |= {
            name: state[standard if "_l" in standard else f"{standard}_l0"]
            for standard, name in layout.lstm.tensors.items()
        }
    return wide


def _unless_whole(part: Part, width: int) -> list[int] | None:
    """The columns that stay, None for all of them."""
    return None if part.columns is None or len(part.columns) == width else part.columns.tolist()


def _prefixed(lstm: LSTM, name: str) -> str:
    return f"{lstm.name}.{name}" if lstm.name else name


def _everything(lstm: LSTM) -> dict[Place, list[int]]:
    return {place: units.tolist() for place, units in whole(lstm).items()}


def _kept_rows(lstm: LSTM, masks: Mapping[str, Tensor]) -> dict[Place, dict[str, int]]:
    return {
        place: {
            block: int(kept)
            for side, mask in zip(SIDES, pair, strict=True)
            for block, kept in zip(BLOCKS[side], split_gates(mask).sum(1), strict=True)
        }
        for place, pair in row_masks(lstm, masks).items()
    }


def _names_beside(lstm: LSTM, stored_as: str, reconstructed: bool = False) -> dict[str, str]:
    """{name in the state dict of a compact module: name in the file} under the LSTM's own prefix."""
    count = len(lstm.places)
    settings: dict[str, Any] = {"bias": lstm.bias, "bidirectional": lstm.bidirectional}
    settings["proj_size"] = min(lstm.proj_size, 1)
    units, none = torch.arange(2), torch.arange(0)
    small: nn.Module
    if stored_as == "CompactLSTM":
        small = CompactLSTM(1, 2, [units] * count, **settings, reconstruct=reconstructed)
    else:
        small = RowCompactLSTM(1, 2, [(none, none)] * count, **settings)
    return {name: _prefixed(lstm, name) for name in small.state_dict()}
