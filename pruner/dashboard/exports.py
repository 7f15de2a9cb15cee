"""The export folder of a run, written once and kept on disk as long as the run is."""

import tempfile
from pathlib import Path

import streamlit as st

from pruner.run import Result


def exported(result: Result) -> Path:
    """Write the export of a result, or return the one written before. Raises PrunerError if it does not hold."""
    kept = st.session_state.get("export")
    if kept is None or kept[0] is not result:
        temporary = tempfile.TemporaryDirectory()
        with st.spinner("Writing the export and reading it back"):
            result.save(Path(temporary.name) / "export")
        # The folder is deleted when the session lets go of its TemporaryDirectory.
        st.session_state.export = kept = (result, temporary)
    return Path(kept[1].name) / "export"
