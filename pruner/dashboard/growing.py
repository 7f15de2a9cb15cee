"""What work adds to while a session holds it: kept as one thing, whatever it holds just now."""

from typing import TypeVar

Item = TypeVar("Item")


class Growing(list[Item]):
    """A list that is added to in place. An empty one is not another empty one: the other may be added to elsewhere."""


class GrowingMap(dict[str, Item]):
    """The same, by names."""
