"""Lesson 7: what can be repaired."""

import streamlit as st

from pruner.dashboard import frame, lesson
from pruner.lessons import figures as lesson_figures
from pruner.lessons import repair
from pruner.lessons.repair import SHARES

frame.stand_in_app()

picture = lesson.begin(repair.LESSON)
with picture:
    share = lesson.choose_share("Share of the hidden units that is removed", SHARES, repair.SHARE, "removed")
    found = lesson.measured(repair.repair, share)
    titles = {"none": "nothing done", "fold": "compensated"}
    with st.grid(2, min_column_width=220):
        for way, title in titles.items():
            st.metric(f"Strings right, {title}", f"{found.quality[way]:.1%}", border=True, height="stretch")
    with st.grid(2, min_column_width=220):
        st.plotly_chart(
            lesson_figures.correlations(found),
            key="correlations",
            alt="How closely every pair of hidden units goes together, the removed ones first",
        )
        st.plotly_chart(
            lesson_figures.explained_bars(found),
            key="explained",
            alt="Of each removed unit, the share of its variance that the kept units tell",
        )
    with st.skeleton(height=260):
        curve = [lesson.measured(repair.repair, each) for each in SHARES]
    st.plotly_chart(
        lesson_figures.quality_curves(
            SHARES,
            {title: [each.quality[way] for each in curve] for way, title in titles.items()},
            share,
            "share of the units that is removed (%)",
        ),
        key="curves",
        alt="Strings predicted wholly right over the share of units removed, with and without compensation",
    )
    st.page_link(
        "pages/lesson_healing.py",
        label="See what training adds: Healing",
        icon=":material/healing:",
    )
lesson.finish(repair.LESSON, repair.notice(found))
