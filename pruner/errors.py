"""The one exception that people can cause."""


class PrunerError(Exception):
    """Unusable input. The message says what was expected, what was found and what to do."""


class Cancelled(Exception):
    """A run was asked to stop before it finished."""
