"""Lesson 4: the pruner, step by step."""

import streamlit as st

from pruner.dashboard import frame, lesson
from pruner.dashboard.session import Session, session
from pruner.lessons import figures as lesson_figures
from pruner.lessons import steps
from pruner.lessons.model import GRAMMAR
from pruner.lessons.steps import STEPS

frame.stand_in_app()


def go(by: int) -> None:
    session.step = STEPS[STEPS.index(session.step) + by]


picture = lesson.begin(steps.LESSON)
with picture:
    side = lesson.choose_weight("ih")
    step = st.segmented_control(
        "Step", STEPS, default=STEPS[0], required=True, key=Session.step.key, bind="query-params", wrap=True
    )
    with st.container(horizontal=True):
        st.button("Back", icon=":material/arrow_back:", on_click=go, args=(-1,), disabled=step == STEPS[0])
        st.button("Next", icon=":material/arrow_forward:", on_click=go, args=(1,), disabled=step == STEPS[-1])
    found = steps.stages(GRAMMAR, side)
    alt = f"{found.tensor} at the step {step}"
    if step == "Packed":
        st.plotly_chart(lesson_figures.packed_rows(found.weight), key="packed_rows", alt=alt)
    elif step == "Split":
        st.plotly_chart(lesson_figures.split_rows(found.weight), key="split_rows", alt=alt)
    elif step == "Norms":
        st.plotly_chart(lesson_figures.norm_bars(found.saliency), key="norms", alt=alt)
    elif step == "Lowest":
        st.caption(":orange[■] The rows that fall.")
        st.plotly_chart(lesson_figures.norm_bars(found.saliency, found.ranks, found.dropped), key="lowest", alt=alt)
    else:
        st.plotly_chart(lesson_figures.mask_grid(found.mask), key="mask", alt=alt)
lesson.finish(steps.LESSON, steps.notice(found, step), (steps.CODE[step],))
