"""What shrinking made of a model in memory: the report that the model carries, and its export."""

import os
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pruner.compact.load_pruned import inside
from pruner.compact.masked_and_compact import Form
from pruner.errors import PrunerError
from pruner.exports.verdict import Verdict
from pruner.in_memory.own_forward import defaults
from pruner.lstm.lstm import title_of
from pruner.result import Result


@dataclass(frozen=True)
class Removed:
    """What became of one LSTM: hidden units (before, after) of each layer and direction, the tensors that were trimmed
    along, and, where something stays that could have gone, why."""

    name: str
    units: tuple[tuple[int, int], ...]
    trimmed: tuple[str, ...]
    reason: str | None

    def __str__(self) -> str:
        if not self.units:
            return f"{title_of(self.name)}: stays as it is, {self.reason}"
        units = ", ".join(f"{before} -> {after}" for before, after in self.units)
        read = f"; trimmed along: {', '.join(self.trimmed)}" if self.trimmed else ""
        kept = f"; keeps its output's width, {self.reason}" if self.reason else ""
        return f"{title_of(self.name)}: {units} units{read}{kept}"


@dataclass(frozen=True)
class Report:
    """What was removed and what it costs and brings, (before, after) each; in full sentences as a text.

    `parameters` and `bytes` are those of the whole model, `macs` the multiply-accumulates of its LSTMs a time step.
    `verdict` holds the measure by which it was judged on batches that were held back: the loss that was given, else how far
    the answers are from the dense model's. `notes` say what else there is to know; `seconds` is how long it took.
    """

    model: str
    removed: tuple[Removed, ...]
    parameters: tuple[int, int]
    bytes: tuple[int, int]
    macs: tuple[int, int]
    verdict: Verdict
    notes: tuple[str, ...]
    seconds: float
    save: "Export" = field(repr=False, compare=False)

    @classmethod
    def of(
        cls, result: Result, model: nn.Module, removed: tuple[Removed, ...], notes: tuple[str, ...], seconds: float
    ) -> "Report":
        """The report of a model that holds the compact form of a result."""
        before, after = result.costs["dense"], result.costs["compact"]
        return cls(
            result.checkpoint.name,
            removed,
            (before.parameters, after.parameters),
            (before.bytes, after.bytes),
            (before.macs_per_step, after.macs_per_step),
            result.verdict,
            notes,
            seconds,
            Export(result, model),
        )

    def __str__(self) -> str:
        sizes = {
            "parameters": self.parameters,
            "bytes": self.bytes,
            "multiply-accumulates a step in its LSTMs": self.macs,
        }
        lines = [f"{self.model}, shrunk in {self.seconds:.0f} seconds. {self.verdict.sentence}"]
        lines += [
            f"{what}: {before:,} -> {after:,} ({after / before:.0%})"
            for what, (before, after) in sizes.items()
            if before
        ]
        return "\n".join([*lines, *map(str, self.removed), *self.notes])


class Export:
    """`save(folder)` of a model that was shrunk. It goes along with copies of the model in memory, not into pickles, which
    would carry the dense model, too."""

    def __init__(self, result: Result, model: nn.Module) -> None:
        self._result: Result | None = result
        self._model = weakref.ref(model)

    def __call__(self, folder: str | os.PathLike[str], *, onnx: bool = False) -> Path:
        """Write the export folder, as `Result.save` does. Raises PrunerError as that does, and where the model was trained
        or changed since: an export is what was judged."""
        model = self._model()
        if self._result is None:
            raise PrunerError(
                "expected the model that shrink returned, found one that was pickled; save before, or torch.save its "
                "state_dict()"
            )
        if model is not None and not _holds(self._result.forms["compact"], model):
            raise PrunerError(
                "expected the weights as shrink left them, found others; save before training on, or torch.save the "
                "model's state_dict()"
            )
        with defaults(torch.float32, torch.device("cpu")):
            return self._result.save(folder, "compact", onnx=onnx)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Export":
        model = self._model()
        twin = memo.get(id(model), model)
        if self._result is None or twin is None:
            return self
        return Export(self._result, twin)

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._result, self._model = None, lambda: None  # type: ignore[assignment]


def _holds(form: Form, model: nn.Module) -> bool:
    """Whether a model has the tensors of a form, where the form changed them."""
    own = model.state_dict()
    for layout in form.layouts:
        prefix = f"{layout.lstm.name}." if layout.lstm.name else ""
        for name, stored in layout.tensors.items():
            place = name if prefix + name in own else inside(name, layout.lstm.bidirectional)
            if not _same(own.get(prefix + place), form.changed.get(stored)):
                return False
    return all(_same(own.get(name), form.changed[name]) for layout in form.layouts for name in layout.consumers)


def _same(found: Tensor | None, wanted: Tensor | None) -> bool:
    if found is None or wanted is None:
        return found is wanted
    return found.shape == wanted.shape and torch.equal(found.cpu(), wanted.cpu())


def removed_by(form: Form, declined: Mapping[str, str], reasons: Mapping[str, str]) -> tuple[Removed, ...]:
    """What became of each LSTM: of those in a form, and of those that were declined; `reasons` say why nobody is trimmed."""
    found = []
    for layout in form.layouts:
        name, size = layout.lstm.name, layout.lstm.hidden_size
        units = tuple((size, len(left)) for left in layout.kept_units.values())
        whose = "its layers" if layout.stored_as == "CompactLSTM" else "the layers of the LSTM that reads it"
        uneven = f"because {whose} keep different numbers of units"
        reason = None if layout.consumers else reasons.get(name, uneven)
        found.append(Removed(name, units, tuple(layout.consumers), reason))
    return (*found, *(Removed(name, (), (), reason) for name, reason in sorted(declined.items())))
