"""Lesson 8: ruined text becomes text again."""

import streamlit as st

from pruner.dashboard import frame, lesson, watching
from pruner.dashboard.computing import begin_seen
from pruner.dashboard.growing import Growing
from pruner.dashboard.work import work
from pruner.examples.speaking import PROMPT
from pruner.lessons import figures as lesson_figures
from pruner.lessons import healing
from pruner.lessons.moment import Moment

frame.stand_in_app()


def start() -> None:
    """Heal in a worker; each moment is added to those that the page shows as it comes."""
    moments = Growing[Moment]()
    work.healing, work.moments = begin_seen(healing.heal, moments.append), moments


def grown(moments: list[Moment], shown: Moment | None) -> None:
    """What the whole, the ruined and the healing model write, and the loss so far."""
    texts = lesson.measured(healing.ruined)
    if shown is not None:
        texts = {**texts, f"{shown.stage}, {shown.seconds:.0f} s, loss {shown.loss:.2f}": shown.text}
    with st.grid(3, min_column_width=220):
        for title, text in texts.items():
            with st.container():
                st.caption(f"**{title}**")
                st.code(PROMPT + text, language=None, wrap_lines=True, height=190)
    if moments:
        st.plotly_chart(
            lesson_figures.falling_loss(moments, healing.SECONDS),
            key="falling_loss",
            alt=f"The loss at {len(moments)} moments, from {moments[0].loss:.2f} to {moments[-1].loss:.2f} bits a character",
        )


def choose(moments: list[Moment]) -> Moment | None:
    """One of the moments of a healing that has ended."""
    if len(moments) < 2:
        return next(iter(moments), None)
    at = st.select_slider(
        "What it wrote, moment by moment",
        range(len(moments)),
        len(moments) - 1,
        format_func=lambda at: f"{moments[at].stage}, {moments[at].seconds:.0f} s",
        key="moment",
    )
    return moments[at]


def growing() -> None:
    moments = list(work.moments)
    grown(moments, moments[-1] if moments else None)


picture = lesson.begin_wide(healing.LESSON)
with picture:
    job = work.healing
    with st.container(horizontal=True):
        watching.start_button("Heal", job, start, heals=True)
    if job is not None and job.status.state == "running":
        watching.show(job, growing)
    else:
        if job is not None:
            watching.say_end(job, "healing")
        grown(work.moments, choose(work.moments))
lesson.finish(healing.LESSON, healing.notice(work.moments))
