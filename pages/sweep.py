"""Rate many recipes side by side and take the best."""

from functools import partial

import streamlit as st

from pruner import examples
from pruner.dashboard import explore, frame, inputs, model, watching
from pruner.dashboard.computing import begin
from pruner.dashboard.controls import controls
from pruner.dashboard.downloads import csv_button, png_button
from pruner.dashboard.words import COMPENSATION_TITLES, CRITERION_TITLES, criteria_of
from pruner.dashboard.work import Work, work
from pruner.search.front import front, lost, smallest_within
from pruner.search.references import DENSE, FACTORS
from pruner.search.sweep import SEEDS, as_table
from pruner.views import search_figures

frame.stand_in_app()

st.title("Sweep")
checkpoint = model.required_checkpoint()
recipe = controls.recipe()
judged = explore.judged_by(examples.example_of(checkpoint), inputs.current())
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
    """Start a sweep; everything it needs is bound here, because a worker cannot ask the session."""
    work.sweep = begin(partial(explore.sweep, checkpoint, recipes, inputs.current(), judged))


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
table, title, higher = as_table(found.rated), found.judged.name, found.judged.higher_is_better
dense = found.dense
mine = next((each for each in found.rated if each.recipe == recipe), None)
best = front(found.rated, lambda each: (each.macs_per_step, lost(each.value, dense, higher)))
titles = {**CRITERION_TITLES, **{name: name for name in COMPENSATION_TITLES}}
st.segmented_control("Over", ["Size", "Sparsity"], key=Work.sweep_over.key, required=True, persist_state="session")
if work.sweep_over == "Size":
    compared = {
        name: [(each.macs_per_step, each.value) for each in found.references if each.name == name]
        for name in (DENSE, FACTORS)
    }
    figure = search_figures.sweep_sizes(
        table,
        compared,
        [(each.macs_per_step, each.value) for each in best],
        title,
        (mine.macs_per_step, mine.value) if mine else None,
        titles,
    )
else:
    figure = search_figures.sweep_curves(
        table, dense, title, (mine.recipe.sparsity, mine.value) if mine else None, titles
    )
st.plotly_chart(
    figure,
    key="curves",
    config=png_button("sweep"),
    alt=f"{title.capitalize()} over {work.sweep_over.lower()} of each criterion and compensation, and of references",
)
st.caption(
    f"{'Higher' if higher else 'Lower'} is better. Sizes are those of the compact form; the thin line joins those that no "
    "other recipe beats in both. *Two factors*: every weight as the product of two thinner ones, from weights alone, which "
    "no kernel makes faster."
)
with st.container(horizontal=True, vertical_alignment="bottom"):
    st.number_input(
        "Bear a loss of (%)",
        0.0,
        100.0,
        step=0.5,
        format="%.1f",
        key=Work.borne.key,
        persist_state="session",
        width=180,
    )
    smallest = smallest_within(found.rated, dense, higher, work.borne / 100)
    if smallest is None:
        st.markdown("No recipe of these loses so little: drop less, or heal.")
    else:
        share = smallest.macs_per_step / found.references[0].macs_per_step
        how = f"{CRITERION_TITLES[smallest.recipe.criterion]}, {smallest.recipe.compensation}"
        st.markdown(
            f"The smallest that does leaves **{share:.0%}** of the multiply-accumulates: {how}, "
            f"{smallest.recipe.sparsity:.0%}. It is selected below."
        )
shown = table.assign(
    criterion=table["criterion"].map(CRITERION_TITLES),
    compensation=table["compensation"].map(COMPENSATION_TITLES),
    front=[each in best for each in found.rated],
).rename(columns={"macs_per_step": "multiply-accumulates a step", "value": title})
preselected = [found.rated.index(smallest)] if smallest else []
event = st.dataframe(
    shown,
    hide_index=True,
    key=f"recipes_{'_'.join(map(str, preselected))}",
    column_order=[
        "sparsity",
        "criterion",
        "compensation",
        title,
        "parameters",
        "multiply-accumulates a step",
        "front",
        "seed",
    ],
    on_select="rerun",
    selection_mode="single-row",
    selection_default={"selection": {"rows": preselected}},
    height=320,
    column_config={
        "sparsity": st.column_config.NumberColumn(format="percent"),
        title: st.column_config.NumberColumn(format="%.4f"),
        "parameters": st.column_config.NumberColumn(format="localized"),
        "multiply-accumulates a step": st.column_config.NumberColumn(format="localized"),
    },
    alt=f"Every recipe, the best first, with its {title}, its parameters and its multiply-accumulates",
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
