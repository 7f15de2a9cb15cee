"""A Keras file with all that is in it, to be written again: every group, array and attribute, the configuration, and what
else a `.keras` archive holds.

It is read into plain containers, which come from a process of its own where the file is of strangers.
"""

import io
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path as File
from typing import Any

import numpy as np

from pruner.errors import PrunerError, label
from pruner.files import arrays
from pruner.files.contents import Contents
from pruner.files.hdf5 import Attribute, Group
from pruner.files.keras_files import CONFIG, OPTIMIZERS, Path, gather, parts_of_h5, parts_of_zip
from pruner.files.keras_layout import Place
from pruner.files.zip_archive import Archive

_MOST_BESIDE = 2**24  # bytes of an entry of an archive that is neither weights nor configuration
_MODEL_CONFIG = "model_config"  # the attribute of an `.h5` file


@dataclass(frozen=True)
class Whole:
    """A Keras file. `entries` are those of the archive beside its weights, `config` is the model's as JSON, `places` says
    what arrays are made of, `unread` names what is left out when it is written again."""

    root: Group
    config: str | None
    places: dict[Path, Place]
    is_new: bool  # the layout of Keras 3
    weights_entry: str = ""  # of an archive
    config_entry: str = ""
    entries: dict[str, memoryview] = field(default_factory=dict)
    unread: tuple[str, ...] = ()

    @property
    def has_optimizer(self) -> bool:
        return any(name in self.root.groups for name in OPTIMIZERS)

    def array(self, path: Path) -> np.ndarray:
        return _group(self.root, path[:-1]).arrays[path[-1]]

    def changed(self, values: Mapping[Path, np.ndarray], config: str | None, optimizer: bool) -> "Whole":
        """The same with other arrays and another configuration, with or without the states of the optimizer."""
        root = _copied(self.root)
        if not optimizer:
            root.groups = {name: group for name, group in root.groups.items() if name not in OPTIMIZERS}
        for path, value in values.items():
            _group(root, path[:-1]).arrays[path[-1]] = value
        if config is not None and not self.weights_entry:
            root.attributes[_MODEL_CONFIG] = config
        return replace(self, root=root, config=config)

    def write(self, path: File) -> None:
        """Write the file, as Keras does. Raises OSError where there is no room, ValueError for what h5py cannot write."""
        import h5py

        weights = io.BytesIO()
        with h5py.File(weights, "w") as root:
            _write_group(self.root, root)
        if not self.weights_entry:
            path.write_bytes(weights.getvalue())
            return
        entries: dict[str, bytes] = {name: bytes(data) for name, data in self.entries.items()}
        if self.config is not None:
            entries[self.config_entry] = self.config.encode()
        entries[self.weights_entry] = weights.getvalue()
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in entries.items():
                archive.writestr(zipfile.ZipInfo(name), data)  # without the time of day

    def difference(self, other: "Whole") -> str | None:
        """The first thing in which two files differ, in words; None if they are the same."""
        if self.config != other.config:
            return "the configuration"
        if {name: bytes(data) for name, data in self.entries.items()} != {
            name: bytes(data) for name, data in other.entries.items()
        }:
            return f"the entries beside {self.weights_entry}"
        mine, others = dict(_items(self.root, ())), dict(_items(other.root, ()))
        wrong = (path for path in [*mine, *others] if not _equal(mine.get(path), others.get(path)))
        return next((label("/".join(path)) or "the root" for path in wrong), None)


