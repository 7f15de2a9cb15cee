"""An export of an example rates itself: example.py ends with the quality that the manifest states, without the pruner."""

import subprocess
import sys
from pathlib import Path

import pytest

from pruner import Recipe, examples, run
from pruner.exports.verify import verify
from tests.helpers.exports import read_manifest, rehash

REBER = examples.named("embedded-reber")
TRIMMED = Recipe(0.25, "units", consumers=("linear.weight",))


def exported(folder: Path, recipe: Recipe, form: str, name: str = "embedded-reber") -> Path:
    example = examples.named(name)
    return run(example.open(), recipe, quality=example.quality).save(folder / "export", form)


def last_line(folder: Path) -> str:
    done = subprocess.run([sys.executable, "-I", "example.py"], cwd=folder, env={}, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("recipe", "form", "name"),
    [
        (TRIMMED, "compact", "embedded-reber"),
        (TRIMMED, "masked", "embedded-reber"),
        (Recipe(0.25, "units"), "compact", "embedded-reber"),
        (Recipe(0.25), "compact", "embedded-reber"),
        (TRIMMED, "compact", "pydocs-chars"),
    ],
)
def test_the_last_line_is_what_the_manifest_says(tmp_path: Path, recipe: Recipe, form: str, name: str) -> None:
    folder = exported(tmp_path, recipe, form, name)
    verdict = read_manifest(folder)["verdict"]
    assert verdict["before"] != verdict["after"]
    measure, _, value = last_line(folder).rpartition(" ")
    assert measure == verdict["measure"] and float(value) == pytest.approx(verdict["after"], abs=1e-4)
    assert not any("quality.py" in sentence for sentence in verify(folder, judge=examples.quality_of))


def test_code_of_others_is_told_and_not_run(tmp_path: Path) -> None:
    folder = exported(tmp_path, TRIMMED, "compact")
    assert any(sentence.startswith("quality.py is none that") for sentence in verify(folder))
    (folder / "quality.py").write_text(f"open({str(folder / 'it-ran')!r}, 'w')")
    rehash(folder)
    found = verify(folder, judge=examples.quality_of)
    assert any(sentence.startswith("quality.py is none that") for sentence in found)
    assert not (folder / "it-ran").exists()


def test_a_rate_of_ones_own_stays_at_home(tmp_path: Path) -> None:
    folder = run(REBER.open(), TRIMMED, quality=lambda tensors, lstms: 0.5).save(tmp_path / "export")
    assert not (folder / "quality.py").exists() and "quality" not in (folder / "example.py").read_text()
