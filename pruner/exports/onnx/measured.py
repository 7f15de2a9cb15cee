"""What was measured of the ONNX files of an export, beside what their manifest says of it."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pruner.errors import shown
from pruner.exports.manifest import Manifest, not_the_export
from pruner.exports.onnx.facts import FLOAT
from pruner.exports.onnx.files import agrees


def check_metadata(folder: Path, name: str, metadata: Mapping[str, str], manifest: Manifest) -> None:
    """Raise PrunerError unless a model says the recipe and the source of the manifest."""
    try:
        recipe = json.loads(metadata.get("recipe", "null"))
    except (ValueError, RecursionError):
        recipe = None
    if recipe != manifest.recipe or metadata.get("source_sha256") != manifest.source.get("sha256"):
        raise not_the_export(folder, f"the recipe and the source of the manifest in {name}", "others")


def check_measured(folder: Path, name: str, measured: Mapping[str, Any], stated: Mapping[str, Any]) -> None:
    """Scales as in the certificate; of the float model the tolerance, of the int8 one a difference of the size that was
    stated: processors round its sums alike, but not the scales of its inputs."""
    pairs = [(measured, stated)]
    for more in ("consumers", "graph"):
        if (more in measured) != (more in stated):
            raise not_the_export(folder, f"{more} in {name} as the manifest says", shown(measured))
        if more in measured:
            pairs.append((measured[more], stated[more]))
    good = name != FLOAT or (agrees(measured) and agrees(stated))
    for found, claimed in pairs:
        scale, gap = found["max_abs_output"], found["max_abs_difference"]
        good = good and math.isclose(scale, claimed["max_abs_output"], rel_tol=1e-3)
        if name != FLOAT:
            good = good and math.isclose(gap, claimed["max_abs_difference"], rel_tol=0.5, abs_tol=1e-3 * scale)
    if not good:
        raise not_the_export(folder, f"{name} as close to the pruned model as the manifest says", shown(measured, 200))
