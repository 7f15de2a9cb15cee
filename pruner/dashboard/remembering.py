"""What a reload finds again: the visitor's workspace, kept by the server under the secret of their browser.

The secret is in a cookie, never in the address. Streamlit reads cookies and sets none, so a script of the page sets it.
"""

import re
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import streamlit as st
from streamlit.components.v2.types import ComponentRenderer

from pruner.dashboard import model
from pruner.dashboard.leaving import let_go
from pruner.dashboard.limits import limits
from pruner.dashboard.session import Kept, session
from pruner.dashboard.workspaces import Values, Workspaces, same

COOKIE = "pruner_browser"
KEY = "browser_secret"
SECRET = re.compile(r"[\w-]{43}", re.ASCII)  # 32 random bytes


@st.cache_resource
def everyones() -> Workspaces:
    """The workspaces of all visitors of this server."""
    workspaces = Workspaces(limits())
    threading.Thread(target=_forget_now_and_then, args=(workspaces,), daemon=True).start()
    return workspaces


def _forget_now_and_then(workspaces: Workspaces) -> None:
    while True:
        time.sleep(min(60, limits().idle_seconds))
        workspaces.forget_idle()
        let_go()


def take_over(named: str | None) -> bool:
    """On the first run of a session: go on where this browser left the model of this name; without a name, where it was
    last. False if there is nothing to go on with."""
    session.secret = _valid(_in_cookie()) or secrets.token_urlsafe(32)
    found = everyones().find(session.secret, named)
    if found is not None:
        _join(found, adopt=True)
    return found is not None


def stay() -> None:
    """Go on counting as used, while nothing but long work runs."""
    everyones().find(session.secret, model.name_of_open())


@contextmanager
def shared() -> Iterator[None]:
    """Share the workspace with other tabs of the browser: what changed there shows on the page that is run inside, and what
    changed here is kept before it and after it."""
    opened = model.name_of_open()
    if session.joined and session.joined[0] != opened:
        everyones().drop(session.secret, session.joined[0])
    if opened:
        _join(opened, adopt=True)
    try:
        yield
    finally:
        if opened:
            _join(opened, adopt=False)


def _join(name: str, adopt: bool) -> None:
    """Once widgets are drawn, their values cannot be set: what is not adopted now is at the next run."""
    mine = _values()
    before = session.joined[1] if session.joined and session.joined[0] == name else mine
    held = everyones().join(session.secret, name, mine, before)
    for kept in _remembered() if adopt else ():
        if not same(kept.value, held[kept.key]):
            kept.value = held[kept.key]
    session.joined = name, held if adopt else mine


def _remembered() -> list[Kept[Any]]:
    return [kept for kept in Kept.every if kept.lives in ("visitor", "model")]


def _values() -> Values:
    return {kept.key: kept.value for kept in _remembered()}


def hold_secret() -> None:
    """Let the browser hold the secret; draws nothing."""
    data = {"cookie": COOKIE, "secret": session.secret, "seconds": limits().idle_seconds}
    _component()(key=KEY, data=data, height=1, on_held_change=_take_held)


def _take_held() -> None:
    """Another tab of this browser, opened at the same time, was first to have a secret."""
    session.secret = _valid(session.held(KEY)) or session.secret


def _in_cookie() -> Any:
    return st.context.cookies.get(COOKIE)


def _valid(told: Any) -> str | None:
    """What comes from a browser may be anything."""
    return told if isinstance(told, str) and SECRET.fullmatch(told) else None


@st.cache_resource
def _component() -> ComponentRenderer:
    source = Path(__file__).with_name("browser_secret.js").read_text(encoding="utf-8")
    return st.components.v2.component(KEY, html="", js=source)
