"""All blocks of all layers at a glance."""

import html

import pandas as pd
import streamlit as st

from pruner import PrunerError
from pruner.dashboard import frame, inputs, model
from pruner.dashboard.biases import show_biases
from pruner.dashboard.controls import controls
from pruner.dashboard.downloads import csv_button, png_button
from pruner.dashboard.scores import scores
from pruner.dashboard.session import DIRECTIONS, session
from pruner.dashboard.text import stop_with
from pruner.dashboard.view import choose_shown, scale, show
from pruner.dashboard.words import criterion_for, measure_of_rows
from pruner.lstm.gates import ALL_BLOCKS, BLOCKS, SIDES
from pruner.recipe import DATA_CRITERIA
from pruner.views import unit_figures
from pruner.views.blocks import NEAR_ZERO, REACH, block_table

frame.stand_in_app()

FIGURES = {
    "median per weight": "Median per weight",
    "median": "Median",
    "near zero": "Near zero",
    "highest over median": "Highest over median",
}
MEANING = {
    "median per weight": "The median row over its number of columns, so that blocks of different widths compare. The gate "
    "of a block near zero reads next to nothing: its biases alone decide.",
    "median": "The median row of each block.",
    "near zero": f"The share of rows of at most {NEAR_ZERO:.0%} of their block’s median.",
    "highest over median": "How far the largest row of a block stands out.",
}
ROW_HEIGHT, MOST_ROWS = 36, 20  # of the small charts: pixels, and how many are in sight without scrolling
LONGEST_NAME = 16  # of an LSTM in tables and beside the heatmap

st.title("Overview")
checkpoint = model.required_checkpoint()
view = choose_shown(checkpoint)
recipe = controls.recipe()
criterion = criterion_for("rows", recipe.criterion)
norm = measure_of_rows(criterion)
gathered = inputs.required(checkpoint, recipe) if criterion in DATA_CRITERIA else None
try:
    table = pd.concat(
        (
            block_table(lstm, scores(checkpoint, lstm, criterion, (), recipe.seed, gathered).saliency, criterion)
            for lstm in checkpoint.lstms
        ),
        ignore_index=True,
    )
except PrunerError as error:
    stop_with(error, "This model cannot be scored")
names = {lstm.title: lstm.name for lstm in checkpoint.lstms}
table["lstm"] = table["lstm"].map({name: title for title, name in names.items()})
place = ["lstm", "layer", "direction"]
# What is the same in every line says nothing.
shown_place = [
    *(["lstm"] if len(checkpoint.lstms) > 1 else []),
    "layer",
    *(["direction"] if any(lstm.bidirectional for lstm in checkpoint.lstms) else []),
]
place_columns = {
    "lstm": st.column_config.TextColumn("LSTM", width=140),
    "layer": st.column_config.NumberColumn(width=50),
    "direction": st.column_config.TextColumn(width=70),
}


def open_block() -> None:
    """Go to the block whose button was clicked."""
    line = table.iloc[session.clicked_line("open_block")]
    side = next(side for side in SIDES if line["block"] in BLOCKS[side])
    show(names[line["lstm"]], int(line["layer"]), line["direction"], side, line["block"][1])
    st.switch_page("pages/saliency.py")


def ending(name: str) -> str:
    """The end of a long name, which tells more than its beginning."""
    return name if len(name) <= LONGEST_NAME else f"…{name[-LONGEST_NAME:]}"


def row_title(name: str, layer: int, direction: str) -> str:
    """What a row of the heatmap is called, short enough to leave room for it."""
    said = {"lstm": html.escape(ending(name)), "layer": f"layer {layer}", "direction": direction}
    return " ".join(said[what] for what in shown_place)


st.markdown(
    f"**{len(table):,} blocks**, {int(table['rows'].sum()):,} rows. A block holds the rows of one gate: ii to io read the "
    f"input, hi to ho the hidden state. Each small chart shows how their {norm} is distributed, from 0 to {REACH:g} "
    "medians of the block; the last bar holds all above."
)
st.page_link("pages/saliency.py", label="See every row as a heatmap", icon=":material/grid_on:")
by_layer = table.pivot(index=place, columns="block", values="distribution")[list(ALL_BLOCKS)].reset_index()
st.dataframe(
    by_layer.assign(lstm=by_layer["lstm"].map(ending)),
    hide_index=True,
    column_order=[*shown_place, *ALL_BLOCKS],
    row_height=ROW_HEIGHT,
    height=ROW_HEIGHT * min(len(by_layer), MOST_ROWS) + 38,
    column_config={
        **place_columns,
        **{block: st.column_config.BarChartColumn(block, width=85, y_min=0) for block in ALL_BLOCKS},
    },
    alt=f"The distribution of the {norm} of the rows in each of the eight blocks, a line a layer and direction",
)

st.subheader("Side by side")
figure = st.segmented_control(
    "Figure",
    list(FIGURES),
    format_func=FIGURES.__getitem__,
    default="median per weight",
    required=True,
    label_visibility="collapsed",
)
values = table.pivot(index=place, columns="block", values=figure)[list(ALL_BLOCKS)]
rows = [row_title(*index) for index in values.index]
at = list(values.index).index((view.lstm.title, view.layer, DIRECTIONS[view.direction]))
st.plotly_chart(
    unit_figures.block_heatmap(
        rows, values.to_numpy(), FIGURES[figure].lower(), figure == "near zero", scale().shared, (at, view.block)
    ),
    key="blocks",
    config=png_button("overview"),
    alt=f"Heatmap of the {FIGURES[figure].lower()} of each of the eight blocks of every layer",
)
st.caption(f"{MEANING[figure]} The frame is the block that is chosen above.")

show_biases(checkpoint, view)

st.subheader("Every block")
st.caption(
    f"Sort by a column’s head, search with the lens above the table, and open a block with its button. Near zero: at most "
    f"{NEAR_ZERO:.0%} of the block’s median."
)
st.dataframe(
    table.assign(open=":material/arrow_forward:", lstm=table["lstm"].map(ending)),
    hide_index=True,
    column_order=["open", "block", *shown_place, "distribution", *FIGURES, "lowest", "highest", "gate", "columns"],
    column_config={
        "open": st.column_config.ButtonColumn(
            "", width=50, pinned=True, type="tertiary", on_click=open_block, key="open_block"
        ),
        **place_columns,
        "distribution": st.column_config.BarChartColumn(width=100, y_min=0),
        "near zero": st.column_config.ProgressColumn(format="percent", width=90, min_value=0, max_value=1),
        **{
            name: st.column_config.NumberColumn(format="%.4g")
            for name in ("median per weight", "median", "highest over median", "lowest", "highest")
        },
    },
    alt=f"Every block with the distribution, the median, the extremes and the share of near-zero rows by {norm}",
)
csv_button(table, "overview")
