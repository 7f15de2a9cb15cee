"""The lessons, run in process through `app.py`."""

import base64
import json
from typing import Any

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from pruner.lessons import LESSONS, TERMS, norms, packed, steps
from pruner.lessons.together import compare
from tests.helpers.project import PROJECT

PAGES = {name: f"pages/{name}.py" for name in ("learn", *(lesson.path for lesson in LESSONS))}


@pytest.fixture
def app() -> AppTest:
    return AppTest.from_file(str(PROJECT / "app.py"), default_timeout=120)


def _open(app: AppTest, page: str, **params: str) -> AppTest:
    app.query_params.update(params)
    return _checked(app.run().switch_page(PAGES[page]).run())


def _checked(app: AppTest) -> AppTest:
    assert not app.exception, app.exception[0].stack_trace
    return app


def _words(app: AppTest) -> str:
    return "\n".join(element.value for element in (*app.markdown, *app.caption, *app.code))


def _traces(app: AppTest, chart: int = 0) -> list[dict[str, Any]]:
    return json.loads(app.get("plotly_chart")[chart].proto.spec)["data"]


def test_there_is_a_page_for_every_lesson_and_a_way_to_it() -> None:
    assert set(PAGES) == {"learn", *(lesson.path for lesson in LESSONS)}
    assert all((PROJECT / lesson.studio).is_file() for lesson in LESSONS)


def test_the_first_page_lists_lessons_and_terms(app: AppTest) -> None:
    words = _words(_open(app, "learn"))
    for lesson in LESSONS:
        assert f"{lesson.title}**" in words and lesson.question in words
    for term, meaning in TERMS.items():
        assert f"**{term.capitalize()}**" in words and meaning in words


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.path)
def test_a_lesson_is_whole_and_its_question_reacts(app: AppTest, lesson: packed.Lesson) -> None:
    app = _open(app, lesson.path)
    assert app.title[0].value == lesson.title
    assert lesson.introduction in _words(app)
    assert [heading.value for heading in app.subheader][:2] == ["What to notice", "Check yourself"]
    assert app.get("plotly_chart") and app.code[0].value.startswith("def ")
    assert app.radio[0].value is None and not app.success and not app.warning
    for answer in lesson.answers:
        app.radio[0].set_value(answer.text)
        app = _checked(app.run())
        told = app.success if answer.right else app.warning
        assert len(told) == 1 and answer.why in told[0].value
        assert len(app.success) + len(app.warning) == 1


def test_a_link_opens_a_row(app: AppTest) -> None:
    app = _open(app, "lesson_packed", row="101", packed="weight_hh")
    assert app.slider(key="row").value == 101
    assert "Row **101** is **the output gate o of unit 5**." in _words(app)
    assert "lstm.weight_hh_l0" in _words(app)


@pytest.mark.parametrize("row", ["-3", "many", "9999"])
def test_a_row_that_is_not_there_is_harmless(app: AppTest, row: str) -> None:
    assert 0 <= _open(app, "lesson_packed", row=row).slider(key="row").value < 128


def test_numbers_from_a_link_are_added_up(app: AppTest) -> None:
    app = _open(app, "lesson_saliency", weights=norms.NUMBERS.replace("0.5 -0.25", "2.5 -3.25"))
    assert "The input gate i of unit 0 carries the most weight: 2.5 + 3.25 = 5.75." in _words(app)
    app.text_input(key="weights").set_value("1 2; 3")
    app = _checked(app.run())
    assert "found 2 rows" in app.error[0].value


def test_the_slider_changes_what_each_gate_loses(app: AppTest) -> None:
    app = _open(app, "lesson_gates")
    for share in (0.3, 0.1):
        app.slider(key="share").set_value(round(100 * share))
        app = _checked(app.run())
        found = compare("embedded-reber", share)
        assert [metric.value for metric in app.metric] == [f"{found.quality[way]:.0%}" for way in ("aware", "blind")]
        lines = [trace["x"] for trace in _traces(app)]
        assert [line[1] for line in lines] == found.kept["blind"]["hh"].tolist()


def test_steps_go_on_and_back(app: AppTest) -> None:
    app = _open(app, "lesson_steps", step="Norms")
    seen = []
    for label in ("Next", "Next", "Back"):
        next(button for button in app.button if button.label == label).click()
        app = _checked(app.run())
        seen.append(app.session_state.step)
    assert seen == ["Lowest", "Mask", "Lowest"]
    assert "def row_ranks" in app.code[0].value
    assert {button.label: button.disabled for button in app.button}["Next"] is False


def test_the_first_step_has_no_step_before_it(app: AppTest) -> None:
    app = _open(app, "lesson_steps")
    assert app.session_state.step == steps.STEPS[0]
    assert {button.label: button.disabled for button in app.button}["Back"] is True


def test_masking_a_row_is_seen_in_the_gate(app: AppTest) -> None:
    app = _open(app, "lesson_frozen", watched="5", gate="o", rows="both")
    whole, masked = (trace["y"] for trace in _traces(app)[:2])
    assert len(_numbers(masked)) == 1 < len(_numbers(whole))
    assert "output gate of unit 5 reads nothing any more" in _words(app)


def _numbers(values: Any) -> set[float]:
    """The different values of a trace, decoded where Plotly packed them."""
    if isinstance(values, dict):
        values = np.frombuffer(base64.b64decode(values["bdata"]), dtype=values["dtype"]).tolist()
    return {round(value, 5) for value in values}


def test_shrinking_and_repairing_follow_their_sliders(app: AppTest) -> None:
    app = _open(app, "lesson_smaller")
    app.slider(key="dropped").set_value(50)
    app = _checked(app.run())
    table = app.dataframe[0].value
    assert table["weights"].tolist() == [5248, 5248, 4 * 16 * (7 + 16) + 8 * 16, 4 * 16 * (7 + 16) + 8 * 16]
    app = _open(app, "lesson_repair")
    app.slider(key="removed").set_value(20)
    app = _checked(app.run())
    assert "With 6 of 32 units gone" in _words(app)


def test_a_lesson_leads_to_the_same_view_of_the_open_model(app: AppTest) -> None:
    app = _open(app, "lesson_gates")
    assert "See this on your model" not in [link.proto.label for link in app.get("page_link")]
    next(button for button in app.button if button.label == "Open this model in the studio").click()
    app = _checked(app.run())
    assert app.session_state.example == "embedded-reber"
    assert "See this on your model" in [link.proto.label for link in app.get("page_link")]
    assert not [button for button in app.button if button.label.startswith("Open")]
