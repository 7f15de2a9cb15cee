"""Shrinking the open model: the work of the page Shrink, bound to values for a thread of its own."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from pruner.dashboard.gathered import Gathered
from pruner.dashboard.gathering import Wanted, gather
from pruner.examples import Example
from pruner.files.checkpoint import Checkpoint
from pruner.lstm.measure import Quality
from pruner.progress import Progress, split
from pruner.recipe import Recipe
from pruner.result import Result, measured
from pruner.search.candidates import Candidate, Target
from pruner.search.smallest import Shrunk, shrink


@dataclass(frozen=True)
class Smaller:
    """What was found, measured and ready to export, with the inputs that it was found on."""

    found: Shrunk
    result: Result
    gathered: Gathered

    def instead(self, other: Candidate, quality: Quality | None, progress: Progress) -> "Smaller":
        """The same search with another of its candidates chosen. Raises PrunerError as `measured` does."""
        result = measured(other.pruned, self.result.device, quality, True, self.gathered.calibration, progress)
        return replace(self, found=replace(self.found, chosen=other), result=result)


@dataclass(frozen=True)
class Asked:
    """What is to be found, of which model, from which inputs."""

    checkpoint: Checkpoint
    example: Example | None
    inputs: Gathered | Wanted
    recipe: Recipe
    target: Target
    device: str

    def find(self, seen: Callable[[Candidate], object], progress: Progress) -> Smaller:
        """Gather if need be, shrink, measure what came of it. Raises PrunerError as these do."""
        gathering, searching, measuring = split(progress, 0 if isinstance(self.inputs, Gathered) else 1, 8, 0.5)
        gathered = self.inputs
        if isinstance(gathered, Wanted):
            gathered = gather(self.checkpoint, self.example, gathered, self.recipe, gathering)
        quality = self.example.quality if self.example else None
        calibration, statistics = gathered.calibration, gathered.statistics
        found = shrink(
            self.checkpoint, self.recipe, calibration, self.target, quality, searching, statistics, seen, self.device
        )
        result = measured(found.chosen.pruned, self.device, quality, True, calibration, measuring)
        return Smaller(found, result, gathered)
