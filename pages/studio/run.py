"""Run the recipe and compare before and after."""

import pandas as pd
import streamlit as st
import torch

from pruner import examples, run
from pruner.dashboard import state
from pruner.dashboard.jobs import Job
from pruner.dashboard.text import plain
from pruner.measure import SEQUENCE_LENGTH
from pruner.run import Progress, Result, available_devices

st.title("Run")
checkpoint = state.required_checkpoint()
recipe = state.recipe()
example = examples.example_of(checkpoint)
session = st.session_state


def start() -> None:
    """Start a run; everything it needs is bound here, because its thread cannot ask the session."""
    quality = example.quality if example else None
    device = session.device

    def work(progress: Progress) -> Result:
        return run(checkpoint, recipe, device, progress, quality, timed=True)

    session.job = Job(work)


pruned = ", ".join(plain(lstm.title) for lstm in checkpoint.select(recipe.lstms))
own = [f"layer {layer} at {share:.0%}" for layer, share in recipe.layer_sparsity.items()]
own += [f"{block} at {share:.0%}" for block, share in recipe.gate_sparsity.items()]
what = "of each gate's rows" if recipe.granularity == "rows" else "of the hidden units"
how = {"l1": "L1 norm", "l2": "L2 norm", "group": "group norm"}[recipe.criterion]
together = ", all layers ranked together" if recipe.allocation == "global" else ""
rounded = f", the kept count rounded up to a multiple of {recipe.round_to}" if recipe.round_to > 1 else ""
st.markdown(
    f"Drop **{recipe.sparsity:.0%}** {what} in **{pruned}** by {how}{together}{rounded}"
    + (f", but {', '.join(own)}." if own else ".")
)
devices = available_devices()
running = session.job is not None and session.job.status.state == "running"
with st.container(horizontal=True, vertical_alignment="bottom"):
    st.segmented_control(
        "Device", list(devices), format_func=devices.__getitem__, key="device", default="cpu", required=True
    )
    st.button("Run", type="primary", icon=":material/play_arrow:", on_click=start, disabled=running)
    if running:
        st.button("Cancel", icon=":material/stop:", on_click=session.job.cancel)
if len(devices) == 1:
    st.caption("No CUDA device was found on this machine, so the model runs on the CPU.")


@st.fragment(run_every=0.3)
def watch() -> None:
    """Follow the job while it runs, then show the whole page anew."""
    status = session.job.status
    if status.state != "running":
        st.rerun()
    st.progress(status.fraction, status.what)


if running:
    watch()
    st.stop()
if session.job is not None and session.job.status.state == "failed":
    st.error(plain(session.job.status.error), title="The run failed", icon=":material/error:")
if session.job is not None and session.job.status.state == "cancelled":
    st.info("The run was cancelled. Nothing was changed.", icon=":material/stop_circle:")
result = state.result()
if result is None:
    st.stop()

if result.recipe != recipe:
    st.warning("The settings have changed since this run. Run again to see what they do.", icon=":material/history:")
dense, small = result.costs["dense"], result.costs["compact"]
with st.grid(4, min_column_width=150):
    st.metric(
        "Parameters, compact",
        f"{small.parameters:,}",
        f"{small.parameters / dense.parameters - 1:+.0%}",
        delta_color="inverse",
        border=True,
        height="stretch",
    )
    if result.latency:
        fast = result.latency[1]
        st.metric(
            "Speed, compact",
            f"{fast['dense'].median / fast['compact'].median:.1f}×",
            help="Time of the dense LSTMs over that of the compact ones, batch 1",
            border=True,
            height="stretch",
        )
    st.metric(
        "Output drift",
        f"{max(drift.relative for drift in result.drift.values()):.1%}",
        help="Root mean square of the change in an LSTM's output on random inputs, relative to the output itself. The "
        "largest of all LSTMs.",
        border=True,
        height="stretch",
    )
    if example and result.quality:
        before, after = result.quality["dense"], result.quality["masked"]
        st.metric(
            example.quality_name.capitalize(),
            f"{after:.3f}",
            f"{after - before:+.3f}",
            delta_color="normal" if example.higher_is_better else "inverse",
            border=True,
            height="stretch",
        )

FORM_TITLES = ("dense", "masked", "compact")
rows = [
    ("Parameters", *(f"{result.costs[form].parameters:,}" for form in FORM_TITLES)),
    ("Zeros in the LSTMs", *(f"{result.costs[form].zeros:,}" for form in FORM_TITLES)),
    ("Bytes of the file", *(f"{result.costs[form].bytes:,}" for form in FORM_TITLES)),
    ("Multiply-accumulates a step", *(f"{result.costs[form].macs_per_step:,}" for form in FORM_TITLES)),
]
for batch_size, times in (result.latency or {}).items():
    shown = (f"{times[form].median:.2f} ({times[form].low:.2f} to {times[form].high:.2f})" for form in FORM_TITLES)
    rows.append((f"Milliseconds, batch {batch_size}", *shown))
if example and result.quality:
    rows.append((example.quality_name.capitalize(), *(f"{result.quality[form]:.4f}" for form in FORM_TITLES)))
st.subheader("Before and after")
st.dataframe(
    pd.DataFrame(rows, columns=["figure", *FORM_TITLES]),
    hide_index=True,
    alt="Parameters, zeros, bytes, multiply-accumulates, time and quality of the dense, the masked and the compact form",
)
place = "CPU, one thread" if torch.get_num_threads() == 1 else f"CPU, {torch.get_num_threads()} threads"
st.caption(
    f"Masked: of full size with zeros, which are stored and multiplied like any other number. Compact: without them, and "
    f"computing the same. Times are for {SEQUENCE_LENGTH} steps of all LSTMs in float32 on "
    f"{place if result.device == 'cpu' else result.device}: median of paired runs, and where 10 to 90 % of them lie."
)
st.dataframe(
    pd.DataFrame(
        [
            (name or "(root)", drift.relative, drift.max_abs_difference, drift.max_abs_output)
            for name, drift in result.drift.items()
        ],
        columns=["LSTM", "output drift", "largest change", "largest output"],
    ),
    hide_index=True,
    column_config={"output drift": st.column_config.NumberColumn(format="percent")},
    alt="How far the output of each LSTM moved on random inputs",
)
if example and (note := examples.data_note(example)):
    st.caption(note)
st.page_link("pages/studio/export.py", label="Export it", icon=":material/arrow_forward:")
