"""How much weight each row of each gate carries."""

import pandas as pd
import streamlit as st

from pruner import PrunerError
from pruner.dashboard import frame, grids, inputs, model
from pruner.dashboard.controls import Controls, controls
from pruner.dashboard.downloads import csv_button, png_button
from pruner.dashboard.scores import scores
from pruner.dashboard.text import plain, stop_with
from pruner.dashboard.view import choose_shown
from pruner.dashboard.words import CUT_MEANING, measure_of_rows
from pruner.files.consumer_choice import consumers_of
from pruner.importance.weights import as_table
from pruner.lstm.gates import BLOCKS, GATE_TITLES, GATES, SIDE_TITLES, split_gates
from pruner.views import row_figures

frame.stand_in_app()

st.title("Rows")
checkpoint = model.required_checkpoint()
view = choose_shown(checkpoint)
recipe = controls.recipe()
by, order = st.columns([3, 2])
with by:
    Controls.criterion.draw(recipe)
norm = measure_of_rows(recipe.criterion)
gathered = inputs.required(checkpoint, recipe)
try:
    consumers = consumers_of(checkpoint, recipe).get(view.lstm.name, [])
    scored = scores(checkpoint, view.lstm, recipe.criterion, tuple(consumers), recipe.seed, gathered)
except PrunerError as error:
    stop_with(error, "This model cannot be scored")
saliency = scored.saliency[view.tensor]

with order:
    look = grids.choose_look(masked=False)
grids.show("saliency_grids", grids.drawn(view, scored, recipe, look))
st.caption(
    "Each cell is one row of a gate: the weights with which that gate of that unit reads the layer's input (ii to io) or "
    f"the hidden state of the step before (hi to ho), by its {norm}."
)
grids.selection()

by_rows = recipe.granularity == "rows"
st.subheader("Sorted row saliency and pruning thresholds" if by_rows else "Sorted row saliency")
st.caption(f"The four gates of **{plain(view.tensor)}**, {SIDE_TITLES[view.side]}." + (CUT_MEANING if by_rows else ""))
dropped = None
if by_rows:
    dropped = tuple((~split_gates(scored.masks(view.lstm, recipe)[view.tensor])).sum(1).tolist())
st.plotly_chart(
    row_figures.sorted_curves(saliency, view.side, dropped, view.gate),
    key="curves",
    config=png_button("saliency-sorted"),
    alt=f"Rows of each gate of {view.tensor} sorted by {norm}, with a dot where the present sparsity cuts",
)
gates = split_gates(saliency)
facts = pd.DataFrame(
    {
        "gate": [f"{block} ({GATE_TITLES[gate]})" for gate, block in zip(GATES, BLOCKS[view.side], strict=True)],
        "rows": view.lstm.hidden_size,
        "lowest": gates.amin(1).numpy(),
        "median": gates.median(1).values.numpy(),
        "mean": gates.mean(1).numpy(),
        "highest": gates.amax(1).numpy(),
    }
)
st.dataframe(
    facts,
    hide_index=True,
    column_config={
        name: st.column_config.NumberColumn(format="%.3f") for name in ("lowest", "median", "mean", "highest")
    },
    alt=f"Lowest, median, mean and highest {norm} of the rows of each gate of {view.tensor}",
)
with st.container(horizontal=True, vertical_alignment="center"):
    csv_button(
        lambda: as_table(view.lstm, scored.saliency),
        f"{view.lstm.name or 'lstm'}-saliency",
        "Download every row as CSV",
    )
    csv_button(facts, "saliency-by-gate", "Download the table as CSV")
    st.page_link("pages/overview.py", label="Compare all blocks", icon=":material/view_module:")
    st.page_link("pages/weights.py", label="See the weights behind it", icon=":material/grid_4x4:")
    st.page_link("pages/masks.py", label="Tune the sparsity", icon=":material/arrow_forward:")
