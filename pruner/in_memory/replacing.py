"""Taking what masks drop out of a model: smaller modules in place of its LSTMs, and what became of each parameter."""

import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from graphlib import TopologicalSorter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pruner.compact.compaction import compact_rows, compact_units, expand
from pruner.compact.layout import Layout
from pruner.compact.load_pruned import CompactLSTM, RowCompactLSTM, inside
from pruner.errors import PrunerError
from pruner.in_memory.only_consumers import only_consumers
from pruner.in_memory.optimizers import Move
from pruner.in_memory.row_mask import check_free, owner_of, values
from pruner.in_memory.sites import Site, sites_in
from pruner.in_memory.wrappers import unwrapped
from pruner.lstm.describing import described
from pruner.lstm.gates import GATES, SIDES
from pruner.lstm.kept import Part, counts, output_columns, row_masks, row_parts, unit_masks, unit_parts
from pruner.lstm.lstm import Place

_HOOKS = {name for name in vars(nn.Module()) if "forward" in name or "backward" in name}  # where a module holds them

Consumers = dict[str, dict[str, list[int]]]  # {path of an LSTM: {path of a consumer: blocks of its columns}}


def check_replaceable(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Raise PrunerError for an LSTM under masks that cannot become another module."""
    owned = {owner_of(model, name) for name in masks}
    for site in _masked_sites(model, owned):
        whole = site.module if isinstance(site.module, nn.LSTM) else None
        if whole is not None:
            own_class = parametrize.type_before_parametrizations(whole)
            if own_class is not nn.LSTM or "forward" in vars(whole):
                raise PrunerError(
                    f"expected a plain nn.LSTM to put a smaller module in its place, found {site.path or 'the model'} with "
                    f"a forward of its own ({own_class.__name__}), which would be lost; call squash_mask(), which leaves "
                    "zeros"
                )
        for place in site.facts.places:
            path, module, _ = site.inside(place)
            for name, tensor_fqn in described(module, path).tensors.items():
                if (module, name) not in owned:
                    check_free(module, name, tensor_fqn)


def named_consumers(model: nn.Module, names: Sequence[str]) -> Consumers:
    """What reads which LSTM by the word of whoever calls: `head.weight`, or `lstm=head.weight` where it fits several.

    Raises PrunerError for what is not the weight of an `nn.Linear` or the input of an `nn.LSTM`, or fits no LSTM, or
    several.
    """
    sites = [site for site in sites_in(model) if not isinstance(site.module, nn.LSTMCell)]
    found: Consumers = {}
    for text in names:
        lstm, _, name = text.rpartition("=")
        module, last = owner_of(model, name)
        path = name.rpartition(".")[0]
        if not _reads(module, last):
            raise PrunerError(
                f"expected the weight of an nn.Linear, or the first one of an nn.LSTM, as a consumer, found {name!r} of "
                f"{type(module).__name__}; leave it out: the output keeps its width for it"
            )
        width = module.input_size if isinstance(module, nn.LSTM) else module.in_features
        fitting = [
            site
            for site in sites
            if site.module is not module and lstm in ("", site.path) and site.facts.output_width == width
        ]
        if len(fitting) != 1 or fitting[0].facts.proj_size:
            raise PrunerError(
                f"expected a consumer that fits one LSTM without projection, found {name!r} of {width} columns, which fits "
                f"{' and '.join(site.path or '(root)' for site in fitting) or 'none'}; name it as LSTM={name}, or leave it "
                "out"
            )
        places = fitting[0].facts.places
        last_layer = [index for index, place in enumerate(places) if place[0] == places[-1][0]]
        found.setdefault(fitting[0].path, {})[path] = last_layer
    return found


def replace_masked(
    model: nn.Module, masks: Mapping[str, Tensor], granularity: str, named: Consumers
) -> tuple[nn.Module, list[Move]]:
    """The model without what masks drop, whose rows are zero already, and what became of its parameters, in order."""
    # After the masks are off: torch.fx cannot look into parametrized modules.
    consumers = {**_found_consumers(model), **named} if granularity == "units" else {}
    places = list(model.named_modules(remove_duplicate=False))
    # Who reads comes after whom it reads: trimmed as a consumer first.
    read = {path: [other for other in consumers if path in consumers[other]] for path in consumers}
    order = [*TopologicalSorter(read).static_order(), *(path for path, _ in places if path not in consumers)]
    owned = {owner_of(model, name): mask for name, mask in masks.items()}
    moves: list[Move] = []
    for site in sorted(_masked_sites(model, owned), key=lambda site: order.index(site.path)):
        wide = site.module if isinstance(site.module, nn.LSTM) else expand(site.module)
        compact = _compacted(wide, site, owned, granularity)
        moves += _moves(site, compact)
        small = with_hooks_of(site.module, compact)
        if site.path in consumers:
            trimmed, narrowed = _trim(model, wide, compact, consumers[site.path])
            moves += narrowed
            if trimmed:
                small = wide if wide is site.module else with_hooks_of(site.module, wide)
            elif site.path in named:
                warnings.warn(
                    f"The layers and directions of {site.path} keep different numbers of units, so that its output keeps "
                    f"its width, and {', '.join(named[site.path])} all columns.",
                    stacklevel=4,
                )
        if site.module is model:
            return small, moves
        for path in [path for path, module in places if module is site.module]:
            model.set_submodule(path, small)
    return model, moves


def moves_into(small: nn.Module, layouts: Sequence[Layout], before: Mapping[str, nn.Parameter]) -> Iterator[Move]:
    """What became of each parameter of a model, by its name `before`, in one whose LSTMs lie as `layouts` say; those that
    are still themselves are left out."""
    parts, after = dict[str, tuple[str, Part]](), dict(small.named_parameters(remove_duplicate=False))
    for layout in layouts:
        parts |= {name: (name, layout.trimmed) for name in layout.consumers}
    for layout in layouts:  # which may be consumers themselves
        kept = {place: torch.tensor(units) for place, units in layout.kept_units.items()}
        for standard, name in layout.lstm.tensors.items():
            own = standard if name in after else inside(standard, layout.lstm.bidirectional)
            part = unit_parts(layout.lstm, kept).get(standard, Part())
            if name in layout.lstm.input_weights and layout.inputs is not None:
                part = replace(part, columns=torch.tensor(layout.inputs))
            parts[name] = f"{name.removesuffix(standard)}{own}", part
    for name, old in before.items():
        place, part = parts.get(name, (name, Part()))
        if after[place] is not old:
            yield Move(place, old, after[place], part.shrink)


def new_beside(small: nn.Module, moves: Sequence[Move]) -> Iterator[tuple[nn.Parameter, nn.Parameter]]:
    """What reconstructs the removed units of an LSTM, which had no such parameters before, and one that it had."""
    for name, parameter in small.named_parameters():
        path, reconstruction, _ = name.partition("reconstruction.")
        beside = (move.new for move in moves if move.name.startswith(f"{path}lstm."))
        if reconstruction and (trained := next(beside, None)) is not None:
            yield parameter, trained


def with_hooks_of(lstm: nn.Module, compact: nn.Module) -> nn.Module:
    """The compact module with the very dictionaries of hooks, in which their handles find and remove them."""
    vars(compact).update({name: hooks for name, hooks in vars(lstm).items() if name in _HOOKS})
    return compact


def input_weights(consumer: Any) -> list[Tensor]:
    """The weights (.., D*H) with which an `nn.Linear` or an `nn.LSTM` reads its input, without their masks."""
    names = described(consumer).input_weights if isinstance(consumer, nn.LSTM) else ["weight"]
    return [values(consumer, name) for name in names]


def _reads(module: Any, name: str) -> bool:
    if isinstance(module, nn.LSTM):
        return name in described(module).input_weights
    return isinstance(module, nn.Linear) and name == "weight"


def _masked_sites(model: nn.Module, owned: Collection[tuple[Any, str]]) -> list[Site]:
    """The LSTMs that hold tensors under masks and become smaller; a cell keeps its size."""
    holders = {module for module, _ in owned}
    return [
        site
        for site in sites_in(model)
        if not isinstance(site.module, nn.LSTMCell) and holders & {site.inside(place)[1] for place in site.facts.places}
    ]


def _found_consumers(model: nn.Module) -> Consumers:
    prefix, inner = unwrapped(model)
    return {
        prefix + lstm: {prefix + path: blocks for path, blocks in own.items()}
        for lstm, own in only_consumers(inner).items()
    }


def _compacted(wide: nn.LSTM, site: Site, masks: Mapping[tuple[Any, str], Tensor], granularity: str) -> nn.Module:
    facts = site.facts
    every: dict[str, Tensor] = {}
    for place in facts.places:
        _, module, inner = site.inside(place)
        for side in SIDES:
            name = f"weight_{side}{described(module).suffix(*inner)}"
            rows = len(module.get_parameter(name))
            mask = masks.get((module, name))
            if mask is None:
                mask = torch.ones(rows, dtype=torch.bool, device=module.get_parameter(name).device)
            whole = f"weight_{side}{facts.suffix(*place)}"
            every[whole] = _part(site, whole).widen(mask, (len(GATES) * facts.hidden_size,))
    compact = (
        compact_rows(wide, list(row_masks(facts, every).values()))
        if granularity == "rows"
        else compact_units(wide, list(unit_masks(facts, every).values()))
    )
    if isinstance(site.module, CompactLSTM):
        compact.on_lost_state = site.module.on_lost_state
    return compact


def _part(site: Site, name: str) -> Part:
    """The rows of a tensor that were there before this round."""
    if isinstance(site.module, CompactLSTM):
        return Part(unit_parts(site.facts, _kept(site.module, site.facts.places))[name].rows)
    return Part()


def _kept(small: CompactLSTM, places: list[Place]) -> dict[Place, Tensor]:
    layers: Any = small.layers
    return {place: layer.kept for place, layer in zip(places, layers, strict=True)}


def _moves(site: Site, compact: Any) -> Iterator[Move]:
    """What became of each parameter of an LSTM."""
    facts = site.facts
    before: dict[str, Part] = {}
    if isinstance(site.module, CompactLSTM):
        before = unit_parts(facts, _kept(site.module, facts.places))
    if isinstance(compact, RowCompactLSTM):
        layers: Any = compact.layers
        rows = [(layer.rows_ih, layer.rows_hh) for layer in layers]
        after = [(name, new.replace("_hh_rows", "_hh_columns"), part) for name, new, part in row_parts(facts, rows)]
    else:
        parts = unit_parts(facts, _kept(compact, facts.places))
        after = [(name, inside(name, facts.bidirectional), part) for name, part in parts.items()]
    for name, new, part in after:
        own = inside(name, facts.bidirectional) if before else name
        shrink = partial(_shrunk, before.get(name), part, facts.shapes()[name], new.endswith("_columns"))
        title = f"{site.path}.{own}" if site.path else own
        yield Move(title, site.module.get_parameter(own), compact.get_parameter(new), shrink)


def _shrunk(before: Part | None, part: Part, shape: tuple[int, ...], turned: bool, values: Tensor) -> Tensor:
    """Numbers beside a parameter as they are beside the smaller one."""
    kept = part.shrink(values if before is None else before.widen(values, shape))
    return kept.t().contiguous() if turned else kept


def _trim(
    model: nn.Module, module: nn.LSTM, compact: nn.Module, consumers: dict[str, list[int]]
) -> tuple[bool, list[Move]]:
    """Shrink an `nn.LSTM` to the units of its `CompactLSTM`, and trim the columns of what alone reads it.

    They change in place, so whatever else refers to them sees the same. False, and nothing done, if layers or directions
    differ in size: an `nn.LSTM` has one.
    """
    kept = [units for name, units in compact.named_buffers() if name.endswith(".kept")]
    if len(counts(kept)) > 1:
        return False, []
    moves: list[Move] = []
    for path, blocks in consumers.items():
        columns = output_columns([kept[block] for block in blocks], module.hidden_size)
        moves += _narrow(path, model.get_submodule(path), columns)
    for name in described(module).tensors:
        setattr(module, name, compact.get_parameter(inside(name, module.bidirectional)))
    module.hidden_size = len(kept[0])
    module.flatten_parameters()
    return True, moves


def _narrow(path: str, consumer: nn.Module, columns: Tensor) -> Iterator[Move]:
    """Leave an `nn.Linear` or `nn.LSTM` these columns of its input."""
    part = Part(None, columns)
    names = described(consumer).input_weights if isinstance(consumer, nn.LSTM) else ["weight"]
    for name in names:
        weight = consumer.get_parameter(name)
        small = nn.Parameter(part.shrink(weight.detach()), weight.requires_grad)
        setattr(consumer, name, small)
        yield Move(f"{path}.{name}", weight, small, part.shrink)
    if isinstance(consumer, nn.LSTM):
        consumer.input_size = len(columns)
        consumer.flatten_parameters()
    elif isinstance(consumer, nn.Linear):
        consumer.in_features = len(columns)
