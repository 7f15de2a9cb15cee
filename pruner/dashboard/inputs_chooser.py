"""Where inputs come from: the widgets that choose them, and what they choose, for a thread that cannot ask the session."""

import streamlit as st

from pruner.dashboard import gathering, inputs
from pruner.dashboard.controls import Controls
from pruner.dashboard.gathering import Wanted
from pruner.dashboard.limits import limits
from pruner.dashboard.session import Session, session
from pruner.dashboard.text import plain
from pruner.examples import Example
from pruner.files.checkpoint import Checkpoint
from pruner.recipe import Recipe

SOURCE_TITLES = {
    "example": "The example’s own",
    "file": "A file",
    "sampled": "Sampled from the model",
    "gaussian": "Random numbers",
}
SOURCE_MEANING = {
    "example": "What this model was made for: the best there is.",
    "file": "What your model reads in use: inputs (N, T, I), one sequence (T, I), or token ids (N, T) with an embedding. In "
    "a file of several arrays each is called like its LSTM.",
    "sampled": "Text that the model writes itself, token by token, from its own embedding and output layer.",
    "gaussian": "Not real inputs. They show little of what matters, and can serve the compensation Fold only; with an "
    "embedding they take on its mean and covariance.",
}


def choose_inputs(checkpoint: Checkpoint, to_gather: Recipe, example: Example | None) -> None:
    """The inputs of the LSTMs to prune, the embedding that they go through, who reads the output and what for."""
    lstms = checkpoint.select(to_gather.lstms)
    offered = gathering.sources(checkpoint, lstms, example)
    if session.inputs_from not in offered:
        session.inputs_from = offered[0]
    st.segmented_control(
        "Inputs",
        offered,
        format_func=SOURCE_TITLES.__getitem__,
        key=Session.inputs_from.key,
        required=True,
        persist_state="session",
        wrap=True,
    )
    source = session.inputs_from
    st.caption(SOURCE_MEANING[source])
    if source == "file":
        st.file_uploader(
            "Drop inputs here: a .npy, .npz, .csv, .safetensors or .pt file",
            type=list(gathering.FILE_TYPES),
            key=session.inputs_upload.key,
            max_upload_size=limits().inputs_megabytes,
            help="What the file holds stays in the server's memory, for this browser alone, until an hour after its last "
            "use. Nothing in it is executed.",
        )
        st.toggle(
            "Time comes first: (T, N, …)",
            key=Session.time_major.key,
            persist_state="session",
            help="Arrays of three dimensions are read as (N, T, I): sequences, steps, inputs. A CSV file is not changed.",
        )
    embeddings = gathering.embeddings(checkpoint, lstms)
    if source != "example" and embeddings:
        if session.embedding not in embeddings:
            session.embedding = embeddings[0] if source == "sampled" else None
        st.selectbox(
            "Embedding",
            embeddings,
            format_func=plain,
            key=Session.embedding.key,
            persist_state="session",
            placeholder="None: inputs are numbers, not token ids",
            help="The tensor that turns token ids into inputs: a row a token, as wide as the input of the LSTM.",
        )
    Controls.consumers.draw(to_gather)
    if to_gather.consumers:
        Controls.task.draw(to_gather)
    if len(lstms) < len(checkpoint.lstms):
        st.caption(f"For {', '.join(plain(lstm.title) for lstm in lstms)} only, as chosen on Masks.")


def wanted() -> Wanted:
    """What the widgets say, the uploaded file with it."""
    uploaded = session.inputs_upload.file if session.inputs_from == "file" else None
    before = inputs.present()
    again = before and before.calibration.source == "file" and before.calibration.embedding == session.embedding
    return Wanted(
        session.inputs_from,
        session.embedding,
        session.time_major,
        (uploaded.name, uploaded.getvalue()) if uploaded else None,
        before.calibration if before and again else None,
    )
