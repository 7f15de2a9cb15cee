"""Whole modules in a file, as stand-ins -> their tensors, by the names that their state dict would give them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pruner.files.allowance import Excess
from pruner.files.contents import Contents, Learned, Name, StandIn, Stored

NESTING = 2  # dictionaries deep that modules and state dicts are looked for
MAX_MODULES, MAX_MODULE_DEPTH = 100_000, 100

_SCRIPTED = "__torch__"
_MAX_CLASSES = 100  # around one LSTM


@dataclass(frozen=True, slots=True)
class _Module:
    """A module: its class, its own tensors and attributes, and the modules in it, all by name."""

    class_name: str
    tensors: dict[str, Any]
    attributes: dict[str, Any]
    modules: dict[str, StandIn]


def described(format_: str, root: Any) -> Contents:
    """The contents of a file whose pickle gave `root`. Raises Excess for modules that contain each other without end."""
    learned: dict[str, Learned] = {}
    seen: dict[int, tuple[Any, Any]] = {}
    container = _replaced(root, (), learned, seen)
    return Contents(format_, container, learned=learned, rewritten=any(old is not new for old, new in seen.values()))


def _replaced(value: Any, keys: tuple[str, ...], learned: dict[str, Learned], seen: dict[int, tuple[Any, Any]]) -> Any:
    """The value, with a dictionary of tensors in place of each module; `seen` holds, by its id, what is done already."""
    if id(value) in seen:
        return seen[id(value)][1]
    module = _read(value)
    if module is None:
        seen[id(value)] = value, value
        if isinstance(value, dict) and len(keys) < NESTING:
            for key, item in value.items():
                if type(key) is str and isinstance(item, (StandIn, dict)):
                    value[key] = _replaced(item, (*keys, key), learned, seen)
        return value
    tensors, found = _flat(module)
    learned |= {".".join((*keys, name) if name else keys): facts for name, facts in found.items()}
    seen[id(value)] = value, tensors
    return tensors


def _read(value: Any) -> _Module | None:
    """A stand-in as a module; None if it is none."""
    if not isinstance(value, StandIn) or not isinstance(value.of, Name):
        return None
    state = value.state[0] if isinstance(value.state, tuple) and value.state else value.state
    if not isinstance(state, dict):
        return None
    if value.of.module.startswith(_SCRIPTED):
        tensors = {key: item for key, item in state.items() if type(key) is str and isinstance(item, Stored)}
        modules = {key: item for key, item in state.items() if type(key) is str and isinstance(item, StandIn)}
        return _Module(value.of.name, tensors, state, modules)
    parts = [state[part] for part in ("_parameters", "_buffers", "_modules") if isinstance(state.get(part), dict)]
    if len(parts) < 3:
        return None
    passing = state.get("_non_persistent_buffers_set")
    passing = passing if isinstance(passing, (set, frozenset)) else ()
    parameters, buffers, modules = ({key: item for key, item in part.items() if type(key) is str} for part in parts)
    tensors = {
        key: item
        for key, item in {**parameters, **{key: item for key, item in buffers.items() if key not in passing}}.items()
        if item is not None
    }
    return _Module(value.of.name, tensors, state, {k: m for k, m in modules.items() if isinstance(m, StandIn)})


def _walk(root: _Module) -> Iterator[tuple[str, _Module]]:
    """Every module with its name, a parent before what is in it, in the order of a state dict."""
    waiting = [("", 0, root)]
    count = 0
    while waiting:
        name, depth, module = waiting.pop()
        count += 1
        if count > MAX_MODULES or depth > MAX_MODULE_DEPTH:
            raise Excess
        yield name, module
        for key, item in reversed(module.modules.items()):
            found = _read(item)
            if found is not None:
                waiting.append((f"{name}.{key}" if name else key, depth + 1, found))


def _flat(root: _Module) -> tuple[dict[str, Any], dict[str, Learned]]:
    """All tensors of a module, and what it says of the LSTMs in it."""
    tensors, learned = {}, {}
    modules = dict(_walk(root))
    for name, module in modules.items():
        for key, tensor in module.tensors.items():
            tensors[f"{name}.{key}" if name else key] = tensor
        if any(key.startswith(("weight_hh", "_packed_weight_hh")) for key in module.tensors):
            learned[name] = _learn(name, modules)
    return tensors, learned


def _learn(name: str, modules: dict[str, _Module]) -> Learned:
    facts = modules[name].attributes
    batch_first, dropout = facts.get("batch_first"), facts.get("dropout")
    parent = name.rpartition(".")[0]
    parts = name.split(".")
    around = {".".join(parts[:count]) for count in range(len(parts) + 1)}
    around |= {f"{parent}.{key}" if parent else key for key in modules.get(parent, modules[name]).modules}
    classes = {other: module.class_name for other, module in modules.items() if other in around}
    return Learned(
        batch_first if type(batch_first) is bool else None,
        float(dropout) if isinstance(dropout, (int, float)) else None,
        dict(list(classes.items())[:_MAX_CLASSES]),
    )
