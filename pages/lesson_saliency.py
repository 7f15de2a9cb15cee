"""Lesson 2: row saliency."""

import pandas as pd
import streamlit as st

from pruner import PrunerError
from pruner.dashboard import frame, lesson
from pruner.dashboard.session import Session, session
from pruner.dashboard.text import stop_with
from pruner.importance.weights import row_saliency
from pruner.lessons import figures as lesson_figures
from pruner.lessons import norms
from pruner.lessons.model import GRAMMAR, model
from pruner.lstm.gates import GATES, split_gates
from pruner.views import row_figures

frame.stand_in_app()


def take_over() -> None:
    """Write what was typed into the table back into the text that the link holds."""
    weight = norms.read(session.weights)
    for row, changes in session.edits(editor).items():
        for column, value in changes.items():
            if value is not None:
                weight[row, COLUMNS.index(column)] = value
    session.weights = norms.write(weight)


COLUMNS = ["weight 1", "weight 2"]
picture = lesson.begin(norms.LESSON)
with picture:
    by_hand, trained = st.tabs(["By hand", "A trained model"], key="numbers", bind="query-params")
with by_hand:
    table = st.container()
    text = st.text_input(
        "The same numbers as text, to copy and to paste", norms.NUMBERS, key=Session.weights.key, bind="query-params"
    )
    try:
        found = norms.by_hand(text)
    except PrunerError as error:
        stop_with(error, "These are not the weights of 16 rows")
    editor = f"editor {text}"
    with table:
        st.caption("An LSTM of 4 hidden units that reads 2 numbers. Change a weight: the sum of its row follows.")
        st.data_editor(
            pd.DataFrame(
                {
                    "gate": [gate for gate in GATES for _ in range(norms.UNITS)],
                    "unit": list(range(norms.UNITS)) * len(GATES),
                    COLUMNS[0]: found.weight[:, 0].numpy(),
                    COLUMNS[1]: found.weight[:, 1].numpy(),
                    "L1 norm": found.saliency.numpy(),
                }
            ),
            key=editor,
            on_change=take_over,
            disabled=["gate", "unit", "L1 norm"],
            hide_index=True,
            height=215,
            column_config={"L1 norm": st.column_config.NumberColumn(format="%.3g")},
            alt="Two weights and their L1 norm for each of 16 rows",
        )
        st.plotly_chart(
            lesson_figures.norm_bars(split_gates(found.saliency)),
            key="bars",
            alt="The L1 norm of each row, gate by gate",
        )
with trained:
    side = lesson.choose_weight("ih")
    example = model(GRAMMAR)
    tensor = example.weight(side)
    st.caption(f"Each cell is a row of {tensor} of a small trained model, coloured by its L1 norm.")
    st.plotly_chart(
        row_figures.gate_grids(row_saliency(example.tensors[tensor]), side, unit_of_measure="L1 norm"),
        key="grids",
        alt=f"Every row of {tensor} of a small trained model as a cell, coloured by its L1 norm, gate by gate",
    )
lesson.finish(norms.LESSON, norms.notice(found))
