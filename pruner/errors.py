"""The one exception that people can cause."""

NO_MEMORY = (
    "expected enough memory for this model, found too little; free some, or use a smaller model or another device"
)


class PrunerError(Exception):
    """Unusable input. The message says what was expected, what was found and what to do.

    >>> from pruner import PrunerError, Recipe
    >>> try:
    ...     Recipe(sparsity=1.5)
    ... except PrunerError as error:
    ...     print(error)
    expected sparsity between 0 and 1, found 1.5
    """


def no_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, as Python, PyTorch, and on CUDA its libraries tell it."""
    told = (
        "not enough memory",
        "can't allocate memory",
        "out of memory",
        "ALLOC_FAILED",
        "bad allocation",
        "bad_alloc",
    )
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(each in str(error) for each in told)
    )


def shown(value: object, most: int = 80) -> str:
    """A value as a message can show it: short, and without an error of its own (huge integers have no text)."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        return type(value).__name__
    return text if len(text) <= most else f"{text[:most]}…"


def label(name: str, most: int = 80) -> str:
    """A name as people can read it: without line breaks and other characters that show nothing, cut in the middle."""
    half = most // 2
    short = name if len(name) <= 2 * most else f"{name[:most]}…{name[-most:]}"
    text = short if short.isprintable() else repr(short)[1:-1]
    return text if len(text) <= most else f"{text[:half]}…{text[-half:]}"
