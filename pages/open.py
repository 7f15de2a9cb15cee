"""Open a model: an example, an upload, or a path on this machine."""

import json
import sys
from contextlib import suppress

import pandas as pd
import streamlit as st

from pruner import PrunerError, examples
from pruner.dashboard import frame, inputs, link, model
from pruner.dashboard.controls import controls
from pruner.dashboard.scores import all_scores
from pruner.dashboard.session import Session, session
from pruner.dashboard.text import plain
from pruner.files.learned import told_beside
from pruner.files.mapping import parse_mapping

frame.stand_in_app()

HAND = ":material/account_tree:"
LOCAL_FILES = "--local-files" in sys.argv


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


st.title("Open a model")
st.markdown(
    "See which rows of which gate of an LSTM carry weight, mask the others, and export a checkpoint that loads in your "
    "own code."
)

if awaited := link.awaited_file():
    st.info(
        f"This link was made with a checkpoint that stays with its owner: **{plain(awaited)}**. Open that file below, and "
        "the recipe and the view of the link are applied to it.",
        icon=":material/link:",
    )

st.subheader("A trained example")
with st.grid(2):
    for example in examples.EXAMPLES.values():
        with st.container(border=True, height="stretch"):
            st.markdown(f"**{example.title}**")
            st.markdown(example.description)
            st.button(
                "Open",
                key=f"open_{example.name}",
                icon=":material/play_circle:",
                type="primary",
                on_click=open_example,
                args=(example.name,),
                help=f"Quality is measured as {example.quality_name}",
            )

st.subheader("A checkpoint of your own")
st.file_uploader(
    "Drop a checkpoint here: PyTorch (a state dict, a checkpoint around one, a whole module, TorchScript), safetensors, "
    "ONNX, Keras (.h5, .keras), .npz or JSON",
    key=session.model_upload.key,
    on_change=open_upload,
    help="The file stays in the server's memory, for this browser alone, until an hour after its last use. It is read in a "
    "process of its own, and nothing in it is executed.",
)
if LOCAL_FILES:
    with st.form("local", border=False), st.container(horizontal=True, vertical_alignment="bottom"):
        st.text_input("Or a path on this machine", key=Session.path.key, placeholder="/models/encoder.pt")
        st.form_submit_button("Open path", icon=":material/hard_drive:", on_click=open_path)

if session.problem:
    st.error(plain(session.problem), title="This file cannot be opened", icon=":material/error:")

if session.other_file:
    st.warning(plain(session.other_file), icon=":material/link_off:")

checkpoint = session.checkpoint
if checkpoint is None:
    st.stop()

st.subheader(plain(checkpoint.name))
st.caption(f"{checkpoint.format} · {len(checkpoint.tensors)} tensors · {checkpoint.size / 1e6:,.2f} MB")
if checkpoint.lstms:
    facts = pd.DataFrame([lstm.describe() for lstm in checkpoint.lstms])
    facts["name"] = [lstm.title for lstm in checkpoint.lstms]
    facts.columns = [column.replace("_", " ").replace("num ", "") for column in facts.columns]
    st.dataframe(
        facts,
        hide_index=True,
        column_config={"parameters": st.column_config.NumberColumn(format="localized")},
        alt=f"The {'LSTM' if len(facts) == 1 else f'{len(facts)} LSTMs'} found in {checkpoint.name}",
    )
    for lstm in checkpoint.lstms:
        if told := told_beside(checkpoint, lstm):
            st.caption(f"**{plain(lstm.title)}**: {plain(' '.join(told))}")
    with st.container(horizontal=True):
        st.page_link("pages/shrink.py", label="Make it smaller", icon=":material/compress:")
        st.page_link("pages/saliency.py", label="See the saliency of its rows", icon=":material/arrow_forward:")
elif any(skipped.mapping for skipped in checkpoint.skipped):
    st.warning(
        "No LSTM in the layout of `nn.LSTM` was found, but one that somebody wrote by hand, it seems.", icon=HAND
    )
else:
    st.warning(plain(f"No LSTM was found. The file holds {checkpoint.contents()}."), icon=":material/search_off:")
for note in checkpoint.notes:
    st.info(plain(note), icon=":material/info:")
if mapping := next((skipped.mapping for skipped in checkpoint.skipped if skipped.mapping), None):
    with st.form("by_hand"):
        st.markdown(
            "**Written by hand?** Say which tensors are which of an `nn.LSTM`, gates in the order of your code (`g` is the "
            "cell gate). This is a guess from the names: correct it."
        )
        if not session.mapping:
            session.mapping = json.dumps(mapping, indent=2)
        st.text_area("Mapping (JSON)", key=Session.mapping.key, height=260)
        st.form_submit_button("Open with this mapping", icon=HAND, on_click=open_mapped)
if checkpoint.skipped:
    with st.expander(f"Not an LSTM: {len(checkpoint.skipped)}", icon=":material/block:"):
        st.dataframe(
            pd.DataFrame([{"name": skipped.name, "reason": skipped.reason} for skipped in checkpoint.skipped]),
            hide_index=True,
            alt="What looks like an LSTM and is not one, with the reason",
        )
# Scored while one reads what was found, so that the first grids need not wait. Pages tell what cannot be scored.
with suppress(PrunerError):
    all_scores(checkpoint, controls.recipe(), inputs.current())
