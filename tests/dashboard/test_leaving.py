"""What is left of sessions that were left."""

import gc
import weakref
from types import SimpleNamespace

import pytest
from streamlit.runtime.memory_session_storage import MemorySessionStorage
from streamlit.runtime.runtime import Runtime
from streamlit.runtime.websocket_session_manager import WebsocketSessionManager

from pruner.dashboard import leaving


class Held:
    """What a session holds."""


def test_sessions_that_were_left_are_let_go_though_nobody_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    storage, held = MemorySessionStorage(ttl_seconds=0), Held()
    left = weakref.ref(held)
    storage.save(SimpleNamespace(session=SimpleNamespace(id="left", held=held)))
    manager = WebsocketSessionManager(storage, None, None, None)
    del held
    gc.collect()
    assert left() is not None and hasattr(Runtime, "_get_async_objs")  # as Streamlit has it, and is asked below
    loop = SimpleNamespace(call_soon_threadsafe=lambda call: call())
    running = SimpleNamespace(_session_mgr=manager, _get_async_objs=lambda: SimpleNamespace(eventloop=loop))
    monkeypatch.setattr(leaving, "runtime", SimpleNamespace(exists=lambda: True, get_instance=lambda: running))
    leaving.let_go()
    assert left() is None


def test_without_a_server_there_is_nothing_to_let_go() -> None:
    leaving.let_go()
