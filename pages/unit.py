"""One hidden unit: what it does over time, its rows, its biases and its neighbours."""

import math

import pandas as pd
import streamlit as st

from pruner import PrunerError
from pruner.dashboard import frame, inputs, model, reading
from pruner.dashboard.controls import controls
from pruner.dashboard.downloads import csv_button, png_button
from pruner.dashboard.finding import show_finder
from pruner.dashboard.neighbours import STRONGEST, show_consumers, show_neighbours
from pruner.dashboard.scores import scores
from pruner.dashboard.session import Session, session
from pruner.dashboard.text import plain, stop_with
from pruner.dashboard.unit_over_time import show_over_time
from pruner.dashboard.view import choose_shown, scale
from pruner.dashboard.words import CRITERION_WORDS, measure_of_rows
from pruner.files.consumer_choice import consumers_of
from pruner.lstm.gates import ALL_BLOCKS
from pruner.views import unit_facts, unit_figures

frame.stand_in_app()

st.title("Unit")
checkpoint = model.required_checkpoint()
view = choose_shown(checkpoint)
lstm, layer, direction = view.lstm, view.layer, view.direction
recipe = controls.recipe()
gathered = inputs.required(checkpoint, recipe)
try:
    consumers = tuple(consumers_of(checkpoint, recipe).get(lstm.name, ()))
    scored = scores(checkpoint, lstm, recipe.criterion, consumers, recipe.seed, gathered)
except PrunerError as error:
    stop_with(error, "This model cannot be scored")
pruned = lstm in checkpoint.select(recipe.lstms)
masks = scored.masks(lstm, recipe) if pruned else {}
norm = measure_of_rows(recipe.criterion)


def choose(unit: int | None) -> None:
    session.unit = unit


def choose_from_table() -> None:
    """Select the unit whose button was clicked."""
    session.unit = session.clicked_line("choose_unit")
    session.listing = False  # which shows the unit


def to_weights() -> None:
    session.window_row = session.unit
    st.switch_page("pages/weights.py")


def show_table() -> None:
    """Every unit of the layer, each with a button that selects it."""
    units = unit_facts.unit_table(lstm, layer, direction, scored, masks)
    st.dataframe(
        units.assign(select=":material/target:"),
        hide_index=True,
        column_order=["select", *units.columns],
        column_config={
            "select": st.column_config.ButtonColumn(
                "", width=50, pinned=True, type="tertiary", on_click=choose_from_table, key="choose_unit"
            ),
            "unit": st.column_config.NumberColumn(pinned=True),
            "score": st.column_config.NumberColumn(CRITERION_WORDS[recipe.criterion], format="%.4g"),
            "rank": st.column_config.NumberColumn("rank from the top"),
            "blocks that keep it": st.column_config.ProgressColumn(format="%d", min_value=0, max_value=len(ALL_BLOCKS)),
        },
        alt="Every hidden unit of the layer with its score, its rank and which of the eight blocks keep its row",
    )
    csv_button(units, "units")


alphabet = reading.alphabet_of(checkpoint, lstm)
show_finder(checkpoint, view, alphabet, reading.example_inputs(checkpoint, lstm, alphabet, inputs.current()))
unit = session.unit
words = CRITERION_WORDS[recipe.criterion]
if unit is None:
    st.info(
        "Find a unit by what it does, type its number, or select it in the table. It stays selected on every page until you "
        "clear it.",
        icon=":material/target:",
    )
    show_table()
    st.stop()
with st.bottom, st.container(horizontal=True, vertical_alignment="center"):
    st.markdown(
        f"**Unit {unit}** of {plain(lstm.title)}, layer {layer}{', ' + session.direction if lstm.bidirectional else ''}"
    )
    st.button("Clear selection", icon=":material/close:", on_click=choose, args=(None,))

with st.expander("All units", icon=":material/table_rows:", key=Session.listing.key, on_change="rerun"):
    show_table()

st.subheader("Over time")
show_over_time(checkpoint, view, unit, recipe, masks, alphabet)

