"""What a config says -> the groups of a pruner: dictionaries of one tensor each, as torch.ao.pruning has them."""

import copy
import difflib
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from pruner.errors import PrunerError, shown
from pruner.in_memory.row_mask import RowMask, is_masked, owner_of
from pruner.in_memory.sites import Site, site_of, sites_in
from pruner.lstm.gates import parse_standard_name, split_gates
from pruner.lstm.lstm import Place
from pruner.recipe import check_sparsity

KEYS = ("tensor_fqn", "module", "module_fqn", "tensor_name", "sparsity_level", "units", "parametrization", "mask")
NOT_SAVED = ("module", "module_fqn", "tensor_name", "parametrization")


def check_keys(found: Mapping[str, Any], where: str) -> None:
    """Raise PrunerError for a key that looks like a mistyped one. Others are handed on to `update_mask`."""
    for key in found:
        meant = difflib.get_close_matches(str(key), KEYS, n=1, cutoff=0.7)
        if meant and key not in KEYS:
            raise PrunerError(f"expected {meant[0]} in {where}, found {shown(key)}; write it as expected")


def every_packed(model: nn.Module, kinds: Iterable[type] | None = None) -> list[dict[str, Any]]:
    """The config of every packed weight of the LSTMs and cells of a model, or of those of some classes only."""
    wanted = None if kinds is None else tuple(kinds)
    chosen = [site for site in sites_in(model) if wanted is None or isinstance(site.module, wanted)]
    return [{"tensor_fqn": name} for site in chosen for name in site.weights()]


def checked_groups(
    model: nn.Module,
    config: Sequence[Mapping[str, Any]],
    defaults: Mapping[str, Any],
    units: Mapping[str, Sequence[int]],
    granularity: str,
) -> list[dict[str, Any]]:
    """The groups of a config, of whole units one a layer and direction. Raises PrunerError where two of them contradict each
    other, and where masks that are there, or are asked for, do not fit."""
    sites = sites_in(model)
    found: dict[Any, dict[str, Any]] = {}
    for group in make_groups(model, config, defaults, units):
        name, masked = group["tensor_fqn"], group.get("mask")
        if granularity == "rows":
            key: Any = id(group["module"]), group["tensor_name"]
            if "units" in group:
                raise PrunerError(
                    "expected granularity 'units' with units to keep, found 'rows'; choose granularity 'units'"
                )
        else:
            site, place = located(sites, group["module"], name)
            key = site.module, place
            if masked is None and is_masked(group["module"], group["tensor_name"]):
                masked = group["module"].parametrizations[group["tensor_name"]][0].mask
            if masked is not None:
                check_whole_units(masked, name)
        if key not in found:
            found[key] = group
        elif granularity == "rows":
            raise PrunerError(f"expected each tensor once in the config, found {name!r} twice")
        elif found[key]["sparsity_level"] != group["sparsity_level"]:
            raise PrunerError(
                f"expected one sparsity_level for all of a layer's units, found {found[key]['sparsity_level']} for "
                f"{found[key]['tensor_fqn']!r} and {group['sparsity_level']} for {name!r}"
            )
    return list(found.values())


def located(sites: list[Site], module: nn.Module, tensor_fqn: str) -> tuple[Site, Place]:
    """Where the tensor of a group lies."""
    found = site_of(sites, module, tensor_fqn.rpartition(".")[2])
    if found is None:
        raise PrunerError(
            f"expected an LSTM that can be pruned once more, found {tensor_fqn!r} inside a smaller one that is not; "
            "give the model to shrink, or prune the one that it was made from"
        )
    return found


def check_whole_units(mask: Tensor, tensor_fqn: str) -> None:
    """Raise PrunerError unless a (4H,) mask drops the same units in all four gates."""
    gates = split_gates(mask)
    if not bool((gates == gates[0]).all()):
        raise PrunerError(
            f"expected a mask of whole units on {tensor_fqn!r}, the same in all four gates, found one of single rows; "
            "choose granularity 'rows', or start from an unmasked model"
        )


def make_groups(
    model: nn.Module,
    config: Sequence[Mapping[str, Any]],
    defaults: Mapping[str, Any],
    units: Mapping[str, Sequence[int]],
) -> list[dict[str, Any]]:
    """One group a tensor. Raises PrunerError for an entry that names no packed weight of the model, or more than one
    thing."""
    sites = sites_in(model)
    groups = []
    for entry in config:
        if not isinstance(entry, Mapping) or not entry.keys() & {"tensor_fqn", "module", "module_fqn"}:
            raise PrunerError(f"expected config entries of tensor_fqn and sparsity_level, found {shown(entry)}")
        check_keys(entry, "the entries of the config")
        groups += [_group(model, sites, name, {**defaults, **entry}, units) for name in _names(model, sites, entry)]
    names = [group["tensor_fqn"] for group in groups]
    for what in ({} if not isinstance(defaults["sparsity_level"], Mapping) else defaults["sparsity_level"], units):
        for pattern in what:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise PrunerError(
                    f"expected patterns of names among {', '.join(names[:4])}…, found {pattern!r}, which fits none; see "
                    "model.named_parameters()"
                )
    return groups


