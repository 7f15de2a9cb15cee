"""Tune the sparsity and see which rows fall."""

import pandas as pd
import streamlit as st
import torch

from pruner import PrunerError, Recipe, figures
from pruner.dashboard import state, widgets
from pruner.dashboard.scores import scores
from pruner.dashboard.text import plain
from pruner.gates import BLOCKS, GATE_TITLES, GATES, SIDES, split_gates
from pruner.masks import block_sparsities, dropped_rows, make_masks, summarize


def load_recipe() -> None:
    """Set every control from the uploaded recipe, or keep them all and say why."""
    uploaded = st.session_state[f"recipe_{st.session_state.upload}"]
    if uploaded is None:
        return
    st.session_state.recipe_problem = None
    try:
        state.apply_recipe(Recipe.from_json(uploaded.getvalue()))
    except PrunerError as error:
        st.session_state.recipe_problem = str(error)
    st.session_state.upload += 1


def own_sparsity(label: str, key: str, otherwise: str) -> None:
    """A field for a sparsity that goes before the one above it; empty, it follows that one."""
    st.number_input(
        label,
        min_value=0.0,
        max_value=1.0,
        value=None,
        step=0.01,
        key=key,
        persist_state="session",
        placeholder=otherwise,
        width=140,
    )


st.title("Masks")
checkpoint = state.required_checkpoint()
st.slider(
    "Sparsity: share of each gate's rows to drop",
    min_value=0.0,
    max_value=1.0,
    step=0.01,
    format="percent",
    key="sparsity",
    persist_state="session",
)
with st.expander("By layer, by gate, by LSTM", icon=":material/tune:"):
    st.caption("A gate's own sparsity goes before its layer's, a layer's before the overall one. Empty fields follow.")
    with st.container(horizontal=True):
        for layer in range(state.layers()):
            own_sparsity(f"Layer {layer}", f"layer_{layer}", "overall")
    for side in SIDES:
        with st.container(horizontal=True):
            for gate, block in zip(GATES, BLOCKS[side], strict=True):
                own_sparsity(f"{block} ({GATE_TITLES[gate]})", f"gate_{block}", "layer")
    if len(checkpoint.lstms) > 1:
        titles = {lstm.name: lstm.title for lstm in checkpoint.lstms}
        st.pills(
            "Prune only these LSTMs (none chosen: all)",
            list(titles),
            format_func=lambda name: plain(titles[name]),
            selection_mode="multi",
            key="lstms",
            persist_state="session",
        )
    st.button("Reset to the overall sparsity", icon=":material/restart_alt:", on_click=state.reset_overrides)

view = widgets.choose_view(checkpoint)
recipe = state.recipe()
try:
    scored = {lstm.name: scores(checkpoint, lstm, recipe.criterion) for lstm in checkpoint.lstms}
except PrunerError as error:
    widgets.stop_with(error, "This model cannot be scored")
pruned = checkpoint.select(recipe.lstms)
masks: dict[str, torch.Tensor] = {}
for lstm in pruned:
    masks |= make_masks(lstm, scored[lstm.name].ranks, recipe)
saliency, mask = scored[view.lstm.name].saliency[view.tensor], masks.get(view.tensor)
norm = widgets.CRITERION_TITLES[recipe.criterion]

summary = summarize(pruned, masks, {name: values for each in scored.values() for name, values in each.saliency.items()})
with st.grid(4, min_column_width=150):
    st.metric(f"Rows dropped, of {summary.rows:,}", f"{summary.dropped_rows:,}", border=True, height="stretch")
    st.metric("Saliency kept", f"{summary.saliency_kept:.1%}", border=True, height="stretch")
    st.metric("Weights zeroed", f"{summary.dropped_weights / summary.weights:.1%}", border=True, height="stretch")
    st.metric(
        f"Units dropped, of {summary.units:,}",
        f"{summary.dropped_units:,}",
        help="Units that all eight blocks drop. Only these could be removed; any other keeps a part of itself.",
        border=True,
        height="stretch",
    )

if mask is None:
    st.info(f"{plain(view.lstm.title)} is left as it is: it is not among the LSTMs to prune.")
else:
    st.caption(f"Each cell is a row of **{plain(view.tensor)}**, coloured by its {norm}. :orange[■] Orange rows fall.")
st.plotly_chart(
    figures.gate_grids(saliency, view.side, mask, norm),
    key="grids",
    alt=f"Heatmaps of the {norm} of every row of {view.tensor}, one for each gate; rows that the mask drops are orange",
)
dropped = tuple(
    0 if mask is None else dropped_rows(view.lstm.hidden_size, sparsity)
    for sparsity in block_sparsities(recipe, view.layer, view.side)
)
st.plotly_chart(
    figures.sorted_curves(saliency, view.side, dropped),
    key="curves",
    alt=f"Rows of each gate of {view.tensor} sorted by {norm}, with a dot where each gate is cut",
)
gates = split_gates(saliency)
kept = split_gates(torch.ones_like(saliency, dtype=torch.bool) if mask is None else mask)
st.dataframe(
    pd.DataFrame(
        {
            "gate": [f"{block} ({GATE_TITLES[gate]})" for gate, block in zip(GATES, BLOCKS[view.side], strict=True)],
            "sparsity": block_sparsities(recipe, view.layer, view.side),
            "rows dropped": dropped,
            "rows kept": kept.sum(1).numpy(),
            "saliency kept": ((gates * kept).sum(1) / gates.sum(1).clamp(min=torch.finfo(gates.dtype).tiny)).numpy(),
        }
    ),
    hide_index=True,
    column_config={
        "sparsity": st.column_config.NumberColumn(format="percent"),
        "saliency kept": st.column_config.ProgressColumn(format="percent", min_value=0, max_value=1),
    },
    alt=f"Rows dropped and saliency kept in each gate of {view.tensor}",
)
with st.container(horizontal=True, vertical_alignment="center"):
    st.download_button(
        "Save the recipe",
        recipe.to_json(),
        file_name="recipe.json",
        mime="application/json",
        icon=":material/save:",
        on_click="ignore",
    )
    with st.popover("Load a recipe", icon=":material/upload_file:"):
        st.file_uploader(
            "A recipe saved here or by the command line",
            type="json",
            key=f"recipe_{st.session_state.upload}",
            on_change=load_recipe,
            max_upload_size=1,
        )
    st.page_link("pages/studio/run.py", label="Run it", icon=":material/arrow_forward:")
if st.session_state.get("recipe_problem"):
    st.error(plain(st.session_state.recipe_problem), title="This recipe cannot be used", icon=":material/error:")
