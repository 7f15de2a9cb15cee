"""What all pages of lessons share: head, code, check question, and the ways onward.

Lessons put the values of their controls into the link themselves, with `bind="query-params"`; Streamlit drops them when
the page is left.
"""

from collections.abc import Callable, Sequence
from types import FunctionType
from typing import TypeVar

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from pruner.dashboard import model
from pruner.dashboard.session import session
from pruner.lessons import LESSONS, SOURCES, TERMS, Lesson, source_of
from pruner.lstm.gates import SIDES
from pruner.lstm.measure import one_thread

Made = TypeVar("Made")
ANSWER = "the-answer"  # where the link to it leads
PAGES = {  # of each lesson by its name, and the pages that show the same on any model
    "cell": ("pages/lesson_cell.py", "pages/unit.py"),
    "packed": ("pages/lesson_packed.py", "pages/weights.py"),
    "norms": ("pages/lesson_saliency.py", "pages/saliency.py"),
    "together": ("pages/lesson_gates.py", "pages/masks.py"),
    "steps": ("pages/lesson_steps.py", "pages/masks.py"),
    "frozen": ("pages/lesson_frozen.py", "pages/unit.py"),
    "smaller": ("pages/lesson_smaller.py", "pages/run.py"),
    "repair": ("pages/lesson_repair.py", "pages/calibrate.py"),
    "healing": ("pages/lesson_healing.py", "pages/shrink.py"),
}


def _named(work: Callable[..., object]) -> str:
    return f"{work.__module__}.{work.__qualname__}"


@st.cache_resource(max_entries=500, show_spinner="Measuring", hash_funcs={FunctionType: _named})
def measured(work: Callable[..., Made], *arguments: str | float | tuple[int, ...]) -> Made:
    """What a function of a lesson gives, computed once a server: it depends on nothing but its arguments."""
    with one_thread():
        return work(*arguments)


def page_of(lesson: Lesson) -> str:
    return PAGES[lesson.name][0]


def begin(lesson: Lesson) -> DeltaGenerator:
    """Title, question and introduction, then what to predict; returns the place of the picture beside it, or on a narrow
    screen below it, so that nobody sees first what is to be predicted."""
    _open(lesson)
    words, picture = st.columns([2, 3], gap="large")
    with words:
        _ask(lesson)
    return picture


def begin_wide(lesson: Lesson) -> DeltaGenerator:
    """The same with the picture as wide as the page, below what to predict."""
    _open(lesson)
    _ask(lesson, beside=True)
    return st.container()


def answered(lesson: Lesson) -> bool:
    """Whether the reader has said what they expect, so that the answer may show."""
    return session.answer(lesson.name) is not None


def show_progress() -> None:
    """How many lessons are answered."""
    count = sum(map(answered, LESSONS))
    st.progress(count / len(LESSONS), f"{count} of {len(LESSONS)} lessons answered")


def choose_weight(first: str) -> str:
    """Which of the two packed weights is shown: "ih" or "hh"."""
    weights = [f"weight_{side}" for side in SIDES]
    chosen = st.segmented_control(
        "Packed weight", weights, default=f"weight_{first}", required=True, key="packed", bind="query-params"
    )
    return SIDES[weights.index(chosen)]


def choose_share(label: str, shares: Sequence[float], first: float, key: str) -> float:
    """A share among some that are evenly apart; in the link, in per cent."""
    low, high, step = (round(100 * each) for each in (shares[0], shares[-1], shares[1] - shares[0]))
    return (
        st.slider(label, low, high, round(100 * first), step, format="%d %%", key=key, bind="query-params", width=320)
        / 100
    )


def finish(lesson: Lesson, notices: list[str], code: tuple[Callable[..., object], ...] = ()) -> None:
    """Below the picture: the answer with what to notice, once the reader has predicted it, the code (of one step, where that
    is given), the sources and the ways onward."""
    st.subheader("The answer", anchor=ANSWER)
    if answered(lesson):
        _answer(lesson)
        st.markdown("\n".join(f"- {notice}" for notice in notices))
    else:
        st.caption("It shows here when you have predicted it above.")
    st.subheader("In the library")
    st.code("\n\n".join(map(source_of, code or lesson.code)), language="python", wrap_lines=True)
    cited = "; ".join(f"[{SOURCES[key][0]}]({SOURCES[key][1]})" for key in lesson.sources)
    st.caption(f"Sources: {cited}.")
    if lesson.terms:
        st.caption("Terms of this lesson: " + ", ".join(f"**{term}**" for term in lesson.terms) + ".")
    show_progress()
    _onward(lesson)


def _open(lesson: Lesson) -> None:
    st.title(lesson.title)
    st.caption(f"Lesson {LESSONS.index(lesson)} of {len(LESSONS) - 1}")
    st.markdown(f"**{lesson.question}** {lesson.introduction}")


def _ask(lesson: Lesson, beside: bool = False) -> None:
    st.subheader("Predict first")
    texts = [answer.text for answer in lesson.answers]
    st.radio(lesson.check, texts, index=None, key=f"answer_{lesson.name}", persist_state="session", horizontal=beside)
    if answered(lesson):
        st.markdown(f"Try it in the picture, then see [the answer](#{ANSWER}) below.")


def _answer(lesson: Lesson) -> None:
    chosen = next(answer for answer in lesson.answers if answer.text == session.answer(lesson.name))
    if chosen.right:
        st.success(f"Right. {chosen.why}", icon=":material/check_circle:")
    else:
        st.warning(f"Not quite. {chosen.why}", icon=":material/lightbulb:")


def _onward(lesson: Lesson) -> None:
    number = LESSONS.index(lesson)
    with st.container(horizontal=True, vertical_alignment="center"):
        if number:
            before = LESSONS[number - 1]
            st.page_link(page_of(before), label=f"Back: {before.title}", icon=":material/arrow_back:")
        if number + 1 < len(LESSONS):
            after = LESSONS[number + 1]
            st.page_link(page_of(after), label=f"Next: {after.title}", icon=":material/arrow_forward:")
        st.page_link("pages/learn.py", label="All lessons and terms", icon=":material/school:")
        if session.checkpoint is not None:
            st.page_link(PAGES[lesson.name][1], label="See this on your model", icon=":material/open_in_new:")
        else:
            # Opened in a callback: a page whose controls are bound to the link cannot switch to another page itself.
            st.button(
                "Open this model in the studio",
                icon=":material/folder_open:",
                on_click=model.open_example,
                args=(lesson.example,),
            )


def terms() -> None:
    """Every term with its explanation and the lesson that explains it."""
    explained = {term: lesson for lesson in LESSONS for term in lesson.terms}
    for term, meaning in TERMS.items():
        st.markdown(f"**{term.capitalize()}** (lesson {LESSONS.index(explained[term])}). {meaning}")
