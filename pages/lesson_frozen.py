"""Lesson 5: a masked row is not a removed unit."""

import streamlit as st

from pruner.dashboard import frame, lesson
from pruner.lessons import figures as lesson_figures
from pruner.lessons import frozen
from pruner.lessons.frozen import ROWS
from pruner.lstm.gates import GATE_TITLES, GATES

frame.stand_in_app()

picture = lesson.begin(frozen.LESSON)
with picture:
    decider, predicted = lesson.measured(frozen.find_decider), lesson.answered(frozen.LESSON)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        unit = st.number_input(
            "Unit", 0, len(decider.quality) - 1, decider.unit, key="watched", bind="query-params", width=120
        )
        gate = st.segmented_control(
            "Gate", GATES, default="f", required=True, key="gate", bind="query-params", wrap=True
        )
        rows = st.segmented_control(
            "Mask its row in",
            list(ROWS),
            default="both",
            required=True,
            key="rows",
            bind="query-params",
            wrap=True,
            disabled=not predicted,
        )
    masked = rows if predicted else "none"
    found = lesson.measured(frozen.watch, decider.text, gate, unit, masked)
    if not predicted:
        st.caption("Rows can be masked when you have predicted what that does; until then this is the whole model.")
    with st.grid(2, min_column_width=220):
        for name in ("whole", "masked") if predicted else ("whole",):
            share = found.shares[name][found.outer]
            st.metric(f"{found.outer} before the end, {name}", f"{share:.0%}", border=True, height="stretch")
    st.caption("Dotted: what the biases of the gate alone give.")
    st.plotly_chart(
        lesson_figures.watched(found),
        key="watched_gate",
        alt=f"The {GATE_TITLES[gate]} gate and the cell state of unit {unit} while the model reads {found.text}, "
        "whole and masked; dotted: what the bias alone gives",
    )
    st.subheader("How this unit was found")
    st.caption(f"Each unit’s forget gate is frozen in turn. Unit {decider.unit} costs the most.")
    st.plotly_chart(
        lesson_figures.quality_by_unit(decider.quality, decider.unit),
        key="deciders",
        alt=f"Strings right with the forget gate of one unit frozen, lowest for unit {decider.unit}",
    )
lesson.finish(frozen.LESSON, frozen.notice(found, masked))