st.subheader("Its eight rows")
standings = unit_facts.standings(lstm, layer, direction, unit, scored, masks)
kept = int(standings["kept"].sum())
score = scored.units[layer, direction]
rank = int(unit_facts.ranks_from_top(score)[unit])
st.markdown(
    f"Rank **{rank:,} of {lstm.hidden_size:,}** by {words}, 1 being the highest. The present recipe keeps "
    f"**{kept} of its 8 rows**." + ("" if pruned else " This LSTM is not among those to prune.")
)
saliency = unit_facts.eight_blocks(lstm, layer, direction, scored.saliency)
st.caption(f"Its rows among those of all units of the layer, by {norm}; the line is unit {unit}.")
st.plotly_chart(
    unit_figures.standing_histograms(saliency, unit, norm, scale(), view.block),
    key="standings",
    config=png_button(f"unit-{unit}-rows"),
    alt=f"The distribution of the {norm} in each of the eight blocks, with a line where unit {unit} stands",
)
st.dataframe(
    standings,
    hide_index=True,
    column_order=["block", "kept", "saliency", "over median", "rank", "gate"],
    column_config={
        "saliency": st.column_config.NumberColumn(norm, format="%.4g"),
        "over median": st.column_config.NumberColumn(format="%.2f ×"),
        "rank": st.column_config.NumberColumn(f"rank, of {lstm.hidden_size:,}"),
    },
    alt=f"The {norm} of unit {unit} in each of the eight blocks, its rank there, and whether the row is kept",
)
with st.container(horizontal=True):
    csv_button(standings, f"unit-{unit}-rows")
    every_row = pd.DataFrame(saliency.T.numpy(), columns=ALL_BLOCKS).rename_axis("unit").reset_index()
    csv_button(every_row, f"rows-of-layer-{layer}", "Download the rows of all units")
    st.button("See its weights", icon=":material/blur_on:", on_click=to_weights)

st.subheader("At rest")
rest = unit_facts.at_rest(lstm, checkpoint.tensors, layer, direction, unit)
st.caption(
    "What its gates are when input and hidden state are zero: its biases alone."
    + ("" if lstm.bias else " This LSTM has none, so that every gate stands half open.")
)
fading = f"half of it is left after {rest.half_life:.3g} steps" if rest.half_life < math.inf else "it never fades"
with st.grid(4, min_column_width=150):
    for gate, label, note in (
        ("i", "Input σ(b_i)", "of what is new is let in"),
        ("f", "Memory σ(b_f)", fading),
        ("g", "Cell tanh(b_g)", "what it would take in"),
        ("o", "Output σ(b_o)", "of its state is shown"),
    ):
        st.metric(
            label,
            f"{rest.gates[gate]:.3f}",
            help=f"The biases of gate {gate} add up to {rest.biases[gate]:.4f}; {note}.",
            border=True,
            height="stretch",
        )
st.caption(f"Of its cell state {rest.gates['f']:.1%} is left after one step at rest; {fading}.")

st.subheader("Neighbours")
st.caption(
    f"The weights of the four gates between it and others, strongest first by the sum of their absolute values; the "
    f"{STRONGEST} strongest are shown." + (" Between units, by way of the projection." if lstm.proj_size else "")
)
tensors, bottom_layer, top_layer = checkpoint.tensors, layer == 0, layer + 1 == lstm.num_layers
successors = unit_facts.successors(lstm, tensors, layer, direction, unit)
with st.grid(2, min_column_width=350):
    below, own, inside, above = (st.container() for _ in range(4))
with below:
    st.markdown("**What it reads: inputs**" if bottom_layer else f"**What it reads: layer {layer - 1}**")
    show_neighbours(
        unit_facts.inputs_of(lstm, tensors, layer, direction, unit),
        unit,
        "inputs",
        f"The strongest inputs of unit {unit} with the weights of its four gates",
    )
with own:
    st.markdown("**What it reads: its own layer, a step before**")
    show_neighbours(
        unit_facts.predecessors(lstm, tensors, layer, direction, unit),
        unit,
        "predecessors",
        f"The units of its own layer that unit {unit} reads most, with the weights of its four gates",
    )
with inside:
    st.markdown("**Who reads it: its own layer, a step after**")
    show_neighbours(
        successors[successors["layer"] == layer].reset_index(drop=True),
        unit,
        "successors",
        f"The units of its own layer that read unit {unit} most, with the weights of their four gates",
    )
try:
    read_by = consumers_of(checkpoint, controls.to_gather()).get(lstm.name, [])
except PrunerError:  # what is named fits two LSTMs, say, which matters to nothing else on this page
    read_by = []
if top_layer and read_by:
    with above:
        st.markdown("**Who reads it: behind the LSTM**")
        show_consumers(
            unit_facts.read_by_heads(lstm, tensors, direction, unit, read_by),
            unit,
            f"The outputs of {', '.join(read_by)} that read unit {unit} most, with their weights",
        )
if not top_layer:
    with above:
        st.markdown(f"**Who reads it: layer {layer + 1}**")
        show_neighbours(
            successors[successors["layer"] == layer + 1].reset_index(drop=True),
            unit,
            "next-layer",
            f"The units of the next layer that read unit {unit} most, with the weights of their four gates",
        )
