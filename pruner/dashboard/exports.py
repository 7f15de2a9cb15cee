"""The export folder of a run, written once and kept on disk as long as the run is."""

import shutil
import tempfile
import weakref
from pathlib import Path

import streamlit as st

from pruner.result import Result


def exported(result: Result, form: str) -> Path:
    """Write the export of a result in one form, or return the one written before.

    Raises PrunerError if it does not hold.
    """
    kept = st.session_state.get("export")
    folders: dict[str, Path] = kept[1] if kept and kept[0] is result else {}
    st.session_state.export = result, folders
    if form not in folders:
        temporary = Path(tempfile.mkdtemp())
        weakref.finalize(result, shutil.rmtree, temporary, ignore_errors=True)
        with st.spinner("Writing the export and reading it back"):
            folders[form] = result.save(temporary / "export", form)
    return folders[form]
