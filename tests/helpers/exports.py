"""Exports opened and altered, and values that no manifest should hold."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from pruner.exports.export import file_facts

MODEL, MASKS, MANIFEST, LOADER = "pruned.pt", "masks.safetensors", "manifest.json", "load_pruned.py"
Edit = Callable[[dict[str, Tensor]], Any]


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an export."""
    return json.loads((folder / MANIFEST).read_text())


def write_manifest(folder: Path, manifest: Any) -> None:
    """Put any manifest in its place."""
    (folder / MANIFEST).write_text(json.dumps(manifest))


def edit_manifest(folder: Path, path: tuple[Any, ...], value: Any) -> None:
    """Set one value of the manifest, by the keys and positions that lead to it."""
    manifest = read_manifest(folder)
    parent = manifest
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = value
    write_manifest(folder, manifest)


def rehash(folder: Path) -> None:
    """Make the manifest agree with the files as they are."""
    manifest = read_manifest(folder)
    manifest["files"] = {name: file_facts(folder / name) for name in manifest["files"]}
    write_manifest(folder, manifest)


def edit_model(folder: Path, edit: Edit) -> None:
    """Alter the tensors of an export in `pruned.pt`."""
    tensors = torch.load(folder / MODEL)
    edit(tensors)
    torch.save(tensors, folder / MODEL)
    rehash(folder)


def edit_masks(folder: Path, edit: Edit) -> None:
    """Alter the masks of an export."""
    masks = safetensors.torch.load_file(folder / MASKS)
    edit(masks)
    safetensors.torch.save_file(masks, folder / MASKS)
    rehash(folder)


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON value."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from paths(inner, (*path, key))


def nested_list(depth: int) -> Any:
    """Lists within lists, to a depth."""
    return [nested_list(depth - 1)] if depth else []


# What somebody could write in place of any value of a manifest.
HOSTILE = [
    nested_list(700),
    None,
    True,
    -1,
    0.5,
    int("9" * 400),
    float("nan"),
    "",
    "../../etc/passwd",
    "\ud800\0",
    [],
    [[]],
    ["ab", "cd"],
    [["ab", 1]],
    {},
    {"name": []},
    {"a": {"b": [{}]}},
    [{"name": "encoder"}, {"name": "encoder"}],
]
