"""What a pruned model is worth, in one word and the colour that goes with it."""

from dataclasses import dataclass

import streamlit as st

from pruner.dashboard.text import plain
from pruner.exports.verdict import Verdict

TITLES = {
    "kept": "Kept",
    "worse": "Worse",
    "ruined": "Ruined",
    "unknown": "Unknown",
}
COLOURS = {"kept": "green", "worse": "orange", "ruined": "red", "unknown": "gray"}
ICONS = {"kept": "check_circle", "worse": "trending_down", "ruined": "dangerous", "unknown": "help"}


@dataclass(frozen=True)
class Judged:
    """What is known of a recipe's worth, and in words how; `waits` while it is being found out, `asks` where that takes
    inputs that were not given."""

    verdict: Verdict | None
    how: str
    waits: bool = False
    asks: bool = False


def show_verdict(verdict: Verdict, healed: bool) -> None:
    """The verdict, and where healing might mend it, the way there."""
    boxes = {"kept": st.success, "worse": st.warning, "ruined": st.error, "unknown": st.info}
    boxes[verdict.word](plain(verdict.sentence), title=TITLES[verdict.word], icon=f":material/{ICONS[verdict.word]}:")
    if verdict.word == "unknown":
        st.page_link("pages/calibrate.py", label="Give inputs to judge by", icon=":material/model_training:")
    elif verdict.word != "kept" and not healed:
        with st.container(horizontal=True):
            st.page_link("pages/shrink.py", label="Let Shrink find a good one", icon=":material/compress:")
            st.page_link("pages/masks.py", label="Choose the compensation Heal", icon=":material/healing:")


def show_quality(judged: Judged, label: str = "Quality") -> None:
    """The quality as a figure, the dense model's below it."""
    value, dense = _figures(judged.verdict)
    st.metric(label, value, dense, delta_color="off", delta_arrow="off", help=judged.how)


def _figures(verdict: Verdict | None) -> tuple[str, str]:
    if verdict is None or verdict.after is None:
        return "–", "not known"
    if not verdict.before:  # answers, which are as far from the dense model's as they are worse
        return f"−{verdict.after:.1%}", "beside dense"
    return f"{verdict.after:.3f}", f"dense {verdict.before:.3f}"


def show_word(judged: Judged, whose: str = "") -> None:
    """The verdict as a word, and where it comes from."""
    word = judged.verdict.word if judged.verdict else "unknown"
    shown = "judging" if judged.waits else word
    badge = f"{whose}:{COLOURS[word]}-badge[:material/{ICONS[word]}: {shown.capitalize()}]"
    if not judged.asks:
        st.markdown(f"{badge} :small[{judged.how}]")
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(badge, width="content")
        st.page_link("pages/calibrate.py", label=judged.how, icon=":material/model_training:")
