"""A checkpoint in memory: its named tensors, and the LSTMs that they form."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from pruner.errors import PrunerError, label, shown
from pruner.files.contents import Computed, Learned
from pruner.files.source import Source
from pruner.lstm.lstm import LSTM, Place, Skipped


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory. Nothing here is ever modified: `write` makes a changed copy.

    `tensors` are the values that the model computes with, by their names in the file. Where the file still carries a
    pruning mask beside a tensor (`weight_orig` and `weight_mask`), the value is their product; where it holds only the
    parts of a weight, the weight has the name that it has in the model, and `computed[name]` says which parts these are.

    Shapes and dtypes are those of the file, `size` is in bytes; `lstms` is what was found, `skipped` what only looks like an
    LSTM, with the reason.

        >>> from pruner.examples import named
        >>> checkpoint = named("embedded-reber").open()
        >>> (lstm,) = checkpoint.lstms
        >>> lstm.name, lstm.input_size, lstm.hidden_size, tuple(checkpoint.tensors["lstm.weight_ih_l0"].shape)
        ('lstm', 7, 32, (128, 7))
    """

    name: str
    source: Source
    format: str
    container: Any
    plain: bool  # whether the container is the file's own; else it is a flat dictionary of the tensors
    metadata: dict[str, str]
    locations: dict[str, tuple[str, ...]]  # name of a tensor -> keys that lead to it in the container
    tensors: dict[str, Tensor]
    lstms: list[LSTM]
    skipped: list[Skipped]
    learned: Mapping[str, Learned] = field(default_factory=dict)  # by the names of LSTMs
    notes: tuple[str, ...] = ()  # sentences for people about the file as a whole
    full_names: Mapping[str, str] = field(default_factory=dict)  # name of a tensor -> all its keys in the file, joined
    # (H,) bool by LSTM and place: hidden units that were removed before, which are zero and do not come back.
    gone: Mapping[str, Mapping[Place, Tensor]] = field(default_factory=dict)
    computed: Mapping[str, Computed] = field(default_factory=dict)
    copies: Mapping[str, str] = field(default_factory=dict)  # keys of `hidden` -> the tensor that is copied over them
    hidden: Mapping[str, tuple[str, ...]] = field(
        default_factory=dict
    )  # parts and copies -> their keys, as `locations`

    @property
    def sha256(self) -> str:
        return self.source.sha256

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.source.size

    def select(self, names: Iterable[str] | None = None) -> list[LSTM]:
        """The LSTMs of these names (None: all of them). Raises PrunerError where there is none to work with."""
        if not self.lstms:
            raise PrunerError(
                f"expected an LSTM in {self.name}, found none; it holds {self.contents()}; open the file that holds it, "
                "of a frozen or quantized script the model that it was made from"
            )
        if names is None:
            return self.lstms
        by_name = {lstm.name: lstm for lstm in self.lstms}
        unknown = [name for name in names if name not in by_name]
        if unknown:
            raise PrunerError(
                f"expected the name of an LSTM in {self.name} ({_listed(map(shown, by_name))}), found {shown(unknown[0])}"
            )
        return [by_name[name] for name in dict.fromkeys(names)]

    def location(self, name: str) -> tuple[str, ...]:
        """The keys that lead to a tensor in the container; for a new name, to its place beside those of its module."""
        if name in self.locations:
            return self.locations[name]
        paths = {keys[:-1] for keys in self.locations.values()}
        if len(paths) == 1:  # one dictionary, whose names stand as they are
            return (*paths.pop(), name)
        prefixes = {"".join(f"{key}." for key in path): path for path in sorted(paths)}
        prefix = max((prefix for prefix in prefixes if name.startswith(prefix)), key=len)
        return (*prefixes[prefix], name.removeprefix(prefix))

    def contents(self) -> str:
        """One sentence on what the file holds, for those who look for an LSTM in vain."""
        if self.skipped:
            return _listed(f"{label(skipped.name) or '(root)'} ({skipped.reason})" for skipped in self.skipped)
        if self.tensors:
            count = len(self.tensors)
            return f"{count} tensor{'s' if count > 1 else ''}: {_listed(map(label, self.tensors))}"
        if not self.container:
            return f"no named tensors, but an empty {type(self.container).__name__}"
        keys = _listed(label(key) if isinstance(key, str) else shown(key) for key in self.container)
        return f"no named tensors, but a {type(self.container).__name__} of {keys}"


def _listed(names: Iterable[str], most: int = 5) -> str:
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
