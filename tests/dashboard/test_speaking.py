"""The open example speaks, dense and pruned, in process through `app.py`."""

import re

from streamlit.testing.v1 import AppTest

from pruner import Recipe, examples
from pruner.dashboard.gathered import Gathered
from pruner.dashboard.jobs import Job
from pruner.dashboard.judging import SEQUENCES, STEPS
from pruner.dashboard.speaking import MOST_REMEMBERED
from pruner.examples.speaking import PROMPT
from pruner.pipeline import prune
from pruner.progress import silent
from pruner.result import Result
from tests.helpers.files import saved
from tests.helpers.models import named, random_lstm
from tests.helpers.pages import (
    CONSUMERS,
    checked,
    click,
    endless,
    go,
    run_to_the_end,
    set_to,
    slide,
    texts,
    upload,
    wait,
)


def _spoken(app: AppTest) -> AppTest:
    """The page once all are judged and have said what they say."""
    for job in app.session_state.judged.values():
        wait(job)
    app = checked(app.run())
    for job in app.session_state.spoken.values():
        wait(job)
    return checked(app.run())


def _lines(recipe: Recipe, gathered: Gathered | None = None) -> list[str]:
    """What the grammar model says when pruned, as the page shows it without its marks."""
    example = examples.named("embedded-reber")
    inputs = gathered.calibration.sample(SEQUENCES, STEPS) if gathered else None
    pruned = prune(example.open(), recipe, inputs, gathered.statistics if gathered else None)
    return [line.text for line in example.speech.speak(pruned.tensors(), pruned.modules("masked"), "", silent)]


def _shown(app: AppTest) -> list[list[str]]:
    """The strings that the page shows, dense and pruned, without their marks."""
    blocks = [each.value for each in app.markdown if ":material/c" in each.value and "\n" in each.value]
    bare = [re.sub(r":red\[~~\*\*(.)\*\*~~\]", r"\1", block) for block in blocks]
    return [[line.split("]\N{NO-BREAK SPACE}", 1)[1].split(" …")[0] for line in block.split("  \n")] for block in bare]


def test_strings_are_spelled_again_when_the_slider_rests(example: AppTest) -> None:
    example = go(example, "masks")
    for sparsity in (0.3, 0.6):
        example = _spoken(slide(example, overall=sparsity))
        assert _shown(example) == [_lines(Recipe(0.0)), _lines(Recipe(sparsity))]
    assert "**Dense**: 6 of 6 right" in texts(example) and ":red[~~**" in texts(example)
    dense = [key for key in example.session_state.spoken if " dense " in key]
    assert len(dense) == 1 and len(example.session_state.spoken) == 3


def test_a_recipe_speaks_folded_until_it_is_healed(calibrated: AppTest, gathered: Gathered) -> None:
    settings = {"granularity": "units", "criterion": "obs", "sparsity": 0.5}
    calibrated = _spoken(go(set_to(calibrated, **settings, compensation="heal", steps=3), "masks"))
    folded = Recipe(0.5, "units", "obs", compensation="fold", **CONSUMERS)
    assert _shown(calibrated)[1] == _lines(folded, gathered)
    assert "**Pruned and compensated, before healing**" in texts(calibrated)
    calibrated = _spoken(run_to_the_end(calibrated))
    result: Result = calibrated.session_state.run.status.result
    speak = examples.named("embedded-reber").speech.speak
    healed = [line.text for line in speak(result.pruned.tensors(), result.pruned.modules("compact"), "", silent)]
    for page in ("run", "masks"):
        calibrated = _spoken(go(calibrated, page))
        assert _shown(calibrated)[1] == healed and "**Pruned and healed**" in texts(calibrated)


def test_a_prompt_can_be_typed(app: AppTest) -> None:
    app = _spoken(go(click(app.run(), "open_pydocs-chars"), "masks"))
    dense, pruned = (code.value for code in app.code[:2])
    assert dense.startswith(PROMPT) and pruned.startswith(PROMPT) and dense != pruned
    app.text_input(key="prompt").set_value("class ")
    app = _spoken(checked(app.run()))
    assert all(code.value.startswith("class ") and len(code.value) > 100 for code in app.code[:2])


def test_a_model_whose_symbols_nobody_knows_says_nothing(app: AppTest) -> None:
    app = go(upload(app.run(), "own.pt", saved(named(random_lstm()))), "masks")
    assert "The model speaks" not in [heading.value for heading in app.subheader]
    assert app.session_state.spoken == {}


def test_nothing_left_to_compensate_with_is_said(calibrated: AppTest) -> None:
    settings = {"granularity": "units", "criterion": "obs", "compensation": "fold", "sparsity": 1.0}
    calibrated = _spoken(go(set_to(calibrated, **settings), "masks"))
    assert texts(calibrated).replace("\\", "").count("expected units left in every layer") >= 2


def test_few_speeches_are_remembered_and_those_that_are_shown_among_them(example: AppTest) -> None:
    example = _spoken(go(example, "masks"))
    done = next(iter(example.session_state.spoken.values()))
    example.session_state.spoken = {**example.session_state.spoken, **{f"other {n}": done for n in range(20)}}
    example = _spoken(slide(example, overall=0.3))
    assert _shown(example) == [_lines(Recipe(0.0)), _lines(Recipe(0.3))]
    assert len(example.session_state.spoken) == MOST_REMEMBERED + 2


def test_a_slider_that_moves_is_not_spoken_over(example: AppTest) -> None:
    example = _spoken(slide(go(example, "masks"), overall=0.3))
    before = dict(example.session_state.spoken)
    speaking = Job(endless)
    example.session_state.spoken = {**before, "someone": speaking}
    slide(example, overall=0.4)
    assert wait(speaking).status.state == "cancelled"
    assert before.items() <= example.session_state.spoken.items() and "someone" not in example.session_state.spoken
