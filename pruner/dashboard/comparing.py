"""The page Masks as a comparison: A, a pinned recipe or another checkpoint of the same architecture, beside the present
choice."""

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd
import streamlit as st
import torch
from torch import Tensor

from pruner.compact.costs import size_of_file, size_when_compact
from pruner.dashboard import tuning
from pruner.dashboard.controls import controls
from pruner.dashboard.downloads import csv_button
from pruner.dashboard.gathered import Gathered
from pruner.dashboard.judging import Asked
from pruner.dashboard.pinned import Pinned, pinned_file
from pruner.dashboard.preview import Preview
from pruner.dashboard.scores import all_scores, masks_of
from pruner.dashboard.session import session
from pruner.dashboard.text import plain
from pruner.dashboard.verdicts import Judged
from pruner.dashboard.view import View
from pruner.errors import PrunerError
from pruner.files.checkpoint import Checkpoint
from pruner.importance.scores import Scores
from pruner.lstm.gates import SIDES, split_gates
from pruner.lstm.sizes import Size
from pruner.recipe import DATA_CRITERIA, Recipe
from pruner.views import comparison


@dataclass(frozen=True)
class Other:
    """A: what it is scored and masked as, its size when compact, and what is asked of its worth."""

    pinned: Pinned
    scored: dict[str, Scores]
    size: Size
    asked: Asked

    @property
    def masks(self) -> Mapping[str, Tensor]:
        return self.asked.masks

    def of_blocks(self, view: View) -> Tensor | None:
        """(8, H) bool, True = kept, of the viewed layer; None where A does not prune it."""
        names = view.lstm.weight_names()
        here = [names[view.layer, view.direction, side] for side in SIDES]
        if not all(name in self.masks for name in here):
            return None
        return torch.cat([split_gates(self.masks[name]) for name in here])


def other(checkpoint: Checkpoint, recipe: Recipe, gathered: Gathered | None) -> Other | None:
    """A beside the present recipe; None where nothing is pinned, or A waits for inputs.

    Raises PrunerError where it no longer fits.
    """
    pinned = session.pinned
    if pinned is None:
        return None
    beside, known = pinned.recipe_beside(recipe), gathered if pinned.checkpoint is checkpoint else None
    if beside.criterion in DATA_CRITERIA and known is None:
        return None
    scored = all_scores(pinned.checkpoint, beside, known)
    masks = masks_of(pinned.checkpoint, beside, scored)
    size = size_when_compact(pinned.checkpoint, beside, masks)
    return Other(pinned, scored, size, Asked(pinned.checkpoint, beside, masks, known))


def say_if_nothing_is_pinned() -> None:
    if session.pinned is None:
        st.info(
            "Nothing is pinned yet. Pin the present recipe as A, below the grids, and go on tuning: what is pink fell in A "
            "only, what is blue falls only now.",
            icon=":material/keep:",
        )


def pin() -> None:
    """Pin what the controls say now as A."""
    tuning.catch_up()
    if session.checkpoint is not None:
        session.pinned = Pinned("A", controls.recipe(), session.checkpoint)


def choose_a(checkpoint: Checkpoint, recipe: Recipe) -> None:
    """What A is, and the ways to another."""
    pinned = session.pinned
    if pinned is not None and pinned.recipe is not None:
        st.markdown("**A** is the pinned recipe, **now** the present one.")
    elif pinned is not None:
        st.markdown(
            f"**A** is {plain(pinned.checkpoint.name)}, **now** is {plain(checkpoint.name)}, both under the present recipe."
        )
        if pinned.recipe_beside(recipe) != recipe:
            st.caption("Only the open model is calibrated, so A is scored by its weights and not compensated.")
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button("Pin the present recipe as A", icon=":material/keep:", on_click=pin)
        with st.popover("Compare with another checkpoint", icon=":material/upload_file:"):
            st.file_uploader(
                "A checkpoint with the same LSTMs, from before a fine-tuning, say",
                key=session.other_upload.key,
                on_change=_open_other,
                args=(checkpoint,),
                help="The file stays in the server's memory, for this browser alone, until an hour after its last use. "
                "Nothing in it is executed.",
            )
        if pinned is not None:
            st.button("Unpin", icon=":material/keep_off:", on_click=_unpin)
    if session.other_problem:
        st.error(plain(session.other_problem), title="This checkpoint cannot be compared", icon=":material/error:")


def _open_other(checkpoint: Checkpoint) -> None:
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


def _unpin() -> None:
    session.pinned = None


def tell(a: Other, checkpoint: Checkpoint, recipe: Recipe, found: Preview, judged_a: Judged, judged: Judged) -> None:
    """Sizes and worth of both, where their recipes differ, and what each drops, block by block."""
    st.subheader("A and now")
    _tell_sums(checkpoint, a.size, found.after, judged_a, judged)
    settings = comparison.differing_settings(a.asked.recipe, recipe)
    if settings.empty:
        st.caption("The two recipes are the same.")
    else:
        st.dataframe(settings, hide_index=True, alt="The settings in which the two recipes differ")
    _tell_blocks(a, checkpoint, found)


def _tell_sums(checkpoint: Checkpoint, size_a: Size, size: Size, judged_a: Judged, judged: Judged) -> None:
    dense = size_of_file(checkpoint)
    lines = [
        (what, *(f"{getattr(each, key):,}" for each in (dense, size_a, size)))
        for what, key in (
            ("parameters", "parameters"),
            ("multiply-accumulates a step", "macs_per_step"),
            ("bytes of the tensors", "tensor_bytes"),
        )
    ]
    verdicts = judged_a.verdict, judged.verdict
    known = next((each for each in verdicts if each), None)
    if known:
        values = [f"{each.after:.4f} ({each.word})" if each else "not known" for each in verdicts]
        lines.insert(0, (known.measure, f"{known.before:.4f}", *values))
    sums = pd.DataFrame(lines, columns=["compact form", "dense", "A", "now"])
    st.dataframe(
        sums,
        hide_index=True,
        alt="Quality, parameters, multiply-accumulates and bytes of the dense model, of A and of the present choice",
    )
    st.caption(f"A: {judged_a.how} Now: {judged.how}")
    csv_button(sums, "compare-sizes", "Download the sizes as CSV")


def _tell_blocks(a: Other, checkpoint: Checkpoint, found: Preview) -> None:
    masks_a, masks = a.masks, found.masks
    both = [
        lstm
        for lstm in checkpoint.lstms
        if all(name in masks and name in masks_a for name in lstm.weight_names().values())
    ]
    saliency_a, saliency = (
        {name: values for each in scored.values() for name, values in each.saliency.items()}
        for scored in (a.scored, found.scored)
    )
    table = comparison.by_block(both, masks_a, masks, saliency_a, saliency)
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
        csv_button(table, "compare-blocks", "Download the blocks as CSV")
        if both:
            csv_button(
                lambda: comparison.by_row(both, masks_a, masks, saliency_a, saliency),
                "compare-rows",
                "Download every row of both as CSV",
            )
