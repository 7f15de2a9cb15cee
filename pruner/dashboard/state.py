"""What the pages share: the open model, the recipe and the view, all kept in the visitor's session.

The session holds one value a control (`sparsity`, `layer_0`, `gate_hf`, ...), under the key of its widget, so that it
outlives the page that the widget stands on; the recipe is derived from them.
"""

import gc
import sys
from dataclasses import replace

import streamlit as st

from pruner import Recipe, examples, open_checkpoint
from pruner.dashboard.text import plain
from pruner.files.checkpoint import Checkpoint
from pruner.files.consumers import consumers_of, suggestions
from pruner.importance.masks import check_layers
from pruner.lstm.gates import ALL_BLOCKS, GATES
from pruner.recipe import COST_CRITERIA, ROW_CRITERIA, row_norm
from pruner.result import Result

SUGGESTED_ROUND_TO = 16  # multiplication kernels take steps of this many units
DIRECTIONS = ("forward", "reverse")
JOBS = ("job", "gathering", "sweep", "sensitivity")  # each page of long work has its own; "job" is that of the run
SWITCH_INTERVAL = 0.0005  # seconds; Python's own is ten times as long
FIRST_VIEW = {"lstm": None, "layer": 0, "direction": "forward", "side": "ih", "unit": None, "shown_gate": GATES[0]}


@st.cache_resource
def settle() -> None:
    """Once a server: let what a page has said go out while it computes on.

    Streamlit collects garbage after every run of a page. What was imported stays for good, and to look through it all
    again takes longer than most runs. And a thread that computes hands over to the one that sends only so often.
    """
    gc.collect()
    gc.freeze()
    sys.setswitchinterval(SWITCH_INTERVAL)


def start() -> bool:
    """Prepare the session; True on its first run."""
    if "checkpoint" in st.session_state:
        return False
    st.session_state.checkpoint = None
    st.session_state.example = st.session_state.awaited = None
    st.session_state.upload = st.session_state.input_upload = 0
    _let_go()
    apply_recipe(Recipe())
    return True


def checkpoint() -> Checkpoint | None:
    return st.session_state.checkpoint


def required_checkpoint() -> Checkpoint:
    """The open checkpoint. Where there is none with an LSTM, the page says what to do and stops."""
    opened = checkpoint()
    if opened is None:
        st.info("Open an example or a checkpoint of your own first.", icon=":material/folder_open:")
        st.page_link("pages/open.py", label="Open a model", icon=":material/arrow_back:")
        st.stop()
    if not opened.lstms:
        st.warning(plain(f"{opened.name} holds no LSTM to look at. It holds {opened.contents()}."))
        st.page_link("pages/open.py", label="Open another model", icon=":material/arrow_back:")
        st.stop()
    return opened


def open_example(name: str) -> None:
    _opened(example_checkpoint(name))
    st.session_state.example = name


def open_file(source: str | bytes, name: str | None = None) -> None:
    """Open a path, or bytes with their file's name. Raises PrunerError; the model that was open then stays open."""
    _opened(open_checkpoint(source, name))
    st.session_state.example = None


def _opened(new: Checkpoint) -> None:
    _let_go()
    st.session_state.checkpoint, st.session_state.lstms = new, []
    st.session_state.lstm = new.lstms[0].name if new.lstms else None
    apply_recipe(Recipe())


def _let_go() -> None:
    """Stop all work on the model that was open, and forget what was made of it and said about it."""
    session = st.session_state
    for job in JOBS:
        if session.get(job) is not None:
            session[job].cancel()
        session[job] = None
    session.export = session.gathered = session.inputs = session.embedding = session.pinned = None
    session.past, session.at = [], -1
    session.consumers, session.task, session.readers_named = [], None, False
    session.update(FIRST_VIEW)


@st.cache_resource
def example_checkpoint(name: str) -> Checkpoint:
    return examples.named(name).open()


def layers() -> int:
    """How many layers the deepest of the LSTMs to prune has; 0 without one."""
    opened = checkpoint()
    if opened is None or not opened.lstms:
        return 0
    return max(lstm.num_layers for lstm in opened.select(st.session_state.lstms or None))


