"""The one exception that people can cause."""

NO_MEMORY = (
    "expected enough memory for this model, found too little; free some, or use a smaller model or another device"
)
# How PyTorch says so, on the CPU, for oneDNN, on CUDA and for its libraries.
_OF_MEMORY = (
    *("can't allocate memory", "not enough memory", "could not create a primitive", "bad_alloc"),
    *("out of memory", "ALLOC_FAILED"),
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


def no_memory(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, says that memory ran out."""
    if error is None:
        return False
    ran_out = isinstance(error, RuntimeError) and any(words in str(error) for words in _OF_MEMORY)
    return ran_out or isinstance(error, MemoryError) or no_memory(error.__cause__)


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
