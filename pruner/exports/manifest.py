"""The manifest of an export: what was done to what. One class writes it, reads it and says what is wrong with it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, get_origin

from pruner.compact.costs import Cost
from pruner.compact.layout import Layout
from pruner.compact.masked_and_compact import FORMS
from pruner.errors import PrunerError, shown
from pruner.exports.onnx.facts import well_formed
from pruner.files.checkpoint import Checkpoint
from pruner.files.safetensors_file import SAFETENSORS
from pruner.files.source import read_small
from pruner.recipe import Recipe

MASKS, MANIFEST, LOADER = "masks.safetensors", "manifest.json", "load_pruned.py"
README, EXAMPLE = "README.md", "example.py"
MODELS = ("pruned.pt", "pruned.safetensors")
_OPTIONAL = dict.fromkeys(("compensation", "verdict", "learned", "rest", "settings", "onnx", "first"), dict) | {
    "notes": list
}
MAX_BYTES = 2**23  # of the file


def model_file(source_format: str) -> str:
    """The name of the pruned model's file: its container is that of the source."""
    return MODELS[source_format == SAFETENSORS]


def not_the_export(folder: Path, expected: str, found: str) -> PrunerError:
    """What to raise where an export is not what its manifest says."""
    return PrunerError(f"expected {expected}, found {found}: {folder} is not the export it claims to be; export again")


@dataclass(frozen=True)
class Manifest:
    """What `manifest.json` holds, as JSON has it, in the order in which it is written.

    `source` has name, sha256 and format; `lstms` an entry each as `Layout.describe` makes them, with the keys that lead to
    the tensors in the file; `totals` {figure: {"before", "after"}}; `files` {name: {"sha256", "bytes"}}.
    """

    source: dict[str, Any]
    recipe: dict[str, Any]
    form: str
    lstms: list[dict[str, Any]]
    totals: dict[str, Any]
    certificate: dict[str, Any]
    files: dict[str, Any]
    versions: dict[str, Any]
    compensation: dict[str, Any] | None = None
    verdict: dict[str, Any] | None = None  # as `Verdict.told` has it
    learned: dict[str, Any] | None = None  # what the source says of LSTMs beside their weights, by their names
    notes: list[str] | None = None  # what is no longer true in the rest of the file, as `stale.notes` has it
    rest: dict[str, Any] | None = (
        None  # {name: {"keys", "shape"}} of the tensors outside the pruned LSTMs; older ones do not say
    )
    settings: dict[str, Any] | None = (
        None  # {number beside the tensors: {"before", "after"}}, as `stale.new_settings` has it
    )
    first: dict[str, Any] | None = (
        None  # the model before all pruning, if that was not the source, as `first_of` has it
    )
    onnx: dict[str, Any] | None = None  # the ONNX files, if they were asked for, as `onnx.facts.well_formed` has it
    counts_integers: bool = False  # as manifests did that know no `dense_hidden_size`: as parameters, in their totals

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Raises PrunerError if there is none, or it lacks a key or holds something of another type."""
        path = folder / MANIFEST
        try:
            found = json.loads(read_small(path, MAX_BYTES, "a manifest"))
        except PrunerError as error:
            raise PrunerError(
                f"expected an export folder with a {MANIFEST}, found none in {folder}; check the path"
            ) from error
        except (ValueError, RecursionError) as error:
            raise PrunerError(f"expected the manifest of an export, found no JSON in {path}; export again") from error
        types = _types()
        if not isinstance(found, dict) or not found.keys() >= types.keys():
            raise PrunerError(
                f"expected the manifest of an export ({', '.join(sorted(types))}), found {shown(found)} in {path}; "
                "export again"
            )
        for key, wanted in types.items():
            if not isinstance(found[key], wanted):
                raise not_the_export(folder, f"{key} as {wanted.__name__}", shown(found[key]))
        if found["form"] not in FORMS:
            raise not_the_export(folder, f"a form among {', '.join(FORMS)}", shown(found["form"]))
        Recipe.from_dict(found["recipe"])
        more = {key: found[key] for key in _OPTIONAL if found.get(key) is not None}
        for key, value in more.items():
            if not isinstance(value, _OPTIONAL[key]):
                raise not_the_export(folder, f"{key} as {_OPTIONAL[key].__name__}", shown(value))
        if "onnx" in more and not well_formed(more["onnx"]):
            raise not_the_export(folder, "the facts of its ONNX files", shown(more["onnx"]))
        older = any(isinstance(entry, dict) and "dense_hidden_size" not in entry for entry in found["lstms"])
        entries = [_renewed(entry) for entry in found["lstms"]] if older else found["lstms"]
        required = {key: found[key] for key in types} | {"lstms": entries}
        return cls(**required, **more, counts_integers=older)

    def told(self) -> dict[str, Any]:
        """What the file says, as JSON has it."""
        kept = {key: getattr(self, key) for key in _types()}
        return kept | {key: getattr(self, key) for key in _OPTIONAL if getattr(self, key) is not None}

    def with_notes(self, more: list[str]) -> "Manifest":
        """The same with more sentences for people."""
        return replace(self, notes=[*(self.notes or ()), *more] or None)

    def write(self, folder: Path) -> None:
        """Write the file `manifest.json`."""
        (folder / MANIFEST).write_text(json.dumps(self.told(), indent=2) + "\n", encoding="utf-8")

    def check(self, folder: Path, name: str, found: Any) -> None:
        """Raise PrunerError unless one of its fields is what was found in the files."""
        same(folder, {name: getattr(self, name)}, name, found)


def same(folder: Path, stated: Mapping[str, Any], key: str, found: Any) -> None:
    """Raise PrunerError unless a part of the manifest of an export is what was found in its files."""
    if key not in stated or json.dumps(stated[key], sort_keys=True) != json.dumps(found, sort_keys=True):
        raise not_the_export(folder, f"{key} as the manifest says, {shown(stated.get(key))}", shown(found))


def entry(layout: Layout, checkpoint: Checkpoint) -> dict[str, Any]:
    """One LSTM's entry in the manifest: how to build it, where its tensors lie, and what each layer keeps."""
    facts = layout.describe()
    facts["tensors"] = {name: list(checkpoint.location(stored)) for name, stored in layout.tensors.items()}
    return facts


