"""The long work of a visitor's session, and what came of it: runs and smaller models with their exports, searches."""

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import streamlit as st

from pruner import examples
from pruner.dashboard import inputs
from pruner.dashboard.computing import begin_seen
from pruner.dashboard.controls import controls
from pruner.dashboard.gathered import Gathered
from pruner.dashboard.gathering import Wanted
from pruner.dashboard.given import Given, Measured, Seen, Smaller
from pruner.dashboard.growing import Growing
from pruner.dashboard.jobs import Job
from pruner.dashboard.lasting import Search
from pruner.dashboard.session import Kept, session
from pruner.exports.speed.table import Table
from pruner.files.checkpoint import Checkpoint
from pruner.files.staging import temporary
from pruner.lessons.moment import Moment
from pruner.progress import Progress
from pruner.result import Result
from pruner.search.candidates import Candidate
from pruner.search.experiments import Experiment
from pruner.search.sweep import Sweep

Made = TypeVar("Made")


class Work:
    """What runs on the open model, or ran, under the visitor's settings of it."""

    __slots__ = ()

    device = Kept("cpu", "widget")
    run: Kept[Job[Result] | None] = Kept(None, "model")
    timing: Kept[Job[Table] | None] = Kept(None, "model")  # of what the run made
    shrink: Kept[Job[Smaller] | None] = Kept(None, "model")
    search: Kept[Search | None] = Kept(None, "model")  # which shrinks: what it is to take
    tried: Kept[Growing[Candidate]] = Kept(Growing(), "model")  # by the shrinking that runs or ran last, as they come
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
    made: Kept[Growing[Gathered]] = Kept(
        Growing(), "model"
    )  # by other work, on its way, until the session takes it over
    sweep: Kept[Job[Sweep] | None] = Kept(None, "model")
    sensitivity: Kept[Job[Measured] | None] = Kept(None, "model")
    healing: Kept[Job[list[Moment]] | None] = Kept(None)  # of the lesson
    moments: Kept[Growing[Moment]] = Kept(Growing())  # of the healing that runs or ran last, as they come

    @property
    def result(self) -> Result | None:
        """What the last run or shrinking made, whatever the controls say now."""
        if self.newest == "shrink":
            found = self.shrink.status.result if self.shrink else None
            return found.result if found else None
        return self.run.status.result if self.run else None

    def take_over(self) -> None:
        """Take the inputs that other work has gathered, and set the controls to the smaller model that was just found."""
        while self.made:
            session.gathered = self.made.pop(0)
            if session.calibrating and session.calibrating.status.result:
                session.calibrating = None  # whose inputs are older
        found = self.shrink.status.result if self.shrink else None
        if found is not None and found is not self.shrunk:
            self.shrunk, session.gathered = found, found.gathered
            controls.apply(found.result.recipe)

    def given(self, checkpoint: Checkpoint, needs_data: bool = False) -> Given:
        """What work on the open model is given. Work that needs inputs gathers those of an example by itself."""
        example, gathered = examples.example_of(checkpoint), inputs.current()
        wanted = Wanted("example") if gathered is None and needs_data and example else gathered
        return Given(checkpoint, example, wanted)

    def begin(self, do: Callable[[Seen, Progress], Made]) -> Job[Made]:
        """Work on what is `given`, when this visitor's turn comes; what it shows on its way is kept as it comes."""
        history, made, tried = session.history, self.made, self.tried

        def keep(seen: Experiment | Gathered | Candidate) -> None:
            if isinstance(seen, Experiment):
                history.setdefault(seen.key, seen)
            elif isinstance(seen, Gathered):
                made.append(seen)
            else:
                tried.append(seen)

        return begin_seen(do, keep)

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
