"""What long work on the open model is given: a worker cannot ask the session. What it shows on its way is kept there."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from pruner.compact.costs import size_of_file
from pruner.dashboard.gathered import Gathered
from pruner.dashboard.gathering import Wanted, gather
from pruner.errors import PrunerError
from pruner.examples import Example
from pruner.exports.verdict import Verdict
from pruner.files.checkpoint import Checkpoint
from pruner.lstm.measure import Quality
from pruner.progress import Progress, split
from pruner.recipe import Recipe
from pruner.result import Result, measured, run
from pruner.search.candidates import Candidate, Target
from pruner.search.experiments import Experiment
from pruner.search.parts import Sensitivity
from pruner.search.references import Reference
from pruner.search.sensitivity import measure_sensitivity
from pruner.search.smallest import Shrunk, shrink
from pruner.search.sweep import Rated, Sweep, sweep
from pruner.search.worth import Measure

Seen = Callable[[Experiment | Gathered | Candidate], object]


@dataclass(frozen=True)
class Measured:
    """What each part loses alone under a recipe."""

    recipe: Recipe
    sensitivity: Sensitivity
    measure: Measure

    @property
    def loss(self) -> str:
        """What the figures are called."""
        return f"loss of {self.measure.name}" if self.measure.quality else self.measure.name


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
class Given:
    """The model and its inputs, which the work gathers itself where they are only wanted.

    What each work calls `seen` with as it comes: all that it tried, and the inputs that it gathered.
    """

    checkpoint: Checkpoint
    example: Example | None
    inputs: Gathered | Wanted | None

    @property
    def quality(self) -> Quality | None:
        return self.example.quality if self.example else None

    @property
    def measure(self) -> Measure:
        """What models are compared by, as far as it is known before inputs are gathered."""
        return self._measure(self.inputs if isinstance(self.inputs, Gathered) else None)

    def run(self, recipe: Recipe, device: str, seen: Seen, progress: Progress) -> Result:
        """Raises PrunerError as `run` does."""
        gathered = self.inputs if isinstance(self.inputs, Gathered) else None
        calibration, statistics = (gathered.calibration, gathered.statistics) if gathered else (None, None)
        made = run(self.checkpoint, recipe, device, progress, self.quality, True, calibration, statistics)
        dense, small = made.costs["dense"], made.costs["compact"]
        shares = small.macs_per_step / dense.macs_per_step, small.parameters / dense.parameters
        seen(self._experiment("Run", gathered, recipe, made.verdict, *shares))
        return made

    def sweep(self, recipes: Sequence[Recipe], recipe: Recipe, seen: Seen, progress: Progress) -> Sweep:
        """Rate recipes side by side; inputs are gathered for a `recipe`. Raises PrunerError as `gather` and `sweep` do."""
        gathering, rating = self._split(progress, 1)
        gathered = self._gathered(recipe, seen, gathering)
        measure, whole = self._measure(gathered), size_of_file(self.checkpoint)

        def rated(each: Rated | Reference, dense: Reference) -> None:
            tried = each.recipe if isinstance(each, Rated) else None
            verdict = measure.verdict(tried or recipe, each.value, dense.value)
            shares = each.macs_per_step / whole.macs_per_step, each.parameters / whole.parameters
            seen(self._experiment("Try sizes", gathered, tried, verdict, *shares))

        statistics = gathered.statistics if gathered else None
        return sweep(self.checkpoint, recipes, measure, statistics, rating, rated)

    def measure_parts(
        self, recipe: Recipe, sparsities: Sequence[float], to_gather: Recipe, seen: Seen, progress: Progress
    ) -> Measured:
        """Prune each part alone. Raises PrunerError as `gather` and `measure_sensitivity` do."""
        gathering, measuring = self._split(progress, 1)
        gathered = self._gathered(to_gather, seen, gathering)
        measure, statistics = self._measure(gathered), gathered.statistics if gathered else None
        found = measure_sensitivity(
            self.checkpoint,
            recipe,
            sparsities,
            measure.calibration,
            statistics,
            measure.quality,
            measure.higher_is_better,
            measuring,
        )
        return Measured(recipe, found, measure)

    def shrink(self, recipe: Recipe, target: Target, device: str, seen: Seen, progress: Progress) -> Smaller:
        """Find the smallest, and measure what came of it. Raises PrunerError as `gather`, `shrink` and `measured` do."""
        gathering, searching, measuring = self._split(progress, 8, 0.5)
        gathered = self._gathered(recipe, seen, gathering)
        if gathered is None:
            raise PrunerError("expected inputs to heal and to judge by, found none; choose some first")
        calibration, statistics = gathered.calibration, gathered.statistics

        def tried(candidate: Candidate) -> None:
            seen(candidate)
            shares = candidate.macs, candidate.parameters
            seen(self._experiment("Shrink", gathered, candidate.recipe, candidate.verdict, *shares))

        found = shrink(self.checkpoint, recipe, calibration, target, self.quality, searching, statistics, tried, device)
        result = measured(found.chosen.pruned, device, self.quality, True, calibration, measuring)
        return Smaller(found, result, gathered)

    def _split(self, progress: Progress, *parts: float) -> list[Progress]:
        """The progress of gathering, if there is anything to gather, and of the rest."""
        return split(progress, 1 if isinstance(self.inputs, Wanted) else 0, *parts)

    def _gathered(self, recipe: Recipe, seen: Seen, progress: Progress) -> Gathered | None:
        if not isinstance(self.inputs, Wanted):
            return self.inputs
        gathered = gather(self.checkpoint, self.example, self.inputs, recipe, progress)
        seen(gathered)
        return gathered

    def _measure(self, gathered: Gathered | None) -> Measure:
        return Measure(self.quality, gathered.calibration if gathered else None)

    def _experiment(
        self,
        by: str,
        gathered: Gathered | None,
        recipe: Recipe | None,
        verdict: Verdict,
        macs: float,
        parameters: float,
    ) -> Experiment:
        measure = self._measure(gathered)
        inputs = gathered.calibration.sha256 if gathered and measure.by_answers else ""
        return Experiment(recipe, verdict, measure.name, inputs, macs, parameters, by)
