"""Give inputs, so that scores and compensation know what the model does with them."""

import html
from functools import partial
from typing import Any

import pandas as pd
import streamlit as st
import torch

from pruner import PrunerError, Recipe, examples
from pruner.dashboard import frame, gathering, inputs, model, watching
from pruner.dashboard.computing import begin
from pruner.dashboard.controls import controls
from pruner.dashboard.downloads import csv_button, png_button
from pruner.dashboard.inputs_chooser import choose_inputs, wanted
from pruner.dashboard.scores import scores
from pruner.dashboard.session import session
from pruner.dashboard.text import stop_with
from pruner.files.checkpoint import Checkpoint
from pruner.files.consumer_choice import consumers_of
from pruner.importance.masks import make_masks_by_cost
from pruner.lstm.gates import BLOCKS, SIDES, split_gates
from pruner.lstm.lstm import LSTM
from pruner.views import data_figures

frame.stand_in_app()

st.title("Calibrate")
checkpoint = model.required_checkpoint()
example = examples.example_of(checkpoint)
controls.name_consumers()
to_gather = controls.to_gather()
lstms = checkpoint.select(to_gather.lstms)
st.markdown(
    "Weights alone cannot tell what a unit is good for. Inputs show what it does, and let what stays take over from what "
    "is dropped."
)


def start() -> None:
    """Start to gather; everything it needs is bound here, because a worker cannot ask the session."""
    session.calibrating = begin(partial(gathering.gather, checkpoint, example, wanted(), controls.to_gather()))


def layer_titles(opened: Checkpoint, lstm: LSTM) -> dict[tuple[int, int], str]:
    """What each layer and direction is called."""
    prefix = f"{lstm.title}, " if len(opened.lstms) > 1 else ""
    return {
        (layer, direction): f"{prefix}layer {layer}{', reverse' if direction else ''}"
        for layer in range(lstm.num_layers)
        for direction in range(lstm.directions)
    }


def labelled(found: dict[str, Any]) -> dict[str, Any]:
    """The same with keys that Plotly, which reads labels as HTML, shows as they are."""
    return {html.escape(title): values for title, values in found.items()}


def shares_of(lstm: LSTM, masks: dict[str, torch.Tensor]) -> dict[str, dict[str, float]]:
    """The share of rows that falls in each of the eight blocks, layer by layer."""
    found: dict[str, dict[str, float]] = {title: {} for title in layer_titles(checkpoint, lstm).values()}
    titles = layer_titles(checkpoint, lstm)
    for (layer, direction, side), name in lstm.weight_names().items():
        fallen = (~split_gates(masks[name])).double().mean(1).tolist()
        found[titles[layer, direction]] |= dict(zip(BLOCKS[side], fallen, strict=True))
    return {title: {block: own[block] for side in SIDES for block in BLOCKS[side]} for title, own in found.items()}


choose_inputs(checkpoint, to_gather, example)
try:
    consumers_of(checkpoint, to_gather)
except PrunerError as error:
    stop_with(error, "These tensors cannot be used")
with st.container(horizontal=True, vertical_alignment="bottom"):
    watching.start_button("Calibrate", session.calibrating, start)
watching.follow(session.calibrating, "calibration")
gathered = inputs.present()
if gathered is None:
    st.stop()
if inputs.current() is None:
    st.warning(
        "The LSTMs, what reads them or the task have changed since. Calibrate again to use what the inputs show.",
        icon=":material/history:",
    )
    st.stop()

calibration = gathered.calibration
st.subheader("What the units do on these inputs")
st.markdown(
    f"**{sum(calibration.steps().values()):,}** time steps of {gathering.told(calibration.source, calibration.name)}, "
    f"`{calibration.sha256[:12]}`. The last sequences, a fifth at most, are held back to judge by."
)
st.caption("How active the units of each layer are. One that hardly moves has little to say.")
activations = {
    title: gathered.statistics[lstm.name].layers[place].activation
    for lstm in lstms
    for place, title in layer_titles(checkpoint, lstm).items()
}
st.plotly_chart(
    data_figures.activation_curves(labelled(activations)),
    key="activations",
    config=png_button("activations"),
    alt="Units of each layer sorted by their mean absolute activation on the inputs",
)
csv_button(
    lambda: pd.concat(
        pd.DataFrame({"layer": title, "unit": range(len(values)), "mean absolute activation": values.cpu().numpy()})
        for title, values in activations.items()
    ),
    "activations",
)
st.subheader("Sparsity of each gate under global ranking")
try:
    by_cost = {lstm.name: scores(checkpoint, lstm, "fisher", gathered=gathered) for lstm in lstms}
except PrunerError as error:
    stop_with(error, "This model cannot be scored")
together = Recipe(controls.sparsity, criterion="fisher", allocation="global")
shares: dict[str, dict[str, float]] = {}
for lstm in lstms:
    shares |= shares_of(lstm, make_masks_by_cost(lstm, by_cost[lstm.name].saliency, together))
st.markdown(
    f"The share of each gate's rows that would fall if **{controls.sparsity:.0%}** of the work were saved and all rows were "
    "ranked together by what dropping them costs on these inputs."
)
if not gathered.calibration.is_real:
    st.caption("These inputs are random: which gate matters most on real ones, they do not tell.")
else:
    st.markdown(
        "Costs mean the same in every gate, so they may be ranked together, and then each gate gets a share of its own; "
        "norms do not, and keep equal shares. Lesson 3 measures both."
    )
st.plotly_chart(
    data_figures.block_shares(labelled(shares)),
    key="shares",
    config=png_button("shares"),
    alt="Heatmap of the share of rows that falls in each of the eight gate blocks of every layer",
)
with st.container(horizontal=True, vertical_alignment="center"):
    csv_button(pd.DataFrame(shares).T.rename_axis("layer").reset_index(), "shares")
    st.page_link("pages/lesson_gates.py", label="Why costs and norms differ", icon=":material/school:")
    st.page_link("pages/masks.py", label="Tune the sparsity", icon=":material/arrow_forward:")
