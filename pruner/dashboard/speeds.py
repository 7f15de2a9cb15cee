"""How fast a result is in all the ways in which it can be run, timed when somebody asks for it."""

from collections.abc import Callable

import pandas as pd
import streamlit as st

from pruner.dashboard import watching
from pruner.dashboard.jobs import Job
from pruner.dashboard.text import plain
from pruner.exports.speed.models import dense_of, model_of
from pruner.exports.speed.table import NOTES, Table, side_by_side
from pruner.lstm.measure import Quality
from pruner.lstm.timing import TOO_NOISY
from pruner.progress import Progress, split
from pruner.result import Result


def timed(result: Result, quality: Quality | None, progress: Progress) -> Table:
    """The dense model and the compact form of a result side by side; no Streamlit call."""
    making, timing = split(progress, 1, 4)
    making(0.0, "Writing the dense model for ONNX Runtime")
    recipe, rated = result.recipe, result.quality or {}
    size, small = (result.costs[form].bytes for form in ("dense", "compact"))
    whole = dense_of(result.checkpoint, recipe.lstms, recipe.consumers)
    dense = model_of("dense", whole, "masked", size, rated.get("dense"), quality)
    making(0.5, "Writing the compact one")
    compact = model_of("compact", result.pruned, "compact", small, rated.get("compact"), quality)
    return side_by_side([dense, compact], timing)


def show_speeds(job: Job[Table] | None, start: Callable[[], None], quality_name: str | None) -> None:
    """A heading, a button that starts to time, how that goes, and what came of it."""
    st.subheader("What it is worth in PyTorch and in ONNX Runtime")
    status = job.status if job else None
    running = status is not None and status.state == "running"
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button("Time it", icon=":material/timer:", on_click=start, disabled=running)
        if job and running:
            st.button("Cancel", icon=":material/stop:", on_click=job.cancel, key="cancel_timing")
        else:
            st.caption("Dense and compact, float and int8, one sequence and 32 at a time: some 15 seconds.")
    if job is None or status is None:
        return
    if running:
        watching.show(job)
    if status.state == "failed":
        st.error(plain(status.error), title="The time could not be measured", icon=":material/error:")
    if status.result:
        _show_table(status.result, quality_name)


def _show_table(table: Table, quality_name: str | None) -> None:
    columns, cells = table.words(quality_name)
    st.dataframe(
        pd.DataFrame(cells, columns=["model", *columns[1:]]),
        hide_index=True,
        alt="Bytes, times as fast as the dense model in PyTorch at each batch size and number of threads, and quality",
    )
    noisy = any(figure is None for row in table.rows if not row.reason for figure in row.faster)
    st.caption(plain(NOTES) + (f" “{TOO_NOISY.capitalize()}”: other work on this machine; try again later." * noisy))
    for sentence in table.reasons:
        st.caption(plain(sentence))
