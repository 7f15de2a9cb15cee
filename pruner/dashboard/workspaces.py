"""What visitors work on, kept by the server for a while, so that a reload finds it.

Whoever knows the secret of a browser finds the workspaces of that browser, one a model, and nobody else does; of the secret
itself only a hash is kept.
"""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from pruner.dashboard.jobs import Job
from pruner.dashboard.limits import Limits
from pruner.dashboard.pinned import Pinned
from pruner.files.checkpoint import Checkpoint

Values = Mapping[str, Any]  # of a session, by their keys
Key = tuple[str, str]  # the hash of a secret, and the name of a model


@dataclass
class Workspace:
    """The values of a session, shared by reference, and when they were last used."""

    values: Values
    used: float

    @property
    def bytes(self) -> int:
        """Of the files that are open in it."""
        opened = [value.checkpoint if isinstance(value, Pinned) else value for value in self.values.values()]
        return sum({id(each): each.size for each in opened if isinstance(each, Checkpoint)}.values())

    def cancel(self) -> None:
        """Stop what runs: nobody is there to see its end."""
        for value in self.values.values():
            if isinstance(value, Job):
                value.cancel()


class Workspaces:
    """The workspaces of all browsers. Where there is no room for all, those go first whose last use is longest ago."""

    def __init__(self, given: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._given, self._clock = given, clock
        self._lock = threading.Lock()
        self._kept: dict[Key, Workspace] = {}  # the longest unused first

    def find(self, secret: str, model: str | None) -> str | None:
        """The name of the model if the browser with this secret has a workspace of it; without a name, that of the workspace
        which it used last. To ask is to use."""
        with self._lock:
            self._forget_idle()
            own = [key for key in self._kept if key[0] == _hashed(secret) and model in (None, key[1])]
            if not own:
                return None
            self._use(own[-1], self._kept[own[-1]].values)
            return own[-1][1]

    def join(self, secret: str, model: str, mine: Values, before: Values) -> Values:
        """Write what has changed in `mine` since `before`, and return what the workspace then holds: two tabs of a browser
        that join one after the other come to hold the same. Where there was none, it becomes `mine`."""
        with self._lock:
            self._forget_idle()
            key = _hashed(secret), model
            held = self._kept.get(key)
            changed = {name: value for name, value in mine.items() if held is None or not same(value, before[name])}
            values = {**held.values, **changed} if held else changed
            self._use(key, values)
            self._make_room()
            return values

    def drop(self, secret: str, model: str) -> None:
        """Forget a workspace, if it is there, that a tab has left for another model."""
        with self._lock:
            self._kept.pop((_hashed(secret), model), None)

    def forget_idle(self) -> None:
        """Forget what was not used for the seconds that are given, and stop what still runs there."""
        with self._lock:
            self._forget_idle()

    def _use(self, key: Key, values: Values) -> None:
        self._kept.pop(key, None)
        self._kept[key] = Workspace(values, self._clock())

    def _forget_idle(self) -> None:
        since = self._clock() - self._given.idle_seconds
        for key in [key for key, workspace in self._kept.items() if workspace.used <= since]:
            self._kept.pop(key).cancel()

    def _make_room(self) -> None:
        """What is larger than all room takes nobody else's, and who has many models loses one of their own. What runs in a
        workspace that has to go runs on: its tab may well be there."""
        latest, most_bytes = next(reversed(self._kept)), self._given.model_megabytes * 2**20
        own = [key for key in self._kept if key[0] == latest[0]]
        if len(own) > self._given.models_a_visitor:
            del self._kept[own[0]]
        if self._kept[latest].bytes > most_bytes:
            del self._kept[latest]
        while len(self._kept) > self._given.models or sum(each.bytes for each in self._kept.values()) > most_bytes:
            del self._kept[next(iter(self._kept))]


def same(one: Any, other: Any) -> bool:
    """Whether nothing has changed: plain values and what they hold are compared; other objects, and what grows in place, are
    only told apart."""
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if type(one) in (list, tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if type(one) is dict:
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    return isinstance(one, str | int | float) and one == other


def _hashed(secret: str) -> str:
    return sha256(secret.encode()).hexdigest()
