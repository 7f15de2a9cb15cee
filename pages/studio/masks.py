"""Tune the sparsity and see which rows fall."""

import pandas as pd
import streamlit as st
import torch

from pruner import PrunerError, Recipe, figures
from pruner.consumers import consumers_of
from pruner.dashboard import data, state, widgets
from pruner.dashboard.scores import scores
from pruner.dashboard.text import plain
from pruner.gates import ALL_BLOCKS, BLOCKS, GATE_TITLES, GATES, SIDES, split_gates
from pruner.masks import summarize, unit_agreement
from pruner.recipe import MAX_ROUND_TO
from pruner.saliency import COST_CRITERIA, DATA_CRITERIA, ROW_CRITERIA

GRANULARITY_TITLES = {"rows": "Rows", "units": "Units"}
ALLOCATION_TITLES = {
    "units": {"uniform": "Every layer alike", "global": "All layers ranked together"},
    "rows": {"uniform": "Every gate alike", "global": "All gates and layers ranked together by cost"},
}
MEANING = {
    "rows": "Rows: each of the eight gate blocks drops its own weakest rows; every hidden unit stays, some gates constant.",
    "units": "Units: whole hidden units fall, all eight rows of each, so the model can really become smaller and faster.",
}


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
st.segmented_control(
    "Granularity",
    list(GRANULARITY_TITLES),
    format_func=GRANULARITY_TITLES.__getitem__,
    key="granularity",
    required=True,
    persist_state="session",
)
by_units = st.session_state.granularity == "units"
st.caption(MEANING[st.session_state.granularity])
st.slider(
    f"Sparsity: share of {'the hidden units' if by_units else 'each gate’s rows'} to drop",
    min_value=0.0,
    max_value=1.0,
    step=0.01,
    format="percent",
    key="sparsity",
    persist_state="session",
)
widgets.choose_criterion()
widgets.choose_compensation()
alike = state.recipe().allocation == "uniform"
with st.expander("By layer, rounding, readers" if by_units else "By layer, by gate, by LSTM", icon=":material/tune:"):
    widgets.choose_seed()
    if by_units or st.session_state.criterion in COST_CRITERIA:
        with st.container(horizontal=True, vertical_alignment="bottom"):
            titles = ALLOCATION_TITLES[st.session_state.granularity]
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
    if alike:
        st.caption(
            "A layer's own sparsity goes before the overall one. Empty fields follow."
            if by_units
            else "A gate's own sparsity goes before its layer's, a layer's before the overall one. Empty fields follow."
        )
        with st.container(horizontal=True):
            for layer in range(state.layers()):
                own_sparsity(f"Layer {layer}", f"layer_{layer}", "overall")
    if alike and not by_units:
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
    if by_units:
        widgets.choose_readers()

view = widgets.choose_view(checkpoint)
recipe = state.recipe()
widgets.has_data(recipe)
if recipe.criterion in DATA_CRITERIA and data.current() is None:
    st.stop()
gathered = data.current()
try:
    consumers = consumers_of(checkpoint, recipe)
    scored = {
        lstm.name: scores(
            checkpoint, lstm, recipe.criterion, tuple(consumers.get(lstm.name, ())), recipe.seed, gathered
        )
        for lstm in checkpoint.lstms
    }
except PrunerError as error:
    widgets.stop_with(error, "This model cannot be scored")
pruned = checkpoint.select(recipe.lstms)
masks: dict[str, torch.Tensor] = {}
for lstm in pruned:
    masks |= scored[lstm.name].masks(lstm, recipe)
saliency, mask = scored[view.lstm.name].saliency[view.tensor], masks.get(view.tensor)
words = widgets.CRITERION_WORDS[recipe.criterion]
norm = widgets.measure_of_rows(recipe.criterion)

summary = summarize(pruned, masks, {name: values for each in scored.values() for name, values in each.saliency.items()})
with st.grid(4, min_column_width=150):
    st.metric(f"Rows dropped, of {summary.rows:,}", f"{summary.dropped_rows:,}", border=True, height="stretch")
    st.metric("Saliency kept", f"{summary.saliency_kept:.1%}", border=True, height="stretch")
    st.metric("Weights zeroed", f"{summary.dropped_weights / summary.weights:.1%}", border=True, height="stretch")
    st.metric(
        f"Units dropped, of {summary.units:,}",
        f"{summary.dropped_units:,}",
        help="Units that all eight blocks drop. Only these can be removed; any other keeps a part of itself.",
        border=True,
        height="stretch",
    )

if mask is None:
    st.info(f"{plain(view.lstm.title)} is left as it is: it is not among the LSTMs to prune.")
else:
    by_whole = "" if recipe.criterion in ROW_CRITERIA else f" Units are ranked by their {words}."
    st.caption(
        f"Each cell is a row of **{plain(view.tensor)}**, coloured by its {norm}. :orange[■] Orange rows fall.{by_whole}"
    )
st.plotly_chart(
    figures.gate_grids(saliency, view.side, mask, norm),
    key="grids",
    alt=f"Heatmaps of the {norm} of every row of {view.tensor}, one for each gate; rows that the mask drops are orange",
)
kept = split_gates(torch.ones_like(saliency, dtype=torch.bool) if mask is None else mask)
dropped = tuple((~kept).sum(1).tolist())
if by_units:
    st.subheader("Agreement")
    st.caption("Its eight rows fall together, so every unit is kept by all blocks or dropped by all.")
else:
    st.plotly_chart(
        figures.sorted_curves(saliency, view.side, dropped),
        key="curves",
        alt=f"Rows of each gate of {view.tensor} sorted by {norm}, with a dot where each gate is cut",
    )
    st.subheader("Agreement")
    st.caption(
        "What the eight blocks decide of each unit. Only a unit that all of them drop could be removed; a mixed one keeps a "
        "part of itself, and a gate whose rows are dropped stays at what its bias gives."
    )
if mask is not None:
    names = view.lstm.weight_names()
    keeping = unit_agreement([masks[names[view.layer, view.direction, side]] for side in SIDES])
    removable = int((keeping == 0).sum())
    where = (
        f"layer {view.layer}, {state.DIRECTIONS[view.direction]}" if view.lstm.bidirectional else f"layer {view.layer}"
    )
    st.markdown(f"**{removable:,} of {len(keeping):,}** units of {where} can be removed.")
    st.plotly_chart(
        figures.agreement_grid(keeping),
        key="agreement",
        alt=f"Every hidden unit of {where}: {removable} dropped by all eight blocks, "
        f"{int((keeping == len(ALL_BLOCKS)).sum())} kept by all, the rest mixed",
    )
gates = split_gates(saliency)
st.dataframe(
    pd.DataFrame(
        {
            "gate": [f"{block} ({GATE_TITLES[gate]})" for gate, block in zip(GATES, BLOCKS[view.side], strict=True)],
            "sparsity": [fallen / view.lstm.hidden_size for fallen in dropped],
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
