"""Streamlit runs this file if a link to /weights is the first request that a new server gets; it hands over to the app."""

import runpy
from pathlib import Path

runpy.run_path(str(Path(__file__).parents[1] / "app.py"))
