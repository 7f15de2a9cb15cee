"""Run the recipe and compare before and after."""

from functools import partial

import pandas as pd
import streamlit as st

from pruner import examples
from pruner.dashboard import frame, inputs, model, speaking, watching
from pruner.dashboard.computing import begin
from pruner.dashboard.controls import controls
from pruner.dashboard.figures import show_size, show_speed
from pruner.dashboard.gathering import told
from pruner.dashboard.speeds import show_speeds, timed
from pruner.dashboard.text import plain
from pruner.dashboard.tuning import own_sparsities
from pruner.dashboard.verdicts import show_verdict
from pruner.dashboard.words import CRITERION_WORDS
from pruner.dashboard.work import Work, work
from pruner.lstm.measure import SEQUENCE_LENGTH
from pruner.result import MOST_TIMED, Result, available_devices

frame.stand_in_app()

st.title("Run")
checkpoint = model.required_checkpoint()
recipe = controls.recipe()
example = examples.example_of(checkpoint)


def start() -> None:
    """Start a run; everything it needs is bound here, because a worker cannot ask the session."""
    if work.timing:
        work.timing.cancel()
    given, gathered = work.given(checkpoint), inputs.current()
    work.run, work.newest, work.timing = work.begin(partial(given.run, recipe, work.device)), "run", None
    real = gathered.calibration if gathered and gathered.calibration.is_real else None
    work.run_inputs = told(real.source, real.name) if real else None


pruned = ", ".join(plain(lstm.title) for lstm in checkpoint.select(recipe.lstms))
own = own_sparsities(recipe)
what = "of each gate's rows" if recipe.granularity == "rows" else "of the hidden units"
how = CRITERION_WORDS[recipe.criterion] + (f" (seed {recipe.seed})" if recipe.criterion == "random" else "")
everything = "gates and layers" if recipe.granularity == "rows" else "layers"
together = f", all {everything} ranked together" if recipe.allocation == "global" else ""
rounded = f", the kept count rounded up to a multiple of {recipe.round_to}" if recipe.round_to > 1 else ""
compensated = {
    "none": "",
    "fold": " What stays takes over what inputs tell of the rest.",
    "heal": " What stays takes over what inputs tell of the rest, and is then trained to answer as the dense model does.",
}[recipe.compensation]
st.markdown(
    f"Drop **{recipe.sparsity:.0%}** {what} in **{pruned}** by {how}{together}{rounded}"
    + (f", but {', '.join(own)}." if own else ".")
    + compensated
)
ready = inputs.are_there(checkpoint, recipe)
devices = available_devices()
with st.container(horizontal=True, vertical_alignment="bottom"):
    watching.start_button("Run", work.run, start, ready, recipe.compensation == "heal")
    if len(devices) > 1:
        st.segmented_control(
            "Device",
            list(devices),
            format_func=devices.__getitem__,
            key=Work.device.key,
            default=Work.device.first,
            required=True,
        )
if len(devices) == 1:
    st.caption("No CUDA device was found on this machine, so the model runs on the CPU.")
watching.follow(work.run, "run")
result = work.run.status.result if work.run else None
if result is None:
    st.stop()

if result.recipe != recipe:
    st.warning("The settings have changed since this run. Run again to see what they do.", icon=":material/history:")
show_verdict(result.verdict, result.recipe.compensation == "heal")
taken_over = result.recipe.compensation != "none" and result.recipe.granularity == "units"
on_what = work.run_inputs or "random inputs"
with st.grid(4, min_column_width=150):
    show_size(result, "parameters")
    show_speed(result)
    st.metric(
        "Output drift",
        f"{max(drift.relative for drift in result.drift.values()):.1%}",
        help="Root mean square of the change in an LSTM's output, relative to the output itself, on "
        f"{'inputs held back from ' if work.run_inputs else ''}{on_what}. The largest of all LSTMs.",
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

speaking.show(checkpoint, speaking.of_result(result))
FORM_TITLES = ("dense", "masked", "compact")
rows = [
    ("Parameters", *(f"{result.costs[form].parameters:,}" for form in FORM_TITLES)),
    ("Zeros in the LSTMs", *(f"{result.costs[form].zeros:,}" for form in FORM_TITLES)),
    ("Bytes of the file", *(f"{result.costs[form].bytes:,}" for form in FORM_TITLES)),
    ("Multiply-accumulates a step", *(f"{result.costs[form].macs_per_step:,}" for form in FORM_TITLES)),
]
for batch_size, times in (result.latency or {}).items():
    shown = (str(times[form]) for form in FORM_TITLES)
    rows.append((f"Milliseconds, batch {batch_size}", *shown))
if example and result.quality:
    rows.append((example.quality_name.capitalize(), *(f"{result.quality[form]:.4f}" for form in FORM_TITLES)))
st.subheader("Before and after")
st.dataframe(
    pd.DataFrame(rows, columns=["figure", *FORM_TITLES]),
    hide_index=True,
    alt="Parameters, zeros, bytes, multiply-accumulates, time and quality of the dense, the masked and the compact form",
)
times_told = (
    f"Times are for {SEQUENCE_LENGTH} steps of all LSTMs in float32 on "
    f"{'one CPU thread' if result.device == 'cpu' else result.device}: the median of the lowest quarter of their turns, "
    "and where 10 to 90 % of them lie."
    if result.latency
    else f"LSTMs of more than {MOST_TIMED:,} weights are not timed: all forms would lie in memory side by side."
)
st.caption(
    "Masked: of full size with zeros, which are stored and multiplied like any other number. Compact: without them, and "
    f"computing the same. {times_told}"
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
    alt=f"How far the output of each LSTM moved on {on_what}",
)
st.caption(
    f"Output drift on {on_what}{', those that nothing was fitted to' if work.run_inputs else ''}, relative to the output."
    + (" A dropped unit counts as zero here, even where what reads it makes up for it." if taken_over else "")
)


def time_it(made: Result) -> None:
    """Start to time what a run made."""
    work.timing = begin(partial(timed, made, example.quality if example else None))


show_speeds(work.timing, partial(time_it, result), example.quality_name if example else None)
if done := result.compensation.facts.get("lstms"):
    st.subheader("Compensation, step by step")
    st.dataframe(
        pd.DataFrame(
            [
                (entry["name"] or "(root)", step["name"], step["before"], step["after"], step["kept"])
                for entry in done
                for step in entry["steps"]
            ],
            columns=["LSTM", "step", "loss before", "loss after", "kept"],
        ),
        hide_index=True,
        column_config={
            "loss before": st.column_config.NumberColumn(format="%.4f"),
            "loss after": st.column_config.NumberColumn(format="%.4f"),
        },
        alt="Each step of the compensation with its loss on held-back inputs before and after, and whether it was kept",
    )
    loss = "divergence from the dense model, in nats" if result.recipe.task == "softmax" else "relative squared error"
    healed = [step for entry in done for step in entry["steps"] if step["name"] == "heal"]
    st.caption(
        f"Loss on inputs that were held back: {loss}. A step that does not lower it is left out."
        + (
            f" Healed for {sum(step['seconds'] for step in healed):.0f} seconds, "
            f"{sum(step['updates'] for step in healed):,} updates"
            + (", stopped early." if any(step["stopped"] for step in healed) else ".")
            if healed
            else ""
        )
    )
if example and (note := examples.data_note(example)):
    st.caption(note)
with st.container(horizontal=True):
    st.page_link(
        "pages/experiments.py", label="Compare it with all that was tried", icon=":material/stacked_line_chart:"
    )
    st.page_link("pages/export.py", label="Export it", icon=":material/arrow_forward:")
