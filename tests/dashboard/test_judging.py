"""What the previewed recipe is worth on a small held-out sample, in process through `app.py`."""

import pytest
import torch
from streamlit.testing.v1 import AppTest

from pruner import Recipe, examples
from pruner.calibration.calibration import Calibration
from pruner.dashboard.gathered import Gathered
from pruner.dashboard.judging import SEQUENCES, STEPS
from pruner.pipeline import gather_statistics, prune
from tests.helpers.files import saved
from tests.helpers.models import named, random_lstm
from tests.helpers.pages import CONSUMERS, checked, go, metrics, run_to_the_end, set_to, slide, texts, upload, wait


def _judged(app: AppTest) -> AppTest:
    """The page once the recipe that it shows is judged."""
    for job in app.session_state.judged.values():
        wait(job)
    return checked(app.run())


def test_the_preview_is_judged_by_the_quality_on_a_sample(example: AppTest) -> None:
    example = _judged(slide(go(example, "masks"), overall=0.25))
    opened = examples.named("embedded-reber")
    pruned = prune(opened.open(), Recipe(sparsity=0.25))
    quality = opened.sample(pruned.tensors(), pruned.modules("masked"))
    assert metrics(example)["Quality"] == f"{quality:.3f}"
    assert next(each.delta for each in example.metric if each.label == "Quality") == "dense 1.000"
    assert "Strings wholly right, on a small held-out sample" in texts(example)


def test_what_was_judged_before_is_not_judged_again(example: AppTest) -> None:
    example = _judged(go(example, "masks"))
    jobs = list(example.session_state.judged.values())
    example = _judged(slide(example, overall=0.25))
    example = slide(example, overall=0.5)
    assert [job for job in example.session_state.judged.values() if job in jobs] == jobs
    assert len(example.session_state.judged) == 2


def test_a_recipe_is_judged_folded_until_a_run_has_healed_it(calibrated: AppTest, gathered: Gathered) -> None:
    recipe = Recipe(0.25, "units", "obs", compensation="fold", **CONSUMERS)
    settings = {"granularity": "units", "criterion": "obs", "sparsity": 0.25}
    calibrated = set_to(go(calibrated, "masks"), **settings, compensation="heal", steps=3)
    calibrated = _judged(calibrated)
    opened = examples.named("embedded-reber")
    sample = gathered.calibration.sample(SEQUENCES, STEPS)
    pruned = prune(calibrated.session_state.checkpoint, recipe, sample, gathered.statistics)
    folded = opened.sample(pruned.tensors(), pruned.modules("masked"))
    assert metrics(calibrated)["Quality"] == f"{folded:.3f}"
    assert "Before healing" in texts(calibrated)
    calibrated = go(run_to_the_end(calibrated), "masks")
    measured = calibrated.session_state.run.status.result.quality["masked"]
    assert metrics(calibrated)["Quality"] == f"{measured:.3f}"
    assert "measured in full" in texts(calibrated) and "Before healing" not in texts(calibrated)


@pytest.fixture
def own(app: AppTest) -> AppTest:
    """Masks with a model of the visitor's own."""
    return go(upload(app.run(), "own.pt", saved(named(random_lstm()))), "masks")


def test_without_inputs_the_page_says_that_the_worth_is_unknown(own: AppTest) -> None:
    assert metrics(own)["Quality"] == "–"
    assert "Unknown" in texts(own)
    assert "Give inputs to judge by" in [link.label for link in own.get("page_link")]


def test_with_inputs_the_answers_are_judged(own: AppTest) -> None:
    checkpoint, recipe = own.session_state.checkpoint, Recipe(criterion="fisher")
    lstm = checkpoint.lstms[0]
    inputs = torch.randn(30, 20, lstm.input_size, generator=torch.Generator().manual_seed(0))
    calibration = Calibration("file", {lstm.name: [inputs]})
    gathered = Gathered(calibration, gather_statistics(checkpoint, recipe, calibration), recipe)
    own = _judged(set_to(own, gathered=gathered, sparsity=0.0))
    assert metrics(own)["Quality"] == "−0.0%" and "Kept" in texts(own)
    own = _judged(set_to(own, sparsity=0.9))
    assert float(metrics(own)["Quality"].strip("−%")) > 25
    assert "Ruined" in texts(own) and "Answers beside the dense model’s, on a small held-out sample" in texts(own)


def test_nothing_left_to_compensate_with_is_said(calibrated: AppTest) -> None:
    settings = {"granularity": "units", "criterion": "obs", "compensation": "fold"}
    calibrated = _judged(set_to(go(calibrated, "masks"), **settings, sparsity=1.0))
    assert metrics(calibrated)["Quality"] == "–"
    assert "expected units left in every layer" in texts(calibrated).replace("\\", "")
