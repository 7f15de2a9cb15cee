"""What those who have left still hold of a server's memory."""

import ctypes
import gc
import sys
from contextlib import suppress
from typing import Any

from streamlit import runtime


def let_go() -> None:
    """Forget sessions that were left, and give what they held back to the system.

    Streamlit keeps a session that was left for two minutes, and then until another one comes or goes; it has no public way
    to ask for more.
    """
    if not runtime.exists():
        return
    running: Any = runtime.get_instance()
    with suppress(AttributeError):
        expire = running._session_mgr._session_storage._cache.expire
        running._get_async_objs().eventloop.call_soon_threadsafe(expire)
    gc.collect()
    if sys.platform == "linux":
        with suppress(AttributeError):  # another C library than glibc
            ctypes.CDLL(None).malloc_trim(0)
