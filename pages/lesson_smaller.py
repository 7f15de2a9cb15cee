"""Lesson 6: from mask to smaller model."""

import pandas as pd
import streamlit as st

from pruner.dashboard import frame, lesson
from pruner.lessons import smaller
from pruner.lessons.smaller import SHARES, WAYS
from pruner.views import row_figures

frame.stand_in_app()

picture = lesson.begin(smaller.LESSON)
with picture:
    share = lesson.choose_share("Sparsity: share of rows or units that is dropped", SHARES, smaller.SHARE, "dropped")
    found = lesson.measured(smaller.shrink, share)
    st.caption("Every hidden unit of the grammar model: do the eight blocks agree to keep it or to drop it?")
    st.plotly_chart(
        row_figures.agreement_grid(found.agreement),
        key="agreement",
        alt=f"Every hidden unit: {found.removable} dropped by all eight blocks, the rest kept by some or by all",
    )
    times = lesson.measured(smaller.speed, share)
    st.dataframe(
        pd.DataFrame(
            {
                "model": list(WAYS.values()),
                "strings right": [found.quality[way] for way in WAYS],
                "weights": [found.parameters[way] for way in WAYS],
                "larger model, ms": [times[way] for way in WAYS],
            }
        ),
        hide_index=True,
        column_config={
            "strings right": st.column_config.NumberColumn(format="percent"),
            "larger model, ms": st.column_config.NumberColumn(format="%.2f"),
        },
        alt="Quality, number of weights and time of the model as trained, with rows masked, glued, and without units",
    )
    st.caption(smaller.SPEED_CAPTION)
lesson.finish(smaller.LESSON, smaller.notice(found, share))
