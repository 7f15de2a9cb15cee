"""The frame of the dashboard: navigation, the open model, and the link to what is shown."""

import streamlit as st

from pruner.dashboard import frame, history, lesson, link, model, remembering, running
from pruner.dashboard.session import session
from pruner.dashboard.text import plain
from pruner.dashboard.work import work
from pruner.lessons import LESSONS

st.set_page_config(page_title="LSTM Saliency Pruner", page_icon=frame.ICON, layout="wide")
frame.settle()
if model.begin():
    taken_over = remembering.take_over(link.named())
    if not taken_over and (example := link.example()):
        model.open_example(example)
    if not taken_over or link.says_else():
        link.read()
page = st.navigation(
    {
        "Studio": [
            st.Page(
                "pages/open.py",
                title="Open",
                icon=":material/folder_open:",
                default=True,
                url_path="",
                help="Open a trained example or a checkpoint of your own, and see the LSTMs in it.",
            ),
            # By its name, too, as every other page: to switch over would take the way back from whoever typed it.
            st.Page("pages/open.py", title="Open", url_path="open", visibility="hidden"),
            st.Page(
                "pages/shrink.py",
                title="Shrink",
                icon=":material/compress:",
                help="Find the smallest model that still answers like the whole one, and take it away.",
            ),
        ],
        "Look": [
            st.Page(
                "pages/overview.py",
                title="Overview",
                icon=":material/view_module:",
                help="Every block of every layer at a glance: its distribution, its median, how much of it is near zero.",
            ),
            st.Page(
                "pages/saliency.py",
                title="Rows",
                icon=":material/grid_on:",
                help="How much weight each row of each gate carries, as heatmaps and as sorted curves.",
            ),
            st.Page(
                "pages/unit.py",
                title="Unit",
                icon=":material/target:",
                help="One hidden unit: what it does while it reads, its rows, its biases, whom it reads and who reads it.",
            ),
            st.Page(
                "pages/weights.py",
                title="Weights",
                icon=":material/blur_on:",
                help="The weights themselves, of any block and of every other tensor of the file.",
            ),
        ],
        "Prune": [
            st.Page(
                "pages/calibrate.py",
                title="Calibrate",
                icon=":material/model_training:",
                help="Give inputs, so that scores and compensation know what the model does with them.",
            ),
            st.Page(
                "pages/masks.py",
                title="Masks",
                icon=":material/tune:",
                help="Tune the sparsity and see which rows fall and what the rest is worth; compare with a pinned recipe.",
            ),
            st.Page("pages/compare.py", title="Compare", visibility="hidden"),
            st.Page(
                "pages/run.py",
                title="Run",
                icon=":material/play_arrow:",
                help="Prune on the CPU or on CUDA and compare size, output and quality before and after.",
            ),
            st.Page(
                "pages/experiments.py",
                title="Experiments",
                icon=":material/stacked_line_chart:",
                help="Try many sizes at once; see all that was tried by size and quality, and what each gate loses alone.",
            ),
            st.Page("pages/sweep.py", title="Sweep", visibility="hidden"),
            st.Page("pages/sensitivity.py", title="Sensitivity", visibility="hidden"),
            st.Page(
                "pages/export.py",
                title="Export",
                icon=":material/download:",
                help="Download the pruned checkpoint, its masks, its manifest and the recipe.",
            ),
        ],
        "Learn": [
            st.Page(
                "pages/learn.py",
                title="Learn",
                icon=":material/school:",
                help="Nine short lessons, from one step of an LSTM to one that heals; the terms, and a handout to print.",
            ),
            *(st.Page(lesson.page_of(each), title=each.title, visibility="hidden") for each in LESSONS),
        ],
    },
    expanded=True,
)
with remembering.shared():
    with st.sidebar:
        running.lines()
        opened = session.checkpoint
        if opened:
            st.caption("Open model")
            st.markdown(f"**{plain(opened.name)}**")
            for lstm in opened.lstms:
                layers = f"{lstm.num_layers} layer{'s' if lstm.num_layers > 1 else ''}"
                st.caption(f"{plain(lstm.title)}: {lstm.input_size} → {lstm.hidden_size}, {layers}, {lstm.dtype}")
        else:
            st.caption("No model is open.")
        remembering.hold_secret()
    work.take_over()
    link.write()
    history.record()
    frame.run(page)
