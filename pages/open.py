"""The front door: what this is, a grid to play with, the ways in, and what was found in the file that was opened."""

import json
import sys
from contextlib import suppress

import pandas as pd
import streamlit as st

from pruner import PrunerError, Recipe, examples
from pruner.dashboard import declined, frame, grids, inputs, link, model
from pruner.dashboard.controls import controls
from pruner.dashboard.gate_canvas import Look, Sliders
from pruner.dashboard.scores import all_scores, scores
from pruner.dashboard.session import Session, session
from pruner.dashboard.standing import Said, Standing
from pruner.dashboard.text import plain
from pruner.dashboard.view import View
from pruner.files.checkpoint import Checkpoint
from pruner.files.learned import told_beside
from pruner.files.mapping import parse_mapping
from pruner.lstm.gates import GATES, SIDES

frame.stand_in_app()

HAND = ":material/account_tree:"
LOCAL_FILES = "--local-files" in sys.argv
SHOWN_FIRST = "embedded-reber"  # small enough to see every unit
GRIDS, TRIED = "door_grids", Recipe()
DOORS = (
    ("Look inside", ":material/view_module:", "pages/overview.py"),
    ("Make it smaller", ":material/compress:", "pages/shrink.py"),
)


def open_upload() -> None:
    """Open what was just uploaded, and free the upload by giving the uploader a new key."""
    uploaded = session.model_upload.file
    if uploaded is not None:
        try_to_open(uploaded.getvalue(), uploaded.name)
        session.model_upload.let_go()


def open_path() -> None:
    try_to_open(session.path.strip(), None)


def open_mapped() -> None:
    """Open the file that is open once more, with what its owner says of its tensors."""
    opened = session.checkpoint
    if opened is not None:
        try_to_open(bytes(opened.source.data), opened.name, session.mapping)


def try_to_open(source: str | bytes, name: str | None, mapping: str | None = None) -> None:
    session.problem = session.other_file = None
    try:
        model.open_file(source, name, None if mapping is None else parse_mapping(mapping))
    except PrunerError as error:
        session.problem = str(error)
    else:
        session.other_file = link.resume()


def open_example(name: str) -> None:
    session.problem = session.awaited = session.other_file = None
    model.open_example(name)


def say_what_stands_in_the_way() -> None:
    """Why a file was declined, or is not what a link means, and what to type next."""
    if awaited := link.awaited_file():
        st.info(
            f"This link was made with a checkpoint that stays with its owner: **{plain(awaited)}**. Open that file below, "
            "and the recipe and the view of the link are applied to it.",
            icon=":material/link:",
        )
    if session.problem:
        st.error(plain(session.problem), title="This file cannot be opened", icon=":material/error:")
        line, language = declined.to_open_it(session.problem)
        st.caption("In a terminal:" if language == "bash" else "In Python, where the model was made:")
        st.code(line, language=language, wrap_lines=True)
    if session.other_file:
        st.warning(plain(session.other_file), icon=":material/link_off:")


def try_it(shown: Checkpoint) -> None:
    """The grids of the first layer of a model, with a slider that moves them in the browser alone."""
    lstm = shown.lstms[0]
    try:
        scored = scores(shown, lstm, TRIED.criterion)
    except PrunerError as error:
        st.warning(plain(str(error)), icon=":material/error:")
        return
    view, standing = View(lstm, 0, 0, SIDES[0], GATES[0]), Standing(TRIED.sparsity)
    falling = grids.falling_anywhere(view, scored, TRIED, {}, shown.sha256, standing)
    sliders = Sliders(GRIDS, 0, Said(0, standing), "Try it: share of each gate’s rows to drop", heard=False)
    grids.show(GRIDS, grids.drawn(view, scored, TRIED, Look(beside=True), falling), sliders)


def doors(shown: str | None) -> None:
    """The ways on: into the open model, or else into the example that is shown, which they open."""
    with st.container(horizontal=True):
        for label, icon, page in DOORS:
            if st.button(label, icon=icon, type="primary", width="stretch"):
                if shown is not None:
                    open_example(shown)
                st.switch_page(page)
        if st.button("Learn", icon=":material/school:", width="stretch"):
            st.switch_page("pages/learn.py")
    st.caption("The first two go on with the model whose grids are shown. Or open another:")


def offer_examples() -> None:
    for example in examples.EXAMPLES.values():
        with st.container(gap="xsmall"):
            st.button(
                f"Open {example.title}",
                key=f"open_{example.name}",
                icon=":material/play_circle:",
                on_click=open_example,
                args=(example.name,),
                width="stretch",
            )
            st.caption(example.description)


