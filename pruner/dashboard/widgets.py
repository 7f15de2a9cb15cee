"""Controls and messages that stand on more than one page."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import streamlit as st

from pruner import PrunerError, Recipe
from pruner.compensation.chain import check_data
from pruner.dashboard import data, state
from pruner.dashboard.data import Gathered
from pruner.dashboard.jobs import Job
from pruner.dashboard.text import plain
from pruner.files.checkpoint import Checkpoint
from pruner.importance.data import ROW_SCORES
from pruner.importance.weights import ROW_NORMS
from pruner.lstm.gates import SIDE_TITLES, SIDES
from pruner.lstm.lstm import LSTM
from pruner.recipe import CRITERIA, DATA_CRITERIA, MAX_SEED, ROW_CRITERIA, TASKS, row_norm

CRITERION_TITLES = {
    "l1": "L1 norm",
    "l2": "L2 norm",
    "group": "Group norm",
    "activation": "Activation",
    "outgoing": "Activation × outgoing",
    "taylor": "Taylor",
    "fisher": "Fisher",
    "obs": "Brain surgeon",
    "random": "Random",
}
CRITERION_WORDS = {
    "l1": "L1 norm",
    "l2": "L2 norm",
    "group": "group norm",
    "activation": "mean activation",
    "outgoing": "activation times outgoing weights",
    "taylor": "Taylor score",
    "fisher": "Fisher score",
    "obs": "brain surgeon score",
    "random": "random number",
}
CRITERION_MEANING = {
    "l1": "The sum of absolute weights, from the file alone, as torch.ao.pruning ranks.",
    "l2": "The Euclidean norm of the weights, from the file alone.",
    "group": "The Euclidean norm of all weights that belong to a unit, including those that read it.",
    "activation": "How large a unit is on your inputs, on average.",
    "outgoing": "How large a unit is on your inputs, times the weights that read it.",
    "taylor": "How much the loss changes, to first order, without it. Needs the task.",
    "fisher": "How much the loss grows, to second order, when it is replaced by its mean.",
    "obs": "How much the loss grows when it is removed and the others take over what they can, one unit after another.",
    "random": "Drawn at random. A criterion that does not beat this says nothing.",
}
COMPENSATION_TITLES = {"none": "None", "fold": "Fold", "full": "Full"}
COMPENSATION_MEANING = {
    "none": "What is dropped is simply gone.",
    "fold": "What stays takes over what inputs can tell of what is dropped.",
    "full": "Gates and head are refitted to the dense model, too. Needs the head and its task.",
}
CUT_MEANING = " A dot is where the present recipe cuts a gate; shaded is what every gate drops."  # of sorted curves
TASK_TITLES = {"softmax": "Scores of categories", "regression": "Numbers"}


@dataclass(frozen=True)
class View:
    """The packed weight that a page shows."""

    lstm: LSTM
    layer: int
    direction: int
    side: str

    @property
    def tensor(self) -> str:
        return self.lstm.weight_names()[self.layer, self.direction, self.side]

    @property
    def place(self) -> str:
        """Layer and direction in words."""
        return f"layer {self.layer}" + (f", {state.DIRECTIONS[self.direction]}" if self.lstm.bidirectional else "")


def choose_view(checkpoint: Checkpoint, sides: bool = True) -> View:
    """Controls for LSTM, layer, direction and, on pages that show one of both, matrix; each only where there is a choice."""
    session = st.session_state
    with st.container(horizontal=True, vertical_alignment="bottom"):
        if len(checkpoint.lstms) > 1:
            titles = {lstm.name: lstm.title for lstm in checkpoint.lstms}
            st.selectbox(
                "LSTM",
                list(titles),
                format_func=titles.__getitem__,
                key="lstm",
                persist_state="session",
                width=260,
                on_change=_back_to_first_layer,
            )
        lstm = checkpoint.select([session.lstm])[0]
        if lstm.num_layers > 1:
            st.segmented_control(
                "Layer", list(range(lstm.num_layers)), key="layer", required=True, persist_state="session"
            )
        if lstm.bidirectional:
            st.segmented_control("Direction", state.DIRECTIONS, key="direction", required=True, persist_state="session")
        if sides:
            st.segmented_control(
                "Packed weight",
                SIDES,
                format_func=lambda side: f"{SIDE_TITLES[side]} (weight_{side})",
                key="side",
                required=True,
                persist_state="session",
                wrap=True,
            )
    return View(lstm, session.layer, state.DIRECTIONS.index(session.direction), session.side)


def _back_to_first_layer() -> None:
    st.session_state.layer, st.session_state.direction, st.session_state.unit = 0, "forward", None


def criteria() -> list[str]:
    """Those that the chosen granularity knows."""
    return [name for name in CRITERIA if st.session_state.granularity == "units" or name in ROW_CRITERIA]


def choose_criterion() -> None:
    """What rows or whole units are ranked by."""
    units = st.session_state.granularity == "units"
    st.session_state.criterion = state.criterion_for(st.session_state.granularity, st.session_state.criterion)
    st.pills(
        "Saliency of a unit" if units else "Saliency of a row",
        criteria(),
        format_func=CRITERION_TITLES.__getitem__,
        key="criterion",
        required=True,
        persist_state="session",
    )
    st.caption(CRITERION_MEANING[st.session_state.criterion])


def choose_seed() -> None:
    """Which lot is drawn, where one is."""
    if st.session_state.criterion == "random":
        st.number_input("Seed", min_value=0, max_value=MAX_SEED, key="seed", persist_state="session", width=200)


def choose_compensation() -> None:
    st.segmented_control(
        "Compensation",
        list(COMPENSATION_TITLES),
        format_func=COMPENSATION_TITLES.__getitem__,
        key="compensation",
        required=True,
        persist_state="session",
    )
    st.caption(COMPENSATION_MEANING[st.session_state.compensation])


def choose_readers() -> None:
    """The tensors that read the output of the last layer, where any could."""
    offered = state.possible_consumers()
    if not offered:
        return
    st.session_state.consumers = [name for name in st.session_state.consumers if name in offered]
    st.multiselect(
        "Tensors that read the output of the last layer",
        offered,
        key="consumers",
        persist_state="session",
        placeholder="None: the output keeps its width",
        help="Of whole units, their columns go with the removed ones, so that the whole model loads into your own class "
        "at the new hidden size. These tensors have the right width, which proves nothing: name only what you know to "
        "read the output, and all that does.",
    )


def choose_task() -> None:
    """What the readers are for, where some are named."""
    if st.session_state.consumers:
        st.segmented_control(
            "What they give",
            TASKS,
            format_func=TASK_TITLES.__getitem__,
            key="task",
            persist_state="session",
            help="The task that the model serves, so that a loss can be told from its output. Leave it open if it is "
            "something else: scores then go by the weights that read each unit.",
        )


def measure_of_rows(criterion: str) -> str:
    """What the score of a single row is called; criteria of whole units leave rows with a norm."""
    if criterion in ROW_SCORES or criterion == "random":
        return CRITERION_WORDS[criterion]
    return CRITERION_WORDS[criterion if criterion in ROW_NORMS else row_norm(criterion)]


def gathered_for(recipe: Recipe) -> Gathered | None:
    """What the recipe's criterion needs of what was gathered. Where that is missing, the page leads there and stops."""
    gathered = data.current()
    if gathered is None and recipe.criterion in DATA_CRITERIA:
        ask_for_inputs(f"{CRITERION_TITLES[recipe.criterion]} scores come from inputs.")
        st.stop()
    return gathered


