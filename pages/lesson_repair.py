"""Streamlit runs this file if a link to /lesson_repair is a new server's first request; it hands over to the app."""

import runpy
from pathlib import Path

runpy.run_path(str(Path(__file__).parents[1] / "app.py"))
