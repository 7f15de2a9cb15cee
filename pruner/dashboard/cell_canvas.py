"""One step of an LSTM as a picture that moves: weights, gates, states and prediction, step by step.

Python computes every step of a string at once (`lessons.cell`), `cell_canvas.js` shows them one after the other, and tells
where it is, which gates are frozen and which units removed.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import streamlit as st
from streamlit.components.v2.types import ComponentRenderer
from torch import Tensor

from pruner.examples.embedded_reber import SYMBOLS
from pruner.lessons.cell import Walk, grammar_weights, keeper
from pruner.lstm.gates import BLOCKS, GATE_TITLES, GATES, split_gates
from pruner.views.colours import CLIP_QUANTILE, GATE_COLORS

DIGITS = 7  # as many as float32 holds
HTML = """
<div class="cell" role="group" tabindex="0" aria-label="One step of an LSTM. Arrow keys go on and back.">
  <div class="top">
    <div><div class="tape"></div><p class="said" role="status"></p></div>
    <div class="expects"></div>
  </div>
  <div class="gates"></div>
  <div class="states"></div>
  <div class="tools"></div>
  <details><summary>The numbers of this step as a table</summary><div class="numbers" tabindex="0"></div></details>
</div>
"""
CSS = Path(__file__).with_name("cell_canvas.css")
SOURCE = Path(__file__).with_name("cell_canvas.js")


def cell_canvas(key: str, found: Walk, at: int, on_set: Callable[[], None]) -> None:
    """Draw a walk, at first at the step `at`, from 1. What is set in the picture calls `on_set`, in which
    `session.set_in(key)` says what."""
    _component()(key=key, data=packed(found, at), on_set_change=on_set)


@st.cache_resource
def _component() -> ComponentRenderer:
    css, source = (path.read_text(encoding="utf-8") for path in (CSS, SOURCE))
    return st.components.v2.component("cell_canvas", html=HTML, css=css, js=source)


def packed(found: Walk, at: int) -> dict[str, Any]:
    """The message to the picture; weights only as colours, from -100 to 100."""
    weights = grammar_weights()
    return {
        "read": found.read,
        "symbols": SYMBOLS,
        "gates": [
            {"name": gate, "title": GATE_TITLES[gate], "color": GATE_COLORS[gate], "blocks": blocks}
            for gate, *blocks in zip(GATES, *BLOCKS.values(), strict=True)
        ],
        "ih": _shades(weights.ih),
        "hh": _shades(weights.hh),
        "values": [
            {"gates": gates, "c": c, "h": h, "shares": shares}
            for gates, c, h, shares in zip(
                _rounded(found.gates),
                _rounded(found.cells),
                _rounded(found.hidden),
                _rounded(found.shares),
                strict=True,
            )
        ],
        "legal": found.legal,
        "at": at,
        "unit": keeper()[0],
        "frozen": list(found.frozen),
        "removed": list(found.removed),
    }


def _shades(weight: Tensor) -> list[Any]:
    """(4H, I) -> for each gate, what is read and unit, a whole number from -100 to 100."""
    most = weight.abs().quantile(CLIP_QUANTILE)
    shades: list[Any] = split_gates((100 * weight / most).clamp(-100, 100).round().int()).transpose(1, 2).tolist()
    return shades


def _rounded(values: Tensor) -> list[Any]:
    rounded: list[Any] = values.double().round(decimals=DIGITS).tolist()
    return rounded
