"""A folder to work in, for the tests of the command line."""

from pathlib import Path

import pytest
import torch
from torch import nn

from tests.helpers.command_line import RECIPE, command
from tests.helpers.models import named, random_lstm
from tests.helpers.speeds import tell


@pytest.fixture(autouse=True)
def contenders(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What `measure` timed, in name only: how fast anything is, is no matter of these tests."""
    return tell(monkeypatch)


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with checkpoints, an export and things that are neither."""
    monkeypatch.chdir(tmp_path)
    encoder = random_lstm(num_layers=2, bidirectional=True)
    tensors = {**named(encoder, "encoder."), **named(nn.LSTMCell(8, 4), "cell."), **named(nn.GRU(3, 4), "gru.")}
    torch.save({"state_dict": tensors}, "model.pt")
    torch.save(random_lstm().state_dict(), "root.pt")
    torch.save(nn.Linear(3, 4).state_dict(), "linear.pt")
    torch.save({"a.weight_ih_l0": torch.full((16, 3), torch.nan), "a.weight_hh_l0": torch.zeros(16, 4)}, "nan.pt")
    Path("garbage.pt").write_bytes(b"garbage")
    Path("empty.pt").touch()
    Path("recipe.json").write_text(RECIPE.to_json())
    Path("broken.json").write_text('{"sparsity": ')
    Path("wrong.json").write_text('{"sparsity": 2}')
    Path("none.json").write_text('{"lstms": []}')
    Path("used").mkdir()
    Path("used", "kept.txt").write_text("mine")
    assert command("prune root.pt --output export") == 0
    return tmp_path
