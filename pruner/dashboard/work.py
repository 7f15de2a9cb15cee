"""The long work of a visitor's session, and what came of it: runs and smaller models with their exports, searches."""

import weakref
from pathlib import Path

import streamlit as st

from pruner.dashboard.controls import controls
from pruner.dashboard.explore import Measured, Sweep
from pruner.dashboard.jobs import Job
from pruner.dashboard.session import Kept, session
from pruner.dashboard.shrinking import Smaller
from pruner.exports.speed.table import Table
from pruner.files.staging import temporary
from pruner.lessons.moment import Moment
from pruner.result import Result
from pruner.search.candidates import Candidate


class Work:
    """What runs on the open model, or ran, under the visitor's settings of it."""

    __slots__ = ()

    device = Kept("cpu", "widget")
    run: Kept[Job[Result] | None] = Kept(None, "model")
    timing: Kept[Job[Table] | None] = Kept(None, "model")  # of what the run made
    shrink: Kept[Job[Smaller] | None] = Kept(None, "model")
    tried: Kept[list[Candidate]] = Kept([], "model")  # by the shrinking that runs or ran last, as they come
    shrunk: Kept[Smaller | None] = Kept(None, "model")  # what the controls were set to last
    keep = Kept(97.0)  # per cent of the quality
    target_size = Kept(50)  # per cent
    shrink_for = Kept("keep")  # or the size of what is counted
    shrink_budget = Kept(60.0)  # seconds a candidate
    newest: Kept[str] = Kept("run", "model")  # or "shrink": what was started last
    run_inputs: Kept[str | None] = Kept(None, "model")  # those that the run was given, in words
    batch_first: Kept[bool | None] = Kept(None, "model")  # what the visitor says, where the file does not
    # The folders of a run, by form, what was said of `batch_first`, and whether ONNX files lie in them.
    export: Kept[tuple[Result, dict[tuple[str, bool | None, bool], Path]] | None] = Kept(None, "model")
    sweep: Kept[Job[Sweep] | None] = Kept(None, "model")
    sweep_count = Kept(5)
    sweep_criteria: Kept[list[str]] = Kept([])
    sweep_compensations: Kept[list[str]] = Kept([])
    sweep_over = Kept("Size")  # or "Sparsity"
    borne = Kept(3.0)  # per cent
    sensitivity: Kept[Job[Measured] | None] = Kept(None, "model")
    sensitivity_count = Kept(5)
    target = Kept("macs", "widget")
    healing: Kept[Job[list[Moment]] | None] = Kept(None)  # of the lesson
    moments: Kept[list[Moment]] = Kept([])  # of the healing that runs or ran last, as they come

    @property
    def result(self) -> Result | None:
        """What the last run or shrinking made, whatever the controls say now."""
        if self.newest == "shrink":
            found = self.shrink.status.result if self.shrink else None
            return found.result if found else None
        return self.run.status.result if self.run else None

    def take_over(self) -> None:
        """Remember what was measured; set the controls, and the inputs that scores come from, to those of a smaller model
        that was just found."""
        session.measured |= {tried.recipe.to_json(): tried.verdict for tried in list(self.tried)}
        if result := self.result:
            session.measured[result.recipe.to_json()] = result.verdict
        found = self.shrink.status.result if self.shrink else None
        if found is not None and found is not self.shrunk:
            self.shrunk, session.gathered = found, found.gathered
            controls.apply(found.result.recipe)

    def exported(self, result: Result, form: str, onnx: bool = False) -> Path:
        """Write the export of a result in one form, with what is said of `batch_first` and ONNX files if they are wanted, or
        return the one written before; it lies on disk as long as the result is there.

        Raises PrunerError if it does not hold.
        """
        kept = self.export
        folders = kept[1] if kept and kept[0] is result else {}
        self.export = result, folders
        which = form, self.batch_first, onnx
        if which not in folders:
            staging = temporary()
            weakref.finalize(result, staging.close)
            with st.spinner("Writing the export and reading it back"):
                folders[which] = result.save(staging.files / "export", form, self.batch_first, onnx=onnx)
        return folders[which]


work = Work()