def rest(layouts: Sequence[Layout], pruned: Checkpoint) -> dict[str, dict[str, Any]]:
    """{name: the keys that lead to it, its shape} of every tensor of a written file outside the pruned LSTMs."""
    own = {name for layout in layouts for name in layout.tensors.values()}
    return {
        name: {"keys": list(keys), "shape": list(pruned.tensors[name].shape)}
        for name, keys in pruned.locations.items()
        if name not in own
    }


def new_sizes(layouts: Sequence[Layout]) -> dict[int, int]:
    """{hidden size before: after}, where one size became one other."""
    found: dict[int, set[int]] = {}
    for layout in layouts:
        found.setdefault(layout.lstm.hidden_size, set()).update(map(len, layout.kept_units.values()))
    return {before: after.pop() for before, after in found.items() if len(after) == 1}


def totals(before: Cost, after: Cost) -> dict[str, Any]:
    """{figure: {"before", "after"}} of a source and what became of it."""
    return {key: {"before": value, "after": asdict(after)[key]} for key, value in asdict(before).items()}


def first_of(checkpoint: Checkpoint, layouts: Sequence[Layout]) -> dict[str, Any] | None:
    """{"source": what the first model was, "kept_units": {LSTM: for each layer and direction the units in the file, as the
    first model numbers them}}; None unless the checkpoint was opened in the folder of an export, as that was written."""
    opened = checkpoint.source.opened
    if opened is None:
        return None
    path, _ = opened
    try:
        manifest = Manifest.read(path.parent)
        if manifest.files[path.name]["sha256"] != checkpoint.sha256:
            return None
        entries = {each["name"]: each for each in manifest.lstms}
        numbers = {name: [layer["kept_units"] for layer in each["layers"]] for name, each in entries.items()}
        first = manifest.first or {"source": manifest.source, "kept_units": numbers}
        return {
            "source": {key: str(first["source"][key]) for key in ("name", "sha256", "format")},
            "kept_units": {
                layout.lstm.name: [
                    [int(before[unit]) for unit in units if unit in before]
                    for before, units in zip(
                        _numbers(entries[layout.lstm.name], layout, first["kept_units"][layout.lstm.name]),
                        layout.kept_units.values(),
                        strict=True,
                    )
                ]
                for layout in layouts
                if layout.lstm.name in first["kept_units"]
            },
        }
    except (PrunerError, KeyError, IndexError, TypeError, ValueError):  # no export, or one that is not as we write them
        return None


def _numbers(entry: Mapping[str, Any], layout: Layout, first: Sequence[Sequence[int]]) -> list[dict[int, int]]:
    """For each layer and direction {unit of a model that was opened in an export: its number in the first model}. Where the
    model was opened at its dense size, those that were gone already have none. Raises ValueError for a model of any other
    size."""
    found = []
    for layer, numbers in zip(entry["layers"], first, strict=True):
        own, size = layer["kept_units"], layout.lstm.hidden_size
        if size not in (len(own), entry["dense_hidden_size"]):
            raise ValueError
        found.append(dict(zip(range(size) if size == len(own) else own, numbers, strict=True)))
    return found


def _types() -> dict[str, Any]:
    """{key: type} of all that a manifest must have."""
    return {each.name: get_origin(each.type) or each.type for each in fields(Manifest) if each.default is MISSING}


def _renewed(old: Any) -> Any:
    """An entry as it is written now, from one whose dense size was called `hidden_size` alone."""
    if not isinstance(old, dict) or "hidden_size" not in old:
        return old
    kept = {key: value for key, value in old.items() if key != "hidden_size"}
    layers = old["layers"] if isinstance(old.get("layers"), list) else []
    units = [layer["kept_units"] for layer in layers if isinstance(layer, dict) and "kept_units" in layer]
    sizes = {len(each) for each in units if isinstance(each, list)}
    return kept | {
        "dense_hidden_size": old["hidden_size"],
        "stored_hidden_size": sizes.pop() if len(sizes) == 1 else None,
    }
