"""What an export says of the first model, where what was pruned is the model of an export itself."""

from collections.abc import Sequence
from typing import Any

from pruner.compact.layout import Layout
from pruner.errors import PrunerError
from pruner.exports.manifest import Manifest
from pruner.files.checkpoint import Checkpoint


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
        numbers = {each["name"]: [layer["kept_units"] for layer in each["layers"]] for each in manifest.lstms}
        first = manifest.first or {"source": manifest.source, "kept_units": numbers}
        return {
            "source": {key: str(first["source"][key]) for key in ("name", "sha256", "format")},
            "kept_units": {
                layout.lstm.name: [
                    [int(before[unit]) for unit in units]
                    for before, units in zip(
                        first["kept_units"][layout.lstm.name], layout.kept_units.values(), strict=True
                    )
                ]
                for layout in layouts
                if layout.lstm.name in first["kept_units"]
            },
        }
    except (PrunerError, KeyError, IndexError, TypeError, ValueError):  # no export, or one that is not as we write them
        return None
