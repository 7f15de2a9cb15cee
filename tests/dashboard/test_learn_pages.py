"""The lessons, in process through `app.py`."""

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from pruner.dashboard.lesson import PAGES, page_of
from pruner.lessons import LESSONS, TERMS, Lesson, healing, norms, steps
from pruner.lessons.cell import walk
from pruner.lessons.moment import Moment
from pruner.lessons.together import WAYS, compare
from pruner.progress import Progress
from tests.helpers.pages import (
    LEARN,
    button,
    checked,
    endless,
    failing,
    figure_of,
    go,
    numbers_of,
    press,
    wait,
    work,
)
from tests.helpers.project import PROJECT


def _open(app: AppTest, page: str, **params: str) -> AppTest:
    app.query_params.update(params)
    return go(app.run(), page)


def _answered(app: AppTest) -> AppTest:
    """With the question answered, whatever the answer."""
    app.radio[0].set_value(app.radio[0].options[0])
    return checked(app.run())


def _words(app: AppTest) -> str:
    return "\n".join(element.value for element in (*app.markdown, *app.caption, *app.code))


def test_there_is_a_page_for_every_lesson_and_one_of_the_studio_beside_it() -> None:
    assert [page_of(lesson) for lesson in LESSONS] == [f"pages/{page}.py" for page in LEARN[1:]]
    assert all((PROJECT / page).is_file() for pages in PAGES.values() for page in pages)


def test_the_first_page_lists_lessons_and_terms(app: AppTest) -> None:
    words = _words(_open(app, "learn"))
    for lesson in LESSONS:
        assert f"{lesson.title}**" in words and lesson.question in words
    for term, meaning in TERMS.items():
        assert f"**{term.capitalize()}**" in words and meaning in words


@pytest.mark.parametrize(("page", "lesson"), [*zip(LEARN[1:], LESSONS, strict=True)], ids=LEARN[1:])
def test_a_lesson_is_whole_and_its_question_reacts(app: AppTest, page: str, lesson: Lesson) -> None:
    app = _open(app, page)
    assert app.title[0].value == lesson.title
    assert lesson.introduction in _words(app)
    headings = [heading.value for heading in app.subheader]
    assert headings[0] == "Predict first" and headings[-2:] == ["The answer", "In the library"]
    assert app.get("plotly_chart") or page in ("lesson_cell", "lesson_healing")
    assert app.code[-1].value.startswith("def ")
    assert app.radio[0].value is None and not app.success and not app.warning
    assert not any(line.startswith("- ") for line in _words(app).splitlines())  # no notice tells the answer yet
    assert "0 of 9 lessons answered" in app.get("progress")[-1].proto.text
    for answer in lesson.answers:
        app.radio[0].set_value(answer.text)
        app = checked(app.run())
        told = app.success if answer.right else app.warning
        assert len(told) == 1 and answer.why in told[0].value
        assert len(app.success) + len(app.warning) == 1
        assert any(line.startswith("- ") for line in _words(app).splitlines())
    assert "1 of 9 lessons answered" in app.get("progress")[-1].proto.text


def test_a_link_opens_a_row(app: AppTest) -> None:
    app = _open(app, "lesson_packed", row="101", packed="weight_hh")
    assert app.slider(key="row").value == 101
    assert "gate o of unit 5" not in _words(app) and len(app.get("plotly_chart")) == 1  # which is what to predict
    app = _answered(app)
    assert "Row **101** is **the output gate o of unit 5**." in _words(app)
    assert "lstm.weight_hh_l0" in _words(app)


@pytest.mark.parametrize("row", ["-3", "many", "9999"])
def test_a_row_that_is_not_there_is_harmless(app: AppTest, row: str) -> None:
    assert 0 <= _open(app, "lesson_packed", row=row).slider(key="row").value < 128


def test_numbers_from_a_link_are_added_up(app: AppTest) -> None:
    app = _answered(_open(app, "lesson_saliency", weights=norms.NUMBERS.replace("0.5 -0.25", "2.5 -3.25")))
    assert "The input gate i of unit 0 carries the most weight: 2.5 + 3.25 = 5.75." in _words(app)
    app.text_input(key="weights").set_value("1 2; 3")
    app = checked(app.run())
    assert "found 2 rows" in app.error[0].value


def test_the_slider_changes_what_each_gate_loses(app: AppTest) -> None:
    app = _open(app, "lesson_gates")
    assert not app.metric
    app = _answered(app)
    for share in (0.3, 0.1):
        app.slider(key="share").set_value(round(100 * share))
        app = checked(app.run())
        found = compare(share)
        assert [metric.value for metric in app.metric] == [f"{found.quality[way]:.0%}" for way in WAYS]
        lines = [trace["x"] for trace in figure_of(app)["data"]]
        assert [line[1] for line in lines] == found.kept["blind"]["hh"].tolist()


