"""Tables of the units and inputs around one hidden unit, each a way to go on."""

import pandas as pd
import streamlit as st

from pruner.dashboard.downloads import csv_button
from pruner.dashboard.session import session
from pruner.lstm.gates import GATES

STRONGEST = 10  # neighbours shown; the CSV holds all


def show_neighbours(neighbours: pd.DataFrame, unit: int, key: str, alt: str) -> None:
    """The strongest neighbours of a unit, from a table of `unit_facts`; a button leads to those that are units."""
    units = "unit" in neighbours
    shown = neighbours.head(STRONGEST).assign(go=":material/arrow_forward:")
    named = ["direction"] if units and neighbours["direction"].nunique() > 1 else []
    st.dataframe(
        shown,
        hide_index=True,
        column_order=["go", "unit", *named, *GATES, "strength"] if units else ["input", *GATES, "strength"],
        column_config={
            "go": st.column_config.ButtonColumn(
                "", width=36, type="tertiary", on_click=_follow, args=(neighbours, key), key=f"follow_{key}"
            ),
            "unit": st.column_config.NumberColumn(width=46),
            "input": st.column_config.NumberColumn(width=46),
            "direction": st.column_config.TextColumn(width=70),
            **{gate: st.column_config.NumberColumn(format="%.2f", width=50) for gate in GATES},
            "strength": st.column_config.NumberColumn(format="%.2f", width=62),
        },
        alt=alt,
    )
    csv_button(neighbours, f"unit-{unit}-{key}", f"Download all {len(neighbours):,}")


def show_consumers(outputs: pd.DataFrame, unit: int, alt: str) -> None:
    """The outputs behind the LSTM that read a unit most, from a table of `unit_facts`."""
    st.dataframe(
        outputs.head(STRONGEST),
        hide_index=True,
        column_order=[*(["tensor"] if outputs["tensor"].nunique() > 1 else []), "output", "weight"],
        column_config={"weight": st.column_config.NumberColumn(format="%.2f")},
        alt=alt,
    )
    csv_button(outputs, f"unit-{unit}-consumers", f"Download all {len(outputs):,}")


def _follow(neighbours: pd.DataFrame, key: str) -> None:
    line = neighbours.iloc[session.clicked_line(f"follow_{key}")]
    session.layer, session.direction, session.unit = int(line["layer"]), line["direction"], int(line["unit"])
