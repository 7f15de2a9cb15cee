"""Commands run as a person would type them."""

import shlex

import pytest

from pruner import Recipe
from pruner.cli.main import main

# One recipe, and the options that say the same.
RECIPE = Recipe(
    0.25, criterion="l2", lstms=("encoder",), layer_sparsity={1: 0.75}, gate_sparsity={"hf": 0.5, "ig": 1.0}
)
OPTIONS = (
    "--sparsity 0.25 --granularity rows --criterion l2 --lstm encoder "
    "--layer-sparsity 1=0.75 --gate-sparsity hf=0.5 --gate-sparsity ig=1"
)


def command(line: str) -> int:
    """The exit code of one command."""
    return main(shlex.split(line))


def printed(capsys: pytest.CaptureFixture[str], line: str) -> str:
    """The standard output of a command that succeeds without a word on stderr."""
    capsys.readouterr()
    assert command(line) == 0
    output = capsys.readouterr()
    assert output.err == ""
    return output.out
