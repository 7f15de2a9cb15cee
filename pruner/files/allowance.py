"""What reading a file may cost: honest files ask for a few times their own size."""

from typing import Any

from pruner.files.contents import OddKey

MAX_OPERATIONS = 10_000_000
MAX_TUPLE_KEYS = 10_000  # their hashes can be made to collide

_FREE_MEMORY = 64 * 2**20
_LARGEST_KEY = 2**60  # larger integers can be made to collide


class Malformed(Exception):
    """The bytes are not the pickles that they were said to be."""


class Excess(Exception):
    """A file asks for more than its allowance."""


class Allowance:
    """What reading a file may cost, all its pickles together: memory of objects in bytes, and operations."""

    def __init__(self, size: int) -> None:
        self._memory = 6 * size + _FREE_MEMORY
        self.operations = MAX_OPERATIONS
        self.tuple_keys = MAX_TUPLE_KEYS

    def spend(self, memory: int) -> None:
        self._memory -= memory
        if self._memory < 0:
            raise Excess

    def key(self, key: Any) -> Any:
        """A key or an element of a set that can be hashed in little time, whoever chose it."""
        if _is_simple(key):
            return key
        if type(key) is tuple and len(key) <= 8 and all(map(_is_simple, key)) and self.tuple_keys:
            self.tuple_keys -= 1
            return key
        return OddKey(key)


def _is_simple(key: Any) -> bool:
    return type(key) in (str, bytes, float, bool, type(None)) or (
        type(key) is int and -_LARGEST_KEY < key < _LARGEST_KEY
    )
