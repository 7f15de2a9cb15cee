"""The gate grids of the open model with their controls and the unit that is selected on them."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import streamlit as st
import torch
from torch import Tensor

from pruner.dashboard.gate_canvas import Falling, Grids, Look, Sliders, gate_canvas
from pruner.dashboard.session import Session, session
from pruner.dashboard.standing import Standing
from pruner.dashboard.view import View, choose_scale, scale
from pruner.dashboard.whole import ask_for_all
from pruner.dashboard.words import measure_of_rows
from pruner.importance.scores import Scores
from pruner.lstm.gates import SIDES, split_gates
from pruner.lstm.lstm import LSTM
from pruner.recipe import Recipe
from pruner.views.preview import block_ranks, block_scores, dropped_at_every_percent

ORDER_TITLES = {"index": "By index", "saliency": "By saliency", "agreement": "By agreement"}


def choose_look(masked: bool) -> Look:
    """How the grids are drawn; agreement is a matter of masks, beside which the scale is chosen, too."""
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
        if masked:
            choose_scale()
    return Look(session.grid_order, scale())


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


def drawn(
    view: View,
    scored: Scores,
    recipe: Recipe,
    look: Look,
    falling: Falling | None = None,
    pinned: Tensor | None = None,
) -> Grids:
    """The grids of the viewed layer and direction."""
    measure = measure_of_rows(recipe.criterion)
    what = "; rows that fall are orange" if falling else ""
    against = ", those that fall in only one of two recipes in pink and blue" if pinned is not None else ""
    saliency = block_scores(view.lstm, scored, view.layer, view.direction)
    return Grids(
        saliency,
        saliency.sum(0),
        block_ranks(view.lstm, scored, recipe, view.layer, view.direction),
        measure,
        f"Grids of the {measure} of every row of the eight gate blocks of {view.place}, a cell a unit{what}{against}",
        look,
        session.unit,
        falling,
        pinned,
    )


def show(
    key: str, grids: Grids | None, sliders: Sliders | None = None, on_move: Callable[[], None] = lambda: None
) -> None:
    """Show grids, with the sliders that move what falls, where there are any; a click selects a unit."""

    def clicked() -> None:
        unit = session.clicked_unit(key)
        if unit is not None:
            _select(None if unit < 0 or unit == session.unit else unit)
            ask_for_all()  # grids may stand in a part of the page that is made anew by itself

    gate_canvas(key, grids, sliders, clicked, on_move)


def _select(unit: int | None) -> None:
    session.unit = unit


def falling(view: View, masks: Mapping[str, Tensor]) -> Falling:
    """What falls in the viewed layer under masks that stay as they are."""
    names = view.lstm.weight_names()
    dropped = [(~split_gates(masks[names[view.layer, view.direction, side]])).sum(1) for side in SIDES]
    return Falling(torch.cat(dropped).tolist())


def falling_anywhere(
    view: View, scored: Scores, recipe: Recipe, masks: Mapping[str, Tensor], of: str, present: Standing
) -> Falling:
    """What falls in the viewed layer at present and wherever the sliders may be moved.

    `of` says what was scored: the checkpoint and the inputs that scores were taken from.
    """
    anywhere = replace(recipe, sparsity=0.5)
    counts = _counts(of, anywhere.to_json(), view.lstm.name, view.layer, view.direction, view.lstm, scored, anywhere)
    return Falling(None if present.is_whole else falling(view, masks).now, counts)


@st.cache_resource(scope="session", max_entries=32, show_spinner=False)
def _counts(
    of: str, recipe: str, name: str, layer: int, direction: int, _lstm: LSTM, _scored: Scores, _recipe: Recipe
) -> Tensor:
    return dropped_at_every_percent(_lstm, _scored, _recipe, layer, direction)
