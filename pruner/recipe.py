"""Every setting of a run, as a value, as JSON and as an option of the command line; and what the criteria can do."""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from pruner.errors import PrunerError, shown
from pruner.lstm.gates import ALL_BLOCKS

GRANULARITIES = ("rows", "units")
ALLOCATIONS = ("uniform", "global")
COMPENSATIONS = ("none", "fold", "heal")
TASKS = ("softmax", "regression")  # what the consumers' outputs are: scores of categories, or numbers
MAX_ROUND_TO = 4096
MAX_SEED = 2**32 - 1
MAX_BUDGET = 24 * 3600.0  # seconds
MAX_STEPS = 10**7


@dataclass(frozen=True)
class Criterion:
    """What is known of a criterion before anything is scored by it."""

    norm: str = "l1"  # of single rows, where it scores whole units only
    of_rows: bool = False  # whether it scores single rows, too
    from_data: bool = False  # whether it needs calibration inputs
    is_cost: bool = False  # whether it estimates a loss, which compares between layers and gates


CRITERIA = {
    "l1": Criterion("l1", of_rows=True),
    "l2": Criterion("l2", of_rows=True),
    "group": Criterion("l2"),
    "activation": Criterion(from_data=True),
    "outgoing": Criterion(from_data=True),
    "taylor": Criterion(of_rows=True, from_data=True, is_cost=True),
    "fisher": Criterion(of_rows=True, from_data=True, is_cost=True),
    "obs": Criterion(from_data=True, is_cost=True),
    "random": Criterion(of_rows=True),
}
DATA_CRITERIA, COST_CRITERIA, ROW_CRITERIA = (
    tuple(name for name, criterion in CRITERIA.items() if getattr(criterion, what))
    for what in ("from_data", "is_cost", "of_rows")
)


def row_norm(criterion: str) -> str:
    """The norm of single rows under a criterion: `group`, which scores whole units, is a Euclidean norm; what is not a norm
    leaves the rows with L1."""
    return CRITERIA[criterion].norm


def _as_it_is(value: Any) -> Any:
    return value


def _setting(
    default: Any,
    flag: str,
    write: Callable[[Any], Any] = _as_it_is,
    read: Callable[[str, Any], Any] = lambda _, value: value,
    **option: Any,
) -> Any:
    """A field of the recipe: its value in JSON, the value read from JSON (given the field's name), and the arguments of
    `argparse` for its flag on the command line."""
    metadata = {"flag": flag, "write": write, "read": read, "option": option}
    if isinstance(default, dict):
        return field(default_factory=dict, metadata=metadata)
    return field(default=default, metadata=metadata)


def seconds(text: str) -> float:
    """A time as people write it: `30s`, `2m`, `1.5h` or a number of seconds. Raises ValueError for anything else."""
    units = {"s": 1, "m": 60, "h": 3600}
    return float(text[:-1]) * units[text[-1]] if text[-1:] in units else float(text)


def _read_compensation(setting: str, found: Any) -> Any:
    """`full`, which refitted by least squares, is what `heal` does better."""
    return "heal" if found == "full" else found


def _read_names(setting: str, found: Any) -> tuple[str, ...]:
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise PrunerError(f"expected the recipe's {setting} as a list of names, found {shown(found)}")
    return tuple(found)


def _read_names_or_all(setting: str, found: Any) -> tuple[str, ...] | None:
    if found is None:
        return None
    try:
        return _read_names(setting, found)
    except PrunerError as error:
        raise PrunerError(str(error).replace("a list of names", "a list of names or null")) from error


def _read_shares(setting: str, found: Any) -> dict[str, float]:
    if not isinstance(found, dict):
        raise PrunerError(f"expected the recipe's {setting} as an object of numbers, found {shown(found)}")
    return found


def _read_layers(setting: str, found: Any) -> dict[int, float]:
    shares = _read_shares(setting, found)
    strange = next((layer for layer in shares if not re.fullmatch("[0-9]{1,4}", layer)), None)
    if strange is not None:
        raise PrunerError(f"expected layer numbers in {setting}, found {shown(strange)}")
    return {int(layer): share for layer, share in shares.items()}


def _write_names(names: tuple[str, ...] | None) -> list[str] | None:
    return None if names is None else list(names)


def _write_layers(shares: Mapping[int, float]) -> dict[str, float]:
    return {str(layer): share for layer, share in sorted(shares.items())}


