"""What the pages show, to take away: tables and the data of figures as CSV, figures as PNG."""

from collections.abc import Callable
from typing import Any

import pandas as pd
import streamlit as st


def csv_button(table: pd.DataFrame | Callable[[], pd.DataFrame], name: str, label: str = "Download as CSV") -> None:
    """A button that downloads a table as `name`.csv, written, and made if it is not there yet, when it is clicked."""
    st.download_button(
        label,
        data=lambda: (table() if callable(table) else table).to_csv(index=False),
        file_name=f"{name}.csv",
        mime="text/csv",
        icon=":material/download:",
        key=f"csv_{name}",
        on_click="ignore",
    )


def png_button(name: str) -> dict[str, Any]:
    """The `config` of `st.plotly_chart` with which the camera above a figure saves `name`.png."""
    return {"displaylogo": False, "toImageButtonOptions": {"format": "png", "filename": name, "scale": 2}}
