"""What was gathered from inputs, as far as it serves the present recipe; and the way to gather more.

What was gathered holds for the LSTMs, the tensors that read them and the task that it was gathered with; when one of these
changes, it must be gathered again.
"""

from functools import partial

import streamlit as st

from pruner import examples
from pruner.compensation.chain import check_data
from pruner.dashboard import gathering, watching
from pruner.dashboard.computing import begin
from pruner.dashboard.controls import controls
from pruner.dashboard.gathered import Gathered
from pruner.dashboard.jobs import Job
from pruner.dashboard.session import session
from pruner.dashboard.text import plain
from pruner.dashboard.words import CRITERION_TITLES
from pruner.errors import PrunerError
from pruner.files.checkpoint import Checkpoint
from pruner.recipe import DATA_CRITERIA, Recipe

GATHERING = "The model reads the example’s own inputs, once; scores come from what its units do there."


def present() -> Gathered | None:
    """What was gathered last from the open model, whether or not it still holds."""
    found = session.calibrating.status.result if session.calibrating else None
    if found is not None and found is not session.gathered:
        session.gathered = found
        session.inputs_upload.let_go()
    return session.gathered


def current() -> Gathered | None:
    """What was gathered, if it holds for the LSTMs, the consumers and the task that are chosen now."""
    gathered = present()
    return gathered if gathered and gathered.holds_for(controls.to_gather()) else None


def required(checkpoint: Checkpoint, recipe: Recipe) -> Gathered | None:
    """What the recipe's criterion needs of what was gathered. Where that is missing, the page leads there and stops."""
    gathered = current()
    if gathered is None and recipe.criterion in DATA_CRITERIA:
        if job := _gathering_the_examples(checkpoint):
            st.caption(GATHERING)
            watching.show(job)
            st.stop()
        ask_for(f"{CRITERION_TITLES[recipe.criterion]} scores come from inputs.")
        st.stop()
    return gathered


def are_there(checkpoint: Checkpoint, recipe: Recipe) -> bool:
    """Whether all is there that the recipe needs of inputs; where it is not, say so and lead there."""
    gathered = current()
    if recipe.needs_data and gathered is None and (job := _gathering_the_examples(checkpoint)):
        st.caption(GATHERING)
        watching.show(job)
        return False
    if recipe.needs_data and gathered is None:
        by_score = recipe.criterion in DATA_CRITERIA
        ask_for(
            f"{CRITERION_TITLES[recipe.criterion]} scores come from inputs."
            if by_score
            else "Compensation is fitted to inputs."
        )
        return False
    try:
        check_data(recipe, gathered.calibration if gathered else None)
    except PrunerError as error:
        st.info(plain(str(error)), icon=":material/model_training:")
        _lead_there()
        return False
    return True


def _gathering_the_examples(checkpoint: Checkpoint) -> Job[Gathered] | None:
    """The job that gathers an example's own inputs, while it runs: the first time they need not be asked for."""
    example = examples.example_of(checkpoint)
    if example is None or present() is not None:
        return None
    controls.name_consumers()
    if session.calibrating is None:
        session.calibrating = begin(
            partial(gathering.gather, checkpoint, example, gathering.Wanted("example"), controls.to_gather())
        )
    return session.calibrating if session.calibrating.status.state == "running" else None


def ask_for(why: str) -> None:
    if present() is None:
        st.info(f"{why} The model is not calibrated yet.", icon=":material/model_training:")
    else:
        st.info(
            f"{why} The calibration is that of other LSTMs, other tensors that read them, or another task: calibrate again.",
            icon=":material/model_training:",
        )
    _lead_there()


def _lead_there() -> None:
    st.page_link("pages/calibrate.py", label="Calibrate on inputs", icon=":material/arrow_forward:")
