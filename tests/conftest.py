"""What pytest itself reads: settings of all tests, and the fixtures of the real files."""

from pathlib import Path

import pytest
import torch
from hypothesis import settings

from tests.helpers.real_files import CHECKPOINTS, FOREIGN

# The same examples every time, so that a change is judged by what it changed, and no deadline on a busy machine.
settings.register_profile("steady", derandomize=True, deadline=None, max_examples=50)
settings.load_profile("steady")
torch.set_num_threads(1)  # the LSTMs of the tests are so small that threads only wait for each other


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
