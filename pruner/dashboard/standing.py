"""Where the sparsity sliders stand, as the browser and Python tell it each other.

What is moved in the browser shows there at once; Python hears of it and speaks up only to say something else (after an undo,
say), in a new edition. So the grids, which are sent along with what Python says, are not sent again at every move.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Standing:
    """Sparsities from 0 to 1: the overall one, and those that layers and gates have of their own."""

    overall: float
    layers: Mapping[int, float] = field(default_factory=dict)
    gates: Mapping[str, float] = field(default_factory=dict)

    @property
    def is_whole(self) -> bool:
        """Whether every sparsity is a whole percent, the steps of the sliders."""
        return all(
            round(100 * share) / 100 == share for share in (self.overall, *self.layers.values(), *self.gates.values())
        )

    def told(self) -> dict[str, Any]:
        """Plain JSON values, as the browser takes and gives them."""
        return {
            "overall": self.overall,
            "layers": {str(layer): share for layer, share in self.layers.items()},
            "gates": dict(self.gates),
        }

    @classmethod
    def heard(cls, told: Mapping[str, Any]) -> "Standing":
        """The inverse of `told`. What comes from a browser may be anything: sparsities end at 0 and 1."""

        def share(value: Any) -> float:
            return min(max(float(value), 0.0), 1.0)

        return cls(
            share(told["overall"]),
            {int(layer): share(value) for layer, value in told["layers"].items()},
            {gate: share(value) for gate, value in told["gates"].items()},
        )


@dataclass(frozen=True)
class Said:
    """What Python said last. The browser takes an edition up once, and then goes by what is moved there."""

    edition: int
    standing: Standing


def said_next(said: Said | None, shown: Standing | None, present: Standing) -> Said:
    """What Python says so that the browser shows the present standing: the same as before if it does already.

    `shown` is where the browser's sliders stand. What falls between two steps of a slider the browser cannot tell itself, so
    that Python says that always.
    """
    if said is None:
        return Said(int(time.time()), present)  # higher than those of sessions that this browser had before
    if present == shown and (present.is_whole or present == said.standing):
        return said
    return Said(said.edition + 1, present)
