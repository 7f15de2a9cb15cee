"""What a reader makes of a file's bytes: plain containers, described tensors and stand-ins.

Nothing here needs torch, and no reader imports it: readers also run in a child process that has nothing else to do (see
`isolation`). `materialise` turns a description into tensors afterwards.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, eq=False)
class Storage:
    """Bytes that numbers lie in: a part of the file, or of what a reader computed. Tensors of one storage are tied."""

    data: memoryview
    big_endian: bool = False


@dataclass(frozen=True, eq=False)
class Quantizer:
    """How integers stand for real numbers: `(integer - zero_point) * scale`, one pair for all or one an index of `axis`."""

    scales: tuple[float, ...]
    zero_points: tuple[float, ...]
    axis: int | None = None


@dataclass(frozen=True, eq=False)
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


@dataclass(frozen=True, eq=False)
class Name:
    """A class or function that a file names. It is neither imported nor looked up."""

    module: str
    name: str


@dataclass(eq=False)
class StandIn:
    """What a file would have had built by calling something: what it names, with which arguments, state and items."""

    of: Any  # mostly a Name
    arguments: Any = ()
    state: Any = None
    items: Any = None  # a list or dict of what was appended or set, where there was any


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
    notes: tuple[str, ...] = ()  # for people: "dequantized from int8", say


@dataclass(frozen=True)
class Contents:
    """What a file holds.

    `container` nests dictionaries as the file does, or is flat: {name: tensor}. Its tensors are `Stored`, or NumPy arrays
    where a reader computes them. `learned` is keyed by the names of LSTMs. `skipped` is what only looks like an LSTM:
    (name, reason, which says what was expected and what found).
    """

    format: str
    container: Any
    metadata: dict[str, str] = field(default_factory=dict)
    learned: Mapping[str, Learned] = field(default_factory=dict)
    skipped: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()  # sentences for people about the file as a whole
