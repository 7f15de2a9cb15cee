"""Tune the sparsity and see which rows fall."""

import pandas as pd
import streamlit as st
import torch

from pruner import PrunerError, Recipe
from pruner.dashboard import comparing, frame, grids, history, inputs, judging, model, speaking, tuning
from pruner.dashboard.again import make_anew
from pruner.dashboard.controls import controls
from pruner.dashboard.downloads import csv_button, png_button
from pruner.dashboard.gate_canvas import Grids, Look
from pruner.dashboard.gathered import Gathered
from pruner.dashboard.preview import Preview, preview, show_left, show_numbers
from pruner.dashboard.session import Session, session
from pruner.dashboard.text import plain, stop_with
from pruner.dashboard.view import View, choose_side, choose_view
from pruner.dashboard.whole import heed
from pruner.dashboard.words import CRITERION_WORDS, CUT_MEANING, GRANULARITY_MEANING, measure_of_rows
from pruner.dashboard.work import work
from pruner.files.checkpoint import Checkpoint
from pruner.importance.masks import unit_agreement
from pruner.importance.weights import as_table
from pruner.lstm.gates import ALL_BLOCKS, BLOCKS, GATE_TITLES, GATES, SIDE_TITLES, SIDES, split_gates
from pruner.recipe import ROW_CRITERIA
from pruner.views import row_figures

frame.stand_in_app()

EVERY = 0.1  # seconds between two looks at what is being judged
NARROW = 380  # pixels: what is set now and then leaves the quality and half of the grids in view


def load_recipe() -> None:
    """Set every control from the uploaded recipe, or keep them all and say why."""
    uploaded = session.recipe_upload.file
    if uploaded is None:
        return
    session.recipe_problem = None
    try:
        controls.apply(Recipe.from_json(uploaded.getvalue()))
    except PrunerError as error:
        session.recipe_problem = str(error)
    session.recipe_upload.let_go()


def moved() -> None:
    speaking.hush()  # leaves the processor to what follows the slider
    follow_sliders(tuning.GRIDS)


def follow_sliders(key: str) -> None:
    if tuning.follow(key):
        history.record()  # at once: the next may be moved before all of the page is made anew


@st.fragment
def follow(checkpoint: Checkpoint, view: View, look: Look, a: comparing.Other | None) -> None:
    """What is left, the slider, the grids and the numbers, made anew by themselves while a slider moves, what is left first:
    with the rest of the page, which follows once it rests, they would take twice as long."""
    heed()
    recipe, gathered = controls.recipe(), inputs.current()
    found = preview(checkpoint, recipe, gathered)
    left, tuned = st.columns([2, 7])
    drawn = None
    if isinstance(found, Preview):
        with left:
            say_what_is_left(checkpoint, recipe, found, gathered, a)
        drawn = draw(checkpoint, view, look, recipe, found, gathered, a)
    with tuned:
        grids.show(tuning.GRIDS, drawn, tuning.overall(recipe, view.layer), moved)
        if drawn:
            explain(view, recipe, drawn)
    if isinstance(found, Preview):
        show_numbers(found)


def say_what_is_left(
    checkpoint: Checkpoint, recipe: Recipe, found: Preview, gathered: Gathered | None, a: comparing.Other | None
) -> None:
    """The sizes that are left, and what they are worth: looked at again and again while that is being found out."""
    asked = judging.Asked(checkpoint, recipe, found.masks, gathered)

    def look_again() -> None:
        judged, judged_a = judging.found(asked), judging.found(a.asked) if a else None
        show_left(found, judged, judged_a)
        if waits and not (judged.waits or (judged_a and judged_a.waits)):
            make_anew()

    waits = any(judging.found(each).waits for each in (asked, *([a.asked] if a else [])))
    if waits:
        st.fragment(look_again, run_every=EVERY)()
        return
    # No part in a part while a slider moves: where moves follow each other fast, Streamlit sends what is in the inner one
    # and not where it belongs, at which the whole page goes white.
    with st.container():
        look_again()


