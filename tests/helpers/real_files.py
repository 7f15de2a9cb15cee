"""The real files, checkpoints and others, if they lie beside the project."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.project import PROJECT

CHECKPOINTS = Path(os.environ.get("LSTM_CHECKPOINTS", PROJECT.parent / "shared" / "checkpoints"))


FOREIGN = Path(os.environ.get("LSTM_FOREIGN", CHECKPOINTS.parent / "foreign"))

FACTS = {
    "prefix": "name",
    "kind": "kind",
    "input": "input_size",
    "hidden": "hidden_size",
    "layers": "num_layers",
    "bidirectional": "bidirectional",
    "proj": "proj_size",
    "bias": "bias",
    "dtype": "dtype",
}

Entry = dict[str, Any]


def real_checkpoints() -> list[Entry]:
    """The entries of `truth.json` with their `folder`, for tests that run once a file."""
    return _entries(CHECKPOINTS)


def foreign_files() -> list[Entry]:
    """The same of the real files of other kinds."""
    return _entries(FOREIGN)


def _entries(folder: Path) -> list[Entry]:
    path = folder / "truth.json"
    return [{**entry, "folder": folder} for entry in json.loads(path.read_text())] if path.exists() else []


def each(entries: list[Entry]) -> pytest.MarkDecorator:
    """Once for each file; where there are none, the test is skipped."""
    return pytest.mark.parametrize("entry", entries, ids=lambda entry: entry["name"])
