"""Lesson 1: one tensor, four layers."""

import streamlit as st

from pruner.dashboard import frame, lesson
from pruner.lessons import figures as lesson_figures
from pruner.lessons import packed
from pruner.lessons.model import GRAMMAR, model

frame.stand_in_app()

picture = lesson.begin(packed.LESSON)
example = model(GRAMMAR)
reshaped = packed.reshape(example.lstm.hidden_size)
with picture:
    with st.container(horizontal=True, vertical_alignment="bottom"):
        side = lesson.choose_weight("ih")
        row = st.slider(
            "Row of the packed tensor",
            0,
            reshaped.right.numel() - 1,
            packed.FIRST_ROW,
            key="row",
            bind="query-params",
            width=320,
        )
    predicted = lesson.answered(packed.LESSON)
    if predicted:
        st.markdown(f"Row **{row}** is **{packed.place(row, reshaped.hidden_size)}**.")
    tensor = example.weight(side)
    st.caption(
        f"The {reshaped.right.numel()} rows of {tensor} of a small trained model, stronger colours for larger weights. "
        ":orange[■] Your row."
    )
    st.plotly_chart(
        lesson_figures.packed_rows(example.tensors[tensor], row),
        key="tensor",
        alt=f"All rows of {tensor}, four blocks one above the other, with row {row} framed",
    )
    if predicted:
        st.caption(
            "The same rows taken apart in two ways. The colour is the gate that a row really belongs to; white is yours."
        )
        st.plotly_chart(
            lesson_figures.reshapes(reshaped, row),
            key="reshapes",
            alt="Two grids of gates and units: in the right one each line has one colour, in the wrong one all four are "
            "mixed",
        )
    else:
        st.caption("Which gate and which unit a row belongs to shows here when you have predicted it.")
lesson.finish(packed.LESSON, packed.notice(row, reshaped))
