"""The sparsity controls: overall, by layer, by gate. A lower level goes before an upper one, and shows that it does.

A layer or gate has a field for a sparsity of its own, empty where it follows. The slider beside that field shows what holds,
its own or that of the level above; moving it gives the layer or gate one of its own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import streamlit as st

from pruner.dashboard.controls import Control, Controls, controls, number_of_layers
from pruner.dashboard.session import Each, Session, session
from pruner.dashboard.text import plain
from pruner.files.checkpoint import Checkpoint
from pruner.lstm.gates import BLOCKS, GATE_TITLES, GATES, SIDES
from pruner.recipe import Recipe

Name = TypeVar("Name", int, str)


@dataclass(frozen=True)
class Parts(Generic[Name]):
    """Layers or gates: the control of the sparsities that they have of their own, and the keys of their widgets."""

    own: Control[dict[Name, float]]
    field: Each[Name, float | None]
    slider: Each[Name, float | None]
    level_above: str


LAYERS = Parts(Controls.layer_sparsity, Session.layer_field, Session.layer_slider, "overall")
BLOCKS_OF_GATES = Parts(Controls.gate_sparsity, Session.gate_field, Session.gate_slider, "layer")


def overall(by_units: bool, moved: Callable[[], None]) -> None:
    """The sparsity of all layers and gates that have none of their own, to slide or to type; calls `moved` after either."""

    def typed() -> None:
        controls.sparsity = round(session.typed_sparsity / 100, 4)
        moved()

    session.typed_sparsity = round(100 * controls.sparsity, 2)
    st.slider(
        f"Sparsity: share of {'the hidden units' if by_units else 'each gate’s rows'} to drop",
        min_value=0.0,
        max_value=1.0,
        step=0.01,
        format="percent",
        key=Controls.sparsity.key,
        persist_state="session",
        on_change=moved,
    )
    st.number_input(
        "in %",
        min_value=0.0,
        max_value=100.0,
        step=1.0,
        format="%g",
        key=Session.typed_sparsity.key,
        width=130,
        on_change=typed,
    )


def in_detail(checkpoint: Checkpoint, recipe: Recipe) -> None:
    """All that is finer than the overall sparsity: allocation, rounding, layers, gates, which LSTMs, what reads them.

    Made only while it is open: it holds more elements than the rest of the page.
    """
    by_units = recipe.granularity == "units"
    details = st.expander(
        "By layer, rounding, consumers" if by_units else "By layer, by gate, by LSTM",
        key=Session.details.key,
        icon=":material/tune:",
        on_change="rerun",
    )
    own = own_sparsities(recipe)
    if own:
        st.caption(f"With a sparsity of {'its' if len(own) == 1 else 'their'} own: {', '.join(own)}.")
    if not details.open:
        return
    with details:
        with st.container(horizontal=True, vertical_alignment="bottom"):
            controls.draw("detail")
        if recipe.allocation == "uniform":
            st.caption(
                "A layer's own sparsity overrides the overall one. An empty field follows it."
                if by_units
                else "A gate's own sparsity overrides its layer's, and a layer's the overall one. An empty field follows."
            )
            _by_layer(recipe)
            if not by_units:
                _by_gate(recipe, session.layer)
        if len(checkpoint.lstms) > 1:
            titles = {lstm.name: lstm.title for lstm in checkpoint.lstms}
            st.pills(
                "Prune only these LSTMs (none chosen: all)",
                list(titles),
                format_func=lambda name: plain(titles[name]),
                selection_mode="multi",
                key=Controls.lstms.key,
                persist_state="session",
            )
        st.button("Reset to the overall sparsity", icon=":material/restart_alt:", on_click=_follow_all)
        if by_units:
            Controls.consumers.draw(recipe)


def own_sparsities(recipe: Recipe) -> list[str]:
    """What goes before the overall sparsity, in words."""
    layers = [f"layer {layer} at {share:.0%}" for layer, share in recipe.layer_sparsity.items()]
    return layers + [f"{block} at {share:.0%}" for block, share in recipe.gate_sparsity.items()]


def _by_layer(recipe: Recipe) -> None:
    """A slider and a field for every layer."""
    with st.container(horizontal=True):
        for layer in range(number_of_layers(recipe)):
            _part(LAYERS, layer, f"Layer {layer}", recipe.layer_sparsity.get(layer, recipe.sparsity))


def _by_gate(recipe: Recipe, layer: int) -> None:
    """A slider and a field for each of the eight gate blocks; those that follow show what holds in one layer."""
    for side in SIDES:
        with st.container(horizontal=True):
            for gate, block in zip(GATES, BLOCKS[side], strict=True):
                _part(BLOCKS_OF_GATES, block, f"{block} ({GATE_TITLES[gate]})", recipe.block_sparsity(layer, block))


def _part(parts: Parts[Name], name: Name, label: str, holds: float) -> None:
    own = parts.own.value.get(name)
    if parts.field[name] != own:
        parts.field[name] = own
    parts.slider[name] = holds
    with st.container(width=230, border=own is not None):
        st.slider(
            label if own is None else f"**{label}**, its own",
            min_value=0.0,
            max_value=1.0,
            step=0.01,
            format="percent",
            key=parts.slider.key(name),
            on_change=_take,
            args=(parts, name, parts.slider),
        )
        with st.container(horizontal=True, vertical_alignment="center"):
            st.number_input(
                f"{label}, own sparsity",
                min_value=0.0,
                max_value=1.0,
                value=None,
                step=0.01,
                key=parts.field.key(name),
                placeholder=parts.level_above,
                label_visibility="collapsed",
                width=110,
                on_change=_take,
                args=(parts, name, parts.field),
            )
            if own is not None:
                st.button(
                    "Follow",
                    key=f"reset_{parts.field.key(name)}",
                    icon=":material/restart_alt:",
                    on_click=_follow,
                    args=(parts, name),
                    type="tertiary",
                )


def _take(parts: Parts[Name], name: Name, widget: Each[Name, float | None]) -> None:
    """Give a layer or gate the sparsity that its widget shows; an empty field lets it follow."""
    own = widget[name]
    _follow(parts, name)
    if own is not None:
        parts.own.value = {**parts.own.value, name: own}


def _follow(parts: Parts[Name], name: Name) -> None:
    parts.own.value = {part: share for part, share in parts.own.value.items() if part != name}


def _follow_all() -> None:
    Controls.layer_sparsity.forget()
    Controls.gate_sparsity.forget()
