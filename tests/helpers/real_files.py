"""The real checkpoints, if they lie beside the project."""

import json
import os
from pathlib import Path
from typing import Any

from tests.helpers.project import PROJECT

CHECKPOINTS = Path(os.environ.get("LSTM_CHECKPOINTS", PROJECT.parent / "shared" / "checkpoints"))


def real_checkpoints() -> list[dict[str, Any]]:
    """The entries of `truth.json`, for tests that run once a file."""
    path = CHECKPOINTS / "truth.json"
    return json.loads(path.read_text()) if path.exists() else []
