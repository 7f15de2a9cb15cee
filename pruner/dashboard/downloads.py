"""What the pages show, to take away: tables and the data of figures as CSV, figures as PNG."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from pruner.exports.export import pack


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


def zip_button(folder: Path, name: str) -> None:
    """The button that downloads an export folder as `name`.zip."""
    st.download_button(
        "Download everything as one zip",
        data=partial(pack, folder),
        file_name=f"{name}.zip",
        mime="application/zip",
        type="primary",
        icon=":material/folder_zip:",
        on_click="ignore",
    )


def png_button(name: str) -> dict[str, Any]:
    """The `config` of `st.plotly_chart` with which the camera above a figure saves `name`.png."""
    return {"displaylogo": False, "toImageButtonOptions": {"format": "png", "filename": name, "scale": 2}}