def draw(
    checkpoint: Checkpoint,
    view: View,
    look: Look,
    recipe: Recipe,
    found: Preview,
    gathered: Gathered | None,
    a: comparing.Other | None,
) -> Grids:
    """The gate grids with what falls, now and in A."""
    scored, falling = found.scored[view.lstm.name], None
    if view.tensor in found.masks:
        of = f"{checkpoint.sha256} {gathered.key if gathered else ''}"
        falling = grids.falling_anywhere(view, scored, recipe, found.masks, of, tuning.standing(recipe))
    return grids.drawn(view, scored, recipe, look, falling, a.of_blocks(view) if a and falling else None)


def explain(view: View, recipe: Recipe, drawn: Grids) -> None:
    """What the grids show."""
    if drawn.falling is None:
        st.info(f"{plain(view.lstm.title)} is left as it is: it is not among the LSTMs to prune.")
        return
    by_whole = ""
    if recipe.criterion not in ROW_CRITERIA:
        by_whole = f" Units are ranked by their {CRITERION_WORDS[recipe.criterion]}."
    where = " in both" if drawn.pinned is not None else ""
    st.caption(
        f"Each cell is a row of a gate, coloured by its {drawn.measure}. Orange rows fall{where}. "
        f"{GRANULARITY_MEANING[recipe.granularity]}{by_whole}"
    )


@st.fragment
def slide_parts(view: View) -> None:
    """The sliders of layers and gates, made anew by themselves while one moves."""
    heed()
    if shown := tuning.parts(controls.recipe(), view.layer):
        grids.show(tuning.PARTS, None, shown, lambda: follow_sliders(tuning.PARTS))


def choose_the_rest(checkpoint: Checkpoint, view: View) -> Look:
    """What is set now and then: how layers share the sparsity, layers and gates by themselves, how the grids are drawn."""
    tuning.in_detail(checkpoint, controls.recipe())
    slide_parts(view)
    look = grids.choose_look(masked=True)
    load_and_save(controls.recipe())
    return look


def load_and_save(recipe: Recipe) -> None:
    st.file_uploader(
        "Load a recipe saved here or by the command line",
        type="json",
        key=session.recipe_upload.key,
        on_change=load_recipe,
        max_upload_size=1,
    )
    st.download_button(
        "Save the recipe",
        recipe.to_json(),
        file_name="recipe.json",
        mime="application/json",
        icon=":material/save:",
        on_click="ignore",
    )


def lead_on() -> None:
    """What one does with a recipe: hold on to it, compare it, run it."""
    grids.selection()
    with st.container(horizontal=True, vertical_alignment="center"):
        if not session.comparing:
            st.button(
                "Pin as A",
                icon=":material/keep:",
                on_click=comparing.pin,
                help="Keep this recipe as A and go on tuning: Compare with A shows both.",
            )
        st.toggle("Compare with A", key=Session.comparing.key, persist_state="session")
        st.page_link("pages/run.py", label="Run it", icon=":material/arrow_forward:")
        st.page_link("pages/shrink.py", label="Let Shrink find a good one", icon=":material/compress:")


