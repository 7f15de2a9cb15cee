"""Find the smallest model that still answers like the whole one."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import streamlit as st

from pruner import PrunerError, examples
from pruner.compact.masked_and_compact import DEFAULT_FORM
from pruner.dashboard import frame, gathering, inputs, model, speaking, watching
from pruner.dashboard.choosers import choose_time
from pruner.dashboard.computing import begin
from pruner.dashboard.controls import controls
from pruner.dashboard.downloads import csv_button, png_button, zip_button
from pruner.dashboard.figures import SIZE_TITLES, show_size, show_speed
from pruner.dashboard.gathered import Gathered
from pruner.dashboard.gathering import Wanted
from pruner.dashboard.growing import Growing
from pruner.dashboard.inputs_chooser import choose_inputs, wanted
from pruner.dashboard.lasting import Search
from pruner.dashboard.limits import limits
from pruner.dashboard.text import plain, stop_with
from pruner.dashboard.verdicts import show_verdict
from pruner.dashboard.work import Work, work
from pruner.files.consumer_choice import consumers_of
from pruner.result import available_devices
from pruner.search.candidates import Candidate, Target, frontier_of
from pruner.views import search_figures

frame.stand_in_app()

TARGETS = {"keep": "Keep the quality", "macs": "Reach a share of the arithmetic", "size": "Reach a share of the file"}


def choose_target() -> Target:
    """What is asked for, in one line."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.segmented_control(
            "Target",
            list(TARGETS),
            format_func=TARGETS.__getitem__,
            key=Work.shrink_for.key,
            required=True,
            persist_state="session",
            wrap=True,
        )
        if work.shrink_for == "keep":
            st.number_input(
                "Quality to keep (%)",
                50.0,
                99.9,
                step=0.5,
                format="%.1f",
                key=Work.keep.key,
                persist_state="session",
                width=180,
            )
            return Target(work.keep / 100)
        st.number_input("Left at most (%)", 1, 99, step=5, key=Work.target_size.key, persist_state="session", width=180)
        return Target(None, work.shrink_for, work.target_size / 100)


def where_inputs_come_from() -> Gathered | Wanted:
    """What was gathered, if it still holds and is real; an example's own inputs; else those that are chosen here."""
    gathered = inputs.current()
    if example is not None and (gathered is None or gathered.calibration.source == "example"):
        st.caption(
            f"Healed on the example’s own training inputs, judged by {example.quality_name} on what it never saw."
        )
        return gathered or Wanted("example")
    if gathered is not None and gathered.calibration.is_real:
        calibration = gathered.calibration
        st.caption(f"Healed and judged on {gathering.told(calibration.source, calibration.name)}.")
        return gathered
    st.subheader("Inputs")
    st.markdown(
        "What a model is worth shows on inputs. Give what yours reads in use; labels are not needed. Name what reads the "
        "output, too: with it healing is strongest."
    )
    choose_inputs(checkpoint, controls.to_gather(), example)
    return wanted()


def planned() -> Search | None:
    """What is to be searched, where anything is healed."""
    random = isinstance(source, Wanted) and source.source == "gaussian"
    return None if random else Search(target, work.shrink_budget, limits().workers)


def start() -> None:
    """Start to shrink; everything it needs is bound here, because a worker cannot ask the session."""
    recipe = replace(
        controls.to_gather(), granularity="units", criterion="obs", compensation="heal", budget=work.shrink_budget
    )
    given = replace(work.given(checkpoint), inputs=source)
    work.tried, work.newest, work.search = Growing(), "shrink", planned()
    work.shrink = work.begin(partial(given.shrink, recipe, target, work.device))


def take(other: Candidate) -> None:
    """Measure another of the candidates, and make it the one that is exported."""
    before = work.shrunk
    if before is not None:
        quality = example.quality if example else None
        work.shrink, work.newest = begin(partial(before.instead, other, quality)), "shrink"
        work.search = None


def draw_frontier(tried: list[Candidate], chosen: Candidate | None = None) -> None:
    """Size against quality of all that was tried so far."""
    if not tried:
        return
    verdict = tried[0].verdict
    worst = None
    if verdict.before and verdict.loss is not None and target.keep is not None:
        worst = verdict.before * (1 - target.loss if verdict.higher_is_better else 1 + target.loss)
    st.plotly_chart(
        search_figures.frontier(frontier_of(tried, chosen), verdict.measure, verdict.before, worst),
        key="frontier_found" if chosen else "frontier",
        config=png_button("frontier"),
        alt=f"{verdict.measure} over the share of multiply-accumulates left, a dot for each of {len(tried)} candidates",
    )


