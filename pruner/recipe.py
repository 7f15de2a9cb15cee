"""Every setting of a run, as a value and as JSON."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from pruner.errors import PrunerError, shown
from pruner.importance.weights import COST_CRITERIA, CRITERIA, DATA_CRITERIA, ROW_CRITERIA
from pruner.lstm.gates import ALL_BLOCKS

GRANULARITIES = ("rows", "units")
ALLOCATIONS = ("uniform", "global")
COMPENSATIONS = ("none", "fold", "full")
TASKS = ("softmax", "regression")  # what the consumers' outputs are: scores of categories, or numbers
MAX_ROUND_TO = 4096
MAX_SEED = 2**32 - 1


@dataclass(frozen=True)
class Recipe:
    """What to prune and how far. Raises PrunerError for settings that make no sense, alone or together.

    Granularity `rows`: each gate block loses rows of its own. The sparsity of a block is the first of these that is set: its
    gate's (`gate_sparsity["hf"]`), its layer's (`layer_sparsity[0]`), the overall `sparsity`, the share of a block's H rows
    to drop, from 0 to 1.

    Granularity `units`: each layer and direction loses whole hidden units, all eight rows of them. Allocation `uniform`
    drops the share `sparsity` (or its `layer_sparsity`) of every layer; `global` ranks the units of all layers of an LSTM
    together and leaves every layer at least one. The kept count is rounded up to a multiple of `round_to`. `consumers` names
    the tensors (linear.weight, say) that read the output of the last layer; their columns go with the units.

    The criteria that estimate a loss (`taylor`, `fisher`, `obs`) rank by cost per multiply-accumulate when the allocation is
    `global`, rows of all gates and layers, too, until as many are left as `sparsity` leaves everywhere alike.

    `compensation` refits what stays: `fold` lets the kept units take over what can be told of the dropped ones (of dropped
    rows, their mean), from calibration inputs; `full` fits gates and consumers to the dense model, too, which needs
    the consumers and the `task` that they serve. `seed` is that of the criterion `random`.
    """

    sparsity: float = 0.5
    granularity: str = "rows"
    criterion: str = "l1"
    allocation: str = "uniform"
    round_to: int = 1
    lstms: tuple[str, ...] | None = None  # None: all
    layer_sparsity: Mapping[int, float] = field(default_factory=dict)
    gate_sparsity: Mapping[str, float] = field(default_factory=dict)
    consumers: tuple[str, ...] = ()
    compensation: str = "none"
    task: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        # Whoever made the recipe may go on changing their own dictionaries.
        object.__setattr__(self, "layer_sparsity", dict(self.layer_sparsity))
        object.__setattr__(self, "gate_sparsity", dict(self.gate_sparsity))
        if self.lstms is not None and not self.lstms:
            raise PrunerError("expected at least one LSTM to prune, or none named for all of them; found an empty list")
        check_choice("granularity", self.granularity, GRANULARITIES)
        check_choice("criterion", self.criterion, CRITERIA)
        check_sparsity("sparsity", self.sparsity)
        for layer, sparsity in self.layer_sparsity.items():
            if layer < 0:
                raise PrunerError(f"expected a layer number from 0 up, found {layer}")
            check_sparsity(f"the sparsity of layer {layer}", sparsity)
        for gate, sparsity in self.gate_sparsity.items():
            check_choice("gate", gate, ALL_BLOCKS)
            check_sparsity(f"the sparsity of gate {gate}", sparsity)
        check_choice("allocation", self.allocation, ALLOCATIONS)
        whole = isinstance(self.round_to, int) and not isinstance(self.round_to, bool)
        if not whole or not 1 <= self.round_to <= MAX_ROUND_TO:
            raise PrunerError(f"expected round_to from 1 to {MAX_ROUND_TO}, found {shown(self.round_to)}")
        check_choice("compensation", self.compensation, COMPENSATIONS)
        if self.task is not None:
            check_choice("task", self.task, TASKS)
        if not isinstance(self.seed, int) or isinstance(self.seed, bool) or not 0 <= self.seed <= MAX_SEED:
            raise PrunerError(f"expected a seed from 0 to {MAX_SEED}, found {shown(self.seed)}")
        self._check_together()

    def _check_together(self) -> None:
        """Settings that only one granularity knows."""
        if self.granularity == "units" and self.gate_sparsity:
            raise PrunerError(
                "expected no gate_sparsity with granularity 'units', where all gates of a unit fall together; found one for "
                f"{', '.join(self.gate_sparsity)}; use layer_sparsity, or granularity 'rows'"
            )
        for_units = {
            f"criterion {self.criterion!r}": self.criterion not in ROW_CRITERIA,
            f"allocation 'global' and criterion {self.criterion!r}": self.allocation == "global"
            and self.criterion not in COST_CRITERIA,
            f"round_to {self.round_to}": self.round_to > 1,
            "consumers, but neither a task nor compensation": bool(self.consumers) and not self.needs_data,
        }
        found = [what for what, is_set in for_units.items() if is_set]
        if self.granularity == "rows" and found:
            raise PrunerError(f"expected granularity 'units' with {found[0]}, found 'rows'; choose granularity 'units'")
        if self.allocation == "global" and (self.layer_sparsity or self.gate_sparsity):
            raise PrunerError(
                "expected no layer_sparsity and no gate_sparsity with allocation 'global', which finds each share itself; "
                "found one; use allocation 'uniform'"
            )
        if self.task is not None and not self.consumers:
            raise PrunerError(
                f"expected the consumers that serve the task {self.task!r}, found none; name the tensors that "
                f"read the output"
            )

    @property
    def needs_data(self) -> bool:
        """Whether calibration inputs are needed: for the criterion, or to compensate."""
        return self.criterion in DATA_CRITERIA or self.compensation != "none"

    def block_sparsity(self, layer: int, block: str) -> float:
        """The sparsity of one block, e.g. `(0, "hf")`."""
        return self.gate_sparsity.get(block, self.layer_sparsity.get(layer, self.sparsity))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values: layers become strings, LSTM names a list."""
        return {
            "sparsity": self.sparsity,
            "granularity": self.granularity,
            "criterion": self.criterion,
            "allocation": self.allocation,
            "round_to": self.round_to,
            "lstms": None if self.lstms is None else list(self.lstms),
            "layer_sparsity": {str(layer): sparsity for layer, sparsity in sorted(self.layer_sparsity.items())},
            "gate_sparsity": {gate: self.gate_sparsity[gate] for gate in ALL_BLOCKS if gate in self.gate_sparsity},
            "consumers": list(self.consumers),
            "compensation": self.compensation,
            "task": self.task,
            "seed": self.seed,
        }

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2) + "\n"

    @classmethod
    def from_dict(cls, values: Any) -> "Recipe":
        """The inverse of `to_dict`; settings left out keep their defaults. Raises PrunerError for anything else."""
        if not isinstance(values, dict):
            raise PrunerError(f"expected a recipe as a JSON object, found {type(values).__name__}")
        known = [setting.name for setting in fields(cls)]
        unknown = sorted(values.keys() - set(known))
        if unknown:
            raise PrunerError(f"expected recipe settings among {', '.join(known)}; found {shown(unknown[0])}")
        lstms, consumers = values.get("lstms"), values.get("consumers", [])
        if lstms is not None and not _are_names(lstms):
            raise PrunerError(f"expected the recipe's lstms as a list of names or null, found {shown(lstms)}")
        if not _are_names(consumers):
            raise PrunerError(f"expected the recipe's consumers as a list of names, found {shown(consumers)}")
        layers = _sparsities("layer_sparsity", values)
        strange = next((layer for layer in layers if not re.fullmatch("[0-9]{1,4}", layer)), None)
        if strange is not None:
            raise PrunerError(f"expected layer numbers in layer_sparsity, found {shown(strange)}")
        return cls(
            **{
                **values,
                "lstms": None if lstms is None else tuple(lstms),
                "layer_sparsity": {int(layer): sparsity for layer, sparsity in layers.items()},
                "gate_sparsity": _sparsities("gate_sparsity", values),
                "consumers": tuple(consumers),
            }
        )

    @classmethod
    def from_json(cls, text: str | bytes) -> "Recipe":
        """Raises PrunerError if the text is not the JSON of a recipe."""
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise PrunerError(f"expected a recipe as JSON, found text that is not JSON ({error})") from error
        return cls.from_dict(values)


def _are_names(found: Any) -> bool:
    return isinstance(found, list) and all(isinstance(name, str) for name in found)


def _sparsities(setting: str, values: dict[str, Any]) -> dict[str, float]:
    found = values.get(setting, {})
    if not isinstance(found, dict):
        raise PrunerError(f"expected the recipe's {setting} as an object of numbers, found {shown(found)}")
    return found


def check_choice(what: str, found: Any, choices: Iterable[str]) -> None:
    """Raise PrunerError unless `found` is one of the named choices."""
    if not isinstance(found, str) or found not in set(choices):
        raise PrunerError(f"expected a {what} among {', '.join(choices)}; found {shown(found)}")


def check_sparsity(what: str, found: Any) -> None:
    """Raise PrunerError unless `found` is a share: a number from 0 to 1."""
    number = isinstance(found, int | float) and not isinstance(found, bool)
    if not number or not 0 <= found <= 1:  # false for NaN, too
        raise PrunerError(f"expected {what} between 0 and 1, found {shown(found)}")