def read(data: memoryview, name: str) -> Contents:
    """A Keras file as plain containers, from which `received` makes it. Raises PrunerError for a damaged one."""
    archive = Archive(data, name) if bytes(data[:2]) == b"PK" else None
    parts = parts_of_zip(archive, name) if archive else parts_of_h5(data, name)
    gathered = gather(parts, name)
    unread, entries = list(_unread(parts.root, ())), dict[str, memoryview]()
    configs = archive.ending_with(CONFIG)[:1] if archive else []
    for entry in archive.entries if archive else ():
        if entry in (parts.entry, *configs):
            continue
        try:
            entries[entry] = archive.unpacked(entry, _MOST_BESIDE)  # type: ignore[union-attr]
        except PrunerError:
            unread.append(entry)
    container = {
        "root": _encoded(parts.root),
        "config": None if parts.config is None else str(parts.config, "utf-8-sig"),
        "places": {path: (place.tensors, place.how) for path, place in gathered.places.items()},
        "is_new": gathered.is_new,
        "weights_entry": parts.entry,
        "config_entry": configs[0] if configs else "",
        "entries": entries,
        "unread": tuple(unread),
    }
    return Contents(parts.format, container)


def received(container: dict[str, Any]) -> Whole:
    """What `read` made of a file."""
    places = {path: Place(*place) for path, place in container["places"].items()}
    return Whole(**{**container, "root": _decoded(container["root"]), "places": places})


def _encoded(group: Group) -> dict[str, Any]:
    return {
        "groups": {name: _encoded(inner) for name, inner in group.groups.items()},
        "arrays": {name: _encoded_array(array) for name, array in group.arrays.items()},
        "attributes": _encoded_attributes(group.attributes),
        "array_attributes": {name: _encoded_attributes(found) for name, found in group.array_attributes.items()},
    }


def _encoded_attributes(attributes: Mapping[str, Attribute]) -> dict[str, Any]:
    return {
        name: _encoded_array(value) if isinstance(value, np.ndarray) else value for name, value in attributes.items()
    }


def _encoded_array(array: np.ndarray) -> tuple[str, tuple[int, ...], memoryview]:
    return array.dtype.str, array.shape, np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _decoded(group: dict[str, Any]) -> Group:
    return Group(
        {name: _decoded(inner) for name, inner in group["groups"].items()},
        {name: _decoded_array(*array) for name, array in group["arrays"].items()},
        _decoded_attributes(group["attributes"]),
        {name: _decoded_attributes(found) for name, found in group["array_attributes"].items()},
    )


def _decoded_attributes(attributes: Mapping[str, Any]) -> dict[str, Attribute]:
    return {name: _decoded_array(*value) if isinstance(value, tuple) else value for name, value in attributes.items()}


def _decoded_array(dtype: str, shape: tuple[int, ...], data: memoryview) -> np.ndarray:
    return arrays.view(data, np.dtype(dtype), tuple(shape))


def _group(root: Group, path: Path) -> Group:
    for name in path:
        root = root.groups[name]
    return root


def _copied(group: Group) -> Group:
    groups = {name: _copied(inner) for name, inner in group.groups.items()}
    return Group(groups, dict(group.arrays), dict(group.attributes), group.array_attributes)


def _unread(group: Group, path: Path) -> Iterator[str]:
    yield from ("/".join((*path, name)) for name in group.unread)
    for name, inner in group.groups.items():
        yield from _unread(inner, (*path, name))


def _items(group: Group, path: Path) -> Iterator[tuple[Path, Any]]:
    """Everything in a group, by the names that lead to it."""
    yield path, group.attributes
    for name, array in group.arrays.items():
        yield (*path, name), [array, group.array_attributes.get(name, {})]
    for name, inner in group.groups.items():
        yield from _items(inner, (*path, name))


def _equal(one: Any, other: Any) -> bool:
    """Equal to the bit, types included."""
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_equal, one, other))
    return type(one) is type(other) and not isinstance(one, np.ndarray) and bool(one == other)


def _write_group(group: Group, to: Any) -> None:
    _write_attributes(group.attributes, to)
    for name, array in group.arrays.items():
        _write_attributes(group.array_attributes.get(name, {}), to.create_dataset(name, data=array))
    for name, inner in group.groups.items():
        _write_group(inner, to.create_group(name))


def _write_attributes(attributes: Mapping[str, Attribute], to: Any) -> None:
    import h5py

    for name, value in attributes.items():
        to.attrs[name] = np.array(value, h5py.string_dtype()) if isinstance(value, list) else value
