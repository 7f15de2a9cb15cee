"""`--batch-first`: said once, known to whoever loads the export; unsaid, asked for."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pruner.compact.load_pruned import load_lstms
from tests.helpers.command_line import command, printed
from tests.helpers.models import random_lstm, random_steps


@pytest.mark.parametrize("said", ["true", "false"])
def test_what_is_said_travels_with_the_export(workplace: Path, capsys: pytest.CaptureFixture[str], said: str) -> None:
    assert "batches first" not in printed(capsys, f"prune root.pt --batch-first {said} --output said")
    assert load_lstms("said")[""].batch_first is (said == "true")


def test_what_nobody_knows_is_told_and_asked_for(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    note = "note: root.pt does not say whether (root) read batches first: --batch-first true or false"
    assert note in printed(capsys, "prune root.pt --output unsaid")
    with pytest.raises(ValueError, match="expected batch_first as the LSTM had it"):
        load_lstms("unsaid")


def test_an_example_is_known(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("examples embedded-reber --output example.safetensors") == 0
    assert "batches first" not in printed(capsys, "prune example.safetensors --output pruned")
    assert load_lstms("pruned")["lstm"].batch_first is True


def test_a_file_that_says_otherwise_is_one_line(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(nn.ModuleDict({"rnn": random_lstm(batch_first=True)}), "whole.pt")
    assert command("prune whole.pt --batch-first false --output wrong") == 2
    assert "error: expected batch_first as whole.pt says of rnn, true, found false" in capsys.readouterr().err
    assert not Path("wrong").exists()
    assert command("prune whole.pt --batch-first maybe --output wrong") == 2


def test_shrink_takes_it_too(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save("inputs.npy", random_steps(30, 8, 3).numpy())
    line = "shrink root.pt --keep 0.5 --steps 2 --calibration inputs.npy --batch-first true"
    assert "batches first" not in printed(capsys, f"{line} --output smaller")
    assert load_lstms("smaller")[""].batch_first is True
