"""The eight gate grids of one layer and direction as a canvas, with the sparsity sliders that they follow while dragged.

Scores and ranks are sent once; `gate_canvas.js` draws them, `gate_sliders.js` moves what falls. The same grids for notebooks
are `row_figures.gate_grids`.
"""

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import streamlit as st
import torch
from streamlit.components.v2.types import ComponentRenderer
from torch import Tensor

from pruner.dashboard.standing import Said
from pruner.lstm.gates import ALL_BLOCKS, GATE_TITLES, GATES
from pruner.views.colours import DROPPED
from pruner.views.scale import Scale, medians

COLOURS = {"both": DROPPED, "onlyPinned": "#cc79a7", "onlyNow": "#56b4e9"}  # Okabe & Ito, safe for colour-blind eyes
SOURCES = ("gate_canvas.js", "gate_sliders.js")
HTML = """
<div class="room">
  <div class="tuner" hidden></div>
  <canvas class="grids" role="img" tabindex="0"></canvas>
  <div class="tip" hidden></div>
  <div class="foot"><div class="legend"></div><button class="save plain" type="button">Save as PNG</button></div>
  <div class="spoken" role="status"></div>
</div>
"""
CSS = """
.room { position: relative; font-family: var(--st-font); font-size: 0.8rem; color: var(--st-text-color); }
.grids { display: block; width: 100%; cursor: crosshair; }
.room [hidden] { display: none; }
:focus-visible { outline: 2px solid var(--st-primary-color); outline-offset: 2px; }
.tip { position: absolute; pointer-events: none; max-width: 16rem; padding: 0.3rem 0.5rem; z-index: 1;
  border-radius: var(--st-base-radius); background: var(--st-text-color); color: var(--st-background-color); }
.foot { display: flex; flex-wrap: wrap; gap: 0.5rem 1rem; align-items: center; justify-content: space-between; }
.legend { display: flex; flex-wrap: wrap; gap: 0.5rem; align-items: center; }
.ramp { width: 8rem; height: 0.7rem; }
.state { display: inline-flex; gap: 0.5rem; align-items: center; margin-left: 0.5rem; white-space: nowrap; }
.swatch { width: 0.8rem; height: 0.8rem; }
.plain { font: inherit; color: inherit; background: none; border: 1px solid var(--st-border-color);
  border-radius: var(--st-button-radius); padding: 0.2rem 0.6rem; cursor: pointer; }
.spoken { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
.tuner { margin-bottom: 0.5rem; background: var(--st-background-color); }
.tuner.stays { position: sticky; top: 3.75rem; z-index: 1; } /* below the header of Streamlit */
.tuner input[type=range] { accent-color: var(--st-primary-color); width: 100%; margin: 0.4rem 0; cursor: pointer; }
.tuner input[type=number] { font: inherit; color: inherit; width: 5rem; padding: 0.2rem 0.4rem;
  background: var(--st-secondary-background-color); border: 1px solid var(--st-border-color);
  border-radius: var(--st-base-radius); }
.overall { display: grid; grid-template-columns: 1fr auto; gap: 0 1rem; align-items: center; font-size: 0.875rem; }
.name { grid-column: 1 / -1; display: flex; justify-content: space-between; gap: 0.5rem; }
.shown { font-variant-numeric: tabular-nums; }
.ends { display: flex; gap: 0.4rem; align-items: center; }
.group { display: flex; flex-wrap: wrap; gap: 0.75rem; margin: 0.5rem 0; }
.part { flex: 1 1 9rem; max-width: 16rem; padding: 0.5rem; border: 1px solid transparent;
  border-radius: var(--st-base-radius); }
.part.own { border-color: var(--st-primary-color); }
"""


@dataclass(frozen=True)
class Look:
    """How the grids are drawn: cells in the order `index`, `saliency` or `agreement`, colours on a scale; in little room
    two by two, or small and `beside` each other."""

    order: str = "index"
    scale: Scale = field(default_factory=Scale)
    beside: bool = False


