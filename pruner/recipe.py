"""Every setting of a run, as a value and as JSON."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from pruner.errors import PrunerError, shown
from pruner.gates import ALL_BLOCKS
from pruner.saliency import CRITERIA

GRANULARITIES = ("rows",)


@dataclass(frozen=True)
class Recipe:
    """What to prune and how far. Raises PrunerError for a setting that makes no sense.

    The sparsity of a block is the first of these that is set: its gate's (`gate_sparsity["hf"]`), its layer's
    (`layer_sparsity[0]`), the overall `sparsity`. Sparsity is the share of a block's H rows to drop, from 0 to 1.
    """

    sparsity: float = 0.5
    granularity: str = "rows"
    criterion: str = "l1"
    lstms: tuple[str, ...] | None = None  # None: all
    layer_sparsity: Mapping[int, float] = field(default_factory=dict)
    gate_sparsity: Mapping[str, float] = field(default_factory=dict)

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

    def block_sparsity(self, layer: int, block: str) -> float:
        """The sparsity of one block, e.g. `(0, "hf")`."""
        return self.gate_sparsity.get(block, self.layer_sparsity.get(layer, self.sparsity))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values: layers become strings, LSTM names a list."""
        return {
            "sparsity": self.sparsity,
            "granularity": self.granularity,
            "criterion": self.criterion,
            "lstms": None if self.lstms is None else list(self.lstms),
            "layer_sparsity": {str(layer): sparsity for layer, sparsity in sorted(self.layer_sparsity.items())},
            "gate_sparsity": {gate: self.gate_sparsity[gate] for gate in ALL_BLOCKS if gate in self.gate_sparsity},
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
        lstms = values.get("lstms")
        if lstms is not None and not (isinstance(lstms, list) and all(isinstance(name, str) for name in lstms)):
            raise PrunerError(f"expected the recipe's lstms as a list of names or null, found {shown(lstms)}")
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
