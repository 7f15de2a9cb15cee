"""Whole modules in a file, as stand-ins -> their tensors, by the names that their state dict would give them."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pruner.files.allowance import Excess
from pruner.files.contents import Contents, Learned, Name, StandIn, Storage, Stored
from pruner.files.quantized import NOTE, PACKED, is_packed, unpacked

NESTING = 2  # dictionaries deep that modules and state dicts are looked for
MAX_MODULES, MAX_MODULE_DEPTH = 100_000, 100
MAX_NAMES = 2**26  # characters of all names together: those of outer modules are part of all that is in them

_SCRIPTED = "__torch__"
IGNORING = "ignoring_lost_states"  # in a file of `save_pruned`, the names of compact modules that drop them
_COMPACT = "on_lost_state"  # an attribute that the compact modules of this project alone have
_FOLLOWS = {"removed": "kept"}  # a tensor of its parts that follows from another
_TURNED, _AS_STORED = "weight_hh_columns", "weight_hh_rows"  # in such a module, and in its state dict
_MAX_CLASSES = 100  # around one LSTM


@dataclass(frozen=True, slots=True)
class _Module:
    """A module: what it is of, its own tensors and attributes, and the modules in it, all by name."""

    of: Name
    tensors: dict[str, Any]
    attributes: dict[str, Any]
    modules: dict[str, StandIn]


Constants = Callable[[Name], Mapping[str, bool | float]]  # what the class of a scripted module says of all its modules


def described(format_: str, root: Any, constants: Constants = lambda _: {}) -> Contents:
    """The contents of a file whose pickle gave `root`. Raises Excess for modules that contain each other without end."""
    finder = _Finder(constants)
    container = finder.replaced(root, ())
    ignoring = container.get(IGNORING) if isinstance(container, dict) else None
    for name in ignoring if isinstance(ignoring, list) else ():
        if isinstance(name, str):
            finder.learned[_joined(("state_dict",), name)] = Learned(handed_states=True)
    return Contents(
        format_,
        container,
        learned=finder.learned,
        skipped=tuple(finder.skipped),
        notes=(NOTE,) if finder.quantized else (),
        rewritten=any(old is not new for old, new in finder.seen.values()),
    )


class _Finder:
    """Puts a dictionary of tensors in place of each module, and of each state dict that holds quantized layers."""

    def __init__(self, constants: Constants) -> None:
        self._constants = constants
        self.learned: dict[str, Learned] = {}
        self.skipped: list[tuple[str, str]] = []
        self.seen: dict[int, tuple[Any, Any]] = {}  # by id: what was met, and what stands in its place
        self.quantized = False

    def replaced(self, value: Any, keys: tuple[str, ...]) -> Any:
        if id(value) in self.seen:
            return self.seen[id(value)][1]
        self.seen[id(value)] = value, value
        module = _read(value)
        if module is not None:
            tensors, learned = _flat(module, self._constants)
            self.learned |= {_joined(keys, name): facts for name, facts in learned.items()}
            self.seen[id(value)] = value, self._unpacked(tensors, keys, learned)
        elif isinstance(value, dict) and any(type(key) is str and is_packed(item) for key, item in value.items()):
            named = {key: item for key, item in value.items() if type(key) is str}
            self.seen[id(value)] = value, self._unpacked(named, keys, {})
        elif isinstance(value, dict) and len(keys) < NESTING:
            self.quantized |= any(isinstance(item, Stored) and item.quantizer for item in value.values())
            for key, item in value.items():
                if type(key) is str and isinstance(item, (StandIn, dict)):
                    value[key] = self.replaced(item, (*keys, key))
        return self.seen[id(value)][1]

    def _unpacked(self, tensors: dict[str, Any], keys: tuple[str, ...], learned: dict[str, Learned]) -> dict[str, Any]:
        if not any(is_packed(tensor) for tensor in tensors.values()):
            return tensors
        self.quantized = True
        directions = {name: facts.bidirectional for name, facts in learned.items() if facts.bidirectional is not None}
        found, skipped = unpacked(tensors, directions)
        self.skipped += [(_joined(keys, name), reason) for name, reason in skipped]
        return found


def _joined(keys: tuple[str, ...], name: str) -> str:
    return ".".join((*keys, name) if name else keys)


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
        return _Module(value.of, tensors, state, modules)
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
    tensors |= {key: state[key] for key in PACKED if is_packed(state.get(key))}
    return _Module(value.of, tensors, state, {k: m for k, m in modules.items() if isinstance(m, StandIn)})


def _walk(root: _Module) -> Iterator[tuple[str, _Module]]:
    """Every module with its name, a parent before what is in it, in the order of a state dict."""
    waiting = [("", 0, root)]
    read: dict[int, _Module | None] = {}  # by id: one module can be in many others
    count = 0
    while waiting:
        name, depth, module = waiting.pop()
        count += 1 + len(module.modules)
        if count > MAX_MODULES or depth > MAX_MODULE_DEPTH:
            raise Excess
        yield name, module
        for key, item in reversed(module.modules.items()):
            if id(item) not in read:
                read[id(item)] = _read(item)
            if (found := read[id(item)]) is not None:
                waiting.append((f"{name}.{key}" if name else key, depth + 1, found))


def _flat(root: _Module, constants: Constants) -> tuple[dict[str, Any], dict[str, Learned]]:
    """All tensors of a module, and what it says of the LSTMs in it."""
    tensors, learned = {}, {}
    modules: dict[str, _Module] = {}
    length = 0
    for name, module in _walk(root):
        modules[name] = module
        length += (1 + len(module.tensors)) * len(name) + sum(map(len, module.tensors))
        if length > MAX_NAMES:
            raise Excess
    for name, module in modules.items():
        prefix = f"{name}." if name else ""
        for key, tensor in module.tensors.items():
            if key in _FOLLOWS and _FOLLOWS[key] in module.tensors:  # TorchScript holds what a state dict leaves out
                continue
            if key == _TURNED and isinstance(tensor, Stored) and len(tensor.shape) == 2:
                key, tensor = _AS_STORED, replace(tensor, shape=tensor.shape[::-1], stride=tensor.stride[::-1])
            tensors[f"{prefix}{key}"] = tensor
        recurrent = any(key.startswith(("weight_hh", "_packed_weight_hh")) for key in module.tensors)
        if recurrent or "_all_weight_values" in module.modules or _COMPACT in module.attributes:
            learned[name] = _learn(name, modules, constants)
        if _COMPACT in module.attributes:
            _as_in_a_state_dict(tensors, prefix, module)
    return tensors, learned


def _as_in_a_state_dict(tensors: dict[str, Any], prefix: str, module: _Module) -> None:
    """Give a compact LSTM of this project, whose layers are still to come, what its state dict says of its full size."""
    keys = ("hidden_size", "num_layers", "directions") if "num_layers" in module.attributes else ("hidden_size",)
    sizes = [size for key in keys if type(size := module.attributes.get(key)) is int and 0 < size < 2**31]
    if len(sizes) == len(keys):
        numbers = b"".join(size.to_bytes(8, "little") for size in sizes)
        tensors[f"{prefix}stands_for"] = Stored(Storage(memoryview(numbers)), "int64", (len(sizes),), (1,))


def _learn(name: str, modules: dict[str, _Module], constants: Constants) -> Learned:
    facts = {**constants(modules[name].of), **modules[name].attributes}
    batch_first, dropout = facts.get("batch_first"), facts.get("dropout")
    parent = name.rpartition(".")[0]
    parts = name.split(".")
    around = {".".join(parts[:count]) for count in range(len(parts) + 1)}
    around |= {f"{parent}.{key}" if parent else key for key in modules.get(parent, modules[name]).modules}
    classes = {other: module.of.name for other, module in modules.items() if other in around}
    return Learned(
        batch_first if type(batch_first) is bool else None,
        float(dropout) if isinstance(dropout, (int, float)) else None,
        dict(list(classes.items())[:_MAX_CLASSES]),
        bidirectional=facts["bidirectional"] if type(facts.get("bidirectional")) is bool else None,
        handed_states=True if facts.get(_COMPACT) == "ignore" else None,
    )