def test_steps_go_on_and_back(app: AppTest) -> None:
    app = _open(app, "lesson_steps", step="Norms")
    seen = []
    for label in ("Next", "Next", "Back"):
        app = press(app, label)
        seen.append(app.session_state.step)
    assert seen == ["Lowest", "Mask", "Lowest"]
    assert "def row_ranks" in app.code[0].value
    assert {button.label: button.disabled for button in app.button}["Next"] is False


def test_the_first_step_has_no_step_before_it(app: AppTest) -> None:
    app = _open(app, "lesson_steps")
    assert app.session_state.step == steps.STEPS[0]
    assert {button.label: button.disabled for button in app.button}["Back"] is True


def test_masking_a_row_is_seen_in_the_gate_once_it_was_predicted(app: AppTest) -> None:
    app = _open(app, "lesson_frozen", watched="5", gate="o", rows="both")
    assert len(_different(figure_of(app)["data"][1]["y"])) > 1 == len(app.metric)
    app = _answered(app)
    whole, masked = (trace["y"] for trace in figure_of(app)["data"][:2])
    assert len(_different(masked)) == 1 < len(_different(whole))
    assert "output gate of unit 5 reads nothing any more" in _words(app)


def _different(values: Any) -> set[float]:
    """The different values of a trace."""
    return {round(value, 5) for value in numbers_of(values)}


def test_shrinking_and_repairing_follow_their_sliders(app: AppTest) -> None:
    app = _open(app, "lesson_smaller")
    app.slider(key="dropped").set_value(50)
    app = checked(app.run())
    table = app.dataframe[0].value
    assert table["weights"].tolist() == [5248, 5248, 4 * 16 * (7 + 16) + 8 * 16, 4 * 16 * (7 + 16) + 8 * 16]
    app = _answered(_open(app, "lesson_repair"))
    app.slider(key="removed").set_value(20)
    app = checked(app.run())
    assert "With 6 of 32 units gone" in _words(app)
    assert any("Healing" in link.proto.label and "training" in link.proto.label for link in app.get("page_link"))


def test_a_lesson_leads_to_the_same_view_of_the_open_model(app: AppTest) -> None:
    app = _open(app, "lesson_gates")
    assert "See this on your model" not in [link.proto.label for link in app.get("page_link")]
    app = press(app, "Open this model in the studio")
    assert app.session_state.example == "embedded-reber"
    assert "See this on your model" in [link.proto.label for link in app.get("page_link")]
    assert not [button for button in app.button if button.label.startswith("Open")]


def test_a_link_opens_a_step_of_the_cell(app: AppTest) -> None:
    app = _answered(_open(app, "lesson_cell", at="9", frozen="g", removed="2,99"))
    sent = json.loads(app.get("bidi_component")[0].proto.json)
    assert (sent["at"], sent["frozen"], sent["removed"]) == (9, ["g"], [2])
    found = walk(frozen="g", removed=(2,))
    assert sent["values"][8]["shares"] == pytest.approx(found.shares[8].tolist(), abs=1e-6)
    assert f"gate g frozen and unit 2 removed), **{found.quality:.1%}**" in _words(app)


MOMENTS = [Moment(stage, float(at), 2.0 - at / 2, f"text {at}") for at, stage in enumerate(healing.STAGES)]


def _heal(seen: Callable[[Moment], object], progress: Progress) -> list[Moment]:
    for moment in MOMENTS:
        seen(moment)
    return endless(progress)


def _fail(seen: Callable[[Moment], object], progress: Progress) -> list[Moment]:
    return failing(progress)


def test_healing_grows_and_is_shown_moment_by_moment(app: AppTest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(healing, "heal", _heal)
    app = press(_open(app, "lesson_healing"), "Heal")
    for _ in range(600):
        if app.session_state.moments == MOMENTS:
            break
        time.sleep(0.05)
    app = checked(app.run())
    assert [code.value for code in app.code][2].endswith("text 2") and app.get("plotly_chart")
    button(app, "Cancel").click()
    app.run()
    wait(app.session_state.healing)
    app = checked(app.run())
    assert "cancelled" in app.info[0].value
    app.select_slider(key="moment").set_value(1)
    assert [code.value for code in checked(app.run()).code][2].endswith("text 1")
    monkeypatch.setattr(healing, "heal", _fail)
    app = work(app, "Heal", "healing")
    assert "expected" in app.error[0].value and not app.get("plotly_chart")