def has_data(recipe: Recipe) -> bool:
    """Whether all is there that the recipe needs of inputs; where it is not, say so and lead there."""
    gathered = data.current()
    if recipe.needs_data and gathered is None:
        by_score = recipe.criterion in DATA_CRITERIA
        ask_for_inputs(
            f"{CRITERION_TITLES[recipe.criterion]} scores come from inputs."
            if by_score
            else "Compensation is fitted to inputs."
        )
        return False
    try:
        check_data(state.required_checkpoint(), recipe, gathered.calibration if gathered else None)
    except PrunerError as error:
        st.info(plain(str(error)), icon=":material/model_training:")
        _to_calibrate()
        return False
    return True


def ask_for_inputs(why: str) -> None:
    if data.present() is None:
        st.info(f"{why} None were gathered yet.", icon=":material/model_training:")
    else:
        st.info(
            f"{why} Those gathered belong to other LSTMs, other readers or another task: gather them again.",
            icon=":material/model_training:",
        )
    _to_calibrate()


def _to_calibrate() -> None:
    st.page_link("pages/calibrate.py", label="Gather inputs", icon=":material/arrow_forward:")


def start_button(label: str, job: Job[Any] | None, start: Callable[[], None], ready: bool = True) -> None:
    """A button that starts a job, and one that cancels it while it runs."""
    running = job is not None and job.status.state == "running"
    st.button(label, type="primary", icon=":material/play_arrow:", on_click=start, disabled=running or not ready)
    if running and job is not None:
        st.button("Cancel", icon=":material/stop:", on_click=job.cancel)


def follow(job: Job[Any] | None, name: str) -> None:
    """Say how a job goes; while it runs, the page ends here."""
    if job is None:
        return
    status = job.status
    if status.state == "running":
        _watch(job)
        st.stop()
    if status.state == "failed":
        st.error(plain(status.error), title=f"The {name} failed", icon=":material/error:")
    if status.state == "cancelled":
        st.info(f"The {name} was cancelled. Nothing was changed.", icon=":material/stop_circle:")


@st.fragment(run_every=0.3)
def _watch(job: Job[Any]) -> None:
    """Follow the job while it runs, then show the whole page anew."""
    status = job.status
    if status.state != "running":
        st.rerun()
    st.progress(status.fraction, plain(status.what))


def stop_with(error: PrunerError, title: str) -> NoReturn:
    """Say what is wrong and end the page there."""
    st.error(plain(str(error)), title=title, icon=":material/error:")
    st.stop()
