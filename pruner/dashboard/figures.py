"""What the compact form of a result comes to beside the dense model, each in one figure."""

import streamlit as st

from pruner.lstm.timing import TOO_NOISY, in_words
from pruner.result import Result

SIZE_TITLES = {"macs_per_step": "Multiply-accumulates", "parameters": "Parameters", "bytes": "Bytes of the file"}


def show_size(result: Result, what: str) -> None:
    """One of the sizes, and by how much it is smaller."""
    before, after = (getattr(result.costs[form], what) for form in ("dense", "compact"))
    st.metric(
        SIZE_TITLES[what],
        f"{after:,}",
        f"{after / before - 1:+.0%}",
        delta_color="inverse",
        help=f"Of the compact form; dense {before:,}.",
        border=True,
        height="stretch",
    )


def show_speed(result: Result) -> None:
    """How many times as fast it is, if that was timed; words are too long for the place of a number."""
    if result.latency is None:
        return
    faster = result.latency[1]["compact"].faster
    st.metric(
        "Speed",
        "–" if faster is None else in_words(faster),
        TOO_NOISY if faster is None else None,
        delta_color="off",
        delta_arrow="off",
        help="Time of the dense LSTMs over that of the compact ones in PyTorch, batch 1. Small LSTMs gain nothing: a call "
        "costs more than its arithmetic.",
        border=True,
        height="stretch",
    )
