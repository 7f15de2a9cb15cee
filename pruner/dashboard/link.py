"""The shared state in the URL: example, recipe and view, on every page, so that a link opens the same picture elsewhere."""

from typing import Any

import streamlit as st

from pruner import PrunerError, Recipe, examples
from pruner.dashboard import state
from pruner.gates import SIDES

KEYS = (
    *("example", "sparsity", "criterion", "granularity", "allocation", "round_to", "consumers", "compensation", "task"),
    *("seed", "lstms", "layers", "gates", *state.FIRST_VIEW),
)


def read() -> None:
    """Open what the URL names. What does not fit the model is left at its default: links outlive models."""
    params = st.query_params
    if params.get("example") in examples.EXAMPLES:
        state.open_example(params["example"])
    values = {
        "sparsity": _number(params.get("sparsity", ""), Recipe.sparsity),
        "criterion": params.get("criterion", Recipe.criterion),
        "granularity": params.get("granularity", Recipe.granularity),
        "allocation": params.get("allocation", Recipe.allocation),
        "round_to": _whole(params.get("round_to", ""), Recipe.round_to),
        "consumers": params.get_all("consumers"),
        "compensation": params.get("compensation", Recipe.compensation),
        "task": params.get("task"),
        "seed": _whole(params.get("seed", ""), Recipe.seed),
        "lstms": params.get_all("lstms") or None,
        "layer_sparsity": _shares(params.get_all("layers")),
        "gate_sparsity": _shares(params.get_all("gates")),
    }
    try:
        state.apply_recipe(Recipe.from_dict(values))
    except PrunerError:
        state.apply_recipe(Recipe())
    checkpoint = state.checkpoint()
    if checkpoint is None:
        return
    by_name = {lstm.name: lstm for lstm in checkpoint.lstms}
    lstm = by_name.get(params.get("lstm", ""), checkpoint.lstms[0])
    st.session_state.lstm = lstm.name
    st.session_state.layer = _choice(range(lstm.num_layers), params.get("layer"))
    st.session_state.direction = _choice(state.DIRECTIONS[: lstm.directions], params.get("direction"))
    st.session_state.side = _choice(SIDES, params.get("side"))
    unit = _whole(params.get("unit", ""), -1)
    st.session_state.unit = unit if 0 <= unit < lstm.hidden_size else None


def write() -> None:
    """Mirror the state in the URL; what stands at its default is left out, and what is not of `KEYS` is left alone: a
    lesson binds its own controls to the URL, and bound parameters can only be changed by their widgets."""
    params, url = _params(), st.query_params
    present = {key: url.get_all(key) for key in url if key in KEYS}
    if len(present) == len(url) and present != params:
        url.from_dict(params)
    elif present != params:
        for key in present.keys() - params.keys():
            del url[key]
        url.update(params)


def _params() -> dict[str, list[str]]:
    session, checkpoint = st.session_state, state.checkpoint()
    if checkpoint is None or not checkpoint.lstms:
        return {}
    recipe = state.recipe()
    params: dict[str, list[str]] = {
        "example": [session.example] if session.example else [],
        "sparsity": [f"{recipe.sparsity:g}"],
        "criterion": [recipe.criterion] if recipe.criterion != Recipe.criterion else [],
        "granularity": [recipe.granularity] if recipe.granularity != Recipe.granularity else [],
        "allocation": [recipe.allocation] if recipe.allocation != Recipe.allocation else [],
        "round_to": [str(recipe.round_to)] if recipe.round_to != Recipe.round_to else [],
        "consumers": list(recipe.consumers),
        "compensation": [recipe.compensation] if recipe.compensation != Recipe.compensation else [],
        "task": [recipe.task] if recipe.task else [],
        "seed": [str(recipe.seed)] if recipe.seed else [],
        "lstms": list(recipe.lstms or ()),
        "layers": [f"{layer}:{share:g}" for layer, share in recipe.layer_sparsity.items()],
        "gates": [f"{block}:{share:g}" for block, share in recipe.gate_sparsity.items()],
    }
    defaults = {**state.FIRST_VIEW, "lstm": checkpoint.lstms[0].name}
    for key in defaults:
        params[key] = [str(session[key])] if session[key] != defaults[key] else []
    return {key: values for key, values in params.items() if values}


def _choice(choices: Any, text: str | None) -> Any:
    return next((choice for choice in choices if str(choice) == text), choices[0])


def _number(text: str, otherwise: float) -> float:
    try:
        return float(text)
    except ValueError:
        return otherwise


def _whole(text: str, otherwise: int) -> int:
    try:
        return int(text)
    except ValueError:
        return otherwise


def _shares(pairs: list[str]) -> dict[str, float]:
    return {key: _number(share, -1) for key, _, share in (pair.partition(":") for pair in pairs)}
