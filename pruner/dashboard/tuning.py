"""The sparsity sliders: overall, by layer, by gate. A lower level goes before an upper one, and shows that it does.

What controls the sparsities is the browser's; here it is told where its sliders stand, and heard where they were moved.
"""

import streamlit as st

from pruner.dashboard.controls import CONTROLS, Controls, controls, number_of_layers
from pruner.dashboard.gate_canvas import Sliders
from pruner.dashboard.session import session
from pruner.dashboard.standing import Said, Standing, said_next
from pruner.dashboard.text import plain
from pruner.dashboard.whole import ask_for_all
from pruner.files.checkpoint import Checkpoint
from pruner.lstm.gates import BLOCKS, GATE_TITLES, GATES, SIDES
from pruner.recipe import Recipe

GRIDS, PARTS = "mask_grids", "mask_parts"  # keys of the canvas of Masks, and of the sliders of layers and gates


def standing(recipe: Recipe) -> Standing:
    """Where the sliders are to stand, as far as the recipe has a use for them."""
    return Standing(
        controls.sparsity,
        controls.layer_sparsity if Controls.layer_sparsity.applies(recipe) else {},
        controls.gate_sparsity if Controls.gate_sparsity.applies(recipe) else {},
    )


def overall(recipe: Recipe, layer: int) -> Sliders:
    """The slider above the grids of a layer, as it stands now."""
    whose = "the hidden units" if recipe.granularity == "units" else "each gate’s rows"
    return Sliders(GRIDS, layer, _said(recipe), f"Sparsity: share of {whose} to drop")


def parts(recipe: Recipe, layer: int) -> Sliders | None:
    """The sliders of the layers and gates that can have a sparsity of their own."""
    groups = _groups(recipe)
    return Sliders(GRIDS, layer, _said(recipe), groups=groups) if groups else None


def _said(recipe: Recipe) -> Said:
    present = standing(recipe)
    said = said_next(session.said, session.shown, present)
    if said != session.said:
        session.said, session.shown = said, present
    return said


def _groups(recipe: Recipe) -> list[tuple[str, list[tuple[str, str]]]]:
    """The layers and gates that can have a sparsity of their own."""
    found: list[tuple[str, list[tuple[str, str]]]] = []
    if Controls.layer_sparsity.applies(recipe):
        found.append(("layers", [(str(layer), f"Layer {layer}") for layer in range(number_of_layers(recipe))]))
    if Controls.gate_sparsity.applies(recipe):
        for side in SIDES:
            blocks = zip(GATES, BLOCKS[side], strict=True)
            found.append(("gates", [(block, f"{block} ({GATE_TITLES[gate]})") for gate, block in blocks]))
    return found


def catch_up() -> None:
    """Follow what was moved before a click: where both come in one message, that of the click may be called first."""
    for key in (GRIDS, PARTS):
        follow(key)


def say() -> None:
    """Say where the controls stand now, after which what was moved before is not followed any more."""
    _said(controls.recipe())


def follow(key: str) -> bool:
    """Set the controls to where the sliders with this key were moved; once they rest, which is told, all else follows."""
    move = session.move(key)
    if move is None:
        return False
    stands, in_time = Standing.heard(move), session.said is not None and move["edition"] == session.said.edition
    # Where a move rests that was heard already, what was said since (after an undo, say) holds.
    if in_time or stands != session.heard:
        _take(stands)
        # What was moved before the browser took up what was said meanwhile is about to be taken back there.
        session.heard, session.shown = stands, stands if in_time else None
    if rests := bool(move["rests"]):
        ask_for_all()
    return rests


def _take(stands: Standing) -> None:
    recipe = controls.recipe()
    controls.sparsity = stands.overall
    if Controls.layer_sparsity.applies(recipe):
        controls.layer_sparsity = dict(stands.layers)
    if Controls.gate_sparsity.applies(recipe):
        controls.gate_sparsity = dict(stands.gates)


def in_detail(checkpoint: Checkpoint, recipe: Recipe) -> None:
    """Settings that are needed now and then: the seed, how layers share the sparsity, which LSTMs, what reads them."""
    by_units, several = recipe.granularity == "units", len(checkpoint.lstms) > 1
    if not (several or any(control.place == "detail" and control.applies(recipe) for control in CONTROLS)):
        return
    with st.container(horizontal=True, vertical_alignment="bottom"):
        controls.draw("detail")
    if several:
        titles = {lstm.name: lstm.title for lstm in checkpoint.lstms}
        st.pills(
            "Prune only these LSTMs (none chosen: all)",
            list(titles),
            format_func=lambda name: plain(titles[name]),
            selection_mode="multi",
            key=Controls.lstms.key,
            persist_state="session",
        )
    if by_units:
        Controls.consumers.draw(recipe)


def own_sparsities(recipe: Recipe) -> list[str]:
    """What goes before the overall sparsity, in words."""
    layers = [f"layer {layer} at {share:.0%}" for layer, share in recipe.layer_sparsity.items()]
    return layers + [f"{block} at {share:.0%}" for block, share in recipe.gate_sparsity.items()]