def show_the_way() -> None:
    """How long it has taken and is to take, and what was tried so far."""
    tried = list(work.tried)
    if work.shrink and work.search:
        st.caption(work.search.after(work.shrink.seconds, tried))
    draw_frontier(tried)


st.title("Shrink")
checkpoint = model.required_checkpoint()
example = examples.example_of(checkpoint)
controls.name_consumers()
st.markdown(
    "Finds the smallest model that still answers like the whole one. Hidden units are removed; what stays is **healed**, "
    "trained without labels to answer as the whole model does; and all is judged on data that nothing was fitted to."
)
target = choose_target()
source = where_inputs_come_from()
try:
    consumers_of(checkpoint, controls.to_gather())
except PrunerError as error:
    stop_with(error, "These tensors cannot be used")
with st.container(horizontal=True, vertical_alignment="bottom"):
    watching.start_button("Shrink", work.shrink, start, heals=True)
    if search := planned():
        choose_time(
            "Time to heal each candidate",
            Work.shrink_budget.key,
            work.shrink_budget,
            help=(
                "A few sizes are healed for a seventh of it, then up to six for the whole of it, as many at a time as this "
                "machine has cores. Longer means smaller."
                if target.keep
                else "Up to two models of the size are healed for it: layers alike, and all layers ranked together. "
                "Longer means better."
            ),
        )
    if len(devices := available_devices()) > 1:
        st.segmented_control(
            "Device", list(devices), format_func=devices.__getitem__, key=Work.device.key, required=True
        )
watching.follow(work.shrink, "shrinking", show_the_way)
smaller = work.shrunk
if search and (smaller is None or search != work.search):
    st.caption(
        f"All of it takes {search.lasts} on this machine; longer for a far larger model, or while other work shares its "
        "cores."
    )
if smaller is None:
    draw_frontier(work.tried)
    st.stop()

result, found = smaller.result, smaller.found
show_verdict(result.verdict, True)
with st.grid(4, min_column_width=150):
    for what in SIZE_TITLES:
        show_size(result, what)
    show_speed(result)
try:
    folder = work.exported(result, DEFAULT_FORM[result.recipe.granularity])
except PrunerError as error:
    stop_with(error, "This model cannot be exported")
with st.container(horizontal=True, vertical_alignment="center"):
    zip_button(folder, f"{Path(checkpoint.name).stem}-compact")
    st.page_link("pages/export.py", label="File by file, and how to load it", icon=":material/arrow_forward:")
    st.page_link("pages/masks.py", label="See what fell", icon=":material/arrow_forward:")
speaking.show(checkpoint, speaking.of_result(result))
st.subheader("What was tried")
for sentence in found.told:
    st.markdown(plain(sentence))
draw_frontier(found.tried, found.chosen)
table = frontier_of(found.tried, found.chosen)
measure = found.chosen.verdict.measure
event = st.dataframe(
    table.drop(columns="loss" if table["loss"].isna().all() else []),
    hide_index=True,
    key="candidates",
    on_select="rerun",
    selection_mode="single-row",
    column_config={
        **{name: st.column_config.NumberColumn(format="percent") for name in ("sparsity", "loss")},
        "macs": st.column_config.NumberColumn("multiply-accumulates left", format="percent"),
        "parameters": st.column_config.NumberColumn("parameters left", format="percent"),
        "quality": st.column_config.NumberColumn(measure, format="%.4f"),
        "seconds": st.column_config.NumberColumn("healed for (s)", format="%.0f"),
    },
    alt=f"Every candidate with its sparsity, the shares of its dense size left, and {measure}",
)
ordered = sorted(found.tried, key=lambda each: (each.macs, each.seconds))
chosen = [index for index in event.selection.rows if index < len(ordered)]
with st.container(horizontal=True, vertical_alignment="center"):
    st.button(
        "Take this candidate instead",
        icon=":material/check:",
        disabled=not chosen or ordered[chosen[0]] is found.chosen,
        on_click=take,
        args=(ordered[chosen[0]] if chosen else found.chosen,),
        help="Select a row of the table first.",
    )
    csv_button(table, "frontier")
    st.page_link("pages/experiments.py", label="Beside all that was tried", icon=":material/stacked_line_chart:")
