"""Two choices side by side: a pinned recipe, or another checkpoint of the same architecture, against the present one."""

import pandas as pd
import streamlit as st
import torch

from pruner import PrunerError
from pruner.compact.costs import size_of_file, size_when_compact
from pruner.dashboard import frame, grids, history, inputs, model
from pruner.dashboard.controls import controls
from pruner.dashboard.downloads import csv_button
from pruner.dashboard.pinned import pinned_file
from pruner.dashboard.scores import all_scores, masks_of
from pruner.dashboard.session import session
from pruner.dashboard.text import plain, stop_with
from pruner.dashboard.view import choose_view
from pruner.lstm.gates import SIDES, split_gates
from pruner.recipe import DATA_CRITERIA
from pruner.views import comparison

frame.stand_in_app()

st.title("Compare")
checkpoint = model.required_checkpoint()
recipe = controls.recipe()


def open_other() -> None:
    """Pin the checkpoint that was just uploaded, or say why not."""
    uploaded = session.other_upload.file
    session.other_problem = None
    if uploaded is None:
        return
    try:
        session.pinned = pinned_file(checkpoint, uploaded.getvalue(), uploaded.name)
    except PrunerError as error:
        session.other_problem = str(error)
    session.other_upload.let_go()


def unpin() -> None:
    session.pinned = None


def choose_a() -> None:
    """Pin the present recipe, or another checkpoint."""
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button("Pin the present recipe as A", icon=":material/keep:", on_click=history.pin)
        with st.popover("Compare with another checkpoint", icon=":material/upload_file:"):
            st.file_uploader(
                "A checkpoint with the same LSTMs, from before a fine-tuning, say",
                key=session.other_upload.key,
                on_change=open_other,
                help="The file stays in the server's memory, for this browser alone, until an hour after its last use. "
                "Nothing in it is executed.",
            )
        if session.pinned is not None:
            st.button("Unpin", icon=":material/keep_off:", on_click=unpin)
    if session.other_problem:
        st.error(plain(session.other_problem), title="This checkpoint cannot be compared", icon=":material/error:")


choose_a()
pinned = session.pinned
if pinned is None:
    st.info(
        "Nothing is pinned yet. Pin a recipe as A, go on tuning on Masks, and see here what only one of the two drops.",
        icon=":material/keep:",
    )
    st.page_link("pages/masks.py", label="Tune a recipe", icon=":material/arrow_back:")
    st.stop()
inputs.are_there(checkpoint, recipe)
gathered = inputs.current()
if recipe.criterion in DATA_CRITERIA and gathered is None:
    st.stop()
other, beside = pinned.checkpoint, pinned.recipe_beside(recipe)
try:
    scored = all_scores(checkpoint, recipe, gathered)
    scored_a = all_scores(other, beside, gathered if other is checkpoint else None)
    masks, masks_a = masks_of(checkpoint, recipe, scored), masks_of(other, beside, scored_a)
    sizes = {"A": size_when_compact(other, beside, masks_a), "now": size_when_compact(checkpoint, recipe, masks)}
except PrunerError as error:
    stop_with(error, "These two cannot be compared")
if pinned.recipe is None:
    st.markdown(f"**A** is {plain(other.name)}, **now** is {plain(checkpoint.name)}, both under the present recipe.")
    if beside != recipe:
        st.caption("Inputs were gathered for the open model only, so A is scored by its weights and not compensated.")
else:
    st.markdown("**A** is the pinned recipe, **now** the present one.")

settings = comparison.differing_settings(beside, recipe)
st.subheader("Both recipes")
if settings.empty:
    st.caption("The two recipes are the same.")
else:
    st.dataframe(settings, hide_index=True, alt="The settings in which the two recipes differ")
view = choose_view(checkpoint, sides=False)
names = view.lstm.weight_names()
here = [names[view.layer, view.direction, side] for side in SIDES]
in_both = all(name in masks and name in masks_a for name in here)
if not in_both:
    st.info(f"{plain(view.lstm.title)} is pruned by only one of the two.")
else:
    look = grids.choose_look(masked=True)
    grids.selection()
    pinned_masks = torch.cat([split_gates(masks_a[name]) for name in here])
    falling = grids.falling(view, masks)
    grids.show("compare_grids", grids.drawn(view, scored[view.lstm.name], recipe, look, falling, pinned_masks))
both = [
    lstm for lstm in checkpoint.lstms if all(name in masks and name in masks_a for name in lstm.weight_names().values())
]
saliency_a, saliency = (
    {name: values for each in found.values() for name, values in each.saliency.items()} for found in (scored_a, scored)
)
table = comparison.by_block(both, masks_a, masks, saliency_a, saliency)
st.subheader("Block by block")
st.dataframe(
    table,
    hide_index=True,
    column_config={
        "overlap": st.column_config.ProgressColumn(format="percent", min_value=0, max_value=1),
        "rank correlation": st.column_config.NumberColumn(format="%.3f"),
    },
    alt="For each block, the rows dropped by both, by A only and by the present choice only",
)
st.caption(
    "Overlap: the rows dropped by both, as a share of those dropped by either. Rank correlation: Spearman's, of the "
    "saliencies of the block's rows in A and now; 1 where both rank alike."
)
with st.container(horizontal=True):
    csv_button(table, "compare-blocks", "Download the table as CSV")
    if both:
        csv_button(
            lambda: comparison.by_row(both, masks_a, masks, saliency_a, saliency),
            "compare-rows",
            "Download every row as CSV",
        )
st.subheader("What is left")
dense = size_of_file(checkpoint)
sums = pd.DataFrame(
    [
        (what, getattr(dense, key), getattr(sizes["A"], key), getattr(sizes["now"], key))
        for what, key in (
            ("parameters", "parameters"),
            ("multiply-accumulates a step", "macs_per_step"),
            ("bytes of the tensors", "tensor_bytes"),
        )
    ],
    columns=["compact form", "dense", "A", "now"],
)
st.dataframe(
    sums,
    hide_index=True,
    column_config={name: st.column_config.NumberColumn(format="localized") for name in ("dense", "A", "now")},
    alt="Parameters, multiply-accumulates and bytes of the dense model, of A and of the present choice",
)
csv_button(sums, "compare-sizes", "Download the sizes as CSV")
with st.container(horizontal=True):
    st.page_link("pages/masks.py", label="Go on tuning", icon=":material/tune:")
    st.page_link("pages/run.py", label="Run it", icon=":material/arrow_forward:")
