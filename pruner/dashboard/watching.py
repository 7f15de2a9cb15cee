"""How pages start long work, follow it and end it."""

from collections.abc import Callable
from typing import Any

import streamlit as st

from pruner.dashboard.again import make_anew
from pruner.dashboard.jobs import Job
from pruner.dashboard.text import plain


def start_button(
    label: str, job: Job[Any] | None, start: Callable[[], None], ready: bool = True, heals: bool = False
) -> None:
    """A button that starts a job, one that cancels it while it runs, and, where it heals, one that ends only that."""
    running = job is not None and job.status.state == "running"
    st.button(label, type="primary", icon=":material/play_arrow:", on_click=start, disabled=running or not ready)
    if running and job is not None:
        st.button("Cancel", icon=":material/stop:", on_click=job.cancel)
        if heals:
            st.button(
                "Enough, keep what is healed",
                icon=":material/flag:",
                on_click=job.enough,
                help="Healing ends now; the best that it has reached is kept, measured and can be exported.",
            )


def follow(job: Job[Any] | None, name: str, beside: Callable[[], None] = lambda: None) -> None:
    """Say how a job goes, and draw what grows `beside` it; while it runs, the page ends here."""
    if job is None:
        return
    if job.status.state == "running":
        show(job, beside)
        st.stop()
    say_end(job, name)


def say_end(job: Job[Any], name: str) -> None:
    """Say why a job came to nothing, if it did."""
    status = job.status
    if status.state == "failed":
        st.error(plain(status.error), title=f"The {name} failed", icon=":material/error:")
    if status.state == "cancelled":
        st.info(f"The {name} was cancelled. What was there before stays.", icon=":material/stop_circle:")


@st.fragment(run_every=0.3)
def show(job: Job[Any], beside: Callable[[], None] = lambda: None) -> None:
    """Show how a job goes while it runs, then the whole page anew."""
    status = job.status
    if status.state != "running":
        make_anew()
    st.progress(status.fraction, plain(status.what))
    beside()
