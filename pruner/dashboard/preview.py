"""What a recipe drops and leaves, in numbers, before any run."""

from dataclasses import dataclass

import streamlit as st
from torch import Tensor

from pruner.compact.costs import size_of_file, size_when_compact
from pruner.dashboard.gathered import Gathered
from pruner.dashboard.scores import all_scores, masks_of
from pruner.dashboard.verdicts import Judged, show_quality, show_word
from pruner.errors import PrunerError
from pruner.files.checkpoint import Checkpoint
from pruner.importance.scores import Scores
from pruner.lstm.sizes import Size
from pruner.recipe import DATA_CRITERIA, Recipe
from pruner.views.summary import Summary, summarize


@dataclass(frozen=True)
class Preview:
    """Scores by LSTM name, masks by the names in the file, and what they come to."""

    scored: dict[str, Scores]
    masks: dict[str, Tensor]
    summary: Summary
    before: Size
    after: Size


def preview(checkpoint: Checkpoint, recipe: Recipe, gathered: Gathered | None) -> Preview | PrunerError | None:
    """What a recipe would do; the error of one that does not fit the model; None while inputs are missing."""
    if recipe.criterion in DATA_CRITERIA and gathered is None:
        return None
    try:
        scored = all_scores(checkpoint, recipe, gathered)
        masks = masks_of(checkpoint, recipe, scored)
        after = size_when_compact(checkpoint, recipe, masks)
    except PrunerError as error:
        return error
    saliency = {name: values for each in scored.values() for name, values in each.saliency.items()}
    return Preview(
        scored, masks, summarize(checkpoint.select(recipe.lstms), masks, saliency), size_of_file(checkpoint), after
    )


def show_left(found: Preview, judged: Judged, judged_a: Judged | None) -> None:
    """What is left, and what that is worth, now and in A, in as little room as it takes: a column, or one row on a phone."""
    before, after = found.before, found.after
    with st.grid(3, min_column_width=100):
        _left(
            "Work left",
            after.macs_per_step / before.macs_per_step,
            f"{after.macs_per_step:,}",
            f"Multiply-accumulates of the LSTMs for one time step when compact; dense {before.macs_per_step:,}.",
        )
        _left(
            "Size left",
            after.tensor_bytes / before.tensor_bytes,
            _bytes(after.tensor_bytes),
            f"All tensors of the file when compact; dense {_bytes(before.tensor_bytes)}.",
        )
        show_quality(judged)
        if judged_a:
            show_quality(judged_a, "Quality of A")
    show_word(judged)
    if judged_a:
        show_word(judged_a, "A: ")


def _left(label: str, share: float, amount: str, meaning: str) -> None:
    st.metric(label, f"{share:.1%}", amount, delta_color="off", delta_arrow="off", help=meaning)


def _bytes(count: int) -> str:
    return f"{count / 1e6:,.2f} MB" if count >= 1e6 else f"{count / 1e3:,.1f} kB"


def show_numbers(found: Preview) -> None:
    """What falls and what stays, as a row of figures."""
    summary = found.summary
    with st.grid(4, min_column_width=150):
        _figure(f"Rows dropped, of {summary.rows:,}", f"{summary.dropped_rows:,}")
        _figure("Saliency kept", f"{summary.saliency_kept:.1%}")
        _figure("Weights zeroed", f"{summary.dropped_weights / summary.weights:.1%}")
        _figure(
            f"Removable, of {summary.units:,}",
            f"{summary.dropped_units:,}",
            meaning="Units that all eight blocks drop. Only these can be removed; any other keeps a part of itself.",
        )


def _figure(label: str, value: str, meaning: str | None = None) -> None:
    st.metric(label, value, help=meaning, border=True, height="stretch")
