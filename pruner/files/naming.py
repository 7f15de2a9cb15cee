"""Contents -> named tensors, and what an export of them is written into."""

from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from pruner.errors import PrunerError, shown
from pruner.files.contents import WIDTHS, Contents, Name, StandIn, Stored
from pruner.files.foreign import recognise_pickle
from pruner.files.modules import MAX_NAMES, NESTING
from pruner.files.safetensors_file import SAFETENSORS
from pruner.files.torch_files import SAVE_WEIGHTS, TORCH_LEGACY, TORCH_ZIP

MAX_DEPTH = 100  # nested containers; checkpoints need about ten
MIN_TENSOR_BYTES = 16  # a stored tensor takes more; fewer mean dictionaries that repeat each other without end

_SCALARS = (str, int, float, bool, complex, bytes, type(None))
_NOT_DENSE = {
    "_rebuild_sparse_tensor": ("sparse", "save it with .to_dense()"),
    "_rebuild_nested_tensor": ("nested", "save its parts as tensors of their own"),
    "_rebuild_meta_tensor_no_storage": (
        "without numbers, on the device meta",
        "save the model with its weights loaded",
    ),
}


@dataclass(frozen=True)
class Named:
    """`plain` says whether `container` is the file's own; otherwise it is a flat dictionary of the tensors."""

    container: Any
    plain: bool
    locations: dict[str, tuple[str, ...]]  # name of a tensor -> keys that lead to it in the container
    tensors: dict[str, Stored]
    full_names: dict[str, str]  # name of a tensor -> all keys that lead to it in the file, joined by dots


def named(contents: Contents, size: int, name: str) -> Named:
    """Find the tensors of a file of `size` bytes. Raises PrunerError where there is no dictionary of them."""
    container = contents.container
    check_depth(container, name)
    if not isinstance(container, dict):
        raise PrunerError(f"expected a dictionary of tensors in {name}, found {_kind(container)}")
    locations, tensors = _named_tensors(container, size, name)
    full_names = {key: as_text(".".join(path)) for key, path in locations.items()}
    writable = contents.format in (SAFETENSORS, TORCH_ZIP, TORCH_LEGACY) and not contents.rewritten
    if writable and _is_plain(container):
        return Named(container, True, locations, tensors, full_names)
    tensors = {key: replace(tensor, parameter=False, requires_grad=False) for key, tensor in tensors.items()}
    return Named(dict(tensors), False, {key: (key,) for key in tensors}, tensors, full_names)


def _named_tensors(
    container: dict[Any, Any], size: int, name: str
) -> tuple[dict[str, tuple[str, ...]], dict[str, Any]]:
    """Tensors under string keys, up to `NESTING` dictionaries deep; those of optimizers lie under numbers or deeper.

    Where one dictionary alone holds recurrent weights, its names stand as they are. Where several do (an encoder and a
    decoder saved side by side, say), or the one is a layer beside others (`{"lstm": {...}, "head": {...}}`), each name
    begins with the keys that lead to its dictionary.
    """
    groups: dict[tuple[str, ...], dict[str, Any]] = {}
    count = seen = 0

    def collect(items: dict[Any, Any], path: tuple[str, ...]) -> None:
        nonlocal count, seen
        for key, value in items.items():
            seen += 1
            if not isinstance(key, str):
                continue
            tensor, inner = tensor_in(value), _inside(value)
            count += tensor is not None
            if count * MIN_TENSOR_BYTES > size or seen > size:
                raise PrunerError(
                    f"expected every tensor once, found more than {seen:,} names in a file of {size:,} bytes: {name}; "
                    "save each state dict under one key"
                )
            if tensor is not None:
                groups.setdefault(path, {})[key] = tensor
            elif inner is not None and len(path) < NESTING:
                collect(inner, (*path, key))

    collect(container, ())
    recurrent = [path for path, tensors in groups.items() if any("weight_hh" in key for key in tensors)]
    if len(groups) == 1 or (len(recurrent) == 1 and not _beside_others(recurrent[0], groups)):
        path = recurrent[0] if recurrent else next(iter(groups))
        groups = {path: groups[path]}
    locations: dict[str, tuple[str, ...]] = {}
    found: dict[str, Any] = {}
    if sum(len(tensors) * sum(map(len, path)) for path, tensors in groups.items()) > MAX_NAMES:
        raise PrunerError(f"expected names of {MAX_NAMES:,} characters, found more: {name}; give shorter keys")
    for path, tensors in groups.items():
        for key, tensor in tensors.items():
            full = as_text(key if len(groups) == 1 else ".".join((*path, key)))
            if full in found:
                raise PrunerError(
                    f"expected one tensor of each name, found two called {shown(full)}: {name}; rename one"
                )
            check_dense(tensor, full, name)
            locations[full], found[full] = (*path, key), tensor
    return locations, found


