"""Run the recipe and compare before and after."""

import pandas as pd
import streamlit as st

from pruner import examples, run
from pruner.dashboard import state
from pruner.dashboard.jobs import Job
from pruner.dashboard.text import plain
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
        return run(checkpoint, recipe, device, progress, quality)

    session.job = Job(work)


pruned = ", ".join(plain(lstm.title) for lstm in checkpoint.select(recipe.lstms))
own = [f"layer {layer} at {share:.0%}" for layer, share in recipe.layer_sparsity.items()]
own += [f"{block} at {share:.0%}" for block, share in recipe.gate_sparsity.items()]
st.markdown(
    f"Mask **{recipe.sparsity:.0%}** of each gate's rows in **{pruned}** by {recipe.criterion.upper()} norm"
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
with st.grid(4, min_column_width=150):
    st.metric(
        "Zeros",
        f"{result.after.zeros / result.after.parameters:.1%}",
        help="Share of all parameters",
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
        before, after = result.quality
        st.metric(
            example.quality_name.capitalize(),
            f"{after:.3f}",
            f"{after - before:+.3f}",
            delta_color="normal" if example.higher_is_better else "inverse",
            border=True,
            height="stretch",
        )
    st.metric(
        "Rows dropped", f"{sum(int((~mask).sum()) for mask in result.masks.values()):,}", border=True, height="stretch"
    )

rows = {
    "Parameters": (result.before.parameters, result.after.parameters),
    "Zeros in the LSTMs": (result.before.zeros, result.after.zeros),
    "Bytes of the file": (result.before.bytes, result.after.bytes),
    "Multiply-accumulates a step": (result.before.macs_per_step, result.after.macs_per_step),
}
st.subheader("Before and after")
st.dataframe(
    pd.DataFrame(
        [(name, f"{before:,}", f"{after:,}") for name, (before, after) in rows.items()]
        + (
            [(example.quality_name, *(f"{value:.4f}" for value in result.quality))]
            if example and result.quality
            else []
        ),
        columns=["figure", "before", "after"],
    ),
    hide_index=True,
    alt="Parameters, zeros, bytes, multiply-accumulates and quality before and after pruning",
)
st.caption(
    "Zeros make a checkpoint neither smaller nor faster: a masked row is still stored and multiplied. They show what the "
    "model would compute without it."
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
