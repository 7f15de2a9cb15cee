"""How much pruning each layer and each gate bears on its own, and which sparsities follow."""

from functools import partial

import pandas as pd
import streamlit as st

from pruner import PrunerError, examples
from pruner.dashboard import explore, frame, inputs, model, watching
from pruner.dashboard.computing import begin
from pruner.dashboard.controls import controls, number_of_layers
from pruner.dashboard.downloads import csv_button, png_button
from pruner.dashboard.text import plain, stop_with
from pruner.dashboard.words import CRITERION_WORDS
from pruner.dashboard.work import Work, work
from pruner.lstm.gates import ALL_BLOCKS
from pruner.search.parts import as_table
from pruner.search.suggest import Suggestion, suggest
from pruner.views import search_figures

frame.stand_in_app()

TARGET_TITLES = {"parameters": "Parameters", "macs": "Multiply-accumulates", "loss": "Loss"}

st.title("Sensitivity")
checkpoint = model.required_checkpoint()
recipe = controls.recipe()
judged = explore.judged_by(examples.example_of(checkpoint), inputs.current())
by_units = recipe.granularity == "units"
part = "layer" if by_units else "gate of each layer"
st.markdown(
    f"Each {part} pruned alone, all else left whole: what bears much may lose much, and what does not should be spared."
)
st.slider(
    "How many sparsities, from 10 to 90 %",
    min_value=2,
    max_value=12,
    key=Work.sensitivity_count.key,
    persist_state="session",
    width=400,
)
parts = number_of_layers(recipe) * (1 if by_units else len(ALL_BLOCKS))
st.caption(
    f"{parts * work.sensitivity_count} models, of {'units' if by_units else 'rows'} by "
    f"{CRITERION_WORDS[recipe.criterion]}, compensation {recipe.compensation}, as set on Masks; rated by "
    f"{judged.name} on all cores of this machine."
)
ready = inputs.are_there(checkpoint, recipe)


def start() -> None:
    """Start to measure; everything it needs is bound here, because a worker cannot ask the session."""
    sparsities = explore.spread(work.sensitivity_count)
    work.sensitivity = begin(partial(explore.measure, checkpoint, recipe, sparsities, inputs.current(), judged))


def use(suggested: Suggestion) -> None:
    """Set the controls to the suggested sparsities."""
    controls.apply(suggested.recipe)


def choose_amount(name: str, dense: float) -> tuple[str, float]:
    """What the suggestion is to reach: (target, amount)."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.segmented_control(
            "Target",
            list(TARGET_TITLES),
            format_func=TARGET_TITLES.__getitem__,
            key=Work.target.key,
            default=Work.target.first,
            required=True,
        )
        if work.target == "loss":
            largest = round(0.1 * abs(dense), 3) or 0.1
            amount = st.number_input(f"Lose at most, {name}", 0.0, value=largest, step=0.01, format="%.3f", width=260)
        else:
            amount = st.slider("Leave at most", 0.05, 1.0, 0.5, 0.01, format="percent", width=320)
    return work.target, amount


with st.container(horizontal=True, vertical_alignment="bottom"):
    watching.start_button("Measure", work.sensitivity, start, ready)
watching.follow(work.sensitivity, "measurement")
found = work.sensitivity.status.result if work.sensitivity else None
if found is None:
    st.stop()
if explore.without_sparsities(found.recipe) != explore.without_sparsities(recipe):
    st.warning(
        "The settings have changed since this was measured. Measure again to see what they do.",
        icon=":material/history:",
    )
sensitivity = found.sensitivity
loss = f"loss of {found.judged.name}" if found.judged.quality else found.judged.name
st.plotly_chart(
    search_figures.sensitivity_heatmap(sensitivity, loss),
    key="heatmap",
    config=png_button("sensitivity"),
    alt=f"Heatmap of the {loss} when each {part} alone is pruned, at several sparsities",
)
lost = {place: sum(sensitivity.losses(place)) for place in sensitivity.values}
worst, mildest = max(lost, key=lost.__getitem__), min(lost, key=lost.__getitem__)


def titled(place: tuple[int, str]) -> str:
    return f"layer {place[0]}" if place[1] == "units" else f"{place[1]} of layer {place[0]}"


st.markdown(
    f"Each cell is the {loss} of the whole model (dense: {sensitivity.dense:.4g}) when that part alone is pruned so "
    "far."
    + (f" Here **{titled(mildest)}** bears the most and **{titled(worst)}** the least." if mildest != worst else "")
)
csv_button(as_table(sensitivity), "sensitivity")

st.subheader("Suggest")
target, amount = choose_amount(found.judged.name, sensitivity.dense)
try:
    suggested = suggest(checkpoint, found.recipe, sensitivity, target, amount)
except PrunerError as error:
    stop_with(error, "This target cannot be reached")
what = "parameters" if target == "parameters" else "multiply-accumulates"
st.markdown(
    f"Leaves **{suggested.share:.0%}** of the LSTMs’ {what}. Predicted {plain(loss)}: **{suggested.predicted_loss:.4g}**, "
    "the sum of what the layers lose alone, which is an estimate."
)
st.dataframe(
    pd.DataFrame(
        {
            "layer": list(suggested.recipe.layer_sparsity),
            "sparsity": list(suggested.recipe.layer_sparsity.values()),
        }
    ),
    hide_index=True,
    width=320,
    column_config={"sparsity": st.column_config.NumberColumn(format="percent")},
    alt="The suggested sparsity of each layer",
)
with st.container(horizontal=True, vertical_alignment="center"):
    st.button("Use these sparsities", icon=":material/check:", type="primary", on_click=use, args=(suggested,))
    st.page_link("pages/masks.py", label="See what falls", icon=":material/arrow_forward:")
if suggested.recipe == recipe:
    st.success("These are the sparsities of your recipe now.", icon=":material/check_circle:")
