"""What the command line cannot use is one line on stderr and an exit code, never a traceback or half a file."""

from pathlib import Path

import pytest
import safetensors.torch
import torch

from tests.helpers.command_line import command
from tests.helpers.files import hashes_of
from tests.helpers.models import named, random_lstm

UNUSABLE = {
    "": "COMMAND",
    "prun model.pt --output new": "invalid choice: 'prun'",
    "--sparsity 0.5": "COMMAND",
    "inspect": "checkpoint",
    "inspect missing.pt": "found no file",
    "inspect used": "found a folder",
    "inspect garbage.pt": "bytes of no known format",
    "inspect empty.pt": "an empty file",
    "inspect model.pt root.pt": "root.pt",
    "inspect model.pt --jsn": "--jsn",
    f"inspect {'x' * 300}": "too long",
    "saliency model.pt": "--output",
    "saliency model.pt --criterion l3 --output new": "invalid choice: 'l3'",
    "saliency linear.pt --output new": "expected an LSTM in linear.pt, found none",
    "saliency nan.pt --output new": "rows of a.weight_ih_l0 (the first is row 0)",
    "saliency model.pt --output nowhere/rows.csv": "expected a place to write",
    "masks model.pt": "--output",
    "masks missing.pt --output new": "found no file",
    "masks linear.pt --output new": "expected an LSTM in linear.pt, found none",
    "masks nan.pt --output new": "rows of a.weight_ih_l0 (the first is row 0)",
    "masks model.pt --output nowhere/masks.safetensors": "expected a place to write",
    "masks model.pt --output used": "expected a place to write",
    "masks model.pt --output model.pt/masks.safetensors": "expected a place to write",
    "masks model.pt --output .": "expected a place to write",
    "masks model.pt --output ..": "expected a place to write",
    "masks model.pt --output ''": "expected a place to write",
    "masks model.pt --sparsity -0.1 --output new": "sparsity between 0 and 1, found -0.1",
    "masks model.pt --sparsity 1.1 --output new": "sparsity between 0 and 1, found 1.1",
    "masks model.pt --sparsity nan --output new": "sparsity between 0 and 1, found nan",
    "masks model.pt --sparsity inf --output new": "sparsity between 0 and 1, found inf",
    "masks model.pt --sparsity half --output new": "invalid float value: 'half'",
    "masks model.pt --sparsity --output new": "--sparsity",
    "masks model.pt --granularity columns --output new": "invalid choice: 'columns'",
    "masks model.pt --criterion l0 --output new": "invalid choice: 'l0'",
    "masks model.pt --lstm decoder --output new": "('cell', 'encoder'), found 'decoder'",
    "masks model.pt --lstm encoder. --output new": "('cell', 'encoder'), found 'encoder.'",
    "masks model.pt --gate-sparsity hf --output new": "--gate-sparsity as name=sparsity",
    "masks model.pt --gate-sparsity hf= --output new": "--gate-sparsity as name=sparsity",
    "masks model.pt --gate-sparsity hf=0.1=0.2 --output new": "--gate-sparsity as name=sparsity",
    "masks model.pt --gate-sparsity hf=2 --output new": "the sparsity of gate hf between 0 and 1",
    "masks model.pt --gate-sparsity f=0.5 --output new": "expected a gate among",
    "masks model.pt --layer-sparsity first=0.5 --output new": "layer numbers in layer_sparsity, found 'first'",
    "masks model.pt --layer-sparsity 2=0.5 --output new": "a layer from 0 to 1",
    f"masks model.pt --layer-sparsity {'9' * 5000}=0.5 --output new": "expected",
    "masks model.pt --recipe missing.json --output new": "expected a recipe file",
    "masks model.pt --recipe used --output new": "expected a recipe file",
    "masks model.pt --recipe broken.json --output new": "text that is not JSON",
    "masks model.pt --recipe model.pt --output new": "text that is not JSON",
    "masks model.pt --recipe wrong.json --output new": "sparsity between 0 and 1, found 2",
    "masks model.pt --recipe none.json --output new": "expected",
    "masks model.pt --recipe recipe.json --sparsity 0.5 --output new": "found both",
    "masks root.pt --recipe recipe.json --output new": "found 'encoder'",
    "prune model.pt": "--output",
    "prune missing.pt --output new": "found no file",
    "prune garbage.pt --output new": "bytes of no known format",
    "prune linear.pt --output new": "expected an LSTM in linear.pt, found none",
    "prune nan.pt --output new": "rows of a.weight_ih_l0 (the first is row 0)",
    "prune model.pt --sparsity 7 --output new": "sparsity between 0 and 1, found 7",
    "prune model.pt --recipe wrong.json --output new": "sparsity between 0 and 1, found 2",
    "masks model.pt --allocation fair --output new": "invalid choice: 'fair'",
    "masks model.pt --allocation global --output new": "expected granularity 'units' with allocation 'global'",
    "masks model.pt --criterion group --output new": "expected granularity 'units' with criterion 'group'",
    "masks model.pt --round-to 8 --output new": "expected granularity 'units' with round_to 8",
    "masks model.pt --round-to half --output new": "invalid int value: 'half'",
    "masks model.pt --granularity units --round-to 0 --output new": "expected round_to from 1 to 4096, found 0",
    "masks model.pt --granularity units --gate-sparsity hf=0.5 --output new": "expected no gate_sparsity",
    "masks model.pt --granularity units --allocation global --layer-sparsity 0=0.5 --output new": "no layer_sparsity",
    "masks model.pt --consumer linear.weight --output new": "expected granularity 'units' with consumers",
    "masks model.pt --granularity units --consumer linear.weight --output new": "'linear.weight', which is not there",
    "prune model.pt --granularity units --consumer gru.weight_ih_l0 --output new": "expected a consumer that reads",
    "saliency model.pt --criterion group --output new": "invalid choice: 'group'",
    "prune model.pt --form smaller --output new": "invalid choice: 'smaller'",
    "prune model.pt --device tpu --output new": "found 'tpu'",
    "prune model.pt --device cuda:99 --output new": "found 'cuda:99'",
    "prune model.pt --output used": "used in use",
    "prune model.pt --output model.pt": "model.pt in use",
    "prune model.pt --output model.pt/new": "expected a place to write",
    f"prune model.pt --output {'x' * 300}": "too long",
    "prune model.pt --output a/b/new": "found no folder",
    "verify": "DIR|ZIP",
    "verify missing": "expected",
    "verify used": "expected an export folder",
    "verify model.pt": "expected the zip of an export",
    "verify garbage.pt": "expected an export folder or its zip",
    "verify export --source missing.pt": "found no file",
    "verify export --source garbage.pt": "bytes of no known format",
    "verify export --source model.pt": "a source with sha256",
    "measure": "CHECKPOINT|DIR",
    "measure missing.pt": "found no file",
    "measure linear.pt": "expected an LSTM in linear.pt, found none",
    "measure used": "expected an export folder",
    f"measure {'x' * 300}": "too long",
    "examples reber": "found 'reber'",
    "examples embedded-reber": "expected --output FILE",
    "examples --output new": "expected the name of an example",
    "examples embedded-reber --output nowhere/reber.safetensors": "expected a place to write",
}


@pytest.mark.parametrize(("line", "message"), UNUSABLE.items(), ids=[line[:60] or "nothing" for line in UNUSABLE])
def test_unusable_input_is_one_line_on_stderr_and_nothing_is_written(
    workplace: Path, capsys: pytest.CaptureFixture[str], line: str, message: str
) -> None:
    before = hashes_of(workplace)
    capsys.readouterr()
    assert command(line) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("error: ") and output.err.endswith("\n") and output.err.count("\n") == 1
    assert message in output.err
    assert hashes_of(workplace) == before


@pytest.mark.parametrize(
    "line",
    ["prune large.pt --output new", "prune large.safetensors --output new", "masks large.pt --output new"],
)
def test_a_full_disk_is_unusable_too(workplace: Path, capsys: pytest.CaptureFixture[str], line: str) -> None:
    resource = pytest.importorskip("resource", reason="no limits on the size of files here")
    tensors = named(random_lstm(hidden_size=300, input_size=1, num_layers=3, bias=False))
    torch.save(tensors, "large.pt")
    safetensors.torch.save_file(tensors, "large.safetensors")
    before = hashes_of(workplace)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        status = command(line)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert status == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert hashes_of(workplace) == before