def offer_to_open() -> None:
    st.file_uploader(
        "Or drop a checkpoint of your own here",
        key=session.model_upload.key,
        on_change=open_upload,
        help="PyTorch (a state dict, a checkpoint around one, a whole module, TorchScript), safetensors, ONNX, Keras (.h5, "
        ".keras), .npz or JSON. The file stays in the server's memory, for this browser alone, until an hour after its last "
        "use. It is read in a process of its own, and nothing in it is executed.",
    )
    if LOCAL_FILES:
        with st.form("local", border=False), st.container(horizontal=True, vertical_alignment="bottom"):
            st.text_input("Or a path on this machine", key=Session.path.key, placeholder="/models/encoder.pt")
            st.form_submit_button("Open path", icon=":material/hard_drive:", on_click=open_path)


def say_if_nothing_was_found(opened: Checkpoint) -> None:
    if opened.lstms:
        return
    if any(skipped.mapping for skipped in opened.skipped):
        st.warning(
            "No LSTM in the layout of `nn.LSTM` was found, but one that somebody wrote by hand, it seems: say below which "
            "tensors are which.",
            icon=HAND,
        )
        return
    st.warning(plain(f"No LSTM was found. The file holds {opened.contents()}."), icon=":material/search_off:")
    st.caption("In a terminal, to see all that is in it:")
    st.code(declined.to_see_what_is_in_it(opened.name), language="bash", wrap_lines=True)


def tell(opened: Checkpoint) -> None:
    """What was found in the open file, and what was not."""
    st.subheader(plain(opened.name))
    st.caption(f"{opened.format} · {len(opened.tensors)} tensors · {opened.size / 1e6:,.2f} MB")
    if opened.lstms:
        facts = pd.DataFrame([lstm.describe() for lstm in opened.lstms])
        facts["name"] = [lstm.title for lstm in opened.lstms]
        facts.columns = [column.replace("_", " ").replace("num ", "") for column in facts.columns]
        st.dataframe(
            facts,
            hide_index=True,
            column_config={"parameters": st.column_config.NumberColumn(format="localized")},
            alt=f"The {'LSTM' if len(facts) == 1 else f'{len(facts)} LSTMs'} found in {opened.name}",
        )
    for lstm in opened.lstms:
        if told := told_beside(opened, lstm):
            st.caption(f"**{plain(lstm.title)}**: {plain(' '.join(told))}")
    for note in opened.notes:
        st.info(plain(note), icon=":material/info:")
    if mapping := next((skipped.mapping for skipped in opened.skipped if skipped.mapping), None):
        with st.form("by_hand"):
            st.markdown(
                "**Written by hand?** Say which tensors are which of an `nn.LSTM`, gates in the order of your code (`g` is "
                "the cell gate). This is a guess from the names: correct it."
            )
            if not session.mapping:
                session.mapping = json.dumps(mapping, indent=2)
            st.text_area("Mapping (JSON)", key=Session.mapping.key, height=260)
            st.form_submit_button("Open with this mapping", icon=HAND, on_click=open_mapped)
    if opened.skipped:
        with st.expander(f"Not an LSTM: {len(opened.skipped)}", icon=":material/block:"):
            st.dataframe(
                pd.DataFrame([{"name": skipped.name, "reason": skipped.reason} for skipped in opened.skipped]),
                hide_index=True,
                alt="What looks like an LSTM and is not one, with the reason",
            )


st.title("LSTM Saliency Pruner", anchor=False)
st.markdown(
    "See which rows of which gate of an LSTM carry weight, drop the others, and take away a smaller model that loads in "
    "your own code."
)
say_what_stands_in_the_way()
checkpoint = session.checkpoint
if checkpoint:
    say_if_nothing_was_found(checkpoint)
opened = checkpoint if checkpoint and checkpoint.lstms else None
grid, ways = st.columns([4, 5], gap="medium")
with grid:
    title = plain(opened.name) if opened else examples.named(SHOWN_FIRST).title
    st.caption(f"**{title}**: each cell is a row of a gate. The lightest fall first.")
    try_it(opened or model.example_checkpoint(SHOWN_FIRST))
with ways:
    doors(None if opened else SHOWN_FIRST)
    offer_examples()
    offer_to_open()
if checkpoint:
    tell(checkpoint)
    # Scored while one reads what was found, so that the next page need not wait. Pages tell what cannot be scored.
    with suppress(PrunerError):
        all_scores(checkpoint, controls.recipe(), inputs.current())
