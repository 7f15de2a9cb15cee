"""An export of an example rates itself: example.py ends with the quality that the manifest states, without the pruner."""

import subprocess
import sys
from pathlib import Path

import pytest

from pruner import PrunerError, Recipe, examples, run
from pruner.exports.verify import verify
from tests.helpers.compensated import calibration
from tests.helpers.exports import edit_manifest, read_manifest, rehash
from tests.helpers.files import saved_in
from tests.helpers.models import named, random_lstm

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


def test_verify_rates_the_model_again(tmp_path: Path) -> None:
    folder = exported(tmp_path, TRIMMED, "compact")
    after = read_manifest(folder)["verdict"]["after"]
    told = verify(folder, judge=examples.quality_of)
    assert f"the model is as good as its verdict says when it is rated again (strings wholly right {after:.4f})" in told
    assert not any("quality.py" in sentence for sentence in told)
    edit_manifest(folder, ("verdict", "after"), after + 0.1)
    with pytest.raises(PrunerError, match="expected a model as good as its verdict says"):
        verify(folder, judge=examples.quality_of)


def test_verify_says_that_it_has_no_inputs_to_judge_by(tmp_path: Path) -> None:
    recipe = Recipe(0.5, "units", criterion="activation")
    inputs = calibration("rnn")
    folder = run(saved_in(tmp_path, named(random_lstm(input_size=3), "rnn.")), recipe, calibration=inputs).save(
        tmp_path / "export"
    )
    assert any(sentence.startswith("the verdict is the manifest's own") for sentence in verify(folder))


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
