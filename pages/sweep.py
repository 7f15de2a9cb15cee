"""Rate many recipes side by side and take the best."""

import streamlit as st

from pruner import examples
from pruner.dashboard import explore, frame, inputs, model, watching
from pruner.dashboard.controls import controls
from pruner.dashboard.downloads import csv_button, png_button
from pruner.dashboard.explore import Sweep
from pruner.dashboard.jobs import Job
from pruner.dashboard.words import COMPENSATION_TITLES, CRITERION_TITLES, criteria_of
from pruner.dashboard.work import Work, work
from pruner.progress import Progress
from pruner.search.sweep import SEEDS, as_table
from pruner.views import search_figures

frame.stand_in_app()

st.title("Sweep")
checkpoint = model.required_checkpoint()
recipe = controls.recipe()
judged = explore.judged_by(examples.example_of(checkpoint))
st.markdown(
    "How much pruning a model bears depends on what is removed and on what the rest can take over. A criterion that does "
    "not beat random choice, the grey band, says nothing about this model."
)
offered = [name for name in criteria_of(recipe.granularity) if name != "random"]
work.sweep_criteria = [name for name in work.sweep_criteria if name in offered]
if not work.sweep_criteria:
    work.sweep_criteria = [recipe.criterion if recipe.criterion in offered else offered[0]]
work.sweep_compensations = work.sweep_compensations or [recipe.compensation]
st.pills(
    "Criteria",
    offered,
    format_func=CRITERION_TITLES.__getitem__,
    selection_mode="multi",
    key=Work.sweep_criteria.key,
    persist_state="session",
)
st.pills(
    "Compensations",
    list(COMPENSATION_TITLES),
    format_func=COMPENSATION_TITLES.__getitem__,
    selection_mode="multi",
    key=Work.sweep_compensations.key,
    persist_state="session",
)
st.slider(
    "How many sparsities, from 10 to 90 %",
    min_value=2,
    max_value=12,
    key=Work.sweep_count.key,
    persist_state="session",
    width=400,
)
recipes = explore.grid(
    recipe,
    controls.to_gather(),
    explore.spread(work.sweep_count),
    work.sweep_criteria,
    work.sweep_compensations,
)
slow = (
    f" Each recipe that is healed takes its budget of {recipe.budget:.0f} seconds."
    if "heal" in work.sweep_compensations
    else ""
)
st.caption(
    f"{len(recipes)} recipes, among them {SEEDS} random ones for each sparsity and compensation, rated by "
    f"{judged.name} on all cores of this machine.{slow}"
)
needy = sorted(recipes, key=lambda each: (each.compensation == "heal", each.needs_data))[-1]
ready = inputs.are_there(checkpoint, needy)


def start() -> None:
    """Start a sweep; everything it needs is bound here, because its thread cannot ask the session."""
    gathered = inputs.current()

    def do(progress: Progress) -> Sweep:
        return explore.sweep(checkpoint, recipes, gathered, judged, progress)

    work.sweep = Job(do)


def take(index: int) -> None:
    """Set the controls to one of the recipes."""
    if found is not None:
        controls.apply(found.rated[index].recipe)


with st.container(horizontal=True, vertical_alignment="bottom"):
    watching.start_button("Sweep", work.sweep, start, ready)
watching.follow(work.sweep, "sweep")
found = work.sweep.status.result if work.sweep else None
if found is None:
    st.stop()
table = as_table(found.rated)
mine = next((each for each in found.rated if each.recipe == recipe), None)
title = found.judged.name
st.plotly_chart(
    search_figures.sweep_curves(
        table,
        found.dense,
        title,
        (mine.recipe.sparsity, mine.value) if mine else None,
        {**CRITERION_TITLES, **{name: name for name in COMPENSATION_TITLES}},
    ),
    key="curves",
    config=png_button("sweep"),
    alt=f"{title.capitalize()} over sparsity, one line for each criterion and compensation, random choices as a band",
)
better = "Higher" if found.judged.higher_is_better else "Lower"
st.caption(
    f"{better} is better. Sizes are those of the compact form. Select a row of the table to take over its recipe."
)
shown = table.assign(
    criterion=table["criterion"].map(CRITERION_TITLES),
    compensation=table["compensation"].map(COMPENSATION_TITLES),
).rename(columns={"macs_per_step": "multiply-accumulates a step", "value": title})
event = st.dataframe(
    shown,
    hide_index=True,
    key="recipes",
    column_order=["sparsity", "criterion", "compensation", title, "parameters", "multiply-accumulates a step", "seed"],
    on_select="rerun",
    selection_mode="single-row",
    height=320,
    column_config={
        "sparsity": st.column_config.NumberColumn(format="percent"),
        title: st.column_config.NumberColumn(format="%.4f"),
        "parameters": st.column_config.NumberColumn(format="localized"),
        "multiply-accumulates a step": st.column_config.NumberColumn(format="localized"),
    },
    alt=f"Every recipe with its {title}, its parameters and its multiply-accumulates",
)
chosen = [index for index in event.selection.rows if index < len(found.rated)]
with st.container(horizontal=True, vertical_alignment="center"):
    st.button(
        "Take this recipe",
        icon=":material/check:",
        type="primary",
        disabled=not chosen,
        on_click=take,
        args=(chosen[0] if chosen else 0,),
    )
    csv_button(table, "sweep")
    st.page_link("pages/masks.py", label="See what falls", icon=":material/arrow_forward:")
if chosen and found.rated[chosen[0]].recipe == recipe:
    st.success("This is your recipe now: the star in the figure.", icon=":material/star:")
