"""The long work of a visitor's session, and what came of it: runs with their exports, sweeps, sensitivities."""

import shutil
import tempfile
import weakref
from pathlib import Path

import streamlit as st

from pruner.dashboard.explore import Measured, Sweep
from pruner.dashboard.jobs import Job
from pruner.dashboard.session import Kept
from pruner.result import Result


class Work:
    """What runs on the open model, or ran, under the visitor's settings of it."""

    __slots__ = ()

    device = Kept("cpu", "widget")
    run: Kept[Job[Result] | None] = Kept(None, "model")
    run_inputs: Kept[str | None] = Kept(None, "model")  # those that the run was given, in words
    export: Kept[tuple[Result, dict[str, Path]] | None] = Kept(None, "model")  # the folders of a run by their kinds
    sweep: Kept[Job[Sweep] | None] = Kept(None, "model")
    sweep_count = Kept(5)
    sweep_criteria: Kept[list[str]] = Kept([])
    sweep_compensations: Kept[list[str]] = Kept([])
    sensitivity: Kept[Job[Measured] | None] = Kept(None, "model")
    sensitivity_count = Kept(5)
    target = Kept("macs", "widget")

    @property
    def result(self) -> Result | None:
        """What the last run made, whatever the controls say now."""
        return self.run.status.result if self.run else None

    def exported(self, result: Result, form: str, onnx: bool) -> Path:
        """Write the export of a result in one form, with or without ONNX files, or return the one written before; it lies on
        disk as long as the result is there.

        Raises PrunerError if it does not hold.
        """
        kept = self.export
        folders = kept[1] if kept and kept[0] is result else {}
        self.export = result, folders
        kind = f"{form} with ONNX files" if onnx else form
        if kind not in folders:
            temporary = Path(tempfile.mkdtemp())
            weakref.finalize(result, shutil.rmtree, temporary, ignore_errors=True)
            with st.spinner("Writing the export and reading it back"):
                folders[kind] = result.save(temporary / "export", form, onnx=onnx)
        return folders[kind]


work = Work()
