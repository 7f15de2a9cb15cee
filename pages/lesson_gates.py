"""Lesson 3: why not rank all rows together?"""

import streamlit as st

from pruner.dashboard import frame, lesson
from pruner.lessons import figures as lesson_figures
from pruner.lessons import together
from pruner.lessons.together import SHARES, WAYS

frame.stand_in_app()

picture = lesson.begin(together.LESSON)
with picture:
    with st.container(horizontal=True, vertical_alignment="bottom"):
        share = lesson.choose_share("Sparsity: share of the rows that is dropped", SHARES, together.SHARE, "share")
        side = lesson.choose_weight("hh")
    found = lesson.measured(together.compare, share)
    st.plotly_chart(
        lesson_figures.parts({way: kept[side] for way, kept in found.kept.items()}),
        key="parts",
        alt="Rows left of each gate: equal parts where each gate ranks its own, unequal ones where all are ranked together",
    )
    if lesson.answered(together.LESSON):
        st.caption("Strings wholly right, with the rows ranked per gate or all together:")
        with st.grid(2, min_column_width=220):
            for way, title in WAYS.items():
                st.metric(title.capitalize(), f"{found.quality[way]:.0%}", border=True, height="stretch")
        with st.skeleton(height=260):
            curve = [lesson.measured(together.compare, each) for each in SHARES]
        st.plotly_chart(
            lesson_figures.quality_curves(
                SHARES,
                {title: [each.quality[way] for each in curve] for way, title in WAYS.items()},
                share,
                "share of the rows that is dropped (%)",
            ),
            key="curves",
            alt="Strings predicted wholly right over the share of rows dropped, for the four ways of ranking",
        )
    else:
        st.caption("How many strings each way leaves right shows here when you have predicted it.")
lesson.finish(together.LESSON, together.notice(found, side))
