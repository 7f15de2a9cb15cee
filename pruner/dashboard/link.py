"""The shared state in the URL: example, recipe and view, on every page, so that a link opens the same picture elsewhere."""

from typing import Any

import streamlit as st

from pruner import PrunerError, Recipe, examples
from pruner.dashboard import state
from pruner.lstm.gates import GATES, SIDES

Params = dict[str, list[str]]
HASH_LENGTH = 16  # of a file's hash in a link
KEYS = (
    *(
        "example",
        "file",
        "sha256",
        "sparsity",
        "criterion",
        "granularity",
        "allocation",
        "round_to",
        "consumers",
        "compensation",
        "task",
    ),
    *("seed", "lstms", "layers", "gates", *state.FIRST_VIEW),
)


def read() -> None:
    """Open what the URL names. What does not fit the model is left at its default: links outlive models.

    A link to somebody's own checkpoint names the file; its recipe and view wait until that is opened.
    """
    params = {key: st.query_params.get_all(key) for key in st.query_params}
    example = _first(params, "example")
    if example in examples.EXAMPLES:
        state.open_example(example)
    elif "file" in params:
        st.session_state.awaited = params
    _apply(params)


def awaited_file() -> str | None:
    """The name of the file that a link waits for, and the beginning of its hash."""
    params = st.session_state.awaited
    if params is None:
        return None
    return f"{_first(params, 'file')} (sha256 {_first(params, 'sha256') or 'unknown'}…)"


def resume() -> str | None:
    """Give the file that was just opened the recipe and view of the link that waited for one; a sentence if it is another
    file than the link's."""
    params, checkpoint = st.session_state.awaited, state.checkpoint()
    if params is None or checkpoint is None or not checkpoint.lstms:
        return None
    expected = awaited_file()
    st.session_state.awaited = None
    _apply(params)
    if checkpoint.sha256.startswith(_first(params, "sha256") or "-"):
        return None
    return f"The link was made with {expected}; this file is another one. What fits of its recipe was taken over."


def _apply(params: Params) -> None:
    values = {
        "sparsity": _number(_first(params, "sparsity"), Recipe.sparsity),
        "criterion": _first(params, "criterion") or Recipe.criterion,
        "granularity": _first(params, "granularity") or Recipe.granularity,
        "allocation": _first(params, "allocation") or Recipe.allocation,
        "round_to": _whole(_first(params, "round_to"), Recipe.round_to),
        "consumers": params.get("consumers", []),
        "compensation": _first(params, "compensation") or Recipe.compensation,
        "task": _first(params, "task") or None,
        "seed": _whole(_first(params, "seed"), Recipe.seed),
        "lstms": params.get("lstms"),
        "layer_sparsity": _shares(params.get("layers", [])),
        "gate_sparsity": _shares(params.get("gates", [])),
    }
    try:
        state.apply_recipe(Recipe.from_dict(values))
    except PrunerError:
        state.apply_recipe(Recipe())
    checkpoint = state.checkpoint()
    if checkpoint is None or not checkpoint.lstms:
        return
    by_name = {lstm.name: lstm for lstm in checkpoint.lstms}
    lstm = by_name.get(_first(params, "lstm"), checkpoint.lstms[0])
    st.session_state.lstm = lstm.name
    st.session_state.layer = _choice(range(lstm.num_layers), _first(params, "layer"))
    st.session_state.direction = _choice(state.DIRECTIONS[: lstm.directions], _first(params, "direction"))
    st.session_state.side = _choice(SIDES, _first(params, "side"))
    st.session_state.shown_gate = _choice(GATES, _first(params, "shown_gate"))
    unit = _whole(_first(params, "unit"), -1)
    st.session_state.unit = unit if 0 <= unit < lstm.hidden_size else None


def _first(params: Params, key: str) -> str:
    """The first value of a parameter, or nothing."""
    return next(iter(params.get(key, [])), "")


def write() -> None:
    """Mirror the state in the URL; what stands at its default is left out, and what is not of `KEYS` is left alone: a
    lesson binds its own controls to the URL, and bound parameters can only be changed by their widgets."""
    if st.session_state.awaited is not None:
        return
    params, url = _params(), st.query_params
    present = {key: url.get_all(key) for key in url if key in KEYS}
    if len(present) == len(url) and present != params:
        url.from_dict(params)
    elif present != params:
        for key in present.keys() - params.keys():
            del url[key]
        url.update(params)


def _params() -> Params:
    session, checkpoint = st.session_state, state.checkpoint()
    if checkpoint is None or not checkpoint.lstms:
        return {}
    recipe = state.recipe()
    params: Params = {
        "example": [session.example] if session.example else [],
        "file": [] if session.example else [checkpoint.name],
        "sha256": [] if session.example else [checkpoint.sha256[:HASH_LENGTH]],
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
