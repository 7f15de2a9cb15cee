"""The gate grids of the open model with their controls and the unit that is selected on them."""

from collections.abc import Mapping
from dataclasses import replace

import streamlit as st
import torch
from torch import Tensor

from pruner.dashboard.controls import Controls
from pruner.dashboard.gate_canvas import Falling, Look, gate_canvas
from pruner.dashboard.session import Session, session
from pruner.dashboard.view import View
from pruner.dashboard.words import measure_of_rows
from pruner.importance.scores import Scores
from pruner.lstm.gates import ALL_BLOCKS, SIDES, split_gates
from pruner.lstm.lstm import LSTM
from pruner.recipe import Recipe
from pruner.views.preview import block_ranks, block_scores, dropped_at_every_percent

ORDER_TITLES = {"index": "By index", "saliency": "By saliency", "agreement": "By agreement"}
OPTION_TITLES = {
    "relative": "Relative to the median",
    "shared": "One scale for the four gates",
    "clipped": "Clip outliers",
}


def choose_look(masked: bool) -> Look:
    """How the grids are drawn; agreement is a matter of masks."""
    orders = [order for order in ORDER_TITLES if masked or order != "agreement"]
    if session.grid_order not in orders:
        session.grid_order = orders[0]
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.segmented_control(
            "Order of the units",
            orders,
            format_func=ORDER_TITLES.__getitem__,
            key=Session.grid_order.key,
            required=True,
            persist_state="session",
            help="The same cell is the same unit in all eight blocks. By saliency: the sum of its rows, lowest first. By "
            "agreement: how many blocks keep it, fewest first."
            if masked
            else "The same cell is the same unit in all eight blocks. By saliency: the sum of its rows, lowest first.",
        )
        st.pills(
            "Colours",
            list(OPTION_TITLES),
            format_func=OPTION_TITLES.__getitem__,
            selection_mode="multi",
            key=Session.grid_options.key,
            persist_state="session",
            wrap=True,
        )
    return Look(session.grid_order, **{option: option in session.grid_options for option in OPTION_TITLES})


def selection() -> None:
    """The selected unit, a way to it and out of it; or how to select one."""
    unit = session.unit
    if unit is None:
        st.caption("Click a cell to select its unit; with the keyboard, walk by arrow keys and press Enter.")
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(f"**Unit {unit}** is selected.")
        st.page_link("pages/unit.py", label="See all of it", icon=":material/arrow_forward:")
        st.button("Clear selection", icon=":material/close:", on_click=_select, args=(None,))


def show(
    key: str,
    view: View,
    scored: Scores,
    recipe: Recipe,
    look: Look,
    falling: Falling | None = None,
    pinned: Tensor | None = None,
) -> None:
    """Draw the grids of the viewed layer and direction; a click selects a unit."""
    measure = measure_of_rows(recipe.criterion)
    what = "; rows that fall are orange" if falling else ""
    against = ", those that fall in only one of two recipes in pink and blue" if pinned is not None else ""

    def clicked() -> None:
        unit = session.clicked_unit(key)
        if unit is not None:
            _select(None if unit < 0 or unit == session.unit else unit)
            st.rerun()  # grids may stand in a part of the page that is made anew by itself

    saliency = block_scores(view.lstm, scored, view.layer, view.direction)
    gate_canvas(
        key,
        saliency,
        saliency.sum(0),
        block_ranks(view.lstm, scored, recipe, view.layer, view.direction),
        measure,
        f"Grids of the {measure} of every row of the eight gate blocks of {view.place}, a cell a unit{what}{against}",
        look,
        falling,
        session.unit,
        pinned,
        clicked,
    )


def _select(unit: int | None) -> None:
    session.unit = unit


def falling(view: View, scored: Scores, recipe: Recipe, masks: Mapping[str, Tensor], of: str) -> Falling:
    """What falls in the viewed layer, now and wherever the slider that governs each block may be moved.

    `of` says what was scored: the checkpoint and the inputs that scores were taken from.
    """
    names = view.lstm.weight_names()
    dropped = [(~split_gates(masks[names[view.layer, view.direction, side]])).sum(1) for side in SIDES]
    sliders = [_slider(recipe, view.layer, block) for block in ALL_BLOCKS]
    settings = [recipe.block_sparsity(view.layer, block) for block in ALL_BLOCKS]
    whole = round(100 * recipe.sparsity) / 100 == recipe.sparsity  # where the slider can stand
    now = [
        None if slider == Controls.sparsity.key and whole else count
        for slider, count in zip(sliders, torch.cat(dropped).tolist(), strict=True)
    ]
    anywhere = replace(recipe, sparsity=0.5)
    counts = _counts(of, anywhere.to_json(), view.lstm.name, view.layer, view.direction, view.lstm, scored, anywhere)
    return Falling(sliders, settings if any(each is not None for each in now) else [0.5] * len(now), now, counts)


def _slider(recipe: Recipe, layer: int, block: str) -> str:
    """The key of the slider that governs a block."""
    if block in recipe.gate_sparsity:
        return Session.gate_slider.key(block)
    return Session.layer_slider.key(layer) if layer in recipe.layer_sparsity else Controls.sparsity.key


@st.cache_resource(scope="session", max_entries=32, show_spinner=False)
def _counts(
    of: str, recipe: str, name: str, layer: int, direction: int, _lstm: LSTM, _scored: Scores, _recipe: Recipe
) -> Tensor:
    return dropped_at_every_percent(_lstm, _scored, _recipe, layer, direction)
