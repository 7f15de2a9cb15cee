"""The sparsity controls: overall, by layer, by gate. A lower level goes before an upper one, and shows that it does.

The session holds a layer's or a gate's own sparsity under `layer_0` or `gate_hf`, None where it follows. The slider beside
that field shows what holds, its own or that of the level above; moving it gives the layer or gate one of its own.
"""

import streamlit as st

from pruner.dashboard import history, state
from pruner.gates import BLOCKS, GATE_TITLES, GATES, SIDES
from pruner.recipe import Recipe


def overall(by_units: bool) -> None:
    """The sparsity of all layers and gates that have none of their own, to slide or to type."""
    st.session_state.typed_sparsity = round(100 * st.session_state.sparsity, 2)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.slider(
            f"Sparsity: share of {'the hidden units' if by_units else 'each gate’s rows'} to drop",
            min_value=0.0,
            max_value=1.0,
            step=0.01,
            format="percent",
            key="sparsity",
            persist_state="session",
        )
        st.number_input(
            "in %",
            min_value=0.0,
            max_value=100.0,
            step=1.0,
            format="%g",
            key="typed_sparsity",
            width=130,
            on_change=_typed,
        )
        history.buttons()


def _typed() -> None:
    st.session_state.sparsity = round(st.session_state.typed_sparsity / 100, 4)


def by_layer(recipe: Recipe) -> None:
    """A slider and a field for every layer."""
    with st.container(horizontal=True):
        for layer in range(state.layers()):
            _own(f"Layer {layer}", f"layer_{layer}", recipe.layer_sparsity.get(layer, recipe.sparsity), "overall")


def by_gate(recipe: Recipe, layer: int) -> None:
    """A slider and a field for each of the eight gate blocks; those that follow show what holds in one layer."""
    for side in SIDES:
        with st.container(horizontal=True):
            for gate, block in zip(GATES, BLOCKS[side], strict=True):
                _own(f"{block} ({GATE_TITLES[gate]})", f"gate_{block}", recipe.block_sparsity(layer, block), "layer")


def _own(label: str, key: str, holds: float, otherwise: str) -> None:
    slide = f"slide_{key}"
    own = st.session_state.get(key) is not None
    st.session_state[slide] = holds
    with st.container(width=230, border=own):
        st.slider(
            f"**{label}**, its own" if own else label,
            min_value=0.0,
            max_value=1.0,
            step=0.01,
            format="percent",
            key=slide,
            on_change=_slid,
            args=(key,),
        )
        with st.container(horizontal=True, vertical_alignment="center"):
            st.number_input(
                f"{label}, own sparsity",
                min_value=0.0,
                max_value=1.0,
                value=None,
                step=0.01,
                key=key,
                persist_state="session",
                placeholder=otherwise,
                label_visibility="collapsed",
                width=110,
            )
            if own:
                st.button(
                    "Follow",
                    key=f"reset_{key}",
                    icon=":material/restart_alt:",
                    on_click=_follow,
                    args=(key,),
                    type="tertiary",
                )


def _slid(key: str) -> None:
    st.session_state[key] = st.session_state[f"slide_{key}"]


def _follow(key: str) -> None:
    st.session_state[key] = None
