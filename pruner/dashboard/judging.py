"""What the recipe of the page Masks is worth, judged on a small held-out sample in a thread, once the sliders rest.

Healing takes too long for that: such a recipe is judged as it is before, folded, unless a run has measured it already.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from pruner import examples
from pruner.calibration.calibration import Calibration
from pruner.calibration.drift import loss_on
from pruner.compact.masked_and_compact import Pruned
from pruner.dashboard.gathered import Gathered
from pruner.dashboard.jobs import Job
from pruner.dashboard.session import session
from pruner.dashboard.text import plain
from pruner.dashboard.verdicts import Judged
from pruner.exports.verdict import Verdict, by_answers, by_quality
from pruner.files.checkpoint import Checkpoint
from pruner.lstm.measure import Quality, one_thread
from pruner.lstm.module import build
from pruner.pipeline import prune
from pruner.progress import Progress
from pruner.recipe import Recipe
from pruner.search.experiments import verdict_of

SEQUENCES, STEPS = 64, 128  # of inputs that are no example's
MOST_REMEMBERED = 64  # verdicts


@dataclass(frozen=True)
class Asked:
    """A recipe to judge, with its masks, (4H,) bool by the names in the file, and what was gathered for it."""

    checkpoint: Checkpoint
    recipe: Recipe
    masks: Mapping[str, Tensor]
    gathered: Gathered | None

    @property
    def key(self) -> str:
        gathered = self.gathered.key if self.gathered else ""
        return f"{self.checkpoint.sha256} {self.recipe.to_json()} {gathered}"

    @property
    def by(self) -> Quality | Calibration | None:
        """The quality of an example on a sample, else inputs whose held-back part tells; None where neither does."""
        example = examples.example_of(self.checkpoint)
        if example is not None:
            return example.sample if self.gathered or not self.recipe.needs_data else None
        known = self.gathered.calibration if self.gathered else None
        return known if known is not None and known.is_real else None

    @property
    def measured(self) -> Verdict | None:
        """What was found already by whatever work tried the recipe."""
        if self.checkpoint is not session.checkpoint:
            return None
        return verdict_of(session.history.values(), self.recipe)


def begin(*wanted: Asked) -> None:
    """Start to judge recipes, those that were not judged before, were not measured and can be judged; stop all else."""
    keys, remembered = [asked.key for asked in wanted], dict[str, Job[Verdict]]()
    for key, job in session.judged.items():
        if key not in keys:
            job.cancel()
        if key in keys or job.status.state == "done":  # what was cancelled is begun again should it come back
            remembered[key] = job
    session.judged = dict(list(remembered.items())[-MOST_REMEMBERED:])
    for asked in wanted:
        by = asked.by
        if by is not None and asked.measured is None and asked.key not in session.judged:
            session.judged[asked.key] = _started(asked, by, _dense(asked.checkpoint))


def found(asked: Asked) -> Judged:
    """What is known now of a recipe."""
    if measured := asked.measured:
        return Judged(measured, f"{_measure(measured)}, measured in full.")
    if asked.by is None:
        return Judged(None, "Give inputs to judge by", asks=True)
    job = session.judged.get(asked.key)
    if job is None:
        return Judged(None, "Judged once the slider rests.")
    status = job.status
    if status.result is None:
        return Judged(None, plain(status.error) or "Judging…", waits=status.state == "running")
    how = f"{_measure(status.result)}, on a small held-out sample."
    if asked.recipe.compensation == "heal":
        how = f"{how} Before healing, which betters it: run to measure."
    return Judged(status.result, how)


def _measure(verdict: Verdict) -> str:
    """What was measured, in words; where there is no quality, the dense model's answers are what there is to go by."""
    return plain(verdict.measure).capitalize() if verdict.before else "Answers beside the dense model’s"


def previewed(asked: Asked, progress: Progress) -> Pruned:
    """The pruned model that is judged: folded where its recipe heals. Raises PrunerError where nothing is left to compensate
    with."""
    recipe, gathered = asked.recipe, asked.gathered
    if recipe.compensation == "heal":
        recipe = replace(recipe, compensation="fold", steps=None)
    inputs, statistics = (
        (gathered.calibration.sample(SEQUENCES, STEPS), gathered.statistics) if gathered else (None, None)
    )
    return prune(asked.checkpoint, recipe, inputs, statistics, asked.masks, progress=progress)


def judge(asked: Asked, by: Quality | Calibration, before: float | None, progress: Progress) -> Verdict:
    """Prune, and judge on a sample; `before` is the dense model's quality there, if it is known.

    Raises PrunerError where nothing is left to compensate with.
    """
    checkpoint = asked.checkpoint
    with one_thread():
        pruned = previewed(asked, progress)
        recipe = pruned.recipe
        tensors, after = pruned.tensors(), pruned.modules("masked")
        dense = {lstm.name: build(lstm, checkpoint.tensors) for lstm in checkpoint.lstms}
        if isinstance(by, Quality):
            if before is None:
                before = by(checkpoint.tensors, dense)
            return by_quality(by.name, by.higher_is_better, before, by(tensors, after))
        held_back = by.split()[1].sample(SEQUENCES, STEPS)
        loss = loss_on(held_back, checkpoint, recipe, dense, after, tensors)
    return by_answers(loss, recipe.task == "softmax" and bool(recipe.consumers))


def _started(asked: Asked, by: Quality | Calibration, before: float | None) -> Job[Verdict]:
    return Job(lambda progress: judge(asked, by, before, progress))


def _dense(checkpoint: Checkpoint) -> float | None:
    """The dense model's quality on the sample, if it was measured before."""
    known = (job.status.result for key, job in session.judged.items() if key.startswith(f"{checkpoint.sha256} "))
    return next((verdict.before for verdict in known if verdict), None)
