"""Download what the last run made."""

import json
from pathlib import Path

import streamlit as st

from pruner import PrunerError
from pruner.compact.masked_and_compact import DEFAULT_FORM
from pruner.dashboard import frame, model
from pruner.dashboard.controls import controls
from pruner.dashboard.downloads import zip_button
from pruner.dashboard.gathering import told
from pruner.dashboard.text import plain, stop_with
from pruner.dashboard.verdicts import show_verdict
from pruner.dashboard.work import Work, work
from pruner.exports.keras.facts import KERAS_FILES
from pruner.exports.lines import QUALITY
from pruner.exports.manifest import EXAMPLE, LOADER, MANIFEST, MASKS, README
from pruner.exports.onnx.facts import FLOAT, INT8
from pruner.exports.onnx.facts import told as told_of_onnx
from pruner.exports.read_me import ways
from pruner.files.learned import without_batch_first

frame.stand_in_app()

BATCH_FIRST_TITLES = {True: "Batches first (N, T, I)", False: "Time steps first (T, N, I)"}
FORM_TITLES = {"masked": "Masked: full size, with zeros", "compact": "Compact: without what was dropped"}
MIME_TYPES = {".json": "application/json", ".py": "text/x-python", ".md": "text/markdown"}
WHAT_IT_IS = {
    MANIFEST: "what was done to what, sizes before and after, hashes and the certificate",
    MASKS: "1 for every kept row, under the names of the source's tensors",
    LOADER: "loads the pruned LSTMs with torch alone",
    README: "what this is and how to load it, in words",
    EXAMPLE: "loads and runs it, with torch alone",
    QUALITY: "how good it is on held-out data, found with torch alone",
    FLOAT: "the pruned LSTMs, or the whole model that came as ONNX, for ONNX Runtime, float32",
    INT8: "the same with int8 weights",
    **dict.fromkeys(KERAS_FILES, "the pruned model, as Keras saves it"),
}

st.title("Export")
checkpoint = model.required_checkpoint()
result = work.result
if result is None:
    st.info(
        "There is nothing to export yet. Let Shrink find the smallest model that is as good, or run the recipe of Masks.",
        icon=":material/download:",
    )
    with st.container(horizontal=True):
        st.page_link("pages/shrink.py", label="Shrink", icon=":material/compress:")
        st.page_link("pages/run.py", label="Run the recipe", icon=":material/play_arrow:")
    st.stop()
if result.recipe != controls.recipe():
    st.warning(
        "The settings have changed since the run. What you download here is the run, not the new settings.",
        icon=":material/history:",
    )
form = st.segmented_control(
    "Form",
    list(FORM_TITLES),
    format_func=FORM_TITLES.__getitem__,
    default=DEFAULT_FORM[result.recipe.granularity],
    required=True,
    key=f"form_{result.recipe.granularity}",
)
if unsaid := without_batch_first(checkpoint, checkpoint.select(result.recipe.lstms)):
    st.segmented_control(
        f"How {', '.join(plain(lstm.title) for lstm in unsaid)} read{'s' if len(unsaid) == 1 else ''} inputs",
        list(BATCH_FIRST_TITLES),
        format_func=BATCH_FIRST_TITLES.__getitem__,
        key=Work.batch_first.key,
        persist_state="session",
        help="The file does not say. What you say here is what the loader of the export goes by; unsaid, it asks.",
    )
onnx = st.toggle(
    "ONNX files, too",
    key="onnx_files",
    persist_state="session",
    help="The LSTMs for ONNX Runtime, in float32 and in int8, each run beside the pruned model. A model that came as ONNX "
    "is written as its whole graph, in float32 always.",
)
try:
    folder = work.exported(result, form, onnx)
except PrunerError as error:
    stop_with(error, "This run cannot be exported")

show_verdict(result.verdict, result.recipe.compensation == "heal")
name = f"{Path(checkpoint.name).stem}-{'pruned' if form == 'masked' else 'compact'}"
manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
certificate = manifest["certificate"]
own = certificate["in_own_dtype"]
st.success(
    f"The written file was read back and computes exactly what was previewed: over {certificate['sequence_length']} random "
    f"steps the largest difference is {certificate['max_abs_difference']:.2g} in float64 (outputs reach "
    f"{certificate['max_abs_output']:.2g}), and {own['max_abs_difference']:.2g} in the model's {own['dtype']}.",
    icon=":material/verified:",
)
if "onnx" in manifest:
    sentences = "\n".join(f"- {plain(sentence)}" for sentence in told_of_onnx(manifest["onnx"]))
    st.info(sentences, icon=":material/deployed_code:")
for note in manifest.get("notes", ()):
    st.info(plain(note), icon=":material/info:")
if fitted := manifest.get("compensation"):
    inputs = fitted["calibration"]
    st.markdown(
        f"Compensated with {told(inputs['source'], inputs['name'])}: {sum(inputs['steps'].values()):,} time steps, "
        f"`{inputs['sha256'][:12]}`. The manifest names them and every step."
    )
with st.container(horizontal=True):
    zip_button(folder, name)
    st.download_button(
        "Download the recipe",
        data=result.recipe.to_json(),
        file_name="recipe.json",
        mime="application/json",
        icon=":material/save:",
        on_click="ignore",
    )
st.subheader("File by file")
for file in sorted(folder.iterdir()):
    with st.container(horizontal=True, vertical_alignment="center"):
        st.download_button(
            file.name,
            data=file.read_bytes,
            file_name=file.name,
            mime=MIME_TYPES.get(file.suffix, "application/octet-stream"),
            icon=":material/download:",
            on_click="ignore",
            key=f"download_{file.name}",
        )
        st.caption(
            f"{file.stat().st_size:,} bytes: {WHAT_IT_IS.get(file.name, 'the pruned checkpoint, under its own names')}"
        )
st.subheader("Use it")
for way in ways(manifest):
    st.caption(way.title)
    st.code(way.code, language="python", wrap_lines=True)
st.caption("The same lines are in README.md.")
st.code(f"python -m pruner verify {name}.zip", language="bash", wrap_lines=True)
