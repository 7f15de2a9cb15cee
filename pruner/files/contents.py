"""What a reader makes of a file's bytes: plain containers, described tensors and stand-ins.

Nothing here needs torch, and no reader imports it: readers also run in a child process that has nothing else to do (see
`isolation`). `materialise` turns a description into tensors afterwards.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

WIDTHS = {  # bytes of a number, by what torch calls its type
    **dict.fromkeys(("bool", "uint8", "int8", "bits8", "bits1x8", "bits2x4", "bits4x2"), 1),
    **dict.fromkeys(("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"), 1),
    **dict.fromkeys(("float16", "bfloat16", "int16", "uint16", "bits16"), 2),
    **dict.fromkeys(("float32", "int32", "uint32", "complex32"), 4),
    **dict.fromkeys(("float64", "int64", "uint64", "complex64"), 8),
    "complex128": 16,
}
MAX_DIMENSIONS = 64


@dataclass(eq=False, repr=False, slots=True)
class Storage:
    """Bytes that numbers lie in: a part of the file, or of what a reader computed. Tensors of one storage are tied."""

    data: memoryview
    big_endian: bool = False


@dataclass(frozen=True, eq=False, slots=True)
class Quantizer:
    """How integers stand for real numbers: `(integer - zero_point) * scale`, one pair for all or one an index of `axis`."""

    scales: tuple[float, ...]
    zero_points: tuple[float, ...]
    axis: int | None = None


@dataclass(frozen=True, eq=False, repr=False, slots=True)
class Stored:
    """A tensor, described: where its numbers lie and how they form it. Offset and stride count elements, not bytes."""

    storage: Storage
    dtype: str  # as torch calls it, "float32"
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int = 0
    parameter: bool = False  # an nn.Parameter
    requires_grad: bool = False
    quantizer: Quantizer | None = None


def check_sizes(sizes: Any) -> tuple[int, ...]:
    """The sizes of the dimensions of a tensor. Raises ValueError for what cannot be that."""
    if type(sizes) is not tuple or len(sizes) > MAX_DIMENSIONS:
        raise ValueError("a tensor without sizes, or of too many dimensions")
    if not all(type(size) is int and 0 <= size < 2**63 for size in sizes):
        raise ValueError("a tensor of sizes that are none")
    if math.prod(size or 1 for size in sizes) >= 2**63:
        raise ValueError("a tensor larger than any memory")
    return sizes


def check_view(stored: Stored, count: int) -> None:
    """Raise ValueError unless a tensor lies within the `count` numbers of its storage."""
    if type(stored.stride) is not tuple or len(check_sizes(stored.shape)) != len(stored.stride):
        raise ValueError("a tensor of more dimensions than strides")
    for size in (*stored.stride, stored.offset):
        check_sizes((size,))
    last = stored.offset + sum((size - 1) * step for size, step in zip(stored.shape, stored.stride, strict=True))
    if 0 not in stored.shape and last >= count:
        raise ValueError(f"a tensor that reaches out of its {count:,} stored numbers")


def contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The stride of a tensor whose last dimension changes first, in elements."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


@dataclass(frozen=True, eq=False, slots=True)
class Name:
    """A class or function that a file names. It is neither imported nor looked up."""

    module: str
    name: str


@dataclass(eq=False, repr=False, slots=True)
class StandIn:
    """What a file would have had built by calling something: what it names, with which arguments, state and items."""

    of: Any  # mostly a Name
    arguments: tuple[Any, ...] = ()
    state: Any = None
    items: dict[Any, Any] | list[Any] | None = None  # what was set in it, or appended
    value: Any = None  # what it is, where that can be said without calling anything: an array


@dataclass(frozen=True, eq=False, repr=False, slots=True)
class OddKey:
    """A key that nobody is asked to hash, or to show: a stand-in, a container whose text is endless, a huge number."""

    key: Any

    def __repr__(self) -> str:
        return "a key that is no name"


@dataclass(frozen=True)
class Learned:
    """What a file says of an LSTM beside its weights; None and empty where it does not say."""

    batch_first: bool | None = None
    dropout: float | None = None
    classes: Mapping[str, str] = field(
        default_factory=dict
    )  # module name -> class, of the modules around it and itself
    consumers: tuple[str, ...] = ()  # names of the tensors that are proven to read its output
    returns_sequences: bool | None = None
    notes: tuple[str, ...] = ()  # for people
    bidirectional: bool | None = None
    handed_states: bool | None = None  # whether it begins from states that others made

    def told(self) -> dict[str, Any]:
        """What is known, as JSON has it."""
        known = {name: value for name, value in asdict(self).items() if value is not None and value not in ((), {})}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in known.items()}


@dataclass(frozen=True)
class Contents:
    """What a file holds.

    `container` nests dictionaries as the file does, or is flat: {name: tensor}; its tensors are `Stored`. `learned` is keyed
    by the names of LSTMs with all keys that lead there, joined by dots. `skipped` is what only looks like an LSTM: (name,
    reason, which says what was expected and what found).
    """

    format: str
    container: Any
    metadata: dict[str, str] = field(default_factory=dict)
    learned: Mapping[str, Learned] = field(default_factory=dict)
    skipped: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()  # sentences for people about the file as a whole
    rewritten: bool = False  # whether the container is another than the file's own, as that of a whole module


@dataclass(frozen=True)
class Computed:
    """A weight that the file does not hold: it is computed of `parts`, and is written in their place when it changes."""

    parts: tuple[str, ...]
    remedy: str  # what to do so that the model holds the weight itself
