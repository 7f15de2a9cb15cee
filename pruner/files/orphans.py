"""Processes that compute for another one end with it, even if it is killed."""

import os
import threading
import time

_EVERY = 0.5  # seconds between two looks


def end_with(parent: int) -> None:
    """Let this process end about a second after the one that started it, whose number that is.

    Told by whose child this process is, not by a signal at the parent's death: Linux sends that when the thread ends that
    started the child, which may be long before. Where nobody takes over orphans, as on Windows, nothing ends.
    """
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_EVERY)
    os._exit(1)  # whatever the others do
