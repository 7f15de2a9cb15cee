"""The export folder of a run, written once and kept on disk as long as the run is."""

import shutil
import tempfile
import weakref
from pathlib import Path

import streamlit as st

from pruner.run import Result


def exported(result: Result) -> Path:
    """Write the export of a result, or return the one written before. Raises PrunerError if it does not hold."""
    kept = st.session_state.get("export")
    if kept is None or kept[0] is not result:
        temporary = Path(tempfile.mkdtemp())
        weakref.finalize(result, shutil.rmtree, temporary, ignore_errors=True)
        with st.spinner("Writing the export and reading it back"):
            folder = result.save(temporary / "export")
        st.session_state.export = kept = (result, folder)
    return kept[1]
