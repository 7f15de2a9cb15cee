"""What every benchmark tells: rows of a name, a value and the target that the project has set itself."""

from dataclasses import asdict, dataclass
from typing import Any


class Unavailable(Exception):
    """A benchmark that this machine cannot run, and why."""


@dataclass(frozen=True)
class Row:
    """One figure beside its target: at most that, or with `at_least` no less. None stands for what other work on the machine
    made too noisy to tell, and for a figure without a target."""

    name: str
    value: float | None
    target: float | None = None
    unit: str = "x"
    at_least: bool = False

    @property
    def holds(self) -> bool | None:
        """None where there is nothing to compare."""
        if self.value is None or self.target is None:
            return None
        return self.value >= self.target if self.at_least else self.value <= self.target

    def told(self, before: float | None = None) -> str:
        """A line, with the value that an earlier revision had, if that is known."""
        value = "too noisy" if self.value is None else f"{self.value:.3g} {self.unit}"
        bound = "at least" if self.at_least else "at most"
        target = "" if self.target is None else f"{bound} {self.target:g}"
        word = {None: "", True: "holds", False: "FALLS SHORT"}[self.holds]
        was = "" if before is None else f"was {before:.3g}"
        return f"{self.name:<64} {value:>12}  {target:<14} {word:<12} {was}".rstrip()

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "holds": self.holds}