def check_units(units: Any, size: int, name: str) -> list[int]:
    """Units to keep, as sorted numbers. Raises PrunerError unless they are different ones of those that there are."""
    found = units.tolist() if isinstance(units, Tensor) else list(units) if isinstance(units, Iterable) else [None]
    if not all(type(unit) is int and 0 <= unit < size for unit in found) or len(set(found)) != len(found) or not found:
        raise PrunerError(f"expected units to keep from 0 to {size - 1} for {name}, found {shown(units)}")
    return sorted(found)


def _names(model: nn.Module, sites: list[Site], entry: Mapping[str, Any]) -> list[str]:
    """The full names of the tensors of one entry: one, or all packed weights of a module."""
    places = {module: path for path, module in model.named_modules()}
    module, path, name = entry.get("module"), entry.get("module_fqn"), entry.get("tensor_fqn")
    if module is not None:
        if module not in places:
            raise PrunerError(f"expected a module of the model, found {type(module).__name__} that is not in it")
        path = places[module] if path is None else path
    if "tensor_fqn" not in entry:
        if "tensor_name" not in entry:
            return [own for site in sites if site.path == path for own in site.weights()] or [f"{path}.weight"]
        name = f"{path}.{entry['tensor_name']}" if path else entry["tensor_name"]
    if not isinstance(name, str):
        raise PrunerError(f"expected config entries of tensor_fqn and sparsity_level, found {shown(entry)}")
    facts = dict(zip(("module_fqn", "tensor_name"), name.rpartition(".")[::2], strict=True))
    facts["module"], _ = owner_of(model, name)
    for key in facts.keys() & entry.keys():
        if entry[key] is not None and facts[key] is not entry[key] and facts[key] != entry[key]:
            raise PrunerError(
                f"expected tensor_fqn and {key} to agree in the config, found {shown(entry)}; leave one out"
            )
    return [name]


def _group(
    model: nn.Module, sites: list[Site], name: str, entry: Mapping[str, Any], units: Mapping[str, Sequence[int]]
) -> dict[str, Any]:
    module, last = owner_of(model, name)
    _check_packed(module, last, name)
    located(sites, module, name)
    own = {key: copy.deepcopy(value) for key, value in entry.items() if key not in ("module", "mask", "sparsity_level")}
    level = entry["sparsity_level"]
    if isinstance(level, Mapping):
        level = _first(level, name)
        if level is None:
            raise PrunerError(
                f"expected a sparsity_level for {name!r}, found no pattern that fits; add one, such as '*'"
            )
    check_sparsity(f"sparsity_level of {name}", level)
    group = {
        "parametrization": RowMask,
        **own,
        "module": module,
        "module_fqn": name.rpartition(".")[0],
        "tensor_name": last,
        "tensor_fqn": name,
        "sparsity_level": level,
    }
    rows = len(getattr(module, last))
    kept = entry.get("units", _first(units, name))
    if kept is not None:
        group["units"] = check_units(kept, rows // 4, name)
    if (mask := entry.get("mask")) is not None:
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.shape != (rows,):
            raise PrunerError(f"expected a mask of {rows} bool for {name!r}, found {shown(mask)}")
        group["mask"] = mask
    return group


def _first(patterns: Mapping[str, Any], name: str) -> Any:
    return next((value for pattern, value in patterns.items() if fnmatchcase(name, pattern)), None)


def _check_packed(module: nn.Module, last: str, name: str) -> None:
    weight = getattr(module, last, None)
    if not isinstance(weight, Tensor):
        raise PrunerError(f"expected the name of a tensor of the model, found {name!r}; see model.named_parameters()")
    if weight.dim() < 2:
        raise PrunerError(
            f"expected a weight of two or more dimensions, whose rows have norms; found {name!r} of shape "
            f"{tuple(weight.shape)}"
        )
    standard = parse_standard_name(last)
    if standard is None or (standard.kind, standard.side) not in (("weight", "ih"), ("weight", "hh")):
        raise PrunerError(f"expected a packed LSTM weight (weight_ih or weight_hh), found {name!r}")
    if not isinstance(module, nn.LSTM | nn.LSTMCell):
        raise PrunerError(f"expected a tensor of an nn.LSTM or nn.LSTMCell, found one of {type(module).__name__}")
