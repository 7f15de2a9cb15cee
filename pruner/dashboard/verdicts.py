"""What a pruned model is worth, in one word and the colour that goes with it."""

import streamlit as st

from pruner.dashboard.text import plain
from pruner.exports.verdict import Verdict

TITLES = {
    "kept": "Kept: it answers like the dense model",
    "worse": "Worse than the dense model",
    "ruined": "Ruined",
    "unknown": "Nobody knows yet what it is worth",
}
ICONS = {"kept": "check_circle", "worse": "trending_down", "ruined": "dangerous", "unknown": "help"}


def show_verdict(verdict: Verdict, healed: bool) -> None:
    """The verdict, and where healing might mend it, the way there."""
    boxes = {"kept": st.success, "worse": st.warning, "ruined": st.error, "unknown": st.info}
    boxes[verdict.word](plain(verdict.sentence), title=TITLES[verdict.word], icon=f":material/{ICONS[verdict.word]}:")
    if verdict.word == "unknown":
        st.page_link("pages/calibrate.py", label="Give inputs to judge by", icon=":material/model_training:")
    elif verdict.word != "kept" and not healed:
        st.page_link("pages/masks.py", label="Choose the compensation Heal", icon=":material/healing:")