def tell(view: View, recipe: Recipe, found: Preview) -> None:
    """What the masks make of the viewed layer: sorted curves with their cut, agreement of the blocks, a table."""
    saliency, mask = found.scored[view.lstm.name].saliency[view.tensor], found.masks.get(view.tensor)
    kept = split_gates(torch.ones_like(saliency, dtype=torch.bool) if mask is None else mask)
    dropped = tuple((~kept).sum(1).tolist())
    if recipe.granularity == "rows":
        norm = measure_of_rows(recipe.criterion)
        st.subheader("Sorted row saliency and pruning thresholds")
        choose_side()
        st.caption(f"The four gates of **{plain(view.tensor)}**, {SIDE_TITLES[view.side]}.{CUT_MEANING}")
        st.plotly_chart(
            row_figures.sorted_curves(saliency, view.side, dropped),
            key="curves",
            config=png_button("masks-sorted"),
            alt=f"Rows of each gate of {view.tensor} sorted by {norm}, with a dot where each gate is cut",
        )
    st.subheader("Agreement")
    st.caption(
        "What the eight blocks decide of each unit. Only a unit that all of them drop could be removed; a mixed one keeps a "
        "part of itself, and a gate whose rows are dropped stays at what its bias gives."
        if recipe.granularity == "rows"
        else "The eight rows of a unit fall together, so every unit is kept by all blocks or dropped by all."
    )
    if mask is not None:
        names = view.lstm.weight_names()
        keeping = unit_agreement([found.masks[names[view.layer, view.direction, side]] for side in SIDES])
        removable = int((keeping == 0).sum())
        st.markdown(f"**{removable:,} of {len(keeping):,}** units of {view.place} can be removed.")
        st.plotly_chart(
            row_figures.agreement_grid(keeping),
            key="agreement",
            config=png_button("agreement"),
            alt=f"Every hidden unit of {view.place}: {removable} dropped by all eight blocks, "
            f"{int((keeping == len(ALL_BLOCKS)).sum())} kept by all, the rest mixed",
        )
    gates = split_gates(saliency)
    table = pd.DataFrame(
        {
            "gate": [f"{block} ({GATE_TITLES[gate]})" for gate, block in zip(GATES, BLOCKS[view.side], strict=True)],
            "sparsity": [fallen / view.lstm.hidden_size for fallen in dropped],
            "rows dropped": dropped,
            "rows kept": kept.sum(1).numpy(),
            "saliency kept": ((gates * kept).sum(1) / gates.sum(1).clamp(min=torch.finfo(gates.dtype).tiny)).numpy(),
        }
    )
    st.dataframe(
        table,
        hide_index=True,
        column_config={
            "sparsity": st.column_config.NumberColumn(format="percent"),
            "saliency kept": st.column_config.ProgressColumn(format="percent", min_value=0, max_value=1),
        },
        alt=f"Rows dropped and saliency kept in each gate of {view.tensor}",
    )
    with st.container(horizontal=True, vertical_alignment="center"):
        csv_button(table, "masks-by-gate", "Download the table as CSV")
        csv_button(
            lambda: as_table(view.lstm, found.scored[view.lstm.name].saliency, found.masks),
            "masks-by-row",
            "Download every row as CSV",
        )


checkpoint = model.required_checkpoint()
with st.container(horizontal=True, vertical_alignment="bottom", gap="xsmall"):  # one line of a phone
    st.title("Masks", anchor=False, width="content")
    view = choose_view(checkpoint)
    controls.draw("head")
    st.space("stretch")
    history.buttons()
    for_experts = st.popover("Recipe").container(width=NARROW)
with for_experts:
    controls.draw("top")
inputs.are_there(checkpoint, controls.recipe())
with for_experts:
    look = choose_the_rest(checkpoint, view)
recipe, gathered, a = controls.recipe(), inputs.current(), None
if session.recipe_problem:
    st.error(plain(session.recipe_problem), title="This recipe cannot be used", icon=":material/error:")
if session.comparing:
    comparing.say_if_nothing_is_pinned()
    try:
        a = comparing.other(checkpoint, recipe, gathered)
    except PrunerError as error:
        stop_with(error, "These two cannot be compared")
found = preview(checkpoint, recipe, gathered)
if isinstance(found, Preview):
    now = judging.Asked(checkpoint, recipe, found.masks, gathered)
    judging.begin(now, *([a.asked] if a else []))
follow(checkpoint, view, look, a)
if own := tuning.own_sparsities(recipe):
    st.caption(f"With a sparsity of {'its' if len(own) == 1 else 'their'} own: {', '.join(own)}.")
lead_on()
if isinstance(found, Preview) and now.by is not None:
    speaking.show(checkpoint, speaking.of_preview(now, work.result), judging.found(now).waits)
if session.comparing:
    comparing.choose_a(checkpoint, recipe)
if isinstance(found, PrunerError):
    stop_with(found, "This recipe does not fit the model")
if found and a:
    comparing.tell(a, checkpoint, recipe, found, judging.found(a.asked), judging.found(now))
if found:
    tell(view, recipe, found)