def as_text(name: str) -> str:
    """A name that can be written as UTF-8: half characters, which can stand in a pickle, become what repr makes of them."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def _beside_others(path: tuple[str, ...], groups: dict[tuple[str, ...], dict[str, Any]]) -> bool:
    """Whether a dictionary is one layer, whose names have no dots, in a dictionary of layers."""
    siblings = [other for other in groups if other != path and other[:-1] == path[:-1] and other]
    return bool(path) and bool(siblings) and not any("." in key for key in groups[path])


def tensor_in(value: Any) -> Any:
    """What counts as a tensor: a described one, an array, or one of a kind that will be refused; else None."""
    if isinstance(value, StandIn):
        return value.value if value.value is not None else value if _called(value) in _NOT_DENSE else None
    return value if isinstance(value, Stored) else None


def _inside(value: Any) -> dict[Any, Any] | None:
    """The dictionary that a value is, or the items or attributes of a stand-in."""
    if isinstance(value, StandIn):
        return next((part for part in (value.items, value.state) if isinstance(part, dict)), None)
    return value if isinstance(value, dict) else None


def _called(value: StandIn) -> str:
    return value.of.name if isinstance(value.of, Name) and value.of.module == "torch._utils" else ""


def check_dense(tensor: Any, key: str, name: str) -> None:
    """Raise PrunerError for what `tensor_in` gives of a kind of tensor that is not read."""
    if isinstance(tensor, StandIn):
        what, remedy = _NOT_DENSE[_called(tensor)]
        raise PrunerError(f"expected dense tensors, found {shown(key)} ({what}): {name}; {remedy}")


def check_depth(root: Any, name: str) -> None:
    """Refuse containers so deep that whoever walks them could overrun the stack of the process."""
    done: set[int] = set()
    path = [iter((root,))]
    while path:
        value = next(path[-1], path)
        if value is path:
            path.pop()
        elif id(value) not in done and (inner := _items(value)) is not None:
            done.add(id(value))
            path.append(inner)
            if len(path) > MAX_DEPTH:
                raise PrunerError(
                    f"expected a dictionary of tensors, found containers nested more than {MAX_DEPTH} deep: {name}; "
                    f"{SAVE_WEIGHTS}"
                )


def _items(value: Any) -> Iterator[Any] | None:
    if isinstance(value, dict):
        return iter([*value.values(), *vars(value).values()] if isinstance(value, OrderedDict) else [*value.values()])
    if isinstance(value, StandIn):
        return iter((value.of, value.arguments, value.state, value.items))
    return iter(value) if isinstance(value, (list, tuple, set, frozenset)) else None


def _is_plain(root: Any) -> bool:
    """Whether torch.save can write a container again as it was: no stand-ins, no arrays, nothing quantized."""
    done: set[int] = set()
    waiting = [root]
    while waiting:
        value = waiting.pop()
        if isinstance(value, _SCALARS) or id(value) in done:
            continue
        done.add(id(value))
        if isinstance(value, dict):
            if type(value) not in (dict, OrderedDict, Counter) or not _all_scalars(value):
                return False
            waiting += value.values()
            waiting += vars(value).values() if isinstance(value, OrderedDict) else ()
        elif type(value) in (list, tuple):
            waiting += value
        elif type(value) in (set, frozenset):
            if not _all_scalars(value):
                return False
        elif not _torch_can_write(value):
            return False
    return True


def _all_scalars(keys: Iterable[Any]) -> bool:
    return all(isinstance(key, (*_SCALARS, tuple)) for key in keys)


def _torch_can_write(value: Any) -> bool:
    if isinstance(value, Stored):
        return value.quantizer is None
    if isinstance(value, Name):
        return value.module == "torch" and value.name in WIDTHS
    if isinstance(value, StandIn):
        return isinstance(value.of, Name) and value.of.module == "torch" and value.of.name in ("Size", "device")
    return isinstance(value, memoryview)


def _kind(value: Any) -> str:
    """What a value is instead of a dictionary, and what its owner can do."""
    if isinstance(value, StandIn) and isinstance(value.of, Name):
        called = f"an object of {shown(f'{value.of.module}.{value.of.name}')}, in which no named tensors were found"
        return recognise_pickle([value.of.module]) or f"{called}; {SAVE_WEIGHTS}"
    return f"a {'Tensor' if isinstance(value, Stored) else type(value).__name__}; {SAVE_WEIGHTS}"
