"""The shared state in the URL: example, recipe and view, on every page, so that a link opens the same picture elsewhere."""

import streamlit as st

from pruner.dashboard import model
from pruner.dashboard.controls import PARAMETERS, controls
from pruner.dashboard.session import VIEWED, Params, Session, session
from pruner.errors import PrunerError
from pruner.examples import EXAMPLES
from pruner.recipe import Recipe

KEYS = ("example", "file", "sha256", *PARAMETERS, Session.lstm.key, *(viewed.key for viewed in VIEWED))


def example() -> str | None:
    """The name of the example that the URL opens, if it names one."""
    name = _first(_in_url(), "example")
    return name if name in EXAMPLES else None


def named() -> str | None:
    """The name of the model that the URL names, if it names one, as `model.name_of_open`."""
    return next(filter(None, (_first(_in_url(), key) for key in ("example", "sha256", "file"))), None)


def says_else() -> bool:
    """Whether the URL names a model, and has another recipe or view than is there."""
    present = {key: values for key, values in _in_url().items() if key in KEYS}
    return named() is not None and present != _params()


def read() -> None:
    """Apply what the URL says to the open model. What does not fit it is left at its default: links outlive models.

    A link to somebody's own checkpoint names the file; its recipe and view wait until that is opened.
    """
    params = _in_url()
    if session.checkpoint is None and "file" in params:
        session.awaited = params
    _apply(params)


def awaited_file() -> str | None:
    """The name of the file that a link waits for, and the beginning of its hash."""
    if session.awaited is None:
        return None
    return f"{_first(session.awaited, 'file')} (sha256 {_first(session.awaited, 'sha256') or 'unknown'}…)"


def resume() -> str | None:
    """Give the file that was just opened the recipe and view of the link that waited for one; a sentence if it is another
    file than the link's."""
    params, checkpoint = session.awaited, session.checkpoint
    if params is None or checkpoint is None or not checkpoint.lstms:
        return None
    expected = awaited_file()
    session.awaited = None
    _apply(params)
    if checkpoint.sha256.startswith(_first(params, "sha256") or "-"):
        return None
    return f"The link was made with {expected}; this file is another one. What fits of its recipe was taken over."


def _apply(params: Params) -> None:
    try:
        controls.apply(controls.read(params))
    except PrunerError:
        controls.apply(Recipe())
    checkpoint = session.checkpoint
    if checkpoint is None or not checkpoint.lstms:
        return
    by_name = {lstm.name: lstm for lstm in checkpoint.lstms}
    lstm = by_name.get(_first(params, Session.lstm.key), checkpoint.lstms[0])
    session.lstm = lstm.name
    for viewed in VIEWED:
        said = _first(params, viewed.key)
        viewed.value = next((choice for choice in viewed.choices(lstm) if str(choice) == said), viewed.first)


def _in_url() -> Params:
    return {key: st.query_params.get_all(key) for key in st.query_params}


def _first(params: Params, key: str) -> str:
    """The first value of a parameter, or nothing."""
    return next(iter(params.get(key, [])), "")


def write() -> None:
    """Mirror the state in the URL; what stands at its default is left out, and what is not of `KEYS` is left alone: a
    lesson binds its own controls to the URL, and bound parameters can only be changed by their widgets."""
    if session.awaited is not None:
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
    checkpoint = session.checkpoint
    if checkpoint is None or not checkpoint.lstms:
        return {}
    params: Params = (
        {"example": [session.example]}
        if session.example
        else {"file": [checkpoint.name], "sha256": [checkpoint.sha256[: model.HASH_LENGTH]]}
    )
    params |= controls.told()
    if session.lstm != checkpoint.lstms[0].name:
        params[Session.lstm.key] = [session.lstm]
    params |= {viewed.key: [str(viewed.value)] for viewed in VIEWED if viewed.value != viewed.first}
    return {key: values for key, values in params.items() if values}
