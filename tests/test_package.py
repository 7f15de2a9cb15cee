"""The package as `pip install .` makes it: complete, with its command, and usable from an empty folder."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.helpers.project import PROJECT


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's contents, unpacked where nothing of the project lies."""
    folder = tmp_path_factory.mktemp("wheel")
    options = ["--no-deps", "--no-build-isolation", "--quiet", "--disable-pip-version-check", "--wheel-dir", folder]
    # Built from a copy: a build leaves files where it runs.
    source = tmp_path_factory.mktemp("source")
    files = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=PROJECT, capture_output=True, text=True
    )
    for name in files.stdout.splitlines():
        if name.startswith(("pruner/", "pyproject.toml", "README.md", "LICENSE")) and (PROJECT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((PROJECT / name).read_bytes())
    subprocess.run([sys.executable, "-m", "pip", "wheel", source, *options], check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def run(installed: Path, place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = "import sys; sys.argv[0] = 'lstm-pruner'; from pruner.cli.main import run; run()"
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=place,
        env={"PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )


def test_the_command_prunes_and_verifies_an_example_from_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    for command in (
        "examples embedded-reber --output e.safetensors",
        "prune e.safetensors --granularity units --criterion l1 --output out",
        "verify out --source e.safetensors",
    ):
        done = run(installed, tmp_path, *command.split())
        assert (done.returncode, done.stderr) == (0, ""), command
    assert "the certificate holds" in done.stdout


def test_the_command_calls_itself_by_its_own_name(installed: Path, tmp_path: Path) -> None:
    done = run(installed, tmp_path, "prune")
    assert done.returncode == 2 and "see lstm-pruner prune --help" in done.stderr


def test_the_package_names_its_command_and_holds_its_data(installed: Path) -> None:
    (entry_points,) = installed.glob("*.dist-info/entry_points.txt")
    assert "lstm-pruner = pruner.cli.main:run" in entry_points.read_text()
    assert (installed / "pruner/examples/pydocs_chars.safetensors").exists()
    assert (installed / "pruner/dashboard/gate_canvas.js").exists()
    assert not list(installed.glob("tests*")) and not list(installed.glob("pages*"))
