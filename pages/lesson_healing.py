"""Lesson 8: ruined text becomes text again."""

from functools import partial

import streamlit as st

from pruner.dashboard import frame, lesson, watching
from pruner.dashboard.jobs import Job
from pruner.dashboard.session import session
from pruner.lessons import figures as lesson_figures
from pruner.lessons import healing
from pruner.lessons.healing import PROMPT, Moment

frame.stand_in_app()


def start() -> None:
    """Heal in a thread of its own, which adds to the moments that the page shows."""
    moments = list[Moment]()
    session.healing, session.moments = Job(partial(healing.heal, moments.append)), moments


def written(title: str, text: str) -> None:
    st.caption(f"**{title}** writes on:")
    st.code(PROMPT + text, language=None, wrap_lines=True, height=150)


def grown(moments: list[Moment], shown: Moment) -> None:
    """The loss so far, and what the model wrote at one of the moments."""
    st.plotly_chart(
        lesson_figures.falling_loss(moments, healing.SECONDS),
        key="falling_loss",
        alt=f"The loss at {len(moments)} moments, from {moments[0].loss:.2f} to {moments[-1].loss:.2f} bits a character",
    )
    written(f"{shown.stage}, after {shown.seconds:.0f} s of learning, loss {shown.loss:.2f}", shown.text)


picture = lesson.begin(healing.LESSON)
with picture:
    job, moments = session.healing, session.moments
    with st.container(horizontal=True):
        watching.start_button("Heal", job, start, heals=True)
    with st.grid(2, min_column_width=220):
        for title, text in lesson.measured(healing.ruined).items():
            with st.container():
                written(title, text)
    if job is not None and job.status.state == "running":
        watching.show(job, lambda: grown(moments, moments[-1]) if moments else None)
    elif job is not None:
        watching.say_end(job, "healing")
    if moments and (job is None or job.status.state != "running"):
        at = st.select_slider(
            "What it wrote, moment by moment",
            range(len(moments)),
            len(moments) - 1,
            format_func=lambda at: f"{moments[at].stage}, {moments[at].seconds:.0f} s",
            key="moment",
        )
        grown(moments, moments[at])
lesson.finish(healing.LESSON, healing.notice(moments))