@dataclass(frozen=True)
class Falling:
    """How many rows of the eight blocks fall: `now`, and beside sliders `counts` (101, 8) at every whole percent of the
    sparsity that governs a block. `now` is None where the counts tell it, so that a move changes nothing that is sent."""

    now: list[int] | None
    counts: Tensor | None = None


@dataclass(frozen=True)
class Grids:
    """What is drawn of the eight blocks, in the order of `ALL_BLOCKS`.

    `saliency` (8, H), `ranks` (8, H), the turn in which each row falls, and `units` (H,), by which cells are ordered;
    `pinned` (8, H) bool is another mask to compare with. `unit` is framed in every block.
    """

    saliency: Tensor
    units: Tensor
    ranks: Tensor
    measure: str
    alt: str
    look: Look
    unit: int | None
    falling: Falling | None = None
    pinned: Tensor | None = None


@dataclass(frozen=True)
class Sliders:
    """Sliders that move what falls on the grids with the key `of`, which show a `layer`: the overall one if it has a label,
    and those of layers and gates that can have a sparsity of their own, in groups of [kind, [[part, title], ...]]. If they
    are not `heard`, the browser alone knows where they stand."""

    of: str
    layer: int
    said: Said
    label: str | None = None
    groups: list[tuple[str, list[tuple[str, str]]]] = field(default_factory=list)
    heard: bool = True


def gate_canvas(
    key: str,
    grids: Grids | None,
    sliders: Sliders | None,
    on_unit: Callable[[], None],
    on_move: Callable[[], None] = lambda: None,
) -> None:
    """Draw grids, sliders or both. A click on a cell calls `on_unit`, in which `session.clicked_unit(key)` says which unit,
    -1 to clear; a slider that moves, or then rests, calls `on_move`, in which `session.move(key)` says where it is."""
    _component()(key=key, data=packed(grids, sliders), on_unit_change=on_unit, on_move_change=on_move)


@st.cache_resource
def _component() -> ComponentRenderer:
    source = "\n".join(Path(__file__).with_name(name).read_text(encoding="utf-8") for name in SOURCES)
    return st.components.v2.component("gate_canvas", html=HTML, css=CSS, js=source)


def packed(grids: Grids | None, sliders: Sliders | None) -> bytes:
    """The message to the canvas: uint32 length of the header, the header as JSON, then the arrays as they are."""
    header, arrays = _drawn(grids) if grids else ({"hidden": 0, "blocks": ALL_BLOCKS}, [])
    text = json.dumps(header | {"sliders": _slid(sliders) if sliders else None}).encode()
    return struct.pack("<I", len(text)) + text + b"".join(array.tobytes() for array in arrays)


def _drawn(grids: Grids) -> tuple[dict[str, Any], list[np.ndarray]]:
    values, scale, falling = grids.saliency.numpy().astype(np.float32), grids.look.scale, grids.falling
    header = {
        "hidden": values.shape[1],
        "blocks": ALL_BLOCKS,
        "titles": [GATE_TITLES[gate] for gate in GATES] * 2,
        "measure": grids.measure,
        "alt": grids.alt,
        "order": grids.look.order,
        "relative": scale.relative,
        "shared": scale.shared,
        "clipped": scale.clipped,
        "beside": grids.look.beside,
        "medians": medians(values).tolist(),
        "ranges": scale.ranges(scale.taken(values)),
        "unit": grids.unit,
        "colours": COLOURS,
        "compared": grids.pinned is not None,
        "masked": falling is not None,
        "now": falling.now if falling else [0] * len(ALL_BLOCKS),
        "counts": falling.counts.tolist() if falling and falling.counts is not None else None,
    }
    arrays = [values, grids.units.numpy().astype(np.float32), grids.ranks.numpy().astype(np.int32)]
    if grids.pinned is not None:
        arrays.append(grids.pinned.to(torch.uint8).numpy())
    return header, arrays


def _slid(sliders: Sliders) -> dict[str, Any]:
    return {
        "of": sliders.of,
        "label": sliders.label,
        "groups": [{"kind": kind, "parts": parts} for kind, parts in sliders.groups],
        "layer": sliders.layer,
        "heard": sliders.heard,
        "said": {"edition": sliders.said.edition, **sliders.said.standing.told()},
    }