def recipe() -> Recipe:
    """The recipe that the controls describe, whichever page they stand on."""
    state = st.session_state
    by_layer = {layer: state[f"layer_{layer}"] for layer in range(layers()) if state.get(f"layer_{layer}") is not None}
    by_gate = {block: state[f"gate_{block}"] for block in ALL_BLOCKS if state.get(f"gate_{block}") is not None}
    of_units = state.granularity == "units"
    criterion = criterion_for(state.granularity, state.criterion)
    together = state.allocation == "global" and (of_units or criterion in COST_CRITERIA)
    common = Recipe(
        state.sparsity,
        granularity=state.granularity,
        criterion=criterion,
        allocation="global" if together else "uniform",
        lstms=tuple(state.lstms) or None,
        layer_sparsity={} if together else by_layer,
        gate_sparsity={} if together or of_units else by_gate,
        compensation=state.compensation,
        seed=state.seed if criterion == "random" else 0,
    )
    return with_readers(replace(common, round_to=state.round_to) if of_units else common)


def with_readers(recipe: Recipe) -> Recipe:
    """The recipe with the readers that the controls name, and their task, as far as it has a use for them."""
    consumers = _chosen_consumers()
    if recipe.needs_data:
        return replace(recipe, consumers=consumers, task=st.session_state.task if consumers else None)
    return replace(recipe, task=None, consumers=consumers if recipe.granularity == "units" else ())


def readers() -> Recipe:
    """What is gathered from inputs depends on this much of the recipe: the LSTMs, what reads them, and the task."""
    return with_readers(Recipe(criterion="fisher", lstms=tuple(st.session_state.lstms) or None))


def criterion_for(granularity: str, criterion: str) -> str:
    """The criterion itself, or a norm in place of one that scores whole units only."""
    return criterion if granularity == "units" or criterion in ROW_CRITERIA else row_norm(criterion)


def name_readers() -> None:
    """Once a model: name what is known of an example, its head and its task, unless something else is named."""
    opened, session = checkpoint(), st.session_state
    if opened is None or session.readers_named:
        return
    session.readers_named = True
    example = examples.example_of(opened)
    if example and not session.consumers:
        session.consumers, session.task = [example.consumer], example.task


def _chosen_consumers() -> tuple[str, ...]:
    offered = possible_consumers()
    return tuple(name for name in st.session_state.consumers if name in offered)


def possible_consumers() -> list[str]:
    """The tensors that are as wide as the output of one of the LSTMs to prune."""
    opened = checkpoint()
    if opened is None or not opened.lstms:
        return []
    return suggestions(opened, opened.select(st.session_state.lstms or None))


def apply_recipe(new: Recipe) -> None:
    """Set every control to what a recipe says. Raises PrunerError if it does not fit the open model."""
    opened, state = checkpoint(), st.session_state
    if opened and opened.lstms:
        check_layers(new, opened.select(new.lstms))
        example = examples.example_of(opened)
        new = example.complete(new) if example else new
        consumers_of(opened, new)
    reset_overrides()
    if new.needs_data or new.granularity == "units":  # rows by their weights alone have no readers to speak of
        state.consumers = list(new.consumers)
    if new.needs_data:
        state.task = new.task
    state.compensation, state.seed = new.compensation, new.seed
    state.sparsity, state.criterion, state.lstms = new.sparsity, new.criterion, list(new.lstms or ())
    state.granularity, state.allocation = new.granularity, new.allocation
    state.round_to = new.round_to if new.granularity == "units" else SUGGESTED_ROUND_TO
    for layer in range(layers()):
        state[f"layer_{layer}"] = new.layer_sparsity.get(layer)
    for block in ALL_BLOCKS:
        state[f"gate_{block}"] = new.gate_sparsity.get(block)


def reset_overrides() -> None:
    """Empty the fields of all layers and gates, those of LSTMs that are not to be pruned now included."""
    opened = checkpoint()
    deepest = max((lstm.num_layers for lstm in opened.lstms), default=0) if opened else 0
    for key in [*(f"layer_{layer}" for layer in range(deepest)), *(f"gate_{block}" for block in ALL_BLOCKS)]:
        st.session_state[key] = None


def result() -> Result | None:
    """What the last run of the open model made, whatever the controls say now."""
    job = st.session_state.job
    return job.status.result if job else None