def _write_gates(shares: Mapping[str, float]) -> dict[str, float]:
    return {gate: shares[gate] for gate in ALL_BLOCKS if gate in shares}


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
    rows, their mean), from calibration inputs; `heal` then trains it, and the consumers if they are named, to answer those
    inputs as the dense model does, for `budget` seconds or `steps` updates. The `task` says what the consumers give, scores
    of categories (`softmax`) or numbers (`regression`). `seed` is that of the criterion `random`.

        >>> from pruner import Recipe
        >>> recipe = Recipe(sparsity=0.5, gate_sparsity={"hf": 0.25})  # every gate loses half its rows, hf a quarter
        >>> recipe.block_sparsity(layer=0, block="hf"), recipe.block_sparsity(layer=0, block="ii")
        (0.25, 0.5)
        >>> Recipe.from_json(recipe.to_json()) == recipe
        True
    """

    sparsity: float = _setting(
        0.5, "--sparsity", type=float, help="share of rows or units to drop, 0 to 1 (default 0.5)"
    )
    granularity: str = _setting("rows", "--granularity", choices=GRANULARITIES)
    criterion: str = _setting("l1", "--criterion", choices=tuple(CRITERIA))
    allocation: str = _setting(
        "uniform",
        "--allocation",
        choices=ALLOCATIONS,
        help="units: the same share of every layer, or one ranking",
    )
    round_to: int = _setting(
        1, "--round-to", type=int, metavar="16", help="units: round the kept count up to a multiple"
    )
    lstms: tuple[str, ...] | None = _setting(  # None: all
        None,
        "--lstm",
        _write_names,
        _read_names_or_all,
        action="append",
        metavar="NAME",
        help="prune this LSTM only (repeatable)",
    )
    layer_sparsity: Mapping[int, float] = _setting(
        {},
        "--layer-sparsity",
        _write_layers,
        _read_layers,
        action="append",
        metavar="0=0.5",
        help="for one layer (repeatable)",
    )
    gate_sparsity: Mapping[str, float] = _setting(
        {},
        "--gate-sparsity",
        _write_gates,
        _read_shares,
        action="append",
        metavar="hf=0.3",
        help="rows: for one gate (repeatable)",
    )
    consumers: tuple[str, ...] = _setting(
        (),
        "--consumer",
        _write_names,
        _read_names,
        action="append",
        metavar="TENSOR",
        help="a tensor that reads the output, LSTM=TENSOR where it fits several (repeatable)",
    )
    compensation: str = _setting(
        "none",
        "--compensation",
        read=_read_compensation,
        choices=COMPENSATIONS,
        help="what stays takes over from what goes (fold), and is then trained to answer like the dense model (heal)",
    )
    budget: float = _setting(
        60.0, "--budget", type=seconds, metavar="30s|2m", help="heal: time to train (default 1 minute)"
    )
    steps: int | None = _setting(
        None,
        "--steps",
        type=int,
        metavar="N",
        help="heal: this many updates in place of a time: the same numbers on every run",
    )
    task: str | None = _setting(
        None, "--task", choices=TASKS, help="what the consumers' outputs are; examples know their own"
    )
    seed: int = _setting(0, "--seed", type=int, help="of the criterion random")

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
        check_whole("round_to", self.round_to, 1, MAX_ROUND_TO)
        check_choice("compensation", self.compensation, COMPENSATIONS)
        if self.task is not None:
            check_choice("task", self.task, TASKS)
        check_whole("a seed", self.seed, 0, MAX_SEED)
        if not _is_number(self.budget) or not 0 < self.budget <= MAX_BUDGET:
            raise PrunerError(f"expected a budget of up to {MAX_BUDGET:,.0f} seconds, found {shown(self.budget)}")
        if self.steps is not None:
            check_whole("steps", self.steps, 1, MAX_STEPS)
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
        """Plain JSON values: layers become strings, names a list."""
        return {setting.name: setting.metadata["write"](getattr(self, setting.name)) for setting in fields(self)}

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2) + "\n"

    @classmethod
    def from_dict(cls, values: Any) -> "Recipe":
        """The inverse of `to_dict`; settings left out keep their defaults. Raises PrunerError for anything else."""
        if not isinstance(values, dict):
            raise PrunerError(f"expected a recipe as a JSON object, found {type(values).__name__}")
        known = {setting.name: setting for setting in fields(cls)}
        unknown = sorted(values.keys() - known.keys())
        if unknown:
            raise PrunerError(f"expected recipe settings among {', '.join(known)}; found {shown(unknown[0])}")
        return cls(**{name: known[name].metadata["read"](name, value) for name, value in values.items()})

    @staticmethod
    def notices(text: str | bytes) -> list[str]:
        """What `from_json` reads as something else than it says in the text of an older recipe, in sentences."""
        try:
            values = json.loads(text)
        except (ValueError, RecursionError):
            return []  # which `from_json` tells
        if isinstance(values, dict) and values.get("compensation") == "full":
            return ["The compensation 'full' is read as 'heal', which has taken its place."]
        return []

    @classmethod
    def from_json(cls, text: str | bytes) -> "Recipe":
        """Raises PrunerError if the text is not the JSON of a recipe."""
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise PrunerError(f"expected a recipe as JSON, found text that is not JSON ({error})") from error
        return cls.from_dict(values)


def check_choice(what: str, found: Any, choices: Iterable[str]) -> None:
    """Raise PrunerError unless `found` is one of the named choices."""
    if not isinstance(found, str) or found not in set(choices):
        raise PrunerError(f"expected a {what} among {', '.join(choices)}; found {shown(found)}")


def _is_number(found: Any) -> bool:
    return isinstance(found, int | float) and not isinstance(found, bool)


def check_whole(what: str, found: Any, least: int, most: int) -> None:
    """Raise PrunerError unless `found` is a whole number in these bounds."""
    if not isinstance(found, int) or isinstance(found, bool) or not least <= found <= most:
        raise PrunerError(f"expected {what} from {least} to {most}, found {shown(found)}")


def check_sparsity(what: str, found: Any) -> None:
    """Raise PrunerError unless `found` is a share: a number from 0 to 1."""
    if not _is_number(found) or not 0 <= found <= 1:  # false for NaN, too
        raise PrunerError(f"expected {what} between 0 and 1, found {shown(found)}")
