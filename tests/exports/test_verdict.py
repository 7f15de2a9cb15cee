"""Verdicts: one word for what a pruned model is worth, by the best measure there is."""

import pytest

from pruner import Recipe, examples, run
from pruner.exports.verdict import RUINED, by_answers, by_quality, unknown


@pytest.mark.parametrize(
    ("higher_is_better", "before", "after", "loss", "word"),
    [
        (False, 1.0, 0.9, 0.0, "kept"),
        (False, 1.0, 1.029, 0.029, "kept"),
        (False, 2.0, 2.2, 0.1, "worse"),
        (False, 2.0, 2.6, 0.3, "ruined"),
        (True, 0.8, 0.9, 0.0, "kept"),
        (True, 0.8, 0.7, 0.125, "worse"),
        (True, 1.0, 0.0, 1.0, "ruined"),
        (True, -4.0, -5.2, 0.3, "ruined"),
        (False, 0.0, 0.2, 0.2, "worse"),
    ],
)
def test_a_word_follows_from_the_share_that_is_lost(
    higher_is_better: bool, before: float, after: float, loss: float, word: str
) -> None:
    found = by_quality("cross-entropy", higher_is_better, before, after)
    assert found.loss == pytest.approx(loss)
    assert found.word == word
    assert f"{before:.4g} before, {after:.4g} after" in found.sentence
    assert ("heal it" in found.sentence) == (word in ("worse", "ruined"))


def test_answers_are_judged_by_how_far_they_are_from_the_dense_ones() -> None:
    assert by_answers(RUINED, True).word == "worse"
    assert by_answers(RUINED * 2, False).word == "ruined"
    assert "divergence" in by_answers(0.1, True).sentence
    assert "squared error" in by_answers(0.1, False).sentence


def test_without_inputs_nobody_can_tell() -> None:
    found = unknown(0.25)
    assert (found.word, found.loss) == ("unknown", None)
    assert "random inputs 0.250" in found.sentence


def test_a_run_is_judged_by_the_best_that_it_was_given() -> None:
    example = examples.named("embedded-reber")
    checkpoint, recipe = example.open(), Recipe(0.5, granularity="units")
    assert run(checkpoint, recipe).verdict.word == "unknown"
    rated = run(checkpoint, recipe, quality=example.quality).verdict
    assert (rated.measure, rated.before, rated.word) == (example.quality_name, 1.0, "ruined")
    folded = example.complete(Recipe(0.1, granularity="units", criterion="obs", compensation="fold"))
    answered = run(checkpoint, folded, calibration=example.calibration(checkpoint)).verdict
    assert answered.measure.startswith("divergence")
    assert answered.loss is not None and answered.loss < RUINED
