"""What a graph is given, call after call: random inputs of the shapes that it wants, and the states that it gave before."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pruner.errors import PrunerError, shown
from pruner.files.onnx_readers import State

Array = NDArray[Any]
Fed = dict[str, Array]

TYPES: dict[str, np.dtype[Any]] = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(double)": np.dtype(np.float64),
    "tensor(float16)": np.dtype(np.float16),
    "tensor(bool)": np.dtype(np.bool_),
    **{f"tensor({kind}{bits})": np.dtype(f"{kind}{bits}") for kind in ("int", "uint") for bits in (8, 16, 32, 64)},
}
# Sizes that are not fixed, tried in turn: those of one name are one, and the names of a graph are given these in a circle.
_TRIED = ((2, 7, 3), (4,), (16,), (1,))
_MOST_NUMBERS = 2**26
_SEED = 0


class Session(Protocol):
    """What is needed of a session of ONNX Runtime."""

    def get_inputs(self) -> Sequence[Any]: ...

    def get_outputs(self) -> Sequence[Any]: ...

    def run(self, names: Sequence[str], given: Mapping[str, Array]) -> Sequence[Any]: ...


@dataclass(frozen=True)
class States:
    """Which inputs of a graph are states that begin at zero, and which outputs they are fed from in the next call.

    `fed_back` is {input: output} where all states of an input go to one output, None where one does not.
    """

    fed_back: Mapping[str, str | None]

    @classmethod
    def of(cls, states: Sequence[State]) -> "States":
        found: dict[str, str | None] = {}
        for name in sorted({origin for state in states for origin in state.origins}):
            own = [state for state in states if name in state.origins]
            ends = {end for state in own for end in state.ends}
            alone = all(len(state.origins) == len(state.ends) == 1 for state in own) and len(ends) == 1
            found[name] = ends.pop() if alone else None
        return cls(found)

    @property
    def continued(self) -> bool:
        """Whether every state can be given to the next call."""
        return bool(self.fed_back) and None not in self.fed_back.values()


def random_inputs(session: Session, states: States) -> Fed:
    """Random inputs with which a graph runs, the same every time, for the graph of any weights; states are zeros.

    Floats are standard normal, whole numbers 1 or 2, which every vocabulary has. Raises PrunerError where it runs with none.
    """
    refused = []
    for sizes in _TRIED:
        fed = _random(session.get_inputs(), sizes, frozenset(states.fed_back))
        try:
            session.run([session.get_outputs()[0].name], fed)
        except PrunerError as error:
            refused.append(error)
        else:
            return fed
    raise refused[0]


def calls(session: Session, feeds: Iterable[Fed], states: States, names: Sequence[str]) -> Iterator[dict[str, Array]]:
    """The values of these names, call by call; states go from each call to the next."""
    kept = {name: output for name, output in states.fed_back.items() if output is not None}
    wanted = list(dict.fromkeys([*names, *kept.values()]))
    state: Fed = {}
    for fed in feeds:
        found = dict(zip(wanted, session.run(wanted, {**fed, **state}), strict=True))
        state = {name: found[output] for name, output in kept.items()}
        yield found


def zeros_of(shape: Sequence[Any], kind: str, sizes: Mapping[str, int]) -> Array:
    """A state of an input's shape, with sizes that are not fixed by their names, else 1."""
    return np.zeros([size if isinstance(size, int) else sizes.get(str(size), 1) for size in shape], dtype_of(kind))


def dtype_of(kind: str) -> np.dtype[Any]:
    """The numbers of an input of a type, as ONNX Runtime calls it. Raises PrunerError for what is no array of numbers."""
    if kind not in TYPES:
        raise PrunerError(f"expected a model whose inputs are arrays of numbers, found {shown(kind, 40)}")
    return TYPES[kind]


def _random(inputs: Sequence[Any], sizes: Sequence[int], zeros: frozenset[str]) -> Fed:
    generator, names, unnamed = np.random.default_rng(_SEED), dict[str, int](), count()
    fed = {}
    for wanted in inputs:
        shape = []
        for size in wanted.shape:
            if not isinstance(size, int):
                called = str(size) if size else f"unnamed {next(unnamed)}"
                size = names.setdefault(called, sizes[len(names) % len(sizes)])
            shape.append(size)
        if np.prod(shape, dtype=float) > _MOST_NUMBERS:
            raise PrunerError(f"expected inputs of at most {_MOST_NUMBERS:,} numbers, found the shape {shown(shape)}")
        dtype = dtype_of(wanted.type)
        if wanted.name in zeros:
            fed[wanted.name] = np.zeros(shape, dtype)
        elif dtype.kind == "f":
            fed[wanted.name] = generator.standard_normal(shape).astype(dtype)
        else:
            fed[wanted.name] = generator.integers(1, 3, shape).astype(dtype)
    return fed
