"""All that was tried on the open model, the frontier first; and what each layer and each gate loses alone."""

import math
from functools import partial

import pandas as pd
import streamlit as st

from pruner.dashboard import experiments, explore, frame, inputs, model, parts, watching
from pruner.dashboard.controls import controls
from pruner.dashboard.downloads import csv_button
from pruner.dashboard.gathering import Wanted
from pruner.dashboard.given import Given
from pruner.dashboard.session import Session, session
from pruner.dashboard.words import COMPENSATION_TITLES, CRITERION_TITLES, GRANULARITY_TITLES, criteria_of
from pruner.dashboard.work import work
from pruner.recipe import Recipe
from pruner.search.experiments import Experiment
from pruner.search.sweep import SEEDS

frame.stand_in_app()

SECTIONS = {"frontier": "Size and quality", "parts": "Layer by layer, gate by gate"}


def choose_recipes(has_inputs: bool) -> list[Recipe]:
    """What a sweep tries: what measured best elsewhere, unless something else is chosen."""
    st.segmented_control(
        "What falls",
        list(GRANULARITY_TITLES),
        format_func=GRANULARITY_TITLES.__getitem__,
        key=Session.sweep_granularity.key,
        required=True,
        persist_state="session",
    )
    offered = [name for name in criteria_of(session.sweep_granularity) if name != "random"]
    criterion, compensation = explore.best_known(session.sweep_granularity, has_inputs)
    session.sweep_criteria = [name for name in session.sweep_criteria if name in offered]
    st.pills(
        f"Criteria (none chosen: {CRITERION_TITLES[criterion]})",
        offered,
        format_func=CRITERION_TITLES.__getitem__,
        selection_mode="multi",
        key=Session.sweep_criteria.key,
        persist_state="session",
    )
    st.pills(
        f"Compensations (none chosen: {COMPENSATION_TITLES[compensation]})",
        list(COMPENSATION_TITLES),
        format_func=COMPENSATION_TITLES.__getitem__,
        selection_mode="multi",
        key=Session.sweep_compensations.key,
        persist_state="session",
    )
    st.slider(
        "How many sparsities, from 10 to 90 %",
        min_value=2,
        max_value=12,
        key=Session.sweep_count.key,
        persist_state="session",
    )
    recipes = explore.grid(
        controls.recipe(),
        controls.to_gather(),
        session.sweep_granularity,
        explore.spread(session.sweep_count),
        session.sweep_criteria or [criterion],
        session.sweep_compensations or [compensation],
    )
    slow = "heal" in session.sweep_compensations
    st.caption(
        f"{len(recipes)} recipes, among them {SEEDS} random ones for each sparsity and compensation, on all cores of this "
        f"machine.{f' Each one that is healed takes {recipes[-1].budget:.0f} seconds.' if slow else ''}"
    )
    return recipes


def try_sizes() -> None:
    """Start a sweep; everything it needs is bound here, because a worker cannot ask the session."""
    work.sweep = work.begin(partial(given.sweep, recipes, controls.to_gather()))


def measure() -> None:
    """Start to prune each part alone, likewise."""
    sparsities = explore.spread(session.sensitivity_count)
    work.sensitivity = work.begin(partial(given.measure_parts, controls.recipe(), sparsities, controls.to_gather()))


def is_ready(given: Given, recipe: Recipe) -> bool:
    """Whether all inputs are there, or are gathered on the way; where they are not, say so and lead there."""
    return isinstance(given.inputs, Wanted) or inputs.are_there(given.checkpoint, recipe)


def draw() -> None:
    """The frontier while it grows."""
    if grown := experiments.compared():
        experiments.draw(grown, experiments.as_table(grown))


def lead_on(table: pd.DataFrame, chosen: Experiment | None) -> None:
    """What one can do with an experiment: look at what falls, run it, have a better model of its size sought."""
    recipe = chosen.recipe if chosen else None
    if chosen:
        st.markdown(
            f"Selected: **{experiments.titled(chosen)}**, {chosen.value:.4g}, with {chosen.macs:.0%} of the work."
        )
    with st.container(horizontal=True, vertical_alignment="center"):
        masks = st.button("Open on Masks", icon=":material/tune:", type="primary", disabled=recipe is None)
        run = st.button("Run it", icon=":material/play_arrow:", disabled=recipe is None)
        shrink = st.button(
            "Shrink to its size",
            icon=":material/compress:",
            disabled=chosen is None,
            help="Seeks the best model of that size: Shrink heals several and judges them.",
        )
        csv_button(table.drop(columns=["key", "now"]), "experiments")
        with st.popover("Forget", icon=":material/delete:"):
            st.markdown(
                "Forgets all that was tried on this model. A run, and what Shrink found, can still be exported."
            )
            st.button("Forget all of it", on_click=session.history.clear)
    if recipe and (masks or run):
        controls.apply(recipe)
        st.switch_page("pages/masks.py" if masks else "pages/run.py")
    if chosen and shrink:
        work.shrink_for, work.target_size = "macs", min(max(math.ceil(100 * chosen.macs), 1), 99)
        st.switch_page("pages/shrink.py")


checkpoint = model.required_checkpoint()
controls.name_consumers()
with st.container(horizontal=True, vertical_alignment="bottom"):
    st.title("Experiments", anchor=False, width="content")
    st.segmented_control(
        "Show",
        list(SECTIONS),
        format_func=SECTIONS.__getitem__,
        key=Session.experiments.key,
        required=True,
        persist_state="session",
        label_visibility="collapsed",
    )
    st.space("stretch")
    tools = st.container(horizontal=True, vertical_alignment="bottom", width="content")
recipe = controls.recipe()
if session.experiments == "parts":
    given = work.given(checkpoint, recipe.needs_data)
    with tools, st.popover("What is measured", icon=":material/tune:"):
        parts.choose(recipe, given.measure)
    ready = is_ready(given, recipe)
    with tools:
        watching.start_button("Measure", work.sensitivity, measure, ready)
    watching.follow(work.sensitivity, "measurement")
    measured = work.sensitivity.status.result if work.sensitivity else None
    parts.show(checkpoint, measured, recipe)
    st.stop()
has_inputs = work.given(checkpoint, needs_data=True).inputs is not None
with tools, st.popover("What is tried", icon=":material/tune:"):
    recipes = choose_recipes(has_inputs)
needy = sorted(recipes, key=lambda each: (each.compensation == "heal", each.needs_data))[-1]
given = work.given(checkpoint, needy.needs_data)
ready = is_ready(given, needy)
with tools:
    watching.start_button("Try sizes", work.sweep, try_sizes, ready)
watching.follow(work.sweep, "sweep", draw)
found = experiments.compared()
if found is None:
    st.markdown(
        "Nothing was tried on this model yet: **Try sizes** prunes it to several sizes and shows what each is worth by "
        f"{given.measure.name}."
    )
    if not (given.quality or given.measure.by_answers):
        st.page_link("pages/calibrate.py", label="Give inputs to judge by", icon=":material/model_training:")
    st.stop()
table = experiments.as_table(found)
chosen = experiments.draw(found, table)
experiments.explain(found)
lead_on(table, experiments.choose(found, table, chosen))
