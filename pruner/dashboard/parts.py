"""How much each layer and each gate loses when it alone is pruned, and the sparsities that follow from it."""

import pandas as pd
import streamlit as st

from pruner.dashboard.controls import controls, number_of_layers
from pruner.dashboard.downloads import csv_button, png_button
from pruner.dashboard.explore import without_sparsities
from pruner.dashboard.given import Measured
from pruner.dashboard.session import Session, session
from pruner.dashboard.text import plain, stop_with
from pruner.dashboard.words import way_of
from pruner.errors import PrunerError
from pruner.files.checkpoint import Checkpoint
from pruner.lstm.gates import ALL_BLOCKS
from pruner.recipe import Recipe
from pruner.search.parts import UNITS, as_table
from pruner.search.suggest import suggest
from pruner.search.worth import Measure
from pruner.views import search_figures

TARGET_TITLES = {"parameters": "Parameters", "macs": "Multiply-accumulates", "loss": "Loss"}


def choose(recipe: Recipe, measure: Measure) -> None:
    """At how many sparsities the parts of a recipe are pruned."""
    st.slider(
        "How many sparsities, from 10 to 90 %",
        min_value=2,
        max_value=12,
        key=Session.sensitivity_count.key,
        persist_state="session",
    )
    count = number_of_layers(recipe) * (1 if recipe.granularity == "units" else len(ALL_BLOCKS))
    st.caption(
        f"{count * session.sensitivity_count} models of {way_of(recipe)}, as set on Masks, rated by {measure.name} on all "
        "cores of this machine."
    )


def show(checkpoint: Checkpoint, found: Measured | None, recipe: Recipe) -> None:
    """What was found beside the present recipe, and what follows from it."""
    if found is None:
        st.markdown(
            f"**Measure** prunes each {_part(recipe)} alone and leaves all else whole. What loses little may drop much; "
            "what loses much should be spared."
        )
        return
    if without_sparsities(found.recipe) != without_sparsities(recipe):
        st.warning(
            "The settings have changed since this was measured. Measure again to see what they do.",
            icon=":material/history:",
        )
    _draw(found)
    _suggest(checkpoint, found)


def _part(recipe: Recipe) -> str:
    return "layer" if recipe.granularity == "units" else "gate of each layer"


def _draw(found: Measured) -> None:
    sensitivity, loss = found.sensitivity, found.loss
    st.plotly_chart(
        search_figures.sensitivity_heatmap(sensitivity, loss),
        key="heatmap",
        config=png_button("sensitivity"),
        alt=f"Heatmap of the {loss} when each {_part(found.recipe)} alone is pruned, at several sparsities",
    )
    lost = {place: sum(sensitivity.losses(place)) for place in sensitivity.values}
    most, least = max(lost, key=lost.__getitem__), min(lost, key=lost.__getitem__)
    st.markdown(
        f"Each cell is the {plain(loss)} of the whole model (dense: {sensitivity.dense:.4g}) when that part alone is pruned "
        f"so far ({plain(way_of(found.recipe))})."
        + (f" Here **{_titled(least)}** loses least and **{_titled(most)}** most." if most != least else "")
    )
    csv_button(as_table(sensitivity), "sensitivity")


def _titled(place: tuple[int, str]) -> str:
    return f"layer {place[0]}" if place[1] == UNITS else f"{place[1]} of layer {place[0]}"


def _suggest(checkpoint: Checkpoint, found: Measured) -> None:
    """The sparsities of least loss that reach a target, and the way to them."""
    st.subheader("Sparsities that follow")
    target, amount = _choose_amount(found)
    try:
        suggested = suggest(checkpoint, found.recipe, found.sensitivity, target, amount)
    except PrunerError as error:
        stop_with(error, "This target cannot be reached")
    what = "parameters" if target == "parameters" else "multiply-accumulates"
    st.markdown(
        f"Leaves **{suggested.share:.0%}** of the LSTMs’ {what}. Predicted {plain(found.loss)}: "
        f"**{suggested.predicted_loss:.4g}**, the sum of what the layers lose alone, which is an estimate."
    )
    shares = suggested.recipe.layer_sparsity
    st.dataframe(
        pd.DataFrame({"layer": list(shares), "sparsity": list(shares.values())}),
        hide_index=True,
        width=320,
        column_config={"sparsity": st.column_config.NumberColumn(format="percent")},
        alt="The suggested sparsity of each layer",
    )
    if st.button("Use these sparsities", icon=":material/check:", type="primary"):
        controls.apply(suggested.recipe)
        st.switch_page("pages/masks.py")


def _choose_amount(found: Measured) -> tuple[str, float]:
    """What the suggestion is to reach: (target, amount)."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.segmented_control(
            "Target",
            list(TARGET_TITLES),
            format_func=TARGET_TITLES.__getitem__,
            key=Session.target.key,
            default=Session.target.first,
            required=True,
        )
        if session.target == "loss":
            name, largest = found.measure.name, round(0.1 * abs(found.sensitivity.dense), 3) or 0.1
            amount = st.number_input(f"Lose at most, {name}", 0.0, value=largest, step=0.01, format="%.3f", width=260)
        else:
            amount = st.slider("Leave at most", 0.05, 1.0, 0.5, 0.01, format="percent", width=320)
    return session.target, amount
