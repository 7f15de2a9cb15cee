"""What the tests share: the real checkpoints, if they lie beside the project, and small LSTMs made on the spot."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings
from torch import Tensor, nn

# The same examples every time, so that a change is judged by what it changed, and no deadline on a busy machine.
settings.register_profile("steady", derandomize=True, deadline=None)
settings.load_profile("steady")
torch.set_num_threads(1)  # the LSTMs of the tests are so small that threads only wait for each other

CHECKPOINTS = Path(os.environ.get("LSTM_CHECKPOINTS", Path(__file__).resolve().parents[2] / "shared" / "checkpoints"))
FOREIGN = Path(os.environ.get("LSTM_FOREIGN", CHECKPOINTS.parent / "foreign"))


@pytest.fixture
def checkpoints() -> Path:
    """The folder of real checkpoints with their `truth.json`; tests that need it are skipped where there is none."""
    if not (CHECKPOINTS / "truth.json").exists():
        pytest.skip("no real checkpoints: set LSTM_CHECKPOINTS to their folder")
    return CHECKPOINTS


@pytest.fixture
def foreign() -> Path:
    """The folder of real files of other kinds with their `truth.json`; tests of it are skipped where there is none."""
    if not (FOREIGN / "truth.json").exists():
        pytest.skip("no real files of other kinds: set LSTM_FOREIGN to their folder")
    return FOREIGN


def real_checkpoints() -> list[dict[str, Any]]:
    """The entries of `truth.json` with their `folder`, for tests that run once a file."""
    return _entries(CHECKPOINTS)


def foreign_files() -> list[dict[str, Any]]:
    """The same of the real files of other kinds."""
    return _entries(FOREIGN)


def _entries(folder: Path) -> list[dict[str, Any]]:
    path = folder / "truth.json"
    return [{**entry, "folder": folder} for entry in json.loads(path.read_text())] if path.exists() else []


def real_foreign() -> list[dict[str, Any]]:
    """The entries of the `truth.json` of files of other kinds, for tests that run once a file."""
    path = FOREIGN / "truth.json"
    return json.loads(path.read_text()) if path.exists() else []


def random_lstm(seed: int = 0, dtype: torch.dtype = torch.float32, **settings: Any) -> nn.LSTM:
    """An `nn.LSTM(3 -> 4)`, or of other settings, with weights from a seed."""
    torch.manual_seed(seed)
    return nn.LSTM(**{"input_size": 3, "hidden_size": 4, "dtype": dtype, **settings})


def named(module: nn.Module, prefix: str = "") -> dict[str, Tensor]:
    """The state dict of a module under a prefix, as a checkpoint of a larger model would name it."""
    return {f"{prefix}{name}": tensor.clone() for name, tensor in module.state_dict().items()}
