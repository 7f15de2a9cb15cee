"""The sparsity controls: overall, by layer, by gate. A lower level goes before an upper one, and shows that it does.

The session holds a layer's or a gate's own sparsity under `layer_0` or `gate_hf`, None where it follows. The slider beside
that field shows what holds, its own or that of the level above; moving it gives the layer or gate one of its own.
"""

import streamlit as st

from pruner.dashboard import history, link, state, widgets
from pruner.dashboard.text import plain
from pruner.lstm.gates import BLOCKS, GATE_TITLES, GATES, SIDES
from pruner.recipe import COST_CRITERIA, MAX_ROUND_TO, Recipe

ALLOCATION_TITLES = {
    "units": {"uniform": "Every layer alike", "global": "All layers ranked together"},
    "rows": {"uniform": "Every gate alike", "global": "All gates and layers ranked together by cost"},
}


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
            on_change=_moved,
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


def _moved() -> None:
    """The slider stands in a part of the page that is made anew by itself; what else tells of the recipe follows here."""
    history.record()
    link.write()
    if st.session_state.details:  # the sliders of layers and gates follow, too
        st.rerun()


def _typed() -> None:
    st.session_state.sparsity = round(st.session_state.typed_sparsity / 100, 4)
    _moved()


def in_detail(recipe: Recipe) -> None:
    """All that is finer than the overall sparsity: allocation, rounding, layers, gates, which LSTMs, what reads them.

    Made only while it is open: it holds more elements than the rest of the page.
    """
    opened, by_units = state.required_checkpoint(), recipe.granularity == "units"
    details = st.expander(
        "By layer, rounding, readers" if by_units else "By layer, by gate, by LSTM",
        key="details",
        icon=":material/tune:",
        on_change="rerun",
    )
    own = [f"layer {layer} at {share:.0%}" for layer, share in recipe.layer_sparsity.items()]
    own += [f"{block} at {share:.0%}" for block, share in recipe.gate_sparsity.items()]
    if own:
        st.caption(f"With a sparsity of {'its' if len(own) == 1 else 'their'} own: {', '.join(own)}.")
    if not details.open:
        return
    with details:
        widgets.choose_seed()
        if by_units or recipe.criterion in COST_CRITERIA:
            _choose_allocation(by_units)
        if recipe.allocation == "uniform":
            st.caption(
                "A layer's own sparsity overrides the overall one. An empty field follows it."
                if by_units
                else "A gate's own sparsity overrides its layer's, and a layer's the overall one. An empty field follows."
            )
            by_layer(recipe)
            if not by_units:
                by_gate(recipe, st.session_state.layer)
        if len(opened.lstms) > 1:
            titles = {lstm.name: lstm.title for lstm in opened.lstms}
            st.pills(
                "Prune only these LSTMs (none chosen: all)",
                list(titles),
                format_func=lambda name: plain(titles[name]),
                selection_mode="multi",
                key="lstms",
                persist_state="session",
            )
        st.button("Reset to the overall sparsity", icon=":material/restart_alt:", on_click=state.reset_overrides)
        if by_units:
            widgets.choose_readers()


def _choose_allocation(by_units: bool) -> None:
    titles = ALLOCATION_TITLES["units" if by_units else "rows"]
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.segmented_control(
            "Allocation",
            list(titles),
            format_func=titles.__getitem__,
            key="allocation",
            required=True,
            persist_state="session",
            wrap=True,
        )
        if by_units:
            st.number_input(
                "Round the kept count up to a multiple of",
                min_value=1,
                max_value=MAX_ROUND_TO,
                key="round_to",
                persist_state="session",
                help="Kernels take steps: 257 units cost as much as 272, so a multiple of 16 is free. 1: off.",
                width=300,
            )


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
