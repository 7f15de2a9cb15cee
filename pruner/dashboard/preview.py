"""What a recipe drops and leaves, in numbers, before any run."""

from dataclasses import dataclass

import streamlit as st
from torch import Tensor

from pruner.compact.costs import size_of_file, size_when_compact
from pruner.dashboard.gathered import Gathered
from pruner.dashboard.scores import all_scores, masks_of
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


def show_numbers(found: Preview) -> None:
    """The numbers as a row of figures."""
    summary, before, after = found.summary, found.before, found.after
    with st.grid(4, min_column_width=150):
        _figure(f"Rows dropped, of {summary.rows:,}", f"{summary.dropped_rows:,}")
        _figure("Saliency kept", f"{summary.saliency_kept:.1%}")
        _figure("Weights zeroed", f"{summary.dropped_weights / summary.weights:.1%}")
        _figure(
            f"Removable, of {summary.units:,}",
            f"{summary.dropped_units:,}",
            meaning="Units that all eight blocks drop. Only these can be removed; any other keeps a part of itself.",
        )
        _figure(
            "Parameters after",
            f"{after.parameters:,}",
            after.parameters / before.parameters,
            "Of the whole file, compact",
        )
        _figure(
            "Work after",
            f"{after.macs_per_step:,}",
            after.macs_per_step / before.macs_per_step,
            "Multiply-accumulates of the LSTMs for one time step, compact",
        )
        _figure(
            "Megabytes after",
            f"{after.tensor_bytes / 1e6:,.2f}",
            after.tensor_bytes / before.tensor_bytes,
            "All tensors, compact",
        )


def _figure(label: str, value: str, share: float | None = None, meaning: str | None = None) -> None:
    st.metric(
        label,
        value,
        None if share is None else f"{share - 1:+.0%}",
        delta_color="inverse",
        help=meaning,
        border=True,
        height="stretch",
    )
