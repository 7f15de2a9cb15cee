"""The eight gate grids of one layer and direction as a canvas that follows the sparsity slider while it is dragged.

Scores and ranks are sent once; `gate_canvas.js` draws them. The same grids for notebooks are `figures.gate_grids`.
"""

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import streamlit as st
import torch
from streamlit.components.v2.types import ComponentRenderer
from torch import Tensor

from pruner.lstm.gates import ALL_BLOCKS, GATE_TITLES, GATES, SIDES
from pruner.views.colours import CLIP_QUANTILE, DROPPED

COLOURS = {"both": DROPPED, "onlyPinned": "#cc79a7", "onlyNow": "#56b4e9"}  # Okabe & Ito, safe for colour-blind eyes
HTML = """
<div class="room">
  <canvas class="grids" role="img" tabindex="0"></canvas>
  <div class="tip" hidden></div>
  <div class="foot"><div class="legend"></div><button class="save" type="button">Save as PNG</button></div>
  <div class="spoken" role="status"></div>
</div>
"""
CSS = """
.room { position: relative; font-family: var(--st-font); font-size: 0.8rem; color: var(--st-text-color); }
.grids { display: block; width: 100%; cursor: crosshair; }
.grids:focus-visible { outline: 2px solid var(--st-primary-color); outline-offset: 2px; }
.tip { position: absolute; pointer-events: none; max-width: 16rem; padding: 0.3rem 0.5rem; z-index: 1;
  border-radius: var(--st-base-radius); background: var(--st-text-color); color: var(--st-background-color); }
.foot { display: flex; flex-wrap: wrap; gap: 0.5rem 1rem; align-items: center; justify-content: space-between; }
.legend { display: flex; flex-wrap: wrap; gap: 0.5rem; align-items: center; }
.ramp { width: 8rem; height: 0.7rem; }
.state { display: inline-flex; gap: 0.5rem; align-items: center; margin-left: 0.5rem; white-space: nowrap; }
.swatch { width: 0.8rem; height: 0.8rem; }
.save { font: inherit; color: inherit; background: none; border: 1px solid var(--st-border-color);
  border-radius: var(--st-button-radius); padding: 0.2rem 0.6rem; cursor: pointer; }
.spoken { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
"""


@dataclass(frozen=True)
class Falling:
    """What falls. `counts` (101, 8) are the rows that each block loses at every whole percent of the slider with the key
    `sliders[block]`, which stands at `settings[block]` and drops `now[block]` rows; None for a whole percent of the
    overall slider, so that moving it changes nothing that is sent. Without `counts` nothing moves."""

    sliders: list[str]
    settings: list[float]
    now: list[int | None]
    counts: Tensor | None


@dataclass(frozen=True)
class Look:
    """How the grids are drawn: cells in the order `index`, `saliency` or `agreement`, values raw or relative to their
    block's median, the four gates of a packed weight on one colour scale or each on its own, outliers clipped or not."""

    order: str = "index"
    relative: bool = False
    shared: bool = True
    clipped: bool = True


def gate_canvas(
    key: str,
    saliency: Tensor,
    units: Tensor,
    ranks: Tensor,
    measure: str,
    alt: str,
    look: Look,
    falling: Falling | None,
    unit: int | None,
    pinned: Tensor | None,
    on_unit: Callable[[], None],
) -> None:
    """Draw the grids of the eight blocks, in the order of `ALL_BLOCKS`.

    `saliency` (8, H), `ranks` (8, H), the turn in which each row falls, and `units` (H,), by which cells are ordered;
    `pinned` (8, H) bool is another mask to compare with. `unit` is framed in every block. A click
    calls `on_unit`, in which `session.clicked_unit(key)` says which unit, -1 to clear.
    """
    data = packed(saliency, units, ranks, measure, alt, look, falling, unit, pinned)
    _component()(key=key, data=data, on_unit_change=on_unit)


@st.cache_resource
def _component() -> ComponentRenderer:
    source = Path(__file__).with_name("gate_canvas.js").read_text(encoding="utf-8")
    return st.components.v2.component("gate_canvas", html=HTML, css=CSS, js=source)


def packed(
    saliency: Tensor,
    units: Tensor,
    ranks: Tensor,
    measure: str,
    alt: str,
    look: Look,
    falling: Falling | None,
    unit: int | None,
    pinned: Tensor | None,
) -> bytes:
    """The message to the canvas: uint32 length of the header, the header as JSON, then the arrays as they are."""
    values = saliency.numpy().astype(np.float32)
    medians = np.maximum(np.median(values, axis=1), np.finfo(np.float32).tiny)
    shown = values / medians[:, None] if look.relative else values
    header = {
        "hidden": values.shape[1],
        "blocks": ALL_BLOCKS,
        "titles": [GATE_TITLES[gate] for gate in GATES] * 2,
        "measure": measure,
        "alt": alt,
        "order": look.order,
        "relative": look.relative,
        "shared": look.shared,
        "clipped": look.clipped,
        "medians": medians.tolist(),
        "ranges": _ranges(shown, look),
        "unit": unit,
        "colours": COLOURS,
        "compared": pinned is not None,
        "masked": falling is not None,
        "sliders": falling.sliders if falling else [],
        "settings": falling.settings if falling else [],
        "now": falling.now if falling else [0] * len(ALL_BLOCKS),
        "counts": falling.counts.tolist() if falling and falling.counts is not None else None,
    }
    text = json.dumps(header).encode()
    arrays = [values, units.numpy().astype(np.float32), ranks.numpy().astype(np.int32)]
    if pinned is not None:
        arrays.append(pinned.to(torch.uint8).numpy())
    return struct.pack("<I", len(text)) + text + b"".join(array.tobytes() for array in arrays)


def _ranges(values: np.ndarray, look: Look) -> list[list[float]]:
    """Lowest and highest colour of each block; a few outliers would flatten the scale for all other rows."""
    quantile = CLIP_QUANTILE if look.clipped else 1.0
    parts = [side for side in np.split(values, len(SIDES)) for _ in GATES] if look.shared else list(values)
    return [[float(part.min()), float(np.quantile(part, quantile))] for part in parts]
