"""Long work as every page shows it: a line in the sidebar, with a way to cancel it."""

from typing import Any

import streamlit as st

from pruner.dashboard import remembering
from pruner.dashboard.again import make_anew
from pruner.dashboard.jobs import Job
from pruner.dashboard.session import Kept
from pruner.dashboard.text import plain


def lines() -> None:
    """A line for each work that runs, called as the session calls it; nothing is asked of the server while none does."""
    for kept in Kept.every:
        job = kept.value
        if isinstance(job, Job) and job.status.state == "running":
            _line(kept.key.capitalize(), job)


@st.fragment(run_every=1.0)
def _line(name: str, job: Job[Any]) -> None:
    status = job.status
    if status.state != "running":
        make_anew()
    remembering.stay()
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.progress(status.fraction, f"**{name}**, {status.fraction:.0%}")
        st.button("Cancel", key=f"cancel_{name}", type="tertiary", icon=":material/stop:", on_click=job.cancel)
    st.caption(plain(status.what))
