"""The way in: nine lessons, the terms, and a handout to print."""

import streamlit as st

from pruner.dashboard import frame, lesson
from pruner.lessons import LESSONS
from pruner.lessons.handout import handout

frame.stand_in_app()

st.title("Learn")
st.markdown(
    "Why the packed weights of an LSTM are pruned gate by gate, and what a mask does to a gate: nine lessons, the first "
    "of which shows what an LSTM computes. Every picture is computed while you look, on two small trained models "
    "that ship with the library. Whatever you set is in the address bar, so that a link opens what you see."
)
lesson.show_progress()
with st.grid(2):
    for number, each in enumerate(LESSONS):
        with st.container(border=True, height="stretch"):
            st.markdown(f"**{number}. {each.title}**{' :material/check:' if lesson.answered(each) else ''}")
            st.markdown(each.question)
            st.page_link(lesson.page_of(each), label=f"Lesson {number}", icon=":material/arrow_forward:")
st.download_button(
    "Download the handout",
    data=lambda: lesson.measured(handout),
    file_name="pruning-lessons.html",
    mime="text/html",
    icon=":material/print:",
    on_click="ignore",
    help="One page a lesson, to print. One file, which loads nothing from elsewhere.",
)
st.header("Terms")
lesson.terms()
